/* network_bed.h - ports on virtual reactors, and who uses them. */
#ifndef NETWORK_BED_H
#define NETWORK_BED_H

#include "frame_bed.h"

#include <errno.h>

#include "base/counter.h"
#include "base/error.h"
#include "network/network_port.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"

enum { BED_PORTS = 4, BED_FRAMES = 512 };

static const uint64_t ms = 1000 * 1000, second = 1000 * 1000 * 1000;

struct frame {			/* that came */
	uint64_t time_ns;
	struct virtio_net_hdr header;
	uint32_t length;
	uint8_t *bytes;		/* owned */
};

struct user {
	char name[16];		/* no two ports of a run have the same, so counters begin at 0 */
	struct bed *bed;
	struct network_port *port;
	struct network_queue *queue;
	bool idle;		/* takes no frames */
	unsigned calls;		/* of ready() */
	unsigned count, taken_max;
	struct frame frames[BED_FRAMES];
};

struct bed {
	struct reactor_world *world;
	struct reactor *reactor;
	struct user users[BED_PORTS];
};

/* ---- taking ---- */

static inline void user_keep(struct user *u, const struct network_frame *f)
{
	struct frame *to = &u->frames[u->count++];

	assert_true(u->count <= BED_FRAMES);
	*to = (struct frame){ reactor_now(u->bed->reactor), f->header, f->length,
			      malloc(f->length) };
	memcpy(to->bytes, f->bytes, f->length);
}

static inline void user_take(struct user *u)
{
	struct network_frame f;

	while (u->count < u->taken_max && network_peek(u->queue, &f)) {
		user_keep(u, &f);
		network_consume(u->queue);
	}
}

static inline void user_ready(void *arg)
{
	struct user *u = arg;

	u->calls++;
	if (!u->idle)
		user_take(u);
}

static inline void user_forget(struct user *u)
{
	while (u->count)
		free(u->frames[--u->count].bytes);
}

/* ---- life ---- */

static inline struct user *user_open(struct bed *b, unsigned i, const char *uri)
{
	static unsigned ports;
	struct user *u = &b->users[i];
	struct error e = { 0 };

	*u = (struct user){ .bed = b, .taken_max = BED_FRAMES };
	snprintf(u->name, sizeof(u->name), "bed%u", ports++);
	u->port = network_port_open(u->name, uri, 1, b->reactor, &e);
	if (!u->port)
		fail_msg("%s", e.text);
	u->queue = network_queue_open(u->port, 0, b->reactor, user_ready, u, &e);
	if (!u->queue)
		fail_msg("%s", e.text);
	return u;
}

static inline void user_close(struct user *u)
{
	user_forget(u);
	if (u->queue)
		network_queue_close(u->queue);
	network_port_close(u->port);
	u->queue = NULL;
	u->port = NULL;
}

static inline int bed_create_seeded(struct bed *b, uint64_t seed)
{
	memset(b, 0, sizeof(*b));
	b->world = reactor_world_create(seed);
	b->reactor = reactor_virtual_create(b->world, "control");
	reactor_world_enter(b->world, b->reactor);
	return 0;
}

static inline int bed_create(void **state)
{
	*state = calloc(1, sizeof(struct bed));
	return bed_create_seeded(*state, 1);
}

static inline void bed_timer(void *arg)
{
	*(bool *)arg = true;
}

/* Runs for so long in simulated time. */
static inline void bed_run(struct bed *b, uint64_t ns)
{
	bool over = false;
	unsigned long steps = 0;
	struct reactor_timer timer = { .fn = bed_timer, .arg = &over };

	reactor_timer_set(b->reactor, &timer, reactor_now(b->reactor) + ns);
	while (!over) {
		assert_true(steps++ < 10000000);
		reactor_world_step(b->world);
	}
	reactor_world_enter(b->world, b->reactor);
}

static inline void bed_destroy(struct bed *b)
{
	for (unsigned i = 0; i < BED_PORTS; i++)
		user_close(&b->users[i]);
	bed_run(b, ms); /* a wake on its way holds what it was for */
	reactor_free(b->reactor);
	reactor_world_free(b->world);
}

static inline int bed_free(void **state)
{
	bed_destroy(*state);
	free(*state);
	return 0;
}

static inline uint64_t user_counts(const struct user *u, const char *counter)
{
	return counter_sum("network", u->name, counter);
}

/* ---- frames: addresses end in a digit, the payload is told by a number ---- */

static inline size_t plain_frame(uint8_t *to, size_t n, uint8_t destination, uint8_t source,
				 unsigned number)
{
	memcpy(to, "\x02\0\0\0\0\0\x02\0\0\0\0\0\x88\xb5", 14);
	to[5] = destination;
	to[11] = source;
	if (destination == 255)
		memset(to, 255, 6);
	for (size_t i = 14; i < n; i++)
		to[i] = i * 3 + number;
	if (n >= 18)
		store_be32(to + 14, number);
	return n;
}

static inline unsigned frame_number(const struct frame *f)
{
	assert_true(f->length >= 18);
	return load_be32(f->bytes + 14);
}

/* In two pieces, as guests do. */
static inline int user_send_raw(struct user *u, const struct virtio_net_hdr *h, uint8_t *bytes,
				size_t n)
{
	struct iovec iov[2] = { { bytes, 13 }, { bytes + 13, n - 13 } };

	return network_send(u->queue, h, iov, 2, n);
}

static inline int user_send(struct user *u, uint8_t destination, uint8_t source, unsigned number,
			    size_t n)
{
	static const struct virtio_net_hdr nothing;
	static uint8_t bytes[NETWORK_FRAME_MAX];
	int status = user_send_raw(u, &nothing, bytes,
				   plain_frame(bytes, n, destination, source, number));

	network_flush(u->queue);
	return status;
}

static inline void assert_frame(const struct frame *f, size_t n, uint8_t destination,
				uint8_t source, unsigned number)
{
	static uint8_t wanted[NETWORK_FRAME_MAX];

	plain_frame(wanted, n, destination, source, number);
	assert_int_equal(f->length, n);
	assert_memory_equal(f->bytes, wanted, n);
}

#endif
