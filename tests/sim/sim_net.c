/* sim_net.c - a network device, its driver and a network behind it in one thread, under a seeded
 * schedule: sim_net [--seeds N] [--seed FIRST].
 *
 * The device's port is one of a switch; the simulation is at the other, where it loses frames and
 * mixes flows.  Each frame has a number in its flow, which says all of its bytes: one that comes
 * twice, late, changed, or past the filter ends the process with the seed's number.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "device/net.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "link/memory_map.h"
#include "network/network_port.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "virtio/virtio_device.h"

enum {
	PAIRS_MAX = 4,
	QUEUES_MAX = 2 * PAIRS_MAX + 1,
	RING = 32,
	BUFFERS = 32, /* per queue */
	ROOM = 2048,  /* bytes per buffer */
	HEADER = 12,  /* bytes: struct virtio_net_hdr_v1 */
	FLOWS = 8,
	TURNS = 300,
	NUMBERS = 2048, /* of a flow's frames, more than are ever sent */
	WAIT_STEPS = 200000,
	OTHER = 0x77, /* an address that is not the guest's */
	GUEST = 1,
	PLAIN = 0x88b5,
	HOSTILE = 0x88b6,
};

struct buffer {
	uint64_t iova;
	uint8_t *bytes; /* in guest memory */
	bool busy;
};

struct queue {
	struct guest_queue ring;
	struct buffer buffers[BUFFERS];
	int kick; /* owned */
};

struct flow {
	uint32_t sent, come;     /* numbers, from 1 */
	uint32_t forbidden_from; /* those from here on must not pass the filter; 0: all may */
	bool seen[NUMBERS];
};

struct sim {
	uint64_t seed, random;
	unsigned pairs, receive_room;
	bool packed, event_index, mergeable, storms, hostile;
	struct guest_memory memory;
	struct memory_map *map;
	struct queue queues[QUEUES_MAX];
	struct reactor_world *world;
	struct reactor *control, *workers[2];
	struct network_port *port, *far_port;
	struct network_queue *far;
	struct net *net;
	struct virtio_device *device;
	bool needs_reset, may_break;
	bool pairs_changed;    /* a flow's frames may lie in two queues */
	bool filter_known;     /* no command but ours has changed it */
	int promiscuous_asked; /* by the command under way; -1: another */
	struct flow to_guest[FLOWS], to_other[FLOWS], from_guest[PAIRS_MAX];
	unsigned arrived, taken;
};

static void fail(const struct sim *s, const char *what)
{
	fprintf(stderr, "sim_net: seed %llu: %s\n", (unsigned long long)s->seed, what);
	abort();
}

static uint64_t pick(struct sim *s, uint64_t n)
{
	uint64_t z = s->random += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % n;
}

/* ---- frames: 14 bytes, the flow, its number, then what follows from the number ---- */

static size_t frame_length(uint32_t number)
{
	return 60 + number * 2654435761u % 1455;
}

static size_t frame_write(uint8_t *to, uint8_t destination, uint8_t source, uint8_t flow,
			  uint32_t number)
{
	size_t n = frame_length(number);

	memcpy(to, "\x02\0\0\0\0\0\x02\0\0\0\0\0\x88\xb5", 14);
	to[5] = destination;
	to[11] = source;
	to[14] = flow;
	store_be32(to + 15, number);
	for (size_t i = 19; i < n; i++)
		to[i] = i * 7 + number * 13 + flow;
	return n;
}

/* Of these flows, the frame's: next in its order, and as it was sent. */
static void frame_check(struct sim *s, struct flow *flows, unsigned count, const uint8_t *bytes,
			size_t n)
{
	uint8_t wanted[ROOM];
	uint32_t number;

	if (n < 60 || bytes[14] >= count)
		fail(s, "a frame of nobody's");
	number = load_be32(bytes + 15);
	if (!number || number > flows[bytes[14]].sent)
		fail(s, "a frame that was not sent");
	if (flows[bytes[14]].seen[number])
		fail(s, "a frame comes twice");
	if (number < flows[bytes[14]].come && !s->pairs_changed)
		fail(s, "a frame comes late");
	if (n != frame_write(wanted, bytes[5], bytes[11], bytes[14], number) ||
	    memcmp(wanted, bytes, n))
		fail(s, "a frame was changed");
	flows[bytes[14]].seen[number] = true;
	flows[bytes[14]].come = number;
}

