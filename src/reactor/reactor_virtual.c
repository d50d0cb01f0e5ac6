/* reactor_virtual.c - several reactors in one thread, under a seeded, simulated schedule.
 *
 * Every choice that time, the kernel or other threads would make is drawn from the world's seed:
 * which reactor runs next, how many of its posted tasks have arrived, whether it looks at its
 * descriptors, when a poller comes to rest, how long a turn and a file operation take.  All of
 * them are choices that real reactors could make as well.
 */
#include "reactor/reactor_virtual.h"

#include <assert.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>

#include "reactor/reactor_loop.h"
#include "reactor/reactor_random.h"

#define TURN_NS_MAX 1000   /* simulated cost of a turn */
#define IO_NS_MAX   100000 /* of a file operation, mostly; sometimes ten times that */
#define POLL_NS_MAX 20000

struct pending_io {
	struct reactor_io *io; /* borrowed until done */
	uint64_t due_ns;
	int result;
};

struct virtual_reactor {
	struct reactor reactor;
	struct reactor_world *world;
	struct virtual_reactor *next;
	struct pending_io *pending; /* owned; reactor.io_pending of them, in no order */
	unsigned capacity;
	struct pollfd *polled; /* owned; scratch space, one per slot */
	uint64_t *keys;        /* owned; those that are ready */
	unsigned ready, slots; /* entries used in keys, space in both */
};

struct reactor_world {
	uint64_t seed; /* the state of its random numbers */
	uint64_t now_ns;
	struct virtual_reactor *reactors;
	unsigned count;
	struct reactor *entered; /* by reactor_world_enter() */
};

static struct virtual_reactor *virtual_of(const struct reactor *r)
{
	return (struct virtual_reactor *)((char *)r - offsetof(struct virtual_reactor, reactor));
}

static void *grow(void *array, unsigned count, size_t size)
{
	void *grown = realloc(array, count * size);

	if (!grown)
		abort();
	return grown;
}

/* True once in n times. */
static bool chance(struct reactor_world *w, unsigned n)
{
	return !(random_next(&w->seed) % n);
}

/* ---- descriptors ---- */

static void grow_scratch(struct virtual_reactor *v)
{
	if (v->slots >= v->reactor.watches.count)
		return;
	v->slots = v->reactor.watches.capacity;
	v->polled = grow(v->polled, v->slots, sizeof(*v->polled));
	v->keys = grow(v->keys, v->slots, sizeof(*v->keys));
}

/* Remembers the keys of the watches that are ready. */
static void look(struct virtual_reactor *v)
{
	struct reactor_watch_table *t = &v->reactor.watches;

	v->ready = 0;
	if (!t->used)
		return;
	grow_scratch(v);
	for (unsigned i = 0; i < t->count; i++) {
		struct reactor_watch *w = t->slots[i]->watch;

		v->polled[i].fd = w ? w->fd : -1;
		v->polled[i].events = w ? w->events : 0;
		v->polled[i].revents = 0;
	}
	counter_add(&v->reactor.counts.kernel_entries, 1);
	if (poll(v->polled, t->count, 0) <= 0)
		return;
	for (unsigned i = 0; i < t->count; i++)
		if (v->polled[i].revents)
			v->keys[v->ready++] = reactor_slot_key(t->slots[i]);
}

/* In an order that the seed chooses. */
static void call_ready(struct virtual_reactor *v)
{
	while (v->ready) {
		unsigned chosen = (unsigned)(random_next(&v->world->seed) % v->ready);
		uint64_t key = v->keys[chosen];

		v->keys[chosen] = v->keys[--v->ready];
		reactor_slot_ready(&v->reactor, key);
	}
}

/* ---- file operations ---- */

/* REACTOR_NEVER: none is pending. */
static uint64_t next_due(const struct virtual_reactor *v)
{
	uint64_t due = REACTOR_NEVER;

	for (unsigned i = 0; i < v->reactor.io_pending; i++)
		if (v->pending[i].due_ns < due)
			due = v->pending[i].due_ns;
	return due;
}

static struct pending_io *find_due(struct virtual_reactor *v)
{
	for (unsigned i = 0; i < v->reactor.io_pending; i++)
		if (v->pending[i].due_ns <= v->world->now_ns)
			return &v->pending[i];
	return NULL;
}

static void complete_due(struct virtual_reactor *v)
{
	struct pending_io *p;

	while ((p = find_due(v))) {
		struct pending_io done = *p;

		*p = v->pending[v->reactor.io_pending - 1];
		reactor_io_complete(&v->reactor, done.io, done.result);
	}
}

static void virtual_io_submit(struct reactor *r, struct reactor_io *io)
{
	struct virtual_reactor *v = virtual_of(r);
	struct reactor_world *w = v->world;
	uint64_t delay = 1 + random_next(&w->seed) % IO_NS_MAX;

	if (r->io_pending > v->capacity) {
		v->capacity = v->capacity ? 2 * v->capacity : 16;
		v->pending = grow(v->pending, v->capacity, sizeof(*v->pending));
	}
	v->pending[r->io_pending - 1] = (struct pending_io){
		.io = io,
		.due_ns = w->now_ns + delay * (chance(w, 16) ? 10 : 1),
		.result = reactor_io_perform(io),
	};
}

/* ---- turns ---- */

static bool has_work(struct virtual_reactor *v)
{
	struct reactor *r = &v->reactor;
	uint64_t now = v->world->now_ns;

	return r->pollers.active || r->deferred.first || r->arrived.first || v->ready ||
	       !reactor_mailbox_is_empty(&r->mailbox) || reactor_timers_next(r) <= now ||
	       next_due(v) <= now;
}

