/* net_receive.c - frames that come, on their way to the driver (virtio 1.3, 5.1.6.3, 5.1.6.4).
 *
 * A frame stays in its port until there are buffers for all of it.  Buffers that were taken for a
 * frame, and are too few, are held until the driver adds more; a stop gets them back empty.  The
 * driver is asked for notifications only while a frame waits: what wakes this queue is its port.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "device/net_state.h"
#include "virtio/virtio_device.h"

/* ---- buffers ---- */

static void hold(struct net_queue *nq, struct virtqueue_chain *c)
{
	nq->held[nq->held_count++] = c;
	nq->held_bytes += c->writable_bytes;
}

/* The first `count` go back, each with what was stored in it. */
static void release(struct net_queue *nq, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		nq->held_bytes -= nq->held[i]->writable_bytes;
	nq->held_count -= count;
	memmove(nq->held, nq->held + count, nq->held_count * sizeof(struct virtqueue_chain *));
}

/* virtio 1.3, 5.1.6.3.1: a buffer that cannot even hold the header is the driver's mistake. */
static bool is_usable(struct net_queue *nq, struct virtqueue_chain *c)
{
	if (likely(c->writable_bytes >= nq->header))
		return true;
	virtio_queue_break(nq->queue, "a receive buffer that is shorter than the header");
	virtio_queue_return(nq->queue, c, 0, 0);
	return false;
}

enum gathered { GATHERED, STARVED, TOO_LONG };

/* So many bytes of buffers: in one, or, where the driver lets us, in several. */
static enum gathered gather(struct net_queue *nq, uint64_t bytes)
{
	unsigned most = nq->mergeable ? virtio_queue_size(nq->queue) : 1;
	struct virtqueue_chain *c;

	while (nq->held_bytes < bytes) {
		if (nq->held_count == most)
			return TOO_LONG;
		if (!virtio_queue_take(nq->queue, &c) || !is_usable(nq, c))
			return STARVED;
		hold(nq, c);
	}
	return GATHERED;
}

/* ---- frames ---- */

static size_t store(const struct virtqueue_chain *c, uint64_t offset, const void *from, size_t n)
{
	return iov_copy_to(c->iov + c->readable, c->writable, offset, from, n);
}

static void store_header(struct net_queue *nq, const struct network_frame *f, unsigned buffers)
{
	struct virtio_net_hdr_v1_hash header = { 0 };

	memcpy(&header, &f->header, sizeof(f->header));
	header.hdr.num_buffers = htole16(buffers);
	header.hash_report = htole16(f->hash_report);
	header.hash_value = htole32(f->hash_report ? f->hash : 0);
	store(nq->held[0], 0, &header, nq->header);
}

/* How many of the buffers held the frame takes. */
static unsigned buffers_for(const struct net_queue *nq, uint64_t bytes)
{
	unsigned count = 0;

	for (uint64_t room = 0; room < bytes; count++)
		room += nq->held[count]->writable_bytes;
	return count;
}

static void deliver(struct net_queue *nq, const struct network_frame *f)
{
	unsigned count = buffers_for(nq, nq->header + f->length);
	uint64_t stored = 0;

	store_header(nq, f, count);
	for (unsigned i = 0; i < count; i++) {
		uint64_t head = i ? 0 : nq->header;
		size_t part = store(nq->held[i], head, f->bytes + stored, f->length - stored);

		stored += part;
		virtio_queue_return(nq->queue, nq->held[i], head + part, 0);
	}
	counter_add(&nq->numbers.come_frames, 1);
	counter_add(&nq->numbers.come_bytes, f->length);
	counter_add(&nq->numbers.come_buffers, count);
	release(nq, count);
}

/* False: it has to wait. */
static bool take_frame(struct net_queue *nq, const struct network_frame *f)
{
	if (unlikely(!net_filter_passes(&nq->net->filter, f->bytes, f->length))) {
		counter_add(&nq->numbers.come_filtered, 1);
		return true;
	}
	switch (gather(nq, nq->header + f->length)) {
	case GATHERED:
		deliver(nq, f);
		return true;
	case TOO_LONG:
		counter_add(&nq->numbers.come_too_long, 1);
		return true;
	case STARVED:
		break;
	}
	counter_add(&nq->numbers.starved, 1);
	return false;
}

/* At most so many frames per turn: those that are filtered out take no buffer, and no budget. */
enum { FRAMES_PER_TURN = 256 };

void net_receive_work(struct net_queue *nq)
{
	struct network_frame f;
	unsigned count = 0;
	bool starved = false;

	net_follow_coalescing(nq);
	while (!starved && count++ < FRAMES_PER_TURN && network_peek(nq->port, &f)) {
		starved = !take_frame(nq, &f);
		if (!starved)
			network_consume(nq->port);
	}
	virtio_queue_want_kicks(nq->queue, starved);
	if (unlikely(count > FRAMES_PER_TURN))
		virtio_queue_wake(nq->queue);
}

/* ---- life ---- */

/* The driver takes a buffer without a byte for one whose frame was too short, and drops it. */
void net_receive_yield(struct net_queue *nq)
{
	for (unsigned i = 0; i < nq->held_count; i++)
		virtio_queue_return(nq->queue, nq->held[i], 0, 0);
	release(nq, nq->held_count);
}

int net_receive_start(struct net_queue *nq, struct error *e)
{
	int err;

	nq->mergeable = net_accepted(nq->net, VIRTIO_NET_F_MRG_RXBUF);
	nq->held_count = nq->held_bytes = 0;
	nq->coalescing_seen = 0;
	nq->held = calloc(virtio_queue_size(nq->queue), sizeof(struct virtqueue_chain *));
	if (!nq->held)
		return error_set(e, -ENOMEM, "receive buffers: out of memory");
	err = net_pair_open(nq, e);
	if (err)
		free(nq->held);
	return err;
}

void net_receive_stop(struct net_queue *nq)
{
	net_pair_close(nq);
	free(nq->held);
	nq->held = NULL;
}
