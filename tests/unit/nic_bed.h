/* nic_bed.h - a guest's network card, and a far end on the same switch that sends each frame back:
 * frames are numbered and filled by their number, so that none comes twice, late or changed.
 *
 * The far end lives on the bed's control thread.  No frame is lost silently: what was sent has come
 * back, or a counter of a port has it. */
#ifndef TESTS_UNIT_NIC_BED_H
#define TESTS_UNIT_NIC_BED_H

#include "function_bed.h"

#include <linux/virtio_net.h>

#include "base/counter.h"
#include "network/network_port.h"

enum {
	NIC_BUFFERS = 24,       /* of each direction */
	NIC_ROOM = 2048,	/* bytes of a buffer */
	NIC_HEADER = 12,	/* bytes: virtio_net_hdr_v1 */
	NIC_FRAME_LEAST = 60, NIC_FRAME_MOST = 1514,
	NIC_TYPE = 0x88b5,	/* for experiments on one network (IEEE 802) */
	NIC_NUMBER_AT = 14,
};

static const uint8_t nic_address[6] = { 2, 0, 0, 0, 0, 9 };
static const uint8_t far_address[6] = { 2, 0, 0, 0, 0, 1 };

/* ---- frames ---- */

static inline uint32_t nic_frame_length(uint64_t number)
{
	return NIC_FRAME_LEAST + number * 2654435761u % (NIC_FRAME_MOST - NIC_FRAME_LEAST + 1);
}

static inline uint8_t nic_frame_byte(uint64_t number, uint32_t at)
{
	return number * 31 + at * 7;
}

static inline void nic_frame_write(uint8_t *bytes, uint64_t number)
{
	memcpy(bytes, far_address, 6);
	memcpy(bytes + 6, nic_address, 6);
	store_be16(bytes + 12, NIC_TYPE);
	store_be64(bytes + NIC_NUMBER_AT, number);
	for (uint32_t i = NIC_NUMBER_AT + 8; i < nic_frame_length(number); i++)
		bytes[i] = nic_frame_byte(number, i);
}

/* As the far end sends it back.  Its number. */
static inline uint64_t nic_frame_check(const uint8_t *bytes, uint32_t length)
{
	uint64_t number = load_be64(bytes + NIC_NUMBER_AT);

	assert_int_equal(length, nic_frame_length(number));
	assert_memory_equal(bytes, nic_address, 6);
	assert_memory_equal(bytes + 6, far_address, 6);
	assert_int_equal(load_be16(bytes + 12), NIC_TYPE);
	for (uint32_t i = NIC_NUMBER_AT + 8; i < length; i++)
		if (bytes[i] != nic_frame_byte(number, i))
			fail_msg("frame %llu: byte %u", (unsigned long long)number, i);
	return number;
}

/* ---- the far end ---- */

struct far_end {
	struct network_port *port;
	struct network_queue *queue;
};

static inline void far_send(struct far_end *far, const uint8_t *to, const uint8_t *rest, size_t n)
{
	static const struct virtio_net_hdr nothing;
	const struct iovec iov[3] = { { (void *)to, 6 },
				      { (void *)far_address, 6 },
				      { (void *)rest, n } };

	network_send(far->queue, &nothing, iov, 3, 12 + n);
}

static inline void far_ready(void *arg)
{
	struct far_end *far = arg;
	struct network_frame f;

	while (network_peek(far->queue, &f)) {
		far_send(far, f.bytes + 6, f.bytes + 12, f.length - 12);
		network_consume(far->queue);
	}
	network_flush(far->queue);
}

/* Before the control thread runs.  The switch learns at once where it is, so nothing is flooded. */
static inline void far_open(struct far_end *far, struct bed *b, const char *uri)
{
	static const uint8_t everybody[6] = { 255, 255, 255, 255, 255, 255 };
	static const uint8_t nothing[48] = { NIC_TYPE >> 8, NIC_TYPE & 0xff };
	struct error e = { 0 };

	far->port = network_port_open("far", uri, 1, b->control, &e);
	if (!far->port)
		fail_msg("%s", e.text);
	far->queue = network_queue_open(far->port, 0, b->control, far_ready, far, &e);
	if (!far->queue)
		fail_msg("%s", e.text);
	far_send(far, everybody, nothing, sizeof(nothing));
	network_flush(far->queue);
}

/* When that thread has ended. */
static inline void far_close(struct far_end *far)
{
	network_queue_close(far->queue);
	network_port_close(far->port);
}

/* ---- the card ---- */

struct nic_buffer {
	uint64_t iova;
	uint8_t *bytes;
	bool busy;
};

enum { NIC_RECEIVE, NIC_TRANSMIT, NIC_RINGS };

struct nic {
	const struct manner *manner; /* borrowed */
	struct vfio_user_client client;
	struct guest_pci pci;
	struct guest_queue rings[NIC_RINGS];
	struct nic_buffer buffers[NIC_RINGS][NIC_BUFFERS];
	uint64_t sent, returned, come, last; /* frames; last: the number of the latest to come */
};

