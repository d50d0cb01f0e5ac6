/* reactor.h - one loop per thread: descriptors, timers, tasks, pollers, file operations.
 *
 * A reactor owns everything registered on it.  Only reactor_post() and reactor_stop() may be
 * called from another thread; everything else is for the reactor's own ("home") thread, or for
 * any thread before reactor_run().  Nothing in this program reads a clock, a random number or
 * waits other than through here, so that a virtual reactor (reactor_virtual.h) can run a whole
 * device under a seeded, simulated schedule.
 *
 * A turn: posted tasks, completed file operations and ready descriptors, due timers, pollers,
 * then deferred tasks until none is left.  A reactor with nothing to do sleeps in one place.
 */
#ifndef REACTOR_REACTOR_H
#define REACTOR_REACTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct reactor;

typedef void reactor_fn(void *arg);

/* How a loop waits.  AUTO: io_uring, or epoll where the kernel refuses it (logged). */
enum reactor_kind { REACTOR_AUTO, REACTOR_IO_URING, REACTOR_EPOLL };

struct reactor_options {
	const char *name;	/* static: thread name and counters, "control", "worker0" */
	enum reactor_kind kind;
	uint64_t poll_ns_max; /* longest that a poller looks in vain before it rests */
};

/* NULL with *e: out of memory or descriptors, or the kernel refuses the kind asked for. */
struct reactor *reactor_create(const struct reactor_options *options, struct error *e);

/* NULL is ignored.  Nothing may be registered, and no other thread be inside reactor_post() or
 * reactor_stop(); tasks that were posted and have not run are forgotten. */
void reactor_free(struct reactor *r);

/* Runs turns until reactor_stop(), which any thread or a signal handler may call: the turn it
 * finds is finished; a stop before the run ends it at once.  May run again, in the same thread. */
void reactor_run(struct reactor *r);
void reactor_stop(struct reactor *r);

/* Nanoseconds, monotonic: the same all through a turn, at most about 1 us old at its begin. */
uint64_t reactor_now(const struct reactor *r);
/* The clock itself, which goes on within a turn: to measure what one turn does. */
uint64_t reactor_clock(const struct reactor *r);
uint64_t reactor_random(struct reactor *r);

/* Whether this is r's thread, or nobody runs r.  For assert(). */
bool reactor_is_home(const struct reactor *r);
const char *reactor_name(const struct reactor *r);

/* ---- tasks: embedded in their owner, never allocated by the reactor ----
 *
 * A task is either deferred or posted at one time, and is its owner's again when fn begins.
 */

struct reactor_task {
	reactor_fn *fn;
	void *arg;
	struct reactor_task *next;	/* private to the reactor */
	bool queued;			/* private to the reactor */
};

/* Runs the task at the end of the current turn, once; deferring it again before it ran changes
 * nothing.  Tasks deferred by deferred tasks belong to the same turn: one that always defers
 * itself never lets it end.  Home thread only. */
void reactor_defer(struct reactor *r, struct reactor_task *t);

/* Runs the task in r's thread, in posting order.  Any thread.  The task must not be posted again
 * before it has begun to run. */
void reactor_post(struct reactor *r, struct reactor_task *t);

/* ---- descriptors ---- */

/* Level-triggered: fn runs in every turn in which fd has one of `events` (or an error, or hangs
 * up).  Zeroed before its first use; one watch per descriptor and reactor. */
struct reactor_watch {
	struct reactor *reactor;	/* set by reactor_watch_add() */
	int fd; /* borrowed: the owner closes it, after removing the watch */
	short events;			/* POLLIN, POLLOUT; 0: errors only */
	reactor_fn *fn;
	void *arg;
	void *state;			/* private to the reactor */
};

/* 0, -EBADF, -ENOMEM, or what epoll_ctl(2) says. */
int reactor_watch_add(struct reactor *r, struct reactor_watch *w);
int reactor_watch_change(struct reactor_watch *w, short events);

/* fn is not called again, even if the descriptor was found ready in this turn: the watch may be
 * freed and the descriptor closed at once.  From any callback, its own included.  Idempotent. */
void reactor_watch_remove(struct reactor_watch *w);

/* ---- timers ---- */

/* Zeroed before its first use. */
struct reactor_timer {
	reactor_fn *fn;
	void *arg;
	struct reactor *reactor;	/* private: NULL when not set */
	uint64_t deadline_ns;		/* private */
	unsigned place;			/* private */
};

/* Runs fn once when reactor_now() reaches deadline_ns; set in a timer's callback, in the next turn
 * at the earliest.  Setting a set timer moves it and cannot fail.  0, or -ENOMEM. */
int reactor_timer_set(struct reactor *r, struct reactor_timer *t, uint64_t deadline_ns);
void reactor_timer_cancel(struct reactor_timer *t);	/* idempotent */

/* ---- pollers: look for work in memory, without the kernel ---- */

/* A poller is active (poll() runs every turn) or resting (it has asked its peer for a
 * notification, and costs nothing).  One that finds nothing for a self-adjusting time, at most
 * poll_ns_max, is asked to rest; reactor_poller_wake() makes it active again.
 *
 * rest() asks the peer for a notification, then looks for work once more: what the peer did
 * before it could see the request is found here, what it does later is notified.  If there is
 * work, rest() withdraws the request itself and returns false.  wake() withdraws it otherwise.
 * Zeroed before its first use.  poll() and rest() may remove any poller. */
struct reactor_poller {
	bool (*poll)(void *arg);	/* true: found work */
	bool (*rest)(void *arg);	/* false: work came meanwhile, stay active */
	void (*wake)(void *arg);	/* active again: no more notifications needed */
	void *arg;
	struct reactor *reactor;	/* the rest is private */
	struct reactor_poller *next, **link;
	bool active;
	uint64_t window_ns, idle_since_ns;
	uint64_t found, vain;		/* polls that found work, and that did not: counters */
};

void reactor_poller_add(struct reactor *r, struct reactor_poller *p);	/* starts active */
void reactor_poller_remove(struct reactor_poller *p);			/* idempotent */
void reactor_poller_wake(struct reactor_poller *p);	/* the notification came; idempotent */

/* ---- file operations ---- */

enum reactor_io_operation {
	REACTOR_IO_READ, REACTOR_IO_WRITE, REACTOR_IO_DATASYNC, REACTOR_IO_FALLOCATE
};

/* Embedded in its owner, untouched between submit and done.  Submitted together with others once
 * per turn; carried out and completed in any order. */
struct reactor_io {
	enum reactor_io_operation operation;
	int fd;				/* borrowed until done */
	uint64_t offset, length;	/* bytes, below 2^63; length only for FALLOCATE */
	int mode;			/* FALLOCATE: see fallocate(2) */
	const struct iovec *iov; /* READ, WRITE: borrowed until done; at most IOV_MAX entries */
	unsigned iov_count;
	bool at_once;			/* a file in memory: carried out inside submit */
	int result;			/* bytes (maybe fewer than asked), 0, or -errno */
	/* Home thread, after result is set, never inside reactor_io_submit(); may submit again. */
	void (*done)(struct reactor_io *io);
	struct reactor *reactor;	/* private */
	struct reactor_io *next;	/* private */
};

void reactor_io_submit(struct reactor *r, struct reactor_io *io);

#endif
