/* fuzz_net.c - commands, headers and frames for a whole network device: it loses what is no good,
 * and what it passes on, either way, is possible and was agreed on.
 *
 * The input: a byte of options, then records.  A record is a byte that says what is done, a byte
 * of how, its length (2 bytes, little-endian), and that many bytes. */
#include <assert.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
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
#include "fuzz.h"
#include "link/memory_map.h"
#include "network/network_port.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "virtio/virtio_device.h"

enum {
	PAIRS = 2,
	QUEUES = 2 * PAIRS + 1,
	RING = 32,
	BASE = 1 << 20,
	BYTES = 1 << 19,
	AREA = 1 << 16,     /* bytes for what the driver writes, and for each receive queue */
	SLOT = AREA / RING, /* bytes of a receive buffer at most */
	RECORD = 4,
	RECORDS_MAX = 64,
	STEPS = 20000,
	ANSWER = 16, /* bytes, behind a command */
};

/* Younger than some kernels' headers. */
enum { USO = 5, GUEST_USO4 = 54, GUEST_USO6 = 55 };

/* Of a record's first byte. */
enum { COMMAND, TRANSMIT, COME, FILL, QUEUE_RESET, DEVICE_RESET, KINDS };

struct bed {
	struct reactor_world *world;
	struct reactor *reactor;
	struct guest_memory memory;
	struct memory_map *map;
	struct guest_queue rings[QUEUES];
	int kicks[QUEUES];           /* owned */
	uint64_t areas[QUEUES];      /* iova */
	uint32_t rooms[PAIRS][RING]; /* bytes, by slot */
	bool filled[PAIRS][RING];
	struct network_port *port, *far_port;
	struct network_queue *far;
	struct net *net;
	struct virtio_device *device;
	uint64_t features;
	bool packed, ended;
};

static void ended(void *arg)
{
	*(bool *)arg = true;
}

static void steps(struct bed *b)
{
	for (unsigned i = 0; i < STEPS && reactor_world_step(b->world); i++)
		;
	reactor_world_enter(b->world, b->reactor);
}

static bool has(const struct bed *b, unsigned feature)
{
	return b->features >> feature & 1;
}

static unsigned pairs(const struct bed *b)
{
	return has(b, VIRTIO_NET_F_MQ) || has(b, VIRTIO_NET_F_RSS) ? PAIRS : 1;
}

static unsigned header_bytes(const struct bed *b)
{
	return has(b, VIRTIO_NET_F_HASH_REPORT) ? 20 : 12;
}

/* ---- what is passed on ---- */

