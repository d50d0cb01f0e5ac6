/* vxlan_bed.h - VXLAN ports on a real reactor, and sockets that speak VXLAN by hand. */
#ifndef VXLAN_BED_H
#define VXLAN_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "network/network_port.h"
#include "reactor/reactor.h"

enum { FRAMES_MAX = 128, FRAME_BYTES = 9216, WAIT_NS = 3000000000u };

struct frame {
	size_t length;
	uint8_t bytes[FRAME_BYTES];
};

struct side {
	char name[16]; /* no two ports of a run have the same, so counters begin at 0 */
	struct reactor *reactor;
	struct network_port *port;
	struct network_queue *queues[NETWORK_QUEUES_MAX];
	unsigned queue_count;
	bool idle; /* takes no frames */
	unsigned count;
	struct frame frames[FRAMES_MAX];
};

struct bed {
	struct reactor *reactor;
	struct side a, b;
	struct reactor_timer tick;
	uint64_t end_ns;
	bool (*reached)(struct bed *b);
	unsigned wanted;
};

/* ---- sockets ---- */

/* Any address of either family on loopback, with a port that is free. */
static inline int peer_open(int family, const char *host, uint16_t *port)
{
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(*port) };
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(*port) };
	bool is_v4 = family == AF_INET;
	socklen_t size = is_v4 ? sizeof(v4) : sizeof(v6);
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	inet_pton(family, host, is_v4 ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr);
	if (bind(fd, is_v4 ? (void *)&v4 : (void *)&v6, size))
		fail_msg("%s: %s", host, strerror(errno));
	getsockname(fd, is_v4 ? (void *)&v4 : (void *)&v6, &size);
	*port = ntohs(is_v4 ? v4.sin_port : v6.sin6_port);
	return fd;
}

static inline uint16_t free_port(int family, const char *host)
{
	uint16_t port = 0;

	close(peer_open(family, host, &port));
	return port;
}

static inline void peer_send(int fd, uint16_t port, const void *bytes, size_t n)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	assert_int_equal(sendto(fd, bytes, n, 0, (void *)&to, sizeof(to)), n);
}

/* A VXLAN datagram around a frame. */
static inline void peer_send_frame(int fd, uint16_t port, uint32_t vni, const void *frame, size_t n)
{
	uint8_t bytes[FRAME_BYTES] = { 8 };

	store_be32(bytes + 4, vni << 8);
	memcpy(bytes + 8, frame, n);
	peer_send(fd, port, bytes, n + 8);
}

/* Its length; 0: nothing comes within `ms`. */
static inline size_t peer_receive(int fd, uint8_t *to, size_t room, uint16_t *from, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct sockaddr_in address = { 0 };
	socklen_t size = sizeof(address);
	ssize_t n;

	if (poll(&p, 1, ms) <= 0)
		return 0;
	n = recvfrom(fd, to, room, 0, (void *)&address, &size);
	if (from)
		*from = ntohs(address.sin_port);
	return n > 0 ? n : 0;
}

/* ---- sides ---- */

static inline void side_ready(void *arg)
{
	struct side *s = arg;
	struct network_frame f;

	for (unsigned i = 0; i < s->queue_count; i++)
		while (!s->idle && network_peek(s->queues[i], &f)) {
			struct frame *to = &s->frames[s->count++ % FRAMES_MAX];

			to->length = minimum_u64(f.length, FRAME_BYTES);
			memcpy(to->bytes, f.bytes, to->length);
			network_consume(s->queues[i]);
		}
}

static inline void side_open_queues(struct side *s, unsigned queues)
{
	struct error e = { 0 };

	for (unsigned i = 0; i < queues; i++) {
		s->queues[i] =
			network_queue_open(s->port, i, s->reactor, side_ready, s, &e);
		if (!s->queues[i])
			fail_msg("%s", e.text);
		s->queue_count = i + 1;
	}
	network_port_set_active(s->port, queues);
	side_ready(s);
}

static inline void side_open(struct bed *b, struct side *s, unsigned queues, const char *uri)
{
	static unsigned ports;
	struct error e = { 0 };

	snprintf(s->name, sizeof(s->name), "net%u", ports++);
	s->reactor = b->reactor;
	s->port = network_port_open(s->name, uri, queues, b->reactor, &e);
	if (!s->port)
		fail_msg("%s", e.text);
	side_open_queues(s, queues);
}

