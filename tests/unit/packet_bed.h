/* packet_bed.h - a port packet: at one end of a cable, a plain socket at the other, in a network
 * namespace of the test's own; and what both ways of the port have to do. */
#ifndef PACKET_BED_H
#define PACKET_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <poll.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/log.h"
#include "namespace_bed.h"
#include "network/network_port.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"

enum { OURS = 0x88b5 /* the type for local experiments: IEEE 802, 9.2.3 */, QUEUES = 4 };

struct frame {
	struct virtio_net_hdr header;
	uint8_t bytes[NETWORK_FRAME_MAX];
	size_t length;
};

struct bed {
	const char *mode;
	struct reactor_world *world;
	struct reactor *r;
	struct network_port *port;
	struct network_queue *queues[QUEUES];
	unsigned ready[QUEUES], link_changes;
	int wire; /* a socket at the other end of the cable, with headers */
};

static struct frame sent, come;

/* ---- the port ---- */

static inline void ready(void *arg)
{
	++*(unsigned *)arg;
}

static inline void link_changed(void *arg)
{
	((struct bed *)arg)->link_changes++;
}

static inline int bed_try(struct bed *b, const char *uri, unsigned queues, struct error *e)
{
	*e = (struct error){ 0 };
	b->port = network_port_open("net0", uri, queues, b->r, e);
	if (b->port)
		network_port_set_listener(b->port, link_changed, b);
	return b->port ? 0 : e->code;
}

/* options: "" or "&name=value..." */
static inline void bed_open(struct bed *b, const char *options, unsigned queues)
{
	char uri[128];
	struct error e;

	snprintf(uri, sizeof(uri), "packet:left?mode=%s%s", b->mode, options);
	if (bed_try(b, uri, queues, &e))
		print_error("%s (%d)\n", e.text, e.code);
	assert_non_null(b->port);
	network_port_set_offloads(b->port, NETWORK_ALL);
	for (unsigned i = 0; i < queues; i++) {
		b->queues[i] = network_queue_open(b->port, i, b->r, ready, &b->ready[i], &e);
		assert_non_null(b->queues[i]);
	}
}

static inline void bed_close(struct bed *b)
{
	reactor_world_enter(b->world, b->r);
	for (unsigned i = 0; i < QUEUES; i++)
		if (b->queues[i])
			network_queue_close(b->queues[i]);
	memset(b->queues, 0, sizeof(b->queues));
	network_port_close(b->port);
	b->port = NULL;
}

static inline void bed_step(struct bed *b)
{
	if (!reactor_world_step(b->world))
		usleep(500);
	reactor_world_enter(b->world, b->r);
}

/* A port sees its link when the kernel has said so. */
static inline void bed_await_link(struct bed *b, bool up)
{
	for (unsigned i = 0; i < 4000 && network_port_link(b->port) != up; i++)
		bed_step(b);
	assert_int_equal(network_port_link(b->port), up);
}

/* ---- the other end ---- */