/* ---- the network behind ---- */

static void far_ready(void *arg)
{
	struct sim *s = arg;
	struct network_frame f;

	while (network_peek(s->far, &f)) {
		if (f.header.flags || f.header.gso_type)
			fail(s, "a header promises what was not asked for");
		if (f.length < NETWORK_HEADER || f.length > NETWORK_FRAME_MAX)
			fail(s, "a frame of an impossible length");
		if (load_be16(f.bytes + 12) == PLAIN)
			frame_check(s, s->from_guest, PAIRS_MAX, f.bytes, f.length);
		s->taken++;
		network_consume(s->far);
	}
}

/* One in eight is lost on the way. */
static void far_send(struct sim *s, bool to_other, unsigned flow)
{
	static const struct virtio_net_hdr nothing;
	struct flow *f = to_other ? &s->to_other[flow] : &s->to_guest[flow];
	uint8_t bytes[ROOM];
	struct iovec iov = { bytes, 0 };

	iov.iov_len = frame_write(bytes, to_other ? OTHER : GUEST, 0xf0 + flow, flow, ++f->sent);
	if (pick(s, 8))
		network_send(s->far, &nothing, &iov, 1, iov.iov_len);
	network_flush(s->far);
}

/* ---- the driver ---- */

static struct buffer *buffer_free(struct queue *q)
{
	for (unsigned i = 0; i < BUFFERS; i++)
		if (!q->buffers[i].busy)
			return &q->buffers[i];
	return NULL;
}

static bool add(struct queue *q, const struct guest_segment *segments, unsigned count,
		struct buffer *b)
{
	b->busy = guest_queue_add(&q->ring, segments, count, NULL, b);
	return b->busy;
}

static void publish(struct queue *q)
{
	if (guest_queue_publish(&q->ring))
		eventfd_write(q->kick, 1);
}

static struct buffer *take(struct sim *s, struct queue *q, uint32_t *length)
{
	void *token;
	int status = guest_queue_take(&q->ring, &token, length);

	if (status < 0)
		fail(s, "a descriptor came back that was not out");
	if (!status)
		return NULL;
	((struct buffer *)token)->busy = false;
	return token;
}

static void receive_fill(struct sim *s, struct queue *q)
{
	struct buffer *b;

	while ((b = buffer_free(q))) {
		struct guest_segment segment = { b->iova, s->receive_room, true };

		if (!add(q, &segment, 1, b))
			break;
	}
	publish(q);
}

static void receive_check(struct sim *s, const uint8_t *frame, size_t n)
{
	bool other = n > 5 && frame[5] == OTHER;
	struct flow *flows = other ? s->to_other : s->to_guest;

	frame_check(s, flows, FLOWS, frame, n);
	if (other && flows[frame[14]].forbidden_from &&
	    flows[frame[14]].come >= flows[frame[14]].forbidden_from)
		fail(s, "a frame passed a filter that forbids it");
	s->arrived++;
}

/* The buffers of a frame come back together. */
static void receive_take(struct sim *s, struct queue *q)
{
	uint8_t frame[RING * ROOM];
	struct buffer *b;
	uint32_t length;

	while ((b = take(s, q, &length)) && length) {
		unsigned count = length < HEADER ? 0 : load_le16(b->bytes + 10);
		size_t n = length - HEADER;

		if (!count || count > (s->mergeable ? RING : 1) || length > s->receive_room)
			fail(s, "a header with an impossible number of buffers");
		if (b->bytes[0] || b->bytes[1])
			fail(s, "a header promises what was not sent");
		memcpy(frame, b->bytes + HEADER, n);
		while (--count) {
			b = take(s, q, &length);
			if (!b || length > s->receive_room)
				fail(s, "a frame's buffers are missing");
			memcpy(frame + n, b->bytes, length);
			n += length;
		}
		receive_check(s, frame, n);
	}
}

/* Random headers, runts, chains that are writable, and some that lie outside of memory. */
static void make_hostile(struct sim *s, struct buffer *b, struct guest_segment *segments)
{
	store_be16(b->bytes + HEADER + 12, HOSTILE);
	for (unsigned i = 0; i < HEADER; i++)
		b->bytes[i] = pick(s, 2) ? pick(s, 256) : pick(s, 6);
	switch (pick(s, 16)) {
	case 0:
		segments[1].iova = s->memory.iova + s->memory.size - 1;
		s->may_break = true;
		break;
	case 1:
		segments[1].writable = true;
		break;
	case 2:
	case 3:
		segments[0].length = 1 + pick(s, HEADER + 12);
		segments[1].length = 1;
		break;
	}
}

