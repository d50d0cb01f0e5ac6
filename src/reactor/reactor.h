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

/* How a loop waits.  AUTO: io_uring, or epoll where the kernel refuses it. */
enum reactor_kind { REACTOR_AUTO, REACTOR_IO_URING, REACTOR_EPOLL };

struct reactor_options {
	const char *name;	/* static: thread name and counters, "control", "worker0" */
	enum reactor_kind kind;
	uint64_t poll_ns_max; /* longest that a poller looks in vain before it rests */
};

struct reactor *reactor_create(const struct reactor_options *options, struct error *e);
void reactor_free(struct reactor *r);		/* NULL is ignored; nothing may be registered */

/* Runs turns until reactor_stop(), which any thread or a signal handler may call. */
void reactor_run(struct reactor *r);
void reactor_stop(struct reactor *r);

uint64_t reactor_now(const struct reactor *r);	/* nanoseconds, monotonic, read once per turn */
uint64_t reactor_random(struct reactor *r);
bool reactor_is_home(const struct reactor *r);	/* for assert() */
const char *reactor_name(const struct reactor *r);

/* ---- tasks: embedded in their owner, never allocated by the reactor ---- */

struct reactor_task {
	reactor_fn *fn;
	void *arg;
	struct reactor_task *next;	/* private to the reactor */
	bool queued;			/* private to the reactor */
};

/* Runs the task at the end of the current turn, once; deferring it again before it ran changes
 * nothing.  Home thread only. */
void reactor_defer(struct reactor *r, struct reactor_task *t);

/* Runs the task in r's thread, in posting order.  Any thread.  The task must not be posted again
 * before it has begun to run. */
void reactor_post(struct reactor *r, struct reactor_task *t);

/* ---- descriptors ---- */

/* Level-triggered: fn runs in every turn in which fd has one of `events` (or an error). */
struct reactor_watch {
	struct reactor *reactor;	/* set by reactor_watch_add() */
	int fd; /* borrowed: the owner closes it, after removing the watch */
	short events;			/* POLLIN, POLLOUT */
	reactor_fn *fn;
	void *arg;
	void *state;			/* private to the reactor */
};

int reactor_watch_add(struct reactor *r, struct reactor_watch *w);	/* 0 or -errno */
int reactor_watch_change(struct reactor_watch *w, short events);	/* 0 or -errno */
void reactor_watch_remove(struct reactor_watch *w);	/* fn is not called again; idempotent */

/* ---- timers ---- */

struct reactor_timer {
	reactor_fn *fn;
	void *arg;
	struct reactor *reactor;	/* private: NULL when not set */
	uint64_t deadline_ns;		/* private */
	unsigned place;			/* private */
};

/* Runs fn once when reactor_now() reaches deadline_ns.  Setting a set timer moves it.
 * 0, or -ENOMEM. */
int reactor_timer_set(struct reactor *r, struct reactor_timer *t, uint64_t deadline_ns);
void reactor_timer_cancel(struct reactor_timer *t);	/* idempotent */

/* ---- pollers: look for work in memory, without the kernel ---- */

/* A poller is active (poll() runs every turn) or resting (it has asked its peer for a
 * notification).  One that finds nothing for a self-adjusting time, at most poll_ns_max, comes to
 * rest; reactor_poller_wake() makes it active again. */
struct reactor_poller {
	bool (*poll)(void *arg);	/* true: found work */
	bool (*rest)(void *arg); /* ask for a notification; false: work came meanwhile */
	void (*wake)(void *arg);	/* no more notifications needed */
	void *arg;
	struct reactor *reactor;	/* the rest is private */
	struct reactor_poller *next, **link;
	bool active;
	uint64_t window_ns, idle_since_ns;
	uint64_t found, vain;		/* polls that found work, and that did not: counters */
};

void reactor_poller_add(struct reactor *r, struct reactor_poller *p);	/* starts active */
void reactor_poller_remove(struct reactor_poller *p);			/* idempotent */
void reactor_poller_wake(struct reactor_poller *p);	/* the notification came */

/* ---- file operations ---- */

enum reactor_io_operation {
	REACTOR_IO_READ, REACTOR_IO_WRITE, REACTOR_IO_DATASYNC, REACTOR_IO_FALLOCATE
};

/* Embedded in its owner.  Submitted together with others once per turn. */
struct reactor_io {
	enum reactor_io_operation operation;
	int fd;				/* borrowed until done */
	uint64_t offset, length;	/* bytes; length only for FALLOCATE */
	int mode;			/* FALLOCATE: see fallocate(2) */
	const struct iovec *iov; /* READ, WRITE: borrowed until done; at most IOV_MAX entries */
	unsigned iov_count;
	int result;			/* bytes, 0, or -errno; set before done */
	void (*done)(struct reactor_io *io);	/* home thread, never inside reactor_io_submit() */
	struct reactor *reactor;	/* private */
	struct reactor_io *next;	/* private */
};

void reactor_io_submit(struct reactor *r, struct reactor_io *io);

#endif
