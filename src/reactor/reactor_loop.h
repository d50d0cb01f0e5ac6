/* reactor_loop.h - what a reactor is made of; for the files of this room only.
 *
 * reactor.c holds what all reactors share: tasks and the order of a turn.  How a loop waits for
 * the world is a reactor_waiter: reactor_uring.c, reactor_epoll.c or reactor_virtual.c, each of
 * which embeds a struct reactor in its own.
 */
#ifndef REACTOR_REACTOR_LOOP_H
#define REACTOR_REACTOR_LOOP_H

#include <signal.h>

#include "base/counter.h"
#include "reactor/reactor.h"
#include "reactor/reactor_mailbox.h"

#define REACTOR_NEVER	  UINT64_MAX
#define REACTOR_ALIGNMENT 64	/* a cache line */

struct reactor_slot;

/* Home thread, unless said otherwise. */
struct reactor_waiter {
	/* Runs turns until reactor_is_stopping(). */
	void (*run)(struct reactor *r);
	/* Submits what has been gathered and sleeps until something happens or deadline_ns
	 * (REACTOR_NEVER: no deadline).  May return early, for no reason. */
	void (*sleep)(struct reactor *r, uint64_t deadline_ns);
	/* Submits what has been gathered, then calls back for what is complete or ready. */
	void (*collect)(struct reactor *r);
	/* Nanoseconds.  Any thread. */
	uint64_t (*clock)(const struct reactor *r);
	/* A slot got a watch, or its watch has other events: 0 or -errno. */
	int (*watch_add)(struct reactor *r, struct reactor_slot *s);
	int (*watch_change)(struct reactor *r, struct reactor_slot *s);
	/* The slot has lost its watch for fd; ends with reactor_slot_release(), now or later. */
	void (*watch_remove)(struct reactor *r, struct reactor_slot *s, int fd);
	void (*io_submit)(struct reactor *r, struct reactor_io *io);
	bool simulated;			/* time is not real: nothing happens at once */
	void (*free)(struct reactor *r);
};

struct reactor_task_queue {
	struct reactor_task *first, **end;
};

/* A binary heap; a timer's place in it is its index. */
struct reactor_timer_heap {
	struct reactor_timer **timers;	/* owned; the timers are borrowed */
	unsigned count, capacity;
};

struct reactor_poller_list {
	struct reactor_poller *active;
	struct reactor_poller *cursor;	/* the next to poll in this round */
	struct reactor_poller *current;	/* being called; NULL once it is removed */
	unsigned count;			/* active and resting */
	uint64_t window_max_ns;
};

/* Slots are never freed before the reactor, so a stale key always finds one and can be told by
 * its generation. */
struct reactor_slot {
	struct reactor_watch *watch;	/* borrowed; NULL: removed, or free */
	unsigned index;
	uint32_t generation;		/* counts watches and their changes */
	uint64_t armed_key;		/* io_uring: what the kernel polls under; 0: nothing */
	bool dirty;			/* io_uring: in the list of those to bring up to date */
	struct reactor_slot *next;	/* in that list, or in the free list */
};

struct reactor_watch_table {
	struct reactor_slot **slots;	/* owned */
	unsigned count, capacity;
	unsigned used;			/* slots that have a watch */
	struct reactor_slot *free;
};

struct reactor_counts {
	uint64_t turns, sleeps, kernel_entries, posts, wakeups, polls_found, polls_vain;
	uint64_t ready, io;		/* watches called; file operations completed */
};

struct reactor {
	const struct reactor_waiter *waiter;
	const char *name;
	uint64_t now_ns;
	uint64_t random;
	bool running;			/* atomic: has a home thread */
	bool worked;			/* something was done since the clock was read */
	unsigned clock_stride;		/* idle turns between two looks at the clock */
	unsigned clock_skip;		/* of these, how many are left */
	struct reactor_task_queue deferred;
	struct reactor_task_queue arrived;	/* taken from the mailbox, not run yet */
	struct reactor_poller_list pollers;
	struct reactor_timer_heap timers;
	struct reactor_watch_table watches;
	unsigned io_pending;		/* submitted, not done */
	struct reactor_io *performed, **performed_end;	/* in submit already, to be told */
	struct reactor_task tell_performed;
	struct reactor_counts counts;
	struct counter_group counters;

	/* What other threads write, away from the rest. */
	struct reactor_mailbox mailbox __attribute__((aligned(REACTOR_ALIGNMENT)));
	bool asleep;			/* atomic: see reactor_post() */
	bool stopping;			/* atomic */
	int wake_fd;			/* owned eventfd: written to end a sleep; -1: none */
};

/* reactor.c */
/* Zeroed, aligned for a struct that begins with a struct reactor; free() it.  NULL: no memory. */
void *reactor_allocate(size_t size);
/* *r is zeroed. */
void reactor_init(struct reactor *r, const struct reactor_waiter *waiter,
		  const struct reactor_options *options);
void reactor_destroy(struct reactor *r);	/* all but the memory of *r itself */
uint64_t reactor_clock_real(const struct reactor *r);
void reactor_run_real(struct reactor *r);
bool reactor_is_stopping(const struct reactor *r);
/* Makes r (NULL: none) the home reactor of the calling thread; returns the one before. */
struct reactor *reactor_set_home(struct reactor *r);
void reactor_set_running(struct reactor *r, bool running);
void reactor_run_posted(struct reactor *r, unsigned limit);
void reactor_run_deferred(struct reactor *r);

/* reactor_uring.c, reactor_epoll.c: NULL and *e with -errno */
struct reactor *reactor_uring_create(const struct reactor_options *options, struct error *e);
struct reactor *reactor_epoll_create(const struct reactor_options *options, struct error *e);

/* reactor_timer.c */
void reactor_timers_run(struct reactor *r);
uint64_t reactor_timers_next(const struct reactor *r);	/* deadline, or REACTOR_NEVER */
void reactor_timers_destroy(struct reactor *r);

/* reactor_poller.c */
void reactor_pollers_run(struct reactor *r);

/* reactor_watch.c */
uint64_t reactor_slot_key(const struct reactor_slot *s);	/* never 0 */
struct reactor_slot *reactor_slot_find(const struct reactor *r, uint64_t key);
/* Calls the watch back unless it was removed or changed since the key was made. */
void reactor_slot_ready(struct reactor *r, uint64_t key);
void reactor_slot_release(struct reactor *r, struct reactor_slot *s);
void reactor_watches_destroy(struct reactor *r);

/* reactor_io.c */
int reactor_io_perform(const struct reactor_io *io);	/* waits for it; any thread */
void reactor_io_complete(struct reactor *r, struct reactor_io *io, int result);

/* reactor_signals.c: before a thread is created, whose creator then restores *before */
void reactor_block_signals(sigset_t *before);

#endif