static void transmit(struct sim *s, unsigned pair)
{
	struct queue *q = &s->queues[2 * pair + 1];
	struct buffer *b = buffer_free(q);
	struct guest_segment segments[2] = { 0 };
	size_t n;

	if (!b || q->ring.free_count < 2)
		return;
	memset(b->bytes, 0, HEADER);
	n = frame_write(b->bytes + HEADER, 0xf0, GUEST, pair, ++s->from_guest[pair].sent);
	segments[0] = (struct guest_segment){ b->iova, HEADER + 1 + pick(s, 50), false };
	segments[1] = (struct guest_segment){ b->iova + segments[0].length,
					      HEADER + n - segments[0].length, false };
	if (s->hostile && !pick(s, 4))
		make_hostile(s, b, segments);
	add(q, segments, 2, b);
	publish(q);
}

/* ---- the control queue: one command at a time ---- */

static struct queue *control_queue(struct sim *s)
{
	return &s->queues[2 * s->pairs];
}

static void command(struct sim *s, const uint8_t *bytes, unsigned n)
{
	struct queue *q = control_queue(s);
	struct buffer *b = &q->buffers[0];
	struct guest_segment segments[2] = { { b->iova, n, false }, { b->iova + n, 1, true } };

	memcpy(b->bytes, bytes, n);
	b->bytes[n] = 0xee;
	add(q, segments, 2, b);
	publish(q);
}

static void filter_opens(struct sim *s)
{
	for (unsigned i = 0; i < FLOWS; i++)
		s->to_other[i].forbidden_from = 0;
}

static void command_random(struct sim *s)
{
	uint8_t bytes[512];
	unsigned n = 1 + pick(s, sizeof(bytes));

	for (unsigned i = 0; i < n; i++)
		bytes[i] = pick(s, 2) ? pick(s, 256) : pick(s, 7);
	if (pick(s, 2))
		n = minimum_u64(n, 8);
	s->filter_known = false;
	s->pairs_changed = true;
	s->promiscuous_asked = -1;
	filter_opens(s);
	command(s, bytes, n);
}

static void command_promiscuous(struct sim *s)
{
	uint8_t bytes[3] = { VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, pick(s, 2) };

	s->promiscuous_asked = bytes[2];
	if (bytes[2])
		filter_opens(s);
	command(s, bytes, sizeof(bytes));
}

static void command_pairs(struct sim *s)
{
	uint8_t bytes[4] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
			     1 + pick(s, s->pairs), 0 };

	s->pairs_changed = true;
	s->promiscuous_asked = -1;
	command(s, bytes, sizeof(bytes));
}

static void control_send(struct sim *s)
{
	if (control_queue(s)->buffers[0].busy)
		return;
	if (s->storms && !pick(s, 4))
		command_random(s);
	else if (s->pairs > 1 && pick(s, 2))
		command_pairs(s);
	else
		command_promiscuous(s);
}

/* Frames sent from now on must not pass. */
static void filter_closes(struct sim *s)
{
	for (unsigned i = 0; i < FLOWS; i++)
		s->to_other[i].forbidden_from = s->to_other[i].sent + 1;
}

static void control_take(struct sim *s)
{
	uint32_t length;
	struct buffer *b = take(s, control_queue(s), &length);

	if (!b)
		return;
	if (length != 1)
		fail(s, "an answer of more or less than a byte");
	if (s->promiscuous_asked == 0 && s->filter_known)
		filter_closes(s);
}

/* ---- life ---- */

static void done(void *arg)
{
	*(bool *)arg = true;
}

static void wait_for(struct sim *s, const bool *flag, const char *what)
{
	for (unsigned i = 0; !*flag; i++) {
		if (i == WAIT_STEPS)
			fail(s, what);
		reactor_world_step(s->world);
	}
	reactor_world_enter(s->world, s->control);
}

