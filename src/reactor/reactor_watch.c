/* reactor_watch.c - watches and their slots.
 *
 * What the kernel remembers of a watch is a key: the index of its slot and a generation that
 * counts every addition, change and removal.  An event whose key is stale finds its slot, sees
 * another generation and is dropped, whatever became of the watch's memory and of the descriptor.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "reactor/reactor_loop.h"

#define INDEX_BITS 24

static struct reactor_slot *slot_create(struct reactor_watch_table *t)
{
	struct reactor_slot *s;

	if (t->count == t->capacity) {
		unsigned capacity = t->capacity ? 2 * t->capacity : 16;
		struct reactor_slot **slots = realloc(t->slots, capacity * sizeof(*slots));

		if (!slots)
			return NULL;
		t->slots = slots;
		t->capacity = capacity;
	}
	s = t->count >> INDEX_BITS ? NULL : calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->index = t->count;
	t->slots[t->count++] = s;
	return s;
}

static struct reactor_slot *slot_take(struct reactor_watch_table *t)
{
	struct reactor_slot *s = t->free;

	if (!s)
		return slot_create(t);
	t->free = s->next;
	return s;
}

/* generation | index + 1 | four bits that are the loop's own */
uint64_t reactor_slot_key(const struct reactor_slot *s)
{
	return (uint64_t)s->generation << 32 | (s->index + 1) << 4;
}

struct reactor_slot *reactor_slot_find(const struct reactor *r, uint64_t key)
{
	return r->watches.slots[((uint32_t)key >> 4) - 1];
}

void reactor_slot_ready(struct reactor *r, uint64_t key)
{
	struct reactor_slot *s = reactor_slot_find(r, key);

	if (!s->watch || s->generation != key >> 32)
		return;
	counter_add(&r->counts.ready, 1);
	r->worked = true;
	s->watch->fn(s->watch->arg);
}

void reactor_slot_release(struct reactor *r, struct reactor_slot *s)
{
	s->next = r->watches.free;
	r->watches.free = s;
}

void reactor_watches_destroy(struct reactor *r)
{
	for (unsigned i = 0; i < r->watches.count; i++)
		free(r->watches.slots[i]);
	free(r->watches.slots);
}

int reactor_watch_add(struct reactor *r, struct reactor_watch *w)
{
	struct reactor_slot *s;
	int err;

	assert(reactor_is_home(r) && !w->state);
	if (fcntl(w->fd, F_GETFD) < 0)
		return -errno;
	s = slot_take(&r->watches);
	if (!s)
		return -ENOMEM;
	s->watch = w;
	s->generation++;
	err = r->waiter->watch_add(r, s);
	if (err) {
		s->watch = NULL;
		reactor_slot_release(r, s);
		return err;
	}
	w->reactor = r;
	w->state = s;
	r->watches.used++;
	return 0;
}

int reactor_watch_change(struct reactor_watch *w, short events)
{
	struct reactor_slot *s = w->state;
	short before = w->events;
	int err;

	assert(s && reactor_is_home(w->reactor));
	if (events == before)
		return 0;
	w->events = events;
	s->generation++;
	err = w->reactor->waiter->watch_change(w->reactor, s);
	if (err)
		w->events = before;
	return err;
}

void reactor_watch_remove(struct reactor_watch *w)
{
	struct reactor_slot *s = w->state;
	struct reactor *r = w->reactor;

	if (!s)
		return;
	assert(reactor_is_home(r));
	w->state = NULL;
	s->watch = NULL;
	s->generation++;
	r->watches.used--;
	r->waiter->watch_remove(r, s, w->fd);
}
