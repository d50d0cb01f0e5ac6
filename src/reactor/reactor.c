/* reactor.c - what all reactors share: tasks, the order of a turn, when to sleep. */
#include "reactor/reactor.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "reactor/reactor_loop.h"
#include "reactor/reactor_random.h"

/* Idle turns may share one look at the clock while it stays honest to about this. */
#define CLOCK_HONEST_NS  500
#define CLOCK_STRIDE_MAX 32

/* The one thing a thread must know by itself: whose home it is. */
static _Thread_local struct reactor *home;

static const struct counter_field fields[] = {
	{ "turns", offsetof(struct reactor_counts, turns) },
	{ "sleeps", offsetof(struct reactor_counts, sleeps) },
	{ "kernel_entries", offsetof(struct reactor_counts, kernel_entries) },
	{ "posts", offsetof(struct reactor_counts, posts) },
	{ "wakeups", offsetof(struct reactor_counts, wakeups) },
	{ "polls_found", offsetof(struct reactor_counts, polls_found) },
	{ "polls_vain", offsetof(struct reactor_counts, polls_vain) },
	{ "watches_ready", offsetof(struct reactor_counts, ready) },
	{ "file_operations", offsetof(struct reactor_counts, io) },
};

static void task_queue_init(struct reactor_task_queue *q)
{
	q->first = NULL;
	q->end = &q->first;
}

static struct reactor_task *task_queue_take(struct reactor_task_queue *q)
{
	struct reactor_task *t = q->first;

	if (!t)
		return NULL;
	q->first = t->next;
	if (!q->first)
		q->end = &q->first;
	return t;
}

static void task_run(struct reactor *r, struct reactor_task *t)
{
	r->worked = true;
	t->queued = false;
	t->fn(t->arg);
}

void *reactor_allocate(size_t size)
{
	size_t whole = (size + REACTOR_ALIGNMENT - 1) / REACTOR_ALIGNMENT * REACTOR_ALIGNMENT;
	void *memory = aligned_alloc(REACTOR_ALIGNMENT, whole);

	return memory ? memset(memory, 0, whole) : NULL;
}

/* What a callback submits, and is performed meanwhile, waits for the next call. */
static void tell_performed(void *arg)
{
	struct reactor *r = arg;
	struct reactor_io *io = r->performed, *next;

	r->performed_end = &r->performed;
	for (r->performed = NULL; io; io = next) {
		next = io->next;
		reactor_io_complete(r, io, io->result);
	}
}

void reactor_init(struct reactor *r, const struct reactor_waiter *waiter,
		  const struct reactor_options *options)
{
	r->waiter = waiter;
	r->name = options->name;
	r->pollers.window_max_ns = options->poll_ns_max;
	r->clock_stride = 1;
	r->wake_fd = -1;
	task_queue_init(&r->deferred);
	task_queue_init(&r->arrived);
	r->performed_end = &r->performed;
	r->tell_performed = (struct reactor_task){ .fn = tell_performed, .arg = r };
	r->counters = (struct counter_group){
		.room = "reactor",
		.fields = fields,
		.count = sizeof(fields) / sizeof(fields[0]),
		.values = &r->counts,
	};
	strncpy(r->counters.name, r->name, sizeof(r->counters.name) - 1);
	counter_group_add(&r->counters);
}

void reactor_destroy(struct reactor *r)
{
	assert(!r->watches.used && !r->timers.count && !r->pollers.count && !r->io_pending);
	counter_group_remove(&r->counters);
	reactor_watches_destroy(r);
	reactor_timers_destroy(r);
	fd_close(&r->wake_fd);
}

uint64_t reactor_clock_real(const struct reactor *r)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

bool reactor_is_stopping(const struct reactor *r)
{
	return __atomic_load_n(&r->stopping, __ATOMIC_SEQ_CST);
}

struct reactor *reactor_set_home(struct reactor *r)
{
	struct reactor *before = home;

	home = r;
	return before;
}

void reactor_set_running(struct reactor *r, bool running)
{
	__atomic_store_n(&r->running, running, __ATOMIC_RELAXED);
}

/* ---- one turn ---- */

void reactor_run_posted(struct reactor *r, unsigned limit)
{
	struct reactor_task *t;

	if (!reactor_mailbox_is_empty(&r->mailbox)) {
		*r->arrived.end = reactor_mailbox_take(&r->mailbox);
		while (*r->arrived.end)
			r->arrived.end = &(*r->arrived.end)->next;
	}
	while (limit-- && (t = task_queue_take(&r->arrived))) {
		counter_add(&r->counts.posts, 1);
		task_run(r, t);
	}
}

void reactor_run_deferred(struct reactor *r)
{
	struct reactor_task *t;

	while ((t = task_queue_take(&r->deferred)))
		task_run(r, t);
}

/* How many empty turns take about CLOCK_HONEST_NS, judged by the last ones. */
static void adjust_stride(struct reactor *r, uint64_t elapsed_ns)
{
	if (elapsed_ns > CLOCK_HONEST_NS)
		r->clock_stride = (r->clock_stride + 1) / 2;
	else if (elapsed_ns < CLOCK_HONEST_NS / 2 && r->clock_stride < CLOCK_STRIDE_MAX)
		r->clock_stride *= 2;
}

/* A look at the clock costs as much as several empty turns.  After work it is read at once; empty
 * turns read it as rarely as keeps it honest. */
