/* reactor_poller.c - look for work in memory while it is worth the time.
 *
 * Only active pollers are in the list, so a resting one costs nothing.  The window, the time that
 * a poller goes on looking in vain, adjusts itself by its mistakes: a rest that was ended by a
 * notification within window_max_ns would better have been spent looking, so the window doubles;
 * a longer rest was right, and the looking before it was in vain, so the window halves.
 */
#include <assert.h>
#include <stddef.h>

#include "reactor/reactor_loop.h"

/* The smallest window but none at all: looking for less would not outlast one request. */
#define WINDOW_MIN_NS 4000

static void activate(struct reactor_poller_list *l, struct reactor_poller *p)
{
	p->active = true;
	p->idle_since_ns = 0;
	p->next = l->active;
	p->link = &l->active;
	if (p->next)
		p->next->link = &p->next;
	l->active = p;
}

static void deactivate(struct reactor_poller_list *l, struct reactor_poller *p)
{
	if (l->cursor == p)
		l->cursor = p->next;
	*p->link = p->next;
	if (p->next)
		p->next->link = p->link;
	p->active = false;
}

static void window_grow(struct reactor_poller *p, uint64_t max)
{
	uint64_t window = p->window_ns ? 2 * p->window_ns : WINDOW_MIN_NS;

	p->window_ns = window < max ? window : max;
}

static void window_shrink(struct reactor_poller *p)
{
	p->window_ns = p->window_ns > WINDOW_MIN_NS ? p->window_ns / 2 : 0;
}

static void try_to_rest(struct reactor *r, struct reactor_poller *p)
{
	bool resting = p->rest(p->arg);

	if (r->pollers.current != p)
		return;
	if (!resting) {
		p->idle_since_ns = 0;
		window_grow(p, r->pollers.window_max_ns);
		return;
	}
	deactivate(&r->pollers, p);
	p->idle_since_ns = r->now_ns;
}

/* Of an active poller, idle_since_ns is 0 after it found work. */
static void poll_one(struct reactor *r, struct reactor_poller *p)
{
	bool found = p->poll(p->arg);

	counter_add(found ? &r->counts.polls_found : &r->counts.polls_vain, 1);
	if (found)
		r->worked = true;
	if (r->pollers.current != p)
		return;
	counter_add(found ? &p->found : &p->vain, 1);
	if (found) {
		p->idle_since_ns = 0;
		return;
	}
	if (!p->idle_since_ns)
		p->idle_since_ns = r->now_ns;
	if (r->now_ns - p->idle_since_ns >= p->window_ns)
		try_to_rest(r, p);
}

void reactor_pollers_run(struct reactor *r)
{
	struct reactor_poller_list *l = &r->pollers;
	struct reactor_poller *p;

	for (l->cursor = l->active; (p = l->cursor);) {
		l->cursor = p->next;
		l->current = p;
		poll_one(r, p);
	}
	l->current = NULL;
}

void reactor_poller_add(struct reactor *r, struct reactor_poller *p)
{
	assert(reactor_is_home(r) && !p->reactor);
	p->reactor = r;
	p->window_ns = 0;
	r->pollers.count++;
	activate(&r->pollers, p);
}

void reactor_poller_remove(struct reactor_poller *p)
{
	struct reactor *r = p->reactor;

	if (!r)
		return;
	assert(reactor_is_home(r));
	if (p->active)
		deactivate(&r->pollers, p);
	if (r->pollers.current == p)
		r->pollers.current = NULL;
	r->pollers.count--;
	p->reactor = NULL;
}

void reactor_poller_wake(struct reactor_poller *p)
{
	struct reactor *r = p->reactor;

	if (!r || p->active)
		return;
	assert(reactor_is_home(r));
	if (r->now_ns - p->idle_since_ns <= r->pollers.window_max_ns)
		window_grow(p, r->pollers.window_max_ns);
	else
		window_shrink(p);
	activate(&r->pollers, p);
	p->wake(p->arg);
}
