/* sim_net_memory.c - guest memory, and for some seeds a link to it: transfers take their time and
 * overtake each other; the bytes move at the beginning, or at the end. */
#include <stdlib.h>
#include <string.h>

#include "link/link.h"
#include "link/memory_map.h"
#include "reactor/reactor.h"
#include "sim_net.h"

enum { BASE = 1 << 30, BYTES = 1 << 20, DELAY = 5000 /* nanoseconds */ };

struct journey {
	struct reactor_timer timer;
	struct sim *sim;
	struct link_transfer *transfer;
	bool moved;
};

static void move(struct sim *s, const struct link_transfer *t)
{
	uint64_t iova = t->iova + t->finished;
	char *local = (char *)t->local + t->finished, *far;

	if (iova < BASE || iova + t->part > BASE + BYTES)
		fail(s, "a transfer outside of guest memory");
	far = guest_memory_at(&s->memory, iova);
	memcpy(t->write ? far : local, t->write ? local : far, t->part);
}

static void arrive(void *arg)
{
	struct journey *j = arg;
	struct link_transfer *t = j->transfer;

	if (!j->moved)
		move(j->sim, t);
	free(j);
	link_transfer_complete(t, 0);
}

static void begin(struct link_remote *remote, struct link_transfer *t)
{
	struct sim *s = (struct sim *)((char *)remote - offsetof(struct sim, link));
	struct journey *j = calloc(1, sizeof(*j));

	if (!j)
		abort();
	*j = (struct journey){ .sim = s, .transfer = t, .moved = pick(s, 2) };
	j->timer = (struct reactor_timer){ .fn = arrive, .arg = j };
	if (j->moved)
		move(s, t);
	reactor_timer_set(t->reactor, &j->timer, reactor_now(t->reactor) + pick(s, DELAY));
}

static const struct link_remote_type type = { .name = "sim", .read = begin, .write = begin };

static void rings_open(struct sim *s, struct queue *q)
{
	unsigned flags = (s->packed ? GUEST_QUEUE_PACKED : 0) |
			 (s->event_index ? GUEST_QUEUE_EVENT_INDEX : 0) |
			 (s->in_order ? GUEST_QUEUE_IN_ORDER : 0) |
			 (pick(s, 2) ? GUEST_QUEUE_ACROSS : 0);

	guest_queue_open_flags(&q->ring, &s->memory, RING, flags);
	for (unsigned i = 0; i < BUFFERS; i++) {
		struct buffer *b = &q->buffers[i];

		b->iova = guest_memory_allocate(&s->memory, ROOM, 1);
		b->bytes = guest_memory_at(&s->memory, b->iova);
	}
}

void memory_map_open(struct sim *s)
{
	struct memory_map *empty = s->remote ? memory_map_create_remote(&s->link, NULL)
					     : memory_map_create(NULL);

	s->map = memory_map_add(empty,
				&(struct memory_region){ BASE, BYTES, s->remote ? -1 : s->memory.fd,
							 0, MEMORY_READ | MEMORY_WRITE },
				NULL);
	memory_map_release(empty);
}

void memory_open(struct sim *s)
{
	s->link.type = &type;
	guest_memory_open(&s->memory, BASE, BYTES);
	for (unsigned i = 0; i <= 2 * s->pairs; i++)
		rings_open(s, &s->queues[i]);
	memory_map_open(s);
}

void memory_close(struct sim *s)
{
	for (unsigned i = 0; i <= 2 * s->pairs; i++)
		guest_queue_close(&s->queues[i].ring);
	guest_memory_close(&s->memory);
}