static inline void side_close(struct side *s)
{
	while (s->queue_count)
		network_queue_close(s->queues[--s->queue_count]);
	network_port_close(s->port);
	s->port = NULL;
}

static inline void side_send(struct side *s, unsigned queue, const void *bytes, size_t n)
{
	static const struct virtio_net_hdr nothing_undone;
	struct iovec iov[2] = { { (void *)bytes, 10 }, { (uint8_t *)bytes + 10, n - 10 } };

	assert_int_equal(network_send(s->queues[queue], &nothing_undone, iov, 2, n), 0);
	network_flush(s->queues[queue]);
}

static inline uint64_t side_counts(const struct side *s, const char *counter)
{
	return counter_sum("vxlan", s->name, counter);
}

/* ---- the bed ---- */

static inline void bed_ticks(void *arg)
{
	struct bed *b = arg;

	if (b->reached(b) || reactor_now(b->reactor) >= b->end_ns)
		reactor_stop(b->reactor);
	else
		reactor_timer_set(b->reactor, &b->tick, reactor_now(b->reactor) + 1000000);
}

static inline int bed_create(void **state)
{
	struct reactor_options options = { .name = "control", .poll_ns_max = 10000 };
	struct bed *b = calloc(1, sizeof(*b));
	struct error e = { 0 };

	b->reactor = reactor_create(&options, &e);
	if (!b->reactor)
		fail_msg("%s", e.text);
	b->tick = (struct reactor_timer){ .fn = bed_ticks, .arg = b };
	*state = b;
	return 0;
}

static inline int bed_free(void **state)
{
	struct bed *b = *state;

	side_close(&b->a);
	side_close(&b->b);
	reactor_free(b->reactor);
	free(b);
	return 0;
}

/* Runs the reactor until reached() or the time is over. */
static inline bool bed_run(struct bed *b, bool (*reached)(struct bed *b), uint64_t ns)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	b->reached = reached;
	b->end_ns = now.tv_sec * 1000000000ull + now.tv_nsec + ns;
	reactor_timer_set(b->reactor, &b->tick, 0);
	reactor_run(b->reactor);
	return reached(b);
}

static inline bool never(struct bed *b)
{
	return false;
}

static inline bool a_has_all(struct bed *b)
{
	return b->a.count >= b->wanted;
}

static inline bool b_has_all(struct bed *b)
{
	return b->b.count >= b->wanted;
}

static inline void bed_await_a(struct bed *b, unsigned count)
{
	b->wanted = count;
	assert_true(bed_run(b, a_has_all, WAIT_NS));
	assert_int_equal(b->a.count, count);
}

static inline void bed_await_b(struct bed *b, unsigned count)
{
	b->wanted = count;
	assert_true(bed_run(b, b_has_all, WAIT_NS));
	assert_int_equal(b->b.count, count);
}

/* A while in which something must not happen. */
static inline void bed_pause(struct bed *b, uint64_t ns)
{
	bed_run(b, never, ns);
}

/* Until nothing comes any more of what was sent: a socket's buffer may hold thousands. */
static inline void bed_settle(struct bed *b)
{
	unsigned count;

	do {
		count = b->a.count;
		bed_pause(b, 50000000);
	} while (b->a.count != count);
}

/* ---- frames ---- */

static const uint8_t mac_a[6] = { 2, 0, 0, 0, 0, 0xa }, mac_b[6] = { 2, 0, 0, 0, 0, 0xb };
static const uint8_t mac_all[6] = { 255, 255, 255, 255, 255, 255 };

static inline void frame_fill(uint8_t *to, size_t n, const uint8_t *destination,
			      const uint8_t *source)
{
	for (size_t i = 0; i < n; i++)
		to[i] = i * 7 + n;
	memcpy(to, destination, 6);
	memcpy(to + 6, source, 6);
	store_be16(to + 12, 0x88b5);
}

static inline void side_send_new(struct side *s, size_t n, const uint8_t *destination,
				 const uint8_t *source)
{
	uint8_t bytes[FRAME_BYTES];

	frame_fill(bytes, n, destination, source);
	side_send(s, 0, bytes, n);
}

static inline void assert_frame(const struct side *s, unsigned i, size_t n,
				const uint8_t *destination, const uint8_t *source)
{
	uint8_t bytes[FRAME_BYTES];

	frame_fill(bytes, n, destination, source);
	assert_int_equal(s->frames[i % FRAMES_MAX].length, n);
	assert_memory_equal(s->frames[i % FRAMES_MAX].bytes, bytes, n);
}

#endif