static inline int wire_open(const char *name)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_protocol = htobe16(ETH_P_ALL),
				  .sll_ifindex = namespace_index(name) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	assert_int_not_equal(fd, -1);
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)), 0);
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
	assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static inline void wire_send(struct bed *b, const struct frame *f)
{
	struct iovec iov[2] = { { (void *)&f->header, sizeof(f->header) },
				{ (void *)f->bytes, f->length } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

	assert_int_equal(sendmsg(b->wire, &m, 0), sizeof(f->header) + f->length);
}

/* The tag that the kernel has taken out, or 0.  False: nothing came, in the time given. */
static inline bool wire_receive(struct bed *b, struct frame *f, uint32_t *tag, int milliseconds)
{
	struct iovec iov[2] = { { &f->header, sizeof(f->header) }, { f->bytes, sizeof(f->bytes) } };
	char control[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
	struct msghdr m = { .msg_iov = iov,
			    .msg_iovlen = 2,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct pollfd p = { b->wire, POLLIN, 0 };
	struct tpacket_auxdata about;
	ssize_t n = poll(&p, 1, milliseconds) > 0 ? recvmsg(b->wire, &m, 0) : -1;

	if (n < 0)
		return false;
	memcpy(&about, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(about));
	*tag = about.tp_status & TP_STATUS_VLAN_VALID
		       ? (uint32_t)about.tp_vlan_tpid << 16 | about.tp_vlan_tci
		       : 0;
	f->length = n - sizeof(f->header);
	return true;
}

/* ---- frames ---- */

static inline void frame_make(struct frame *f, size_t length, uint8_t seed)
{
	static const uint8_t head[] = { 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1 };

	memset(f, 0, sizeof(*f));
	memcpy(f->bytes, head, sizeof(head));
	store_be16(f->bytes + 12, OURS);
	for (size_t i = NETWORK_HEADER; i < length; i++)
		f->bytes[i] = i * 7 + seed;
	f->length = length;
}

/* In so many pieces. */
static inline int port_send(struct bed *b, unsigned queue, const struct frame *f, unsigned pieces)
{
	struct iovec iov[200];
	size_t at = 0;

	for (unsigned i = 0; i < pieces; i++) {
		size_t length = i + 1 == pieces ? f->length - at : f->length / pieces;

		iov[i] = (struct iovec){ (void *)(f->bytes + at), length };
		at += length;
	}
	return network_send(b->queues[queue], &f->header, iov, pieces, f->length);
}

static inline bool port_peek(struct bed *b, unsigned queue, struct network_frame *f)
{
	for (unsigned i = 0; i < 2000; i++) {
		if (network_peek(b->queues[queue], f))
			return true;
		bed_step(b);
	}
	return false;
}

static inline void port_expect(struct bed *b, unsigned queue, const struct frame *f)
{
	struct network_frame got;

	assert_true(port_peek(b, queue, &got));
	assert_int_equal(got.length, f->length);
	assert_memory_equal(got.bytes, f->bytes, f->length);
	network_consume(b->queues[queue]);
}

static inline void port_expect_nothing(struct bed *b, unsigned queue)
{
	struct network_frame got;

	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(network_peek(b->queues[queue], &got), 0);
		bed_step(b);
	}
}

/* The kernel sets the other end going in its own time after the carrier has come. */
static inline void port_expect_at_last(struct bed *b, const struct frame *f)
{
	struct network_frame got;
	bool here = false;

	for (unsigned i = 0; i < 400 && !here; i++) {
		wire_send(b, f);
		for (unsigned j = 0; j < 10 && !here; j++) {
			here = network_peek(b->queues[0], &got);
			bed_step(b);
		}
	}
	port_expect(b, 0, f);
}

static inline void wire_expect(struct bed *b, const struct frame *f)
{
	uint32_t tag;

	/* To a group: the kernel's own. */
	do
		assert_true(wire_receive(b, &come, &tag, 1000));
	while (come.bytes[0] & 1);
	assert_int_equal(tag, 0);
	assert_int_equal(come.length, f->length);
	assert_memory_equal(come.bytes, f->bytes, f->length);
}

static inline void wire_send_some(struct bed *b, unsigned first, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		frame_make(&sent, 100 + first + i, 1);
		wire_send(b, &sent);
	}
}

/* Stopped for a migration with frames waiting, and going on: between the two `kept` of 7 frames
 * wait for the guest, the others are counted. */
static inline void check_stop(struct bed *b, unsigned kept)
{
	uint64_t stopping = counter_sum("network", "net0", "come_lost_stopping");
	uint64_t stopped = counter_sum("network", "net0", "come_lost_stopped");
	struct network_frame got;
	struct error e;

	wire_send_some(b, 0, 40);
	assert_true(port_peek(b, 0, &got));
	network_queue_close(b->queues[0]);
	b->queues[0] = NULL;
	assert_int_equal(counter_sum("network", "net0", "come_lost_stopping") - stopping, 40);
	wire_send_some(b, 100, 7);
	b->queues[0] = network_queue_open(b->port, 0, b->r, ready, &b->ready[0], &e);
	assert_non_null(b->queues[0]);
	assert_int_equal(counter_sum("network", "net0", "come_lost_stopped") - stopped, 7 - kept);
	for (unsigned i = 0; i < kept; i++) {
		frame_make(&sent, 200 + i, 1);
		port_expect(b, 0, &sent);
	}
	frame_make(&sent, 300, 1);
	wire_send(b, &sent);
	port_expect(b, 0, &sent);
	assert_int_equal(counter_sum("network", "net0", "come_lost_stopping") - stopping, 40);
}

/* ---- the bed ---- */

static inline int bed_create(void **state)
{
	struct bed *b = calloc(1, sizeof(*b));

	b->mode = *state;
	b->world = reactor_world_create(1);
	b->r = reactor_virtual_create(b->world, "control");
	reactor_world_enter(b->world, b->r);
	*state = b;
	if (namespace_add_veth("left", "right", QUEUES) || namespace_set_up("left", true) ||
	    namespace_set_up("right", true))
		return -1;
	b->wire = wire_open("right");
	return 0;
}

static inline int bed_free(void **state)
{
	struct bed *b = *state;

	bed_close(b);
	close(b->wire);
	reactor_free(b->r);
	reactor_world_free(b->world);
	free(b);
	namespace_delete("right");
	return 0;
}

static inline void frame_make_tagged(struct frame *f, uint16_t type, uint16_t tag)
{
	frame_make(f, 200, tag);
	store_be16(f->bytes + 12, type);
	store_be16(f->bytes + 14, tag);
	store_be16(f->bytes + 16, OURS);
}

/* A TCP segment over IPv4, at `at` bytes, whose checksum is still that of the pseudo-header. */
static inline void frame_make_tcp(struct frame *f, size_t at, size_t length, uint16_t port)
{
	uint8_t *ip = f->bytes + at, *tcp = ip + 20;

	frame_make(f, length, 3);
	memset(ip, 0, 40);
	store_be16(ip - 2, ETH_P_IP);
	ip[0] = 0x45;
	store_be16(ip + 2, length - at);
	ip[8] = 64;
	ip[9] = 6;
	store_be32(ip + 12, 0x0a000001);
	store_be32(ip + 16, 0x0a000002);
	store_be16(tcp, port);
	store_be16(tcp + 2, 80);
	tcp[12] = 5 << 4;
	f->header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->header.csum_start = htole16(at + 20);
	f->header.csum_offset = htole16(16);
}

static inline void frame_segment(struct frame *f, size_t at)
{
	f->header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	f->header.gso_size = htole16(1400);
	f->header.hdr_len = htole16(at + 40);
}

/* ---- queues ---- */

/* The queue that a frame comes to, or -1. */
static inline int queue_of(struct bed *b, const struct frame *f)
{
	struct network_frame got;
	int found = -1;

	for (unsigned turn = 0; turn < 1000 && found < 0; turn++) {
		for (unsigned i = 0; i < QUEUES && found < 0; i++)
			if (network_peek(b->queues[i], &got))
				found = i;
		if (found < 0)
			bed_step(b);
	}
	if (found < 0)
		return -1;
	assert_int_equal(got.length, f->length);
	network_consume(b->queues[found]);
	return found;
}

/* Channels change hands in turns of the queues' threads. */
static inline void set_active(struct bed *b, unsigned active)
{
	network_port_set_active(b->port, active);
	for (unsigned i = 0; i < 20; i++)
		bed_step(b);
}

static inline void refuse(struct bed *b, const char *uri, int code, const char *words)
{
	struct error e;

	assert_int_equal(bed_try(b, uri, 1, &e), code);
	if (!strstr(e.text, words))
		print_error("%s (%d)\n", e.text, e.code);
	assert_non_null(strstr(e.text, words));
}

/* ---- what both ways do ---- */

static inline void carries_frames_both_ways(void **state)
{
	static const size_t sizes[] = { 14, 42, 60, 1000, 1514 };
	struct bed *b = *state;

	bed_open(b, "", 1);
	assert_int_equal(network_port_limits(b->port)->mtu, 1500);
	for (unsigned i = 0; i < ARRAY_LENGTH(sizes); i++) {
		frame_make(&sent, sizes[i], i);
		assert_int_equal(port_send(b, 0, &sent, 1 + i % 3), 0);
		network_flush(b->queues[0]);
		wire_expect(b, &sent);
		wire_send(b, &sent);
		port_expect(b, 0, &sent);
	}
	port_expect_nothing(b, 0);
}

static inline void gives_the_same_frame_until_it_is_consumed(void **state)
{
	struct bed *b = *state;
	struct network_frame first, again;

	bed_open(b, "", 1);
	frame_make(&sent, 100, 1);
	wire_send(b, &sent);
	assert_true(port_peek(b, 0, &first));
	frame_make(&sent, 200, 2);
	wire_send(b, &sent);
	assert_int_equal(network_peek(b->queues[0], &again), 1);
	assert_ptr_equal(first.bytes, again.bytes);
	assert_int_equal(again.length, 100);
	network_consume(b->queues[0]);
	port_expect(b, 0, &sent);
}

/* Also where several sockets share the interface. */
static inline void hears_nothing_of_its_own(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", QUEUES);
	set_active(b, QUEUES);
	for (unsigned i = 0; i < 20; i++) {
		frame_make_tcp(&sent, 14, 100, i);
		assert_int_equal(port_send(b, i % QUEUES, &sent, 1), 0);
		network_flush(b->queues[i % QUEUES]);
	}
	for (unsigned i = 0; i < QUEUES; i++)
		port_expect_nothing(b, i);
}

/* What the host itself sends by the interface has not come over the wire. */
static inline void hears_nothing_of_the_host(void **state)
{
	struct bed *b = *state;
	int wire = b->wire;

	for (unsigned queues = 1; queues <= QUEUES; queues += QUEUES - 1) {
		bed_open(b, "", queues);
		b->wire = wire_open("left");
		frame_make(&sent, 100, 1);
		wire_send(b, &sent);
		port_expect_nothing(b, 0);
		close(b->wire);
		b->wire = wire;
		bed_close(b);
	}
}

/* What came for the last guest is not for the next. */
static inline void forgets_frames_between_two_users(void **state)
{
	struct bed *b = *state;
	struct error e;

	bed_open(b, "", 1);
	frame_make(&sent, 100, 1);
	wire_send(b, &sent);
	network_queue_close(b->queues[0]);
	wire_send(b, &sent);
	b->queues[0] = network_queue_open(b->port, 0, b->r, ready, &b->ready[0], &e);
	assert_non_null(b->queues[0]);
	port_expect_nothing(b, 0);
	frame_make(&sent, 120, 2);
	wire_send(b, &sent);
	port_expect(b, 0, &sent);
}

/* A device without buffers: one call, then silence, and nothing is lost. */
static inline void is_quiet_while_nobody_takes_frames(void **state)
{
	enum { COUNT = 100 };
	struct bed *b = *state;

	bed_open(b, "", 1);
	port_expect_nothing(b, 0);
	b->ready[0] = 0;
	frame_make(&sent, 100, 1);
	for (unsigned i = 0; i < COUNT; i++)
		wire_send(b, &sent);
	for (unsigned i = 0; i < 100 && !b->ready[0]; i++)
		bed_step(b);
	for (unsigned i = 0; i < 10; i++)
		reactor_world_step(b->world);
	assert_int_equal(b->ready[0], 1);
	assert_false(reactor_world_step(b->world));
	reactor_world_enter(b->world, b->r);
	for (unsigned i = 0; i < COUNT; i++)
		port_expect(b, 0, &sent);
	port_expect_nothing(b, 0);
	wire_send(b, &sent);
	port_expect(b, 0, &sent);
	assert_int_equal(b->ready[0], 2);
}

static inline void follows_the_link(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", 1);
	assert_true(network_port_link(b->port));
	assert_int_equal(namespace_set_up("left", false), 0);
	bed_await_link(b, false);
	frame_make(&sent, 100, 1);
	port_send(b, 0, &sent, 1);
	network_flush(b->queues[0]);
	port_expect_nothing(b, 0);
	assert_int_equal(namespace_set_up("left", true), 0);
	bed_await_link(b, true);
	frame_make(&sent, 100, 2);
	assert_int_equal(port_send(b, 0, &sent, 1), 0);
	network_flush(b->queues[0]);
	wire_expect(b, &sent);
	port_expect_at_last(b, &sent);
	assert_in_range(b->link_changes, 2, 4);
}

static inline void is_down_from_the_start(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_set_up("right", false), 0);
	bed_open(b, "", 1);
	assert_false(network_port_link(b->port));
	assert_int_equal(namespace_set_up("right", true), 0);
	bed_await_link(b, true);
	close(b->wire); /* it has an error to tell, too */
	b->wire = wire_open("right");
	frame_make(&sent, 100, 1);
	port_expect_at_last(b, &sent);
}