/* virtio 1.3, 5.1.6.4.1: what the driver can rely on. */
static void check_header(const struct virtio_net_hdr *h, size_t bytes)
{
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		assert((size_t)le16toh(h->csum_start) + le16toh(h->csum_offset) + 2 <= bytes);
	if (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
		assert(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
		assert(h->gso_size);
	}
}

static void far_ready(void *arg)
{
	struct bed *b = arg;
	struct network_frame f;

	while (network_peek(b->far, &f)) {
		assert(f.length >= NETWORK_HEADER && f.length <= NETWORK_FRAME_MAX);
		check_header(&f.header, f.length);
		network_consume(b->far);
	}
}

/* Whether the driver has agreed to finish it. */
static void check_agreed(const struct bed *b, const struct virtio_net_hdr *h)
{
	unsigned type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	assert(!h->flags || has(b, VIRTIO_NET_F_GUEST_CSUM));
	assert(!(h->gso_type & VIRTIO_NET_HDR_GSO_ECN) || has(b, VIRTIO_NET_F_GUEST_ECN));
	assert(type != VIRTIO_NET_HDR_GSO_TCPV4 || has(b, VIRTIO_NET_F_GUEST_TSO4));
	assert(type != VIRTIO_NET_HDR_GSO_TCPV6 || has(b, VIRTIO_NET_F_GUEST_TSO6));
	assert(type != VIRTIO_NET_HDR_GSO_UDP || has(b, VIRTIO_NET_F_GUEST_UFO));
	assert(type != USO || has(b, GUEST_USO4) || has(b, GUEST_USO6));
}

static void *slot_bytes(struct bed *b, unsigned pair, unsigned slot)
{
	return guest_memory_at(&b->memory, b->areas[2 * pair] + (uint64_t)slot * SLOT);
}

/* The next buffer of a pair's; false: none. */
static bool take_buffer(struct bed *b, unsigned pair, unsigned *slot, uint32_t *length)
{
	void *token;
	int status = guest_queue_take(&b->rings[2 * pair], &token, length);

	assert(status >= 0);
	if (!status)
		return false;
	*slot = (uintptr_t)token - 1;
	assert(*length <= b->rooms[pair][*slot]);
	b->filled[pair][*slot] = false;
	return true;
}

static void receive(struct bed *b, unsigned pair)
{
	struct virtio_net_hdr_v1 header;
	uint32_t length, more;
	unsigned slot, rest;

	while (take_buffer(b, pair, &slot, &length)) {
		if (!length)
			continue;
		assert(length >= header_bytes(b));
		memcpy(&header, slot_bytes(b, pair, slot), sizeof(header));
		for (unsigned i = 1; i < le16toh(header.num_buffers); i++) {
			bool found = take_buffer(b, pair, &rest, &more);

			assert(found && has(b, VIRTIO_NET_F_MRG_RXBUF));
			length += more;
		}
		assert(length - header_bytes(b) >= NETWORK_HEADER);
		check_header((const struct virtio_net_hdr *)&header, length - header_bytes(b));
		check_agreed(b, (const struct virtio_net_hdr *)&header);
	}
}

/* ---- the driver ---- */

static void collect(struct bed *b)
{
	void *token;
	uint32_t length;

	for (unsigned i = 0; i < pairs(b); i++) {
		receive(b, i);
		while (guest_queue_take(&b->rings[2 * i + 1], &token, &length) > 0)
			assert(!length);
	}
}

static void publish(struct bed *b, unsigned queue)
{
	if (guest_queue_publish(&b->rings[queue]))
		eventfd_write(b->kicks[queue], 1);
	steps(b);
	collect(b);
}

/* In up to two pieces, the last of them as often as it takes to make a large frame. */
static unsigned cut(uint64_t iova, uint32_t n, uint8_t how, struct guest_segment *parts)
{
	uint32_t at = n ? how % n : 0;
	unsigned count = 0, times = 1 + how / 16;

	if (at)
		parts[count++] = (struct guest_segment){ iova, at, false };
	while (n > at && times--)
		parts[count++] = (struct guest_segment){ iova + at, n - at, false };
	return count;
}

static void transmit(struct bed *b, const uint8_t *bytes, uint32_t n, uint8_t how)
{
	unsigned queue = 2 * (how % pairs(b)) + 1, count;
	struct guest_segment parts[RING];

	memcpy(guest_memory_at(&b->memory, b->areas[queue]), bytes, n);
	count = cut(b->areas[queue], n, how, parts);
	if (count && guest_queue_add(&b->rings[queue], parts, count, NULL, b))
		publish(b, queue);
}

static void check_answer(struct bed *b, const uint8_t *answer, unsigned room)
{
	uint32_t length;
	void *token;

	if (guest_queue_take(&b->rings[2 * pairs(b)], &token, &length) != 1)
		return;
	assert(length <= room && (!length || *answer <= VIRTIO_NET_ERR));
	assert(length <= 1 || (length == 13 && *answer == VIRTIO_NET_OK));
}

static void command(struct bed *b, const uint8_t *bytes, uint32_t n, uint8_t how)
{
	unsigned queue = 2 * pairs(b), count = 0, room = how % ANSWER;
	uint8_t *at = guest_memory_at(&b->memory, b->areas[2 * PAIRS]);
	uint64_t iova = b->areas[2 * PAIRS];
	struct guest_segment parts[2];

	if (!has(b, VIRTIO_NET_F_CTRL_VQ))
		return;
	memcpy(at, bytes, n);
	memset(at + n, 0xee, ANSWER);
	if (n)
		parts[count++] = (struct guest_segment){ iova, n, false };
	if (room)
		parts[count++] = (struct guest_segment){ iova + n, room, true };
	if (!count || !guest_queue_add(&b->rings[queue], parts, count, NULL, b))
		return;
	publish(b, queue);
	check_answer(b, at + n, room);
}

/* Buffers whose sizes the input names. */
static void fill(struct bed *b, const uint8_t *bytes, uint32_t n, uint8_t how)
{
	unsigned pair = how % pairs(b), done = 0;

	for (unsigned i = 0; i < RING && n; i++) {
		uint64_t iova = b->areas[2 * pair] + (uint64_t)i * SLOT;
		struct guest_segment part = { iova, 1 + bytes[done++ % n] * (SLOT / 256), true };

		if (b->filled[pair][i])
			continue;
		b->rooms[pair][i] = part.length;
		b->filled[pair][i] = guest_queue_add(&b->rings[2 * pair], &part, 1, NULL,
						     (void *)(uintptr_t)(i + 1));
	}
	publish(b, 2 * pair);
}

/* What the network sends: a header of ten bytes, then the frame. */
static void come(struct bed *b, const uint8_t *bytes, uint32_t n, uint8_t how)
{
	struct virtio_net_hdr header;
	struct iovec iov[RING];
	unsigned count = 0;
	size_t all = 0;

	if (n < sizeof(header) + NETWORK_HEADER)
		return;
	memcpy(&header, bytes, sizeof(header));
	for (; count <= how / 16u; count++) {
		size_t skip = count ? NETWORK_HEADER : 0;

		iov[count] = (struct iovec){ (void *)(bytes + sizeof(header) + skip),
					     n - sizeof(header) - skip };
		all += iov[count].iov_len;
		if (all > NETWORK_FRAME_MAX)
			return;
	}
	network_send(b->far, &header, iov, count, all);
	network_flush(b->far);
	steps(b);
	collect(b);
}

/* ---- life ---- */

static void queue_start(struct bed *b, unsigned index)
{
	uint16_t first = virtio_queue_first_index(b->device);
	const struct guest_queue *q = &b->rings[index];
	const struct virtio_queue_setup setup = { RING,           first,
						  first,          q->descriptor_iova,
						  q->driver_iova, q->device_iova };
	struct reactor_task task = { .fn = ended, .arg = &b->ended };
	struct error e;
	int status = 0;

	guest_queue_restart(&b->rings[index], 0);
	if (index % 2 == 0 && index / 2 < PAIRS)
		memset(b->filled[index / 2], 0, sizeof(b->filled[0]));
	virtio_queue_give_kick(b->device, index, dup(b->kicks[index]));
	virtio_queue_enable(b->device, index, true);
	b->ended = false;
	if (virtio_queue_configure(b->device, index, &setup, &e))
		abort();
	virtio_queue_start(b->device, index, &status, &task);
	steps(b);
	assert(b->ended && !status);
}

static void queue_reset(struct bed *b, uint8_t how)
{
	unsigned index = how % (2 * pairs(b) + has(b, VIRTIO_NET_F_CTRL_VQ));
	struct reactor_task task = { .fn = ended, .arg = &b->ended };

	b->ended = false;
	virtio_queue_stop(b->device, index, &task);
	steps(b);
	assert(b->ended);
	collect(b);
	queue_start(b, index);
}

static void device_reset(struct bed *b)
{
	struct reactor_task task = { .fn = ended, .arg = &b->ended };

	b->ended = false;
	virtio_device_reset(b->device, &task);
	steps(b);
	assert(b->ended);
}

/* The record's bytes say which features are not accepted. */
static void start(struct bed *b, const uint8_t *bytes, uint32_t n)
{
	uint8_t mask[8] = { 0 };
	struct error e;

	if (n)
		memcpy(mask, bytes, minimum_u64(n, sizeof(mask)));
	b->features = virtio_device_features(b->device) &
		      ~(load_le64(mask) &
			~(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_RING_PACKED));
	b->features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
	if (virtio_device_accept(b->device, b->features, &e))
		abort();
	for (unsigned i = 0; i < 2 * pairs(b) + has(b, VIRTIO_NET_F_CTRL_VQ); i++)
		queue_start(b, i);
}

static void open_memory(struct bed *b)
{
	struct memory_region region = { BASE, BYTES, -1, 0, MEMORY_READ | MEMORY_WRITE };
	struct memory_map *empty = memory_map_create(NULL);

	guest_memory_open(&b->memory, BASE, BYTES);
	for (unsigned i = 0; i < QUEUES; i++) {
		guest_queue_open_flags(&b->rings[i], &b->memory, RING,
				       b->packed ? GUEST_QUEUE_PACKED : 0);
		b->kicks[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		b->areas[i] = guest_memory_allocate(&b->memory, AREA, 4096);
	}
	region.fd = b->memory.fd;
	b->map = memory_map_add(empty, &region, NULL);
	memory_map_release(empty);
}

static void open_device(struct bed *b)
{
	const struct virtio_device_options o = { .name = "fuzz",
						 .queue_size = RING,
						 .packed = b->packed,
						 .control = b->reactor,
						 .workers = &b->reactor,
						 .worker_count = 1 };
	struct net_options net = { .mac = { 2, 0, 0, 0, 0, 1 }, .hashes = true, .pairs = PAIRS };
	struct reactor_task task = { .fn = ended, .arg = &b->ended };
	struct error e;

	b->port = network_port_open("fuzz", "switch:fuzz", PAIRS, b->reactor, &e);
	b->far_port = network_port_open("far", "switch:fuzz", 1, b->reactor, &e);
	b->far = network_queue_open(b->far_port, 0, b->reactor, far_ready, b, &e);
	net.port = b->port;
	b->net = net_create(&net, &o, &e);
	if (!b->net)
		abort();
	b->device = net_device(b->net);
	virtio_device_set_memory(b->device, b->map, &task);
	steps(b);
}

static void bed_open(struct bed *b, uint8_t options)
{
	b->packed = options & 1;
	b->world = reactor_world_create(1);
	b->reactor = reactor_virtual_create(b->world, "fuzz");
	reactor_world_enter(b->world, b->reactor);
	open_memory(b);
	open_device(b);
	network_port_set_offloads(b->far_port, options >> 1);
	start(b, NULL, 0);
}

static void bed_close(struct bed *b)
{
	device_reset(b);
	network_queue_close(b->far);
	steps(b);
	net_free(b->net);
	network_port_close(b->port);
	network_port_close(b->far_port);
	memory_map_release(b->map);
	steps(b);
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	for (unsigned i = 0; i < QUEUES; i++) {
		guest_queue_close(&b->rings[i]);
		close(b->kicks[i]);
	}
	guest_memory_close(&b->memory);
}

/* ---- the input ---- */

static void record(struct bed *b, const uint8_t head[RECORD], const uint8_t *bytes, uint32_t n)
{
	switch (head[0] % KINDS) {
	case COMMAND:
		command(b, bytes, n, head[1]);
		break;
	case TRANSMIT:
		transmit(b, bytes, n, head[1]);
		break;
	case COME:
		come(b, bytes, n, head[1]);
		break;
	case FILL:
		fill(b, bytes, n, head[1]);
		break;
	case QUEUE_RESET:
		queue_reset(b, head[1]);
		break;
	case DEVICE_RESET:
		device_reset(b);
		start(b, bytes, n);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct bed b = { 0 };
	size_t at = 1;

	if (!n)
		return 0;
	log_set_level(LOG_LEVEL_ERROR);
	bed_open(&b, bytes[0]);
	for (unsigned i = 0; i < RECORDS_MAX && n - at >= RECORD; i++) {
		const uint8_t *head = bytes + at;
		uint32_t length = minimum_u64(load_le16(head + 2), n - at - RECORD);

		length = minimum_u64(length, AREA - ANSWER);
		record(&b, head, head + RECORD, length);
		at += RECORD + length;
	}
	bed_close(&b);
	return 0;
}