/* Each vain poll ends either well within the window or past it. */
static void choose_windows(struct virtual_reactor *v)
{
	for (struct reactor_poller *p = v->reactor.pollers.active; p; p = p->next)
		p->window_ns = chance(v->world, 4) ? 0 : POLL_NS_MAX;
}

static unsigned choose_posted(struct reactor_world *w)
{
	return chance(w, 4) ? (unsigned)(random_next(&w->seed) % 4) : UINT_MAX;
}

static void virtual_collect(struct reactor *r)
{
	struct virtual_reactor *v = virtual_of(r);

	complete_due(v);
	if (!v->ready && chance(v->world, 8))
		look(v);
	call_ready(v);
}

static void turn(struct virtual_reactor *v)
{
	struct reactor *r = &v->reactor;
	struct reactor_world *w = v->world;
	struct reactor *before = reactor_set_home(r);

	w->now_ns += random_next(&w->seed) % TURN_NS_MAX;
	r->now_ns = w->now_ns;
	counter_add(&r->counts.turns, 1);
	reactor_run_posted(r, choose_posted(w));
	virtual_collect(r);
	reactor_timers_run(r);
	choose_windows(v);
	reactor_pollers_run(r);
	reactor_run_deferred(r);
	reactor_set_home(before);
}

/* The same for all: the chance is fair among those that have something to do. */
static struct virtual_reactor *choose_reactor(struct reactor_world *w)
{
	struct virtual_reactor *chosen = NULL;
	unsigned candidates = 0;

	for (struct virtual_reactor *v = w->reactors; v; v = v->next)
		if (has_work(v) && chance(w, ++candidates))
			chosen = v;
	return chosen;
}

static struct virtual_reactor *look_and_choose(struct reactor_world *w)
{
	for (struct virtual_reactor *v = w->reactors; v; v = v->next)
		look(v);
	return choose_reactor(w);
}

static struct virtual_reactor *jump_and_choose(struct reactor_world *w)
{
	uint64_t next = REACTOR_NEVER;

	for (struct virtual_reactor *v = w->reactors; v; v = v->next) {
		uint64_t timer = reactor_timers_next(&v->reactor), io = next_due(v);

		next = timer < next ? timer : next;
		next = io < next ? io : next;
	}
	if (next == REACTOR_NEVER)
		return NULL;
	w->now_ns = next;
	return choose_reactor(w);
}

/* ---- the table ---- */

static void virtual_run(struct reactor *r)
{
	while (!reactor_is_stopping(r) && reactor_world_step(virtual_of(r)->world))
		;
}

/* The world decides when a virtual reactor sleeps: when it has nothing to do. */
static void virtual_sleep(struct reactor *r, uint64_t deadline_ns)
{
}

static uint64_t virtual_clock(const struct reactor *r)
{
	return virtual_of(r)->world->now_ns;
}

static int virtual_watch(struct reactor *r, struct reactor_slot *s)
{
	return 0;
}

static void virtual_watch_remove(struct reactor *r, struct reactor_slot *s, int fd)
{
	reactor_slot_release(r, s);
}

static void virtual_free(struct reactor *r)
{
	struct virtual_reactor *v = virtual_of(r);
	struct virtual_reactor **at = &v->world->reactors;

	while (*at != v)
		at = &(*at)->next;
	*at = v->next;
	if (v->world->entered == r)
		reactor_world_enter(v->world, NULL);
	reactor_destroy(r);
	free(v->pending);
	free(v->polled);
	free(v->keys);
	free(v);
}

static const struct reactor_waiter virtual_waiter = {
	.run = virtual_run,
	.sleep = virtual_sleep,
	.collect = virtual_collect,
	.clock = virtual_clock,
	.watch_add = virtual_watch,
	.watch_change = virtual_watch,
	.watch_remove = virtual_watch_remove,
	.io_submit = virtual_io_submit,
	.simulated = true,
	.free = virtual_free,
};

/* ---- public ---- */

struct reactor_world *reactor_world_create(uint64_t seed)
{
	struct reactor_world *w = grow(NULL, 1, sizeof(*w));

	*w = (struct reactor_world){ .seed = seed, .now_ns = 1000000000 };
	return w;
}

void reactor_world_free(struct reactor_world *w)
{
	if (!w)
		return;
	assert(!w->reactors);
	free(w);
}

struct reactor *reactor_virtual_create(struct reactor_world *w, const char *name)
{
	struct reactor_options options = { .name = name, .poll_ns_max = POLL_NS_MAX };
	struct virtual_reactor *v = reactor_allocate(sizeof(*v));

	if (!v)
		abort();
	v->world = w;
	v->next = w->reactors;
	reactor_init(&v->reactor, &virtual_waiter, &options);
	v->reactor.random = random_next(&w->seed);
	w->reactors = v;
	return &v->reactor;
}

bool reactor_world_step(struct reactor_world *w)
{
	struct virtual_reactor *v;

	for (v = w->reactors; v; v = v->next)
		reactor_set_running(&v->reactor, true);
	/* now and then also while others are busy: their work does not keep a descriptor waiting */
	v = chance(w, 16) ? NULL : choose_reactor(w);
	if (!v)
		v = look_and_choose(w);
	if (!v)
		v = jump_and_choose(w);
	if (v)
		turn(v);
	if (w->entered)
		w->entered->now_ns = w->now_ns;
	return v;
}

uint64_t reactor_world_now(const struct reactor_world *w)
{
	return w->now_ns;
}

uint64_t reactor_world_random(struct reactor_world *w)
{
	return random_next(&w->seed);
}

void reactor_world_enter(struct reactor_world *w, struct reactor *r)
{
	if (r)
		r->now_ns = w->now_ns;
	w->entered = r;
	reactor_set_home(r);
}
