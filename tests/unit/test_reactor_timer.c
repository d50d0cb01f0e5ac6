/* Fails if timers run early, late, twice, out of order or after they were cancelled. */
#include "test_reactor_bed.h"

#include <unistd.h>

#define MILLISECOND 1000000ull
#define MANY        1000

struct alarm_clock {
	struct reactor_timer timer;
	struct bed *bed;
	uint64_t deadline_ns;
	unsigned rings;
	struct reactor_timer *cancel;
};

/* When the last of them rings the loop stops. */
static unsigned pending;
static uint64_t last_deadline_ns;

static void ring(void *arg)
{
	struct alarm_clock *c = arg;

	assert_true(reactor_now(c->bed->r) >= c->deadline_ns);
	assert_true(c->deadline_ns >= last_deadline_ns);
	last_deadline_ns = c->deadline_ns;
	c->rings++;
	if (c->cancel)
		reactor_timer_cancel(c->cancel);
	if (!--pending)
		reactor_stop(c->bed->r);
}

static void set(struct bed *b, struct alarm_clock *c, uint64_t deadline_ns)
{
	c->timer.fn = ring;
	c->timer.arg = c;
	c->bed = b;
	assert_int_equal(reactor_timer_set(b->r, &c->timer, deadline_ns), 0);
	/* Later than asked for if it was past already when this thread got to set it. */
	c->deadline_ns = c->timer.deadline_ns;
	assert_true(c->deadline_ns >= deadline_ns);
}

static void timers_run_once_in_order(void **state)
{
	struct bed *b = bed_of(state);
	uint64_t soon = reactor_now(b->r) + 5 * MILLISECOND;
	struct alarm_clock a = { 0 }, c = { 0 }, d = { 0 };

	pending = 3;
	last_deadline_ns = 0;
	set(b, &a, soon + 3 * MILLISECOND);
	set(b, &c, soon + MILLISECOND);
	set(b, &d, soon + 2 * MILLISECOND);
	reactor_run(b->r);
	assert_int_equal(a.rings, 1);
	assert_int_equal(c.rings, 1);
	assert_int_equal(d.rings, 1);
}

static void a_set_timer_moves(void **state)
{
	struct bed *b = bed_of(state);
	uint64_t soon = reactor_now(b->r) + 5 * MILLISECOND;
	struct alarm_clock a = { 0 }, c = { 0 };

	pending = 2;
	last_deadline_ns = 0;
	set(b, &a, soon + MILLISECOND);
	set(b, &c, soon + 2 * MILLISECOND);
	set(b, &a, soon + 3 * MILLISECOND);
	reactor_run(b->r);
	assert_int_equal(a.rings, 1);
	assert_int_equal(c.rings, 1);
}

/* Both are due in the same turn. */
static void a_callback_may_cancel_a_due_timer(void **state)
{
	struct bed *b = bed_of(state);
	uint64_t soon = reactor_now(b->r) + 5 * MILLISECOND;
	struct alarm_clock a = { 0 }, c = { 0 }, d = { 0 };

	pending = 2;
	last_deadline_ns = 0;
	a.cancel = &c.timer;
	set(b, &a, soon);
	set(b, &d, soon + 1);
	set(b, &c, soon + 1);
	d.cancel = &d.timer;
	reactor_run(b->r);
	assert_int_equal(a.rings, 1);
	assert_int_equal(c.rings, 0);
	assert_int_equal(d.rings, 1);
	reactor_timer_cancel(&c.timer);
}

static void a_heap_of_timers_stays_in_order(void **state)
{
	struct bed *b = bed_of(state);
	struct alarm_clock *clocks = calloc(MANY, sizeof(*clocks));
	uint64_t soon = reactor_now(b->r) + 5 * MILLISECOND;

	assert_non_null(clocks);
	srandom(1);
	last_deadline_ns = 0;
	for (unsigned i = 0; i < MANY; i++)
		set(b, &clocks[i], soon + (uint64_t)random() % MILLISECOND);
	for (unsigned i = 0; i < MANY; i += 2)
		set(b, &clocks[i], soon + (uint64_t)random() % MILLISECOND);
	for (unsigned i = 0; i < MANY; i += 3)
		reactor_timer_cancel(&clocks[i].timer);
	pending = MANY - (MANY + 2) / 3;
	reactor_run(b->r);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(clocks[i].rings, i % 3 ? 1 : 0);
	free(clocks);
}

struct restless {
	struct reactor_timer timer;
	struct bed *bed;
	unsigned left;
};

static void set_again_in_the_past(void *arg)
{
	struct restless *c = arg;

	if (c->left-- && !reactor_timer_set(c->bed->r, &c->timer, 0))
		return;
	reactor_stop(c->bed->r);
}

/* Two that are always due: neither starves the other, nor the end of the turn. */
static void a_timer_set_in_the_past_starves_nobody(void **state)
{
	struct bed *b = bed_of(state);
	struct restless c = { .bed = b, .left = 100000000 };
	struct alarm_clock a = { 0 };

	c.timer = (struct reactor_timer){ .fn = set_again_in_the_past, .arg = &c };
	pending = 1;
	last_deadline_ns = 0;
	assert_int_equal(reactor_timer_set(b->r, &c.timer, 0), 0);
	set(b, &a, reactor_now(b->r) + 10000);
	reactor_run(b->r);
	assert_int_equal(a.rings, 1);
	assert_true(c.left > 0);
	reactor_timer_cancel(&c.timer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(timers_run_once_in_order),
		ON_ALL(a_set_timer_moves),
		ON_ALL(a_callback_may_cancel_a_due_timer),
		ON_ALL(a_heap_of_timers_stays_in_order),
		ON_ALL(a_timer_set_in_the_past_starves_nobody),
	};

	alarm(50); /* a hanging test fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