static inline void nic_open(struct nic *n, const struct manner *manner, struct guest_memory *m)
{
	*n = (struct nic){ .manner = manner };
	vfio_user_client_init(&n->client);
	n->client.twin_socket = manner->twin;
	guest_pci_init(&n->pci, &n->client);
	for (unsigned i = 0; i < NIC_RINGS; i++) {
		guest_queue_open_flags(&n->rings[i], m, QUEUE_SIZE, ring_flags(manner->features));
		for (unsigned j = 0; j < NIC_BUFFERS; j++) {
			n->buffers[i][j].iova = guest_memory_allocate(m, NIC_ROOM, NIC_ROOM);
			n->buffers[i][j].bytes = guest_memory_at(m, n->buffers[i][j].iova);
		}
	}
}

static inline void nic_close(struct nic *n)
{
	for (unsigned i = 0; i < NIC_RINGS; i++)
		guest_queue_close(&n->rings[i]);
	guest_pci_close(&n->pci);
	vfio_user_client_disconnect(&n->client);
}

/* The VMM tells the function of m. */
static inline void nic_start(struct nic *n, const char *path, const struct guest_memory *m)
{
	struct error e = { 0 };

	must(vfio_user_client_connect(&n->client, path, &e), &e);
	must(vfio_user_client_map(&n->client, m, n->manner->shared, &e), &e);
	must(guest_pci_probe(&n->pci, &e), &e);
	must(guest_pci_enable_vectors(&n->pci, &e), &e);
	must(guest_pci_negotiate(&n->pci, n->manner->features | 1ull << VIRTIO_NET_F_MAC, &e), &e);
	for (unsigned i = 0; i < NIC_RINGS; i++)
		must(guest_pci_start_queue(&n->pci, i, &n->rings[i], &e), &e);
	must(guest_pci_set_driver_ok(&n->pci, &e), &e);
}

static inline void nic_publish(struct nic *n, unsigned ring)
{
	if (guest_queue_publish(&n->rings[ring]))
		guest_pci_notify(&n->pci, ring);
}

static inline void nic_give(struct nic *n, unsigned ring, struct nic_buffer *b, uint32_t bytes)
{
	const struct guest_segment s = { b->iova, bytes, ring == NIC_RECEIVE };

	assert_true(guest_queue_add(&n->rings[ring], &s, 1, NULL, b));
	b->busy = true;
}

static inline void nic_fill(struct nic *n)
{
	for (unsigned i = 0; i < NIC_BUFFERS; i++)
		if (!n->buffers[NIC_RECEIVE][i].busy)
			nic_give(n, NIC_RECEIVE, &n->buffers[NIC_RECEIVE][i], NIC_ROOM);
	nic_publish(n, NIC_RECEIVE);
}

static inline void nic_send(struct nic *n, struct nic_buffer *b)
{
	uint64_t number = ++n->sent;

	memset(b->bytes, 0, NIC_HEADER);
	nic_frame_write(b->bytes + NIC_HEADER, number);
	nic_give(n, NIC_TRANSMIT, b, NIC_HEADER + nic_frame_length(number));
}

static inline void nic_send_all(struct nic *n)
{
	for (unsigned i = 0; i < NIC_BUFFERS; i++)
		if (!n->buffers[NIC_TRANSMIT][i].busy)
			nic_send(n, &n->buffers[NIC_TRANSMIT][i]);
	nic_publish(n, NIC_TRANSMIT);
}

/* An empty one was taken back by a stop. */
static inline void nic_receive(struct nic *n, const struct nic_buffer *b, uint32_t length)
{
	uint64_t number;

	if (!length)
		return;
	assert_in_range(length, NIC_HEADER + NIC_FRAME_LEAST, NIC_HEADER + NIC_FRAME_MOST);
	number = nic_frame_check(b->bytes + NIC_HEADER, length - NIC_HEADER);
	assert_in_range(number, n->last + 1, n->sent);
	n->last = number;
	n->come++;
}

static inline void nic_take(struct nic *n, unsigned ring)
{
	uint32_t length;
	void *token;
	int answer;

	while ((answer = guest_queue_take(&n->rings[ring], &token, &length)) == 1) {
		struct nic_buffer *b = token;

		assert_true(b->busy);
		b->busy = false;
		if (ring == NIC_RECEIVE)
			nic_receive(n, b, length);
		else
			n->returned++;
	}
	assert_int_equal(answer, 0);
}

static inline void nic_serve(struct nic *n)
{
	if (!n->manner->shared)
		assert_true(vfio_client_channel_serve(&n->client.channel, 0) >= 0);
}

static inline void nic_collect(struct nic *n)
{
	nic_serve(n);
	nic_take(n, NIC_TRANSMIT);
	nic_take(n, NIC_RECEIVE);
}

static inline void nic_work(struct nic *n)
{
	nic_collect(n);
	nic_fill(n);
	nic_send_all(n);
}

static inline void nic_work_for(struct nic *n, uint64_t frames)
{
	uint64_t end = n->come + frames, deadline = now_ms() + DRAIN_SECONDS * 1000;

	while (n->come < end) {
		nic_work(n);
		if (now_ms() > deadline)
			fail_msg("%s: no frames come", n->manner->name);
	}
}

/* By all ports whose names are given. */
static inline uint64_t nic_count_lost(const char *const *ports, unsigned count)
{
	static const char *const counters[] = { "sent_dropped", "come_dropped",
						"come_lost_stopping", "come_lost_stopped" };
	uint64_t sum = 0;

	for (unsigned i = 0; i < count; i++)
		for (unsigned j = 0; j < sizeof(counters) / sizeof(counters[0]); j++)
			sum += counter_sum("network", ports[i], counters[j]);
	return sum;
}

#endif