static void config_changed(void *arg)
{
	struct sim *s = arg;

	if (!(virtio_device_status(s->device) & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	if (!s->may_break)
		fail(s, "a queue broke without a reason");
	s->needs_reset = true;
}

static void queue_start(struct sim *s, unsigned index)
{
	struct queue *q = &s->queues[index];
	uint16_t first = virtio_queue_first_index(s->device);
	const struct virtio_queue_setup setup = { RING,
						  first,
						  first,
						  q->ring.descriptor_iova,
						  q->ring.driver_iova,
						  q->ring.device_iova };
	bool over = false;
	struct reactor_task task = { .fn = done, .arg = &over };
	struct error e = { 0 };
	int status = 0;

	guest_queue_restart(&q->ring, 0);
	for (unsigned i = 0; i < BUFFERS; i++)
		q->buffers[i].busy = false;
	virtio_queue_give_kick(s->device, index, dup(q->kick));
	virtio_queue_enable(s->device, index, true);
	if (virtio_queue_configure(s->device, index, &setup, &e))
		fail(s, e.text);
	virtio_queue_start(s->device, index, &status, &task);
	wait_for(s, &over, "a queue does not start");
	if (status)
		fail(s, "a queue was refused");
}

static void driver_start(struct sim *s)
{
	uint64_t features = virtio_device_features(s->device);
	struct error e = { 0 };

	if (!s->mergeable)
		features &= ~(1ull << VIRTIO_NET_F_MRG_RXBUF);
	if (!s->event_index)
		features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
	features &= ~(1ull << 57); /* HASH_REPORT: a longer header */
	if (virtio_device_accept(s->device, features, &e))
		fail(s, e.text);
	s->filter_known = true;
	s->promiscuous_asked = -1;
	filter_opens(s);
	for (unsigned i = 0; i <= 2 * s->pairs; i++)
		queue_start(s, i);
}

static void device_reset(struct sim *s)
{
	bool over = false;
	struct reactor_task task = { .fn = done, .arg = &over };

	virtio_device_reset(s->device, &task);
	wait_for(s, &over, "a reset does not end");
	s->needs_reset = s->may_break = false;
}

static void open_memory(struct sim *s)
{
	unsigned flags = (s->packed ? GUEST_QUEUE_PACKED : 0) |
			 (s->event_index ? GUEST_QUEUE_EVENT_INDEX : 0);
	struct memory_map *empty = memory_map_create(NULL);

	guest_memory_open(&s->memory, 1 << 30, 1 << 20);
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		struct queue *q = &s->queues[i];

		guest_queue_open_flags(&q->ring, &s->memory, RING, flags);
		q->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		for (unsigned j = 0; j < BUFFERS; j++) {
			struct buffer *b = &q->buffers[j];

			b->iova = guest_memory_allocate(&s->memory, ROOM, 1);
			b->bytes = guest_memory_at(&s->memory, b->iova);
		}
	}
	s->map = memory_map_add(empty,
				&(struct memory_region){ s->memory.iova, s->memory.size,
							 s->memory.fd, 0,
							 MEMORY_READ | MEMORY_WRITE },
				NULL);
	memory_map_release(empty);
}

static void open_network(struct sim *s)
{
	struct error e = { 0 };

	s->port = network_port_open("sim", "switch:sim", s->pairs, s->control, &e);
	s->far_port = network_port_open("far", "switch:sim", 1, s->control, &e);
	if (!s->port || !s->far_port)
		fail(s, e.text);
	s->far = network_queue_open(s->far_port, 0, s->control, far_ready, s, &e);
	if (!s->far)
		fail(s, e.text);
}

static void open_device(struct sim *s)
{
	const struct net_options options = { .port = s->port,
					     .mac = { 2, 0, 0, 0, 0, GUEST },
					     .pairs = s->pairs };
	const struct virtio_device_options device_options = {
		.name = "sim",
		.queue_size = RING,
		.packed = s->packed,
		.control = s->control,
		.workers = s->workers,
		.worker_count = 2,
	};
	bool over = false;
	struct reactor_task task = { .fn = done, .arg = &over };
	struct error e = { 0 };

	s->net = net_create(&options, &device_options, &e);
	if (!s->net)
		fail(s, e.text);
	s->device = net_device(s->net);
	virtio_device_set_listener(s->device, config_changed, s);
	virtio_device_set_memory(s->device, s->map, &task);
	wait_for(s, &over, "memory is not taken");
}

static void sim_open(struct sim *s)
{
	s->pairs = 1 + pick(s, PAIRS_MAX);
	s->packed = pick(s, 2);
	s->event_index = pick(s, 2);
	s->mergeable = pick(s, 2);
	s->receive_room = s->mergeable ? 64 + pick(s, ROOM - 64) : HEADER + 1514 + pick(s, 500);
	s->storms = !pick(s, 3);
	s->hostile = pick(s, 2);
	s->world = reactor_world_create(s->seed);
	s->control = reactor_virtual_create(s->world, "control");
	for (unsigned i = 0; i < 2; i++)
		s->workers[i] = reactor_virtual_create(s->world, "worker");
	reactor_world_enter(s->world, s->control);
	open_memory(s);
	open_network(s);
	open_device(s);
	driver_start(s);
}

static void come_to_rest(struct sim *s)
{
	for (unsigned i = 0; reactor_world_step(s->world); i++)
		if (i == WAIT_STEPS)
			fail(s, "the reactors do not come to rest");
	reactor_world_enter(s->world, s->control);
}

static void sim_close(struct sim *s)
{
	device_reset(s);
	network_queue_close(s->far);
	come_to_rest(s);
	net_free(s->net);
	network_port_close(s->port);
	network_port_close(s->far_port);
	memory_map_release(s->map);
	come_to_rest(s);
	reactor_free(s->control);
	for (unsigned i = 0; i < 2; i++)
		reactor_free(s->workers[i]);
	reactor_world_free(s->world);
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		guest_queue_close(&s->queues[i].ring);
		close(s->queues[i].kick);
	}
	guest_memory_close(&s->memory);
}