static void clock_tick(struct reactor *r)
{
	uint64_t before = r->now_ns;

	if (!r->worked && r->clock_skip) {
		r->clock_skip--;
		return;
	}
	r->now_ns = reactor_clock_real(r);
	if (!r->worked)
		adjust_stride(r, r->now_ns - before);
	r->clock_skip = r->clock_stride - 1;
	r->worked = false;
}

static void turn(struct reactor *r)
{
	counter_add(&r->counts.turns, 1);
	clock_tick(r);
	reactor_run_posted(r, UINT_MAX);
	r->waiter->collect(r);
	reactor_timers_run(r);
	reactor_pollers_run(r);
	reactor_run_deferred(r);
}

/* The sleeper's half of the bargain with rouse(): it says that it sleeps, then looks whether it
 * still may; the other side leaves its news, then looks whether anyone sleeps.  All four are
 * sequentially consistent, so at least one of the two sees what the other did. */
static bool may_sleep(struct reactor *r)
{
	__atomic_store_n(&r->asleep, true, __ATOMIC_SEQ_CST);
	return reactor_mailbox_is_empty(&r->mailbox) && !reactor_is_stopping(r);
}

static void sleep_if_idle(struct reactor *r)
{
	if (r->pollers.active || r->deferred.first || !reactor_mailbox_is_empty(&r->mailbox))
		return;
	if (may_sleep(r)) {
		counter_add(&r->counts.sleeps, 1);
		r->waiter->sleep(r, reactor_timers_next(r));
		r->worked = true; /* the clock is to be read again */
	}
	__atomic_store_n(&r->asleep, false, __ATOMIC_RELAXED);
}

void reactor_run_real(struct reactor *r)
{
	while (!reactor_is_stopping(r)) {
		sleep_if_idle(r);
		turn(r);
	}
}

/* The other half, see may_sleep(): called after the news is in place.  The exchange lets only one
 * of several rousers pay for the system call.  Any thread or signal handler. */
static void rouse(struct reactor *r)
{
	uint64_t one = 1;
	int saved = errno;

	if (__atomic_load_n(&r->asleep, __ATOMIC_SEQ_CST) &&
	    __atomic_exchange_n(&r->asleep, false, __ATOMIC_SEQ_CST) &&
	    write(r->wake_fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN); /* full of wakeups: as good as one more */
	errno = saved;
}

/* ---- public ---- */

struct reactor *reactor_create(const struct reactor_options *options, struct error *e)
{
	struct error refusal = { 0 };
	struct reactor *r;

	if (options->kind == REACTOR_EPOLL)
		r = reactor_epoll_create(options, e);
	else
		r = reactor_uring_create(options, options->kind == REACTOR_AUTO ? &refusal : e);
	if (!r && options->kind == REACTOR_AUTO) {
		log_info("reactor %s: %s: using epoll", options->name, refusal.text);
		r = reactor_epoll_create(options, e);
	}
	if (!r) {
		error_wrap(e, "reactor %s", options->name);
		return NULL;
	}
	if (getrandom(&r->random, sizeof(r->random), GRND_NONBLOCK) < 0)
		r->random = reactor_clock_real(r);
	return r;
}

void reactor_free(struct reactor *r)
{
	if (r)
		r->waiter->free(r);
}

void reactor_run(struct reactor *r)
{
	struct reactor *before = reactor_set_home(r);

	reactor_set_running(r, true);
	r->waiter->run(r);
	reactor_set_running(r, false);
	__atomic_store_n(&r->stopping, false, __ATOMIC_SEQ_CST);
	reactor_set_home(before);
}

void reactor_stop(struct reactor *r)
{
	__atomic_store_n(&r->stopping, true, __ATOMIC_SEQ_CST);
	rouse(r);
}

uint64_t reactor_now(const struct reactor *r)
{
	return __atomic_load_n(&r->running, __ATOMIC_RELAXED) ? r->now_ns : r->waiter->clock(r);
}

uint64_t reactor_clock(const struct reactor *r)
{
	return r->waiter->clock(r);
}

uint64_t reactor_random(struct reactor *r)
{
	return random_next(&r->random);
}

bool reactor_is_home(const struct reactor *r)
{
	return home == r || !__atomic_load_n(&r->running, __ATOMIC_RELAXED);
}

const char *reactor_name(const struct reactor *r)
{
	return r->name;
}

void reactor_defer(struct reactor *r, struct reactor_task *t)
{
	assert(reactor_is_home(r));
	if (t->queued)
		return;
	t->queued = true;
	t->next = NULL;
	*r->deferred.end = t;
	r->deferred.end = &t->next;
}

void reactor_post(struct reactor *r, struct reactor_task *t)
{
	assert(!t->queued);
	t->queued = true;
	reactor_mailbox_push(&r->mailbox, t);
	rouse(r);
}

/* io_uring hands a tmpfs file to a thread of the kernel's, and to wake it costs more than to copy.
 */
static void perform_now(struct reactor *r, struct reactor_io *io)
{
	counter_add(&r->counts.kernel_entries, 1);
	io->result = reactor_io_perform(io);
	io->next = NULL;
	*r->performed_end = io;
	r->performed_end = &io->next;
	reactor_defer(r, &r->tell_performed);
}

void reactor_io_submit(struct reactor *r, struct reactor_io *io)
{
	assert(reactor_is_home(r));
	io->reactor = r;
	r->io_pending++;
	if (io->at_once && !r->waiter->simulated)
		perform_now(r, io);
	else
		r->waiter->io_submit(r, io);
}
