/* reactor_timer.c - timers in a binary heap, the earliest on top. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "reactor/reactor_loop.h"

static void put(struct reactor_timer_heap *h, unsigned place, struct reactor_timer *t)
{
	h->timers[place] = t;
	t->place = place;
}

static void move_up(struct reactor_timer_heap *h, struct reactor_timer *t)
{
	while (t->place) {
		struct reactor_timer *parent = h->timers[(t->place - 1) / 2];
		unsigned place = parent->place;

		if (parent->deadline_ns <= t->deadline_ns)
			break;
		put(h, t->place, parent);
		put(h, place, t);
	}
}

static struct reactor_timer *earlier_child(const struct reactor_timer_heap *h, unsigned place)
{
	unsigned left = 2 * place + 1, right = left + 1;

	if (left >= h->count)
		return NULL;
	if (right < h->count && h->timers[right]->deadline_ns < h->timers[left]->deadline_ns)
		return h->timers[right];
	return h->timers[left];
}

static void move_down(struct reactor_timer_heap *h, struct reactor_timer *t)
{
	struct reactor_timer *child;

	while ((child = earlier_child(h, t->place))) {
		unsigned place = child->place;

		if (t->deadline_ns <= child->deadline_ns)
			break;
		put(h, t->place, child);
		put(h, place, t);
	}
}

static int make_room(struct reactor_timer_heap *h)
{
	unsigned capacity = h->capacity ? 2 * h->capacity : 16;
	struct reactor_timer **timers;

	if (h->count < h->capacity)
		return 0;
	timers = realloc(h->timers, capacity * sizeof(*timers));
	if (!timers)
		return -ENOMEM;
	h->timers = timers;
	h->capacity = capacity;
	return 0;
}

/* A callback may set timers that are due already: those wait for the next turn, so that they
 * starve nobody. */
void reactor_timers_run(struct reactor *r)
{
	struct reactor_timer_heap *h = &r->timers;

	for (unsigned n = h->count; n && h->count && h->timers[0]->deadline_ns <= r->now_ns; n--) {
		struct reactor_timer *t = h->timers[0];

		reactor_timer_cancel(t);
		r->worked = true;
		t->fn(t->arg);
	}
}

uint64_t reactor_timers_next(const struct reactor *r)
{
	return r->timers.count ? r->timers.timers[0]->deadline_ns : REACTOR_NEVER;
}

void reactor_timers_destroy(struct reactor *r)
{
	free(r->timers.timers);
}

int reactor_timer_set(struct reactor *r, struct reactor_timer *t, uint64_t deadline_ns)
{
	struct reactor_timer_heap *h = &r->timers;
	uint64_t now = reactor_now(r);

	assert(reactor_is_home(r) && (!t->reactor || t->reactor == r));
	if (!t->reactor) {
		int err = make_room(h);

		if (err)
			return err;
		put(h, h->count++, t);
		t->reactor = r;
	}
	/* Not before now: one that is always set in the past must not stay on top for ever. */
	t->deadline_ns = deadline_ns > now ? deadline_ns : now;
	move_up(h, t);
	move_down(h, t);
	return 0;
}

void reactor_timer_cancel(struct reactor_timer *t)
{
	struct reactor_timer_heap *h;
	struct reactor_timer *last;

	if (!t->reactor)
		return;
	assert(reactor_is_home(t->reactor));
	h = &t->reactor->timers;
	t->reactor = NULL;
	last = h->timers[--h->count];
	if (last == t)
		return;
	put(h, t->place, last);
	move_up(h, last);
	move_down(h, last);
}