/* ---- a run ---- */

static void collect(struct sim *s)
{
	uint32_t length;

	for (unsigned i = 0; i < s->pairs; i++) {
		receive_take(s, &s->queues[2 * i]);
		while (take(s, &s->queues[2 * i + 1], &length))
			;
	}
	control_take(s);
}

static void step(struct sim *s)
{
	for (uint64_t n = pick(s, 12); n; n--)
		reactor_world_step(s->world);
	reactor_world_enter(s->world, s->control);
	if (s->needs_reset) {
		device_reset(s);
		driver_start(s);
	}
}

static void turn(struct sim *s)
{
	switch (pick(s, 8)) {
	case 0:
	case 1:
		far_send(s, !pick(s, 3), pick(s, FLOWS));
		break;
	case 2:
		transmit(s, pick(s, s->pairs));
		break;
	case 3:
	case 4:
		receive_fill(s, &s->queues[2 * pick(s, s->pairs)]);
		break;
	case 5:
		control_send(s);
		break;
	case 6:
		collect(s);
		break;
	}
	if (!pick(s, 200)) {
		device_reset(s);
		driver_start(s);
	}
}

static bool is_idle(const struct sim *s)
{
	for (unsigned i = 0; i < s->pairs; i++)
		if (guest_queue_outstanding(&s->queues[2 * i + 1].ring))
			return false;
	return !guest_queue_outstanding(&s->queues[2 * s->pairs].ring);
}

static void drain(struct sim *s)
{
	for (unsigned i = 0; !is_idle(s); i++) {
		if (i == WAIT_STEPS)
			fail(s, "a descriptor does not come back");
		step(s);
		collect(s);
	}
}

/* After all that, frames still pass both ways. */
static void check_alive(struct sim *s)
{
	unsigned arrived, taken = s->taken;

	device_reset(s);
	driver_start(s);
	s->hostile = false;
	arrived = s->arrived;
	transmit(s, 0);
	for (unsigned i = 0; s->arrived == arrived || s->taken == taken; i++) {
		if (i == 10000)
			fail(s, "no frame passes any more");
		if (i % 100 == 0)
			far_send(s, false, 0);
		receive_fill(s, &s->queues[0]);
		step(s);
		collect(s);
	}
}

static void run(uint64_t seed)
{
	struct sim *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->seed = s->random = seed;
	sim_open(s);
	for (unsigned i = 0; i < TURNS; i++) {
		turn(s);
		step(s);
	}
	drain(s);
	check_alive(s);
	sim_close(s);
	free(s);
}

int main(int argc, char **argv)
{
	uint64_t first = 1, count = 1;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seeds"))
			count = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			first = strtoull(argv[i + 1], NULL, 0);
		else
			return 2;
	}
	log_set_level(LOG_LEVEL_ERROR);
	printf("sim_net: seeds %llu to %llu\n", (unsigned long long)first,
	       (unsigned long long)(first + count - 1));
	fflush(stdout);
	for (uint64_t i = 0; i < count; i++)
		run(first + i);
	return 0;
}