static inline void survives_the_interface(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", 1);
	assert_int_equal(namespace_delete("left"), 0);
	bed_await_link(b, false);
	frame_make(&sent, 100, 1);
	for (unsigned i = 0; i < 100; i++)
		port_send(b, 0, &sent, 1);
	network_flush(b->queues[0]);
	port_expect_nothing(b, 0);
	/* At rest. */
	for (unsigned i = 0; i < 100 && reactor_world_step(b->world); i++)
		;
	assert_false(reactor_world_step(b->world));
}

static inline void asks_for_all_frames(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", 1);
	assert_int_equal(namespace_promiscuity("left"), 1);
	bed_close(b);
	assert_int_equal(namespace_promiscuity("left"), 0);
	bed_open(b, "&promiscuous=off", 1);
	assert_int_equal(namespace_promiscuity("left"), 0);
}

#define ON(way, test)                                               \
	{                                                           \
#test " by " #way, test, bed_create, bed_free, #way \
	}
#define ON_EACH(way)                                                                               \
	ON(way, carries_frames_both_ways), ON(way, gives_the_same_frame_until_it_is_consumed),     \
		ON(way, hears_nothing_of_its_own), ON(way, hears_nothing_of_the_host),             \
		ON(way, forgets_frames_between_two_users),                                         \
		ON(way, is_quiet_while_nobody_takes_frames), ON(way, follows_the_link),            \
		ON(way, is_down_from_the_start), ON(way, survives_the_interface),                  \
		ON(way, asks_for_all_frames)

#endif
