/* Fails if a poller rests under load, burns time when idle, or loses work on its way to rest. */
#include "test_reactor_bed.h"

#include <time.h>
#include <unistd.h>

struct counted_poller {
	struct reactor_poller poller;
	struct reactor *r;
	unsigned polls, rests, wakes;
	unsigned work;     /* polls that will find some */
	unsigned refusals; /* rests that will be refused */
	bool notify;       /* resting: a notification was asked for */
	unsigned stop_at_poll, stop_at_rest;
	struct reactor_poller *remove;
	struct reactor_task notification;
};

static bool poll_counted(void *arg)
{
	struct counted_poller *p = arg;

	assert_false(p->notify);
	if (++p->polls == p->stop_at_poll)
		reactor_stop(p->r);
	if (p->remove)
		reactor_poller_remove(p->remove);
	if (!p->work)
		return false;
	p->work--;
	return true;
}

static bool rest_counted(void *arg)
{
	struct counted_poller *p = arg;

	if (++p->rests == p->stop_at_rest)
		reactor_stop(p->r);
	if (p->refusals) {
		p->refusals--;
		return false;
	}
	p->notify = true;
	return true;
}

static void wake_counted(void *arg)
{
	struct counted_poller *p = arg;

	assert_true(p->notify);
	p->notify = false;
	p->wakes++;
}

static void add(struct bed *b, struct counted_poller *p)
{
	p->r = b->r;
	p->poller = (struct reactor_poller){
		.poll = poll_counted,
		.rest = rest_counted,
		.wake = wake_counted,
		.arg = p,
	};
	reactor_poller_add(b->r, &p->poller);
}

static void stop_task(void *arg)
{
	reactor_stop(arg);
}

static void run_for(struct reactor *r, uint64_t ns)
{
	struct reactor_timer t = { .fn = stop_task, .arg = r };

	assert_int_equal(reactor_timer_set(r, &t, reactor_now(r) + ns), 0);
	reactor_run(r);
	reactor_timer_cancel(&t);
}

static void a_loaded_poller_never_rests(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller p = { .work = 10000, .stop_at_poll = 10000 };

	add(b, &p);
	reactor_run(b->r);
	assert_int_equal(p.polls, 10000);
	assert_int_equal(p.rests, 0);
	assert_int_equal(p.poller.found, 10000);
	reactor_poller_remove(&p.poller);
}

static void rest_and_wake(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller p = { .work = 3, .stop_at_rest = 1 };
	unsigned polls;

	add(b, &p);
	reactor_poller_wake(&p.poller);
	assert_int_equal(p.wakes, 0);
	reactor_run(b->r);
	assert_true(p.notify);
	polls = p.polls;
	run_for(b->r, 100000);
	assert_int_equal(p.polls, polls);
	p.work = 1;
	p.stop_at_rest = 2;
	reactor_poller_wake(&p.poller);
	assert_int_equal(p.wakes, 1);
	reactor_poller_wake(&p.poller);
	assert_int_equal(p.wakes, 1);
	reactor_run(b->r);
	assert_int_equal(p.work, 0);
	assert_int_equal(p.rests, 2);
	reactor_poller_remove(&p.poller);
	reactor_poller_remove(&p.poller);
	reactor_poller_wake(&p.poller);
	assert_int_equal(p.wakes, 1);
}

/* The owner asked for a notification, looked once more and found work. */
static void a_refused_rest_keeps_it_active(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller p = { .refusals = 2, .stop_at_rest = 3 };

	add(b, &p);
	reactor_run(b->r);
	assert_int_equal(p.rests, 3);
	assert_int_equal(p.wakes, 0);
	assert_true(p.polls >= 3);
	assert_true(p.notify);
	reactor_poller_remove(&p.poller);
}

/* The one added last is polled first. */
static void poll_may_remove_pollers(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller a = { 0 }, c = { 0 }, d = { 0 };

	add(b, &a);
	add(b, &c);
	add(b, &d);
	d.remove = &c.poller;
	a.remove = &a.poller;
	run_for(b->r, 1000000);
	assert_int_equal(c.polls, 0);
	assert_int_equal(a.polls, 1);
	assert_true(d.polls > 0);
	reactor_poller_remove(&d.poller);
}

static void notify(void *arg)
{
	struct counted_poller *p = arg;

	reactor_poller_wake(&p->poller);
}

static bool rest_and_be_woken(void *arg)
{
	struct counted_poller *p = arg;

	rest_counted(p);
	reactor_post(p->r, &p->notification);
	return true;
}

/* Ten rests that are over at once, each a sign that looking on would have paid. */
static void short_rests_widen_the_window(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller p = { .stop_at_rest = 20 };

	add(b, &p);
	p.poller.rest = rest_and_be_woken;
	p.notification = (struct reactor_task){ .fn = notify, .arg = &p };
	reactor_run(b->r);
	assert_true(p.poller.window_ns >= POLL_NS_MAX / 4); /* give or take a preemption */
	reactor_poller_remove(&p.poller);
}

/* And longer ones close it again, down to not looking at all; a preemption may make some short. */
static void long_rests_close_the_window(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller p = { 0 };

	add(b, &p);
	p.poller.window_ns = POLL_NS_MAX;
	for (unsigned i = 0; i < 500 && p.poller.window_ns; i++) {
		run_for(b->r, 4 * POLL_NS_MAX);
		reactor_poller_wake(&p.poller);
	}
	assert_int_equal(p.poller.window_ns, 0);
	reactor_poller_remove(&p.poller);
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void a_thousand_idle_queues_cost_nothing(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller *pollers = calloc(1000, sizeof(*pollers));
	uint64_t turns, sleeps, cpu;

	assert_non_null(pollers);
	for (unsigned i = 0; i < 1000; i++)
		add(b, &pollers[i]);
	run_for(b->r, 1000000);
	turns = bed_count(b, "turns");
	sleeps = bed_count(b, "sleeps");
	cpu = thread_cpu_ns();
	run_for(b->r, 50000000);
	assert_true(thread_cpu_ns() - cpu < 10000000);
	assert_true(bed_count(b, "turns") - turns < 10);
	assert_true(bed_count(b, "sleeps") - sleeps >= 1);
	for (unsigned i = 0; i < 1000; i++)
		reactor_poller_remove(&pollers[i].poller);
	free(pollers);
}

/* Busy turns with nothing to submit and nothing completed stay out of the kernel. */
static void polling_makes_no_system_calls(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_poller p = { .work = 100000, .stop_at_poll = 100000 };
	uint64_t entries = bed_count(b, "kernel_entries"), turns = bed_count(b, "turns");

	add(b, &p);
	reactor_run(b->r);
	assert_true(bed_count(b, "turns") - turns >= 100000);
	assert_true(bed_count(b, "kernel_entries") - entries < 10000);
	if (b->kind == REACTOR_IO_URING)
		assert_int_equal(bed_count(b, "kernel_entries") - entries, 0);
	reactor_poller_remove(&p.poller);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(a_loaded_poller_never_rests),
		ON_ALL(rest_and_wake),
		ON_ALL(a_refused_rest_keeps_it_active),
		ON_ALL(poll_may_remove_pollers),
		ON_REAL(short_rests_widen_the_window),
		ON_REAL(long_rests_close_the_window),
		ON_REAL(a_thousand_idle_queues_cost_nothing),
		ON_REAL(polling_makes_no_system_calls),
	};

	alarm(50); /* a hanging test fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
