/* blk_queue.c - requests of one queue, from the driver to the storage and back.
 *
 * A request slot per descriptor head, allocated when the queue starts, so nothing is allocated on
 * the way.  READ and WRITE are one storage operation; a WRITE in write-through mode is followed by
 * a flush; DISCARD and WRITE_ZEROES are one operation per range, one after the other.
 */
#include <assert.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "base/pages.h"
#include "device/blk_state.h"
#include "reactor/reactor.h"
#include "virtio/virtio_device.h"

struct blk_slot {
	struct virtqueue_chain *chain; /* borrowed from take to return */
	struct blk_queue *queue;
	uint64_t taken_ns;
	enum blk_kind kind;
	bool submitted; /* the storage has had it */
	bool flushing;  /* a write-through's second half */
	uint16_t range_next, range_count;
	struct storage_io io; /* last: scratch space of the storage's layers follows */
};

static struct blk_slot *slot_of(struct blk_queue *bq, unsigned id)
{
	return (struct blk_slot *)(void *)(bq->slots + id * bq->stride);
}

static struct blk_range *ranges_of(struct blk_queue *bq, unsigned id)
{
	return &bq->ranges[id * BLK_RANGES_MAX];
}

/* ---- the end of a request ---- */

static void count_status(struct blk_queue *bq, uint8_t status)
{
	if (unlikely(status == VIRTIO_BLK_S_IOERR))
		counter_add(&bq->numbers.errors, 1);
	if (unlikely(status == VIRTIO_BLK_S_UNSUPP))
		counter_add(&bq->numbers.unsupported, 1);
}

/* What a request has stored, payload only.  A read that failed half-way has been overwritten: the
 * driver is told of no byte that is not ours to show. */
static uint64_t stored_bytes(const struct blk_slot *s, uint8_t status)
{
	const struct virtqueue_chain *c = s->chain;

	if (s->kind == BLK_READ && (status == VIRTIO_BLK_S_OK || s->submitted))
		return c->writable_bytes;
	if (s->kind == BLK_GET_ID && status == VIRTIO_BLK_S_OK)
		return minimum_u64(c->writable_bytes, BLK_ID_SIZE);
	return 0;
}

static void finish(struct blk_slot *s, uint8_t status)
{
	struct blk_queue *bq = s->queue;
	uint64_t now = reactor_now(virtio_queue_reactor(bq->queue));

	counter_add(&bq->numbers.requests[s->kind], 1);
	count_status(bq, status);
	histogram_add(&bq->latency[s->kind], now - s->taken_ns);
	virtio_queue_return(bq->queue, s->chain, stored_bytes(s, status), status);
}

static uint8_t status_of(int error)
{
	if (likely(!error))
		return VIRTIO_BLK_S_OK;
	return error == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* ---- storage operations ---- */

static void submit(struct blk_slot *s, enum storage_operation operation, uint64_t offset,
		   uint64_t length)
{
	s->submitted = true;
	s->io.operation = operation;
	s->io.offset = offset;
	s->io.length = length;
	storage_submit(s->queue->channel, &s->io);
}

static void next_range(struct blk_slot *s)
{
	struct blk_range *r = &ranges_of(s->queue, s->chain->id)[s->range_next++];

	s->io.flags = (r->unmap ? STORAGE_UNMAP : 0) | (s->submitted ? STORAGE_STARTED : 0);
	if (s->kind == BLK_DISCARD) {
		counter_add(&s->queue->numbers.bytes_discarded, r->length);
		submit(s, STORAGE_DISCARD, r->offset, r->length);
	} else {
		counter_add(&s->queue->numbers.bytes_zeroed, r->length);
		submit(s, STORAGE_WRITE_ZEROES, r->offset, r->length);
	}
}

/* virtio 1.3, 5.2.6.2: without FLUSH and CONFIG_WCE, or with writeback off, a completed write is
 * stable. */
static bool is_write_through(const struct blk_queue *bq)
{
	return bq->knows_no_cache || !__atomic_load_n(&bq->blk->write_back, __ATOMIC_RELAXED);
}

static bool needs_flush(const struct blk_slot *s)
{
	return (s->kind == BLK_WRITE || s->kind == BLK_WRITE_ZEROES) && s->queue->has_cache &&
	       !s->flushing && is_write_through(s->queue);
}

/* Payload may be a buffer of ours that held something else before. */
static void clear_failed_read(struct blk_slot *s)
{
	struct virtqueue_chain *c = s->chain;

	if (s->kind == BLK_READ)
		iov_fill(c->iov + c->readable, c->writable, 0, 0, c->writable_bytes);
}

static void take_all(struct blk_queue *bq, struct virtqueue_chain *c);

/* Withdrawn: it has not left us.  A queue that shares the channel with one that is being stopped
 * goes on.  Apart, so that the other way needs no registers saved. */
static void __attribute__((noinline)) io_ended_badly(struct blk_slot *s)
{
	int status = s->io.status;

	if (status != -ECANCELED) {
		clear_failed_read(s);
		finish(s, status_of(status));
	} else if (!virtio_queue_park(s->queue->queue, s->chain)) {
		take_all(s->queue, s->chain);
	}
}

static void io_done(struct storage_io *io)
{
	struct blk_slot *s = CONTAINER_OF(io, struct blk_slot, io);

	if (unlikely(io->status)) {
		io_ended_badly(s);
	} else if (unlikely(s->range_next < s->range_count)) {
		next_range(s);
	} else if (unlikely(needs_flush(s))) {
		s->flushing = true;
		s->io.flags |= STORAGE_STARTED;
		submit(s, STORAGE_FLUSH, 0, 0);
	} else {
		finish(s, VIRTIO_BLK_S_OK);
	}
}

/* ---- the beginning of a request ---- */

static void begin_read(struct blk_slot *s, const struct blk_request *request)
{
	struct virtqueue_chain *c = s->chain;

	s->io.iov = c->iov + c->readable;
	s->io.iov_count = c->writable;
	counter_add(&s->queue->numbers.bytes_read, request->length);
	submit(s, STORAGE_READ, request->offset, request->length);
}

static void begin_write(struct blk_slot *s, const struct blk_request *request)
{
	s->io.iov = s->chain->iov;
	s->io.iov_count = s->chain->readable;
	counter_add(&s->queue->numbers.bytes_written, request->length);
	submit(s, STORAGE_WRITE, request->offset, request->length);
}

static void begin_ranges(struct blk_slot *s, const struct blk_request *request)
{
	uint8_t bytes[BLK_RANGES_MAX * BLK_RANGE_SIZE];
	struct virtqueue_chain *c = s->chain;
	uint8_t status;

	iov_copy_from(c->iov, c->readable, 0, bytes, request->range_count * BLK_RANGE_SIZE);
	status = blk_ranges_parse(bytes, &s->queue->rules, request, ranges_of(s->queue, c->id));
	if (status != VIRTIO_BLK_S_OK) {
		finish(s, status);
		return;
	}
	s->range_count = request->range_count;
	next_range(s);
}

static void begin_get_id(struct blk_slot *s)
{
	struct virtqueue_chain *c = s->chain;

	iov_copy_to(c->iov + c->readable, c->writable, 0, s->queue->blk->serial, BLK_ID_SIZE);
	finish(s, VIRTIO_BLK_S_OK);
}

static void begin(struct blk_slot *s, const struct blk_request *request)
{
	switch (request->kind) {
	case BLK_READ:
		begin_read(s, request);
		break;
	case BLK_WRITE:
		begin_write(s, request);
		break;
	case BLK_FLUSH:
		submit(s, STORAGE_FLUSH, 0, 0);
		break;
	case BLK_DISCARD:
	case BLK_WRITE_ZEROES:
		begin_ranges(s, request);
		break;
	case BLK_GET_ID:
		begin_get_id(s);
		break;
	case BLK_OTHER:
	case BLK_KINDS:
		assert(!"a request of unknown kind passed the parser");
	}
}

static struct blk_slot *slot_begin(struct blk_queue *bq, struct virtqueue_chain *c)
{
	struct blk_slot *s = slot_of(bq, c->id);

	s->queue = bq;
	s->io.done = io_done;
	s->chain = c;
	s->taken_ns = reactor_now(virtio_queue_reactor(bq->queue));
	s->submitted = s->flushing = false;
	s->range_next = s->range_count = 0;
	s->io.flags = 0;
	return s;
}

static void take(struct blk_queue *bq, struct virtqueue_chain *c)
{
	struct blk_slot *s = slot_begin(bq, c);
	struct blk_request request;
	uint8_t status;

	status = blk_request_parse(c->header, c->header_bytes, c->readable_bytes, c->writable_bytes,
				   &bq->rules, &request);
	s->kind = request.kind;
	/* virtio 1.3, 5.2.6: every request ends with a status byte; without one there is no way to
	 * answer */
	if (unlikely(!c->has_status)) {
		virtio_queue_break(bq->queue, "a request without a status byte");
		virtio_queue_return(bq->queue, c, 0, 0);
	} else if (likely(status == VIRTIO_BLK_S_OK)) {
		begin(s, &request);
	} else {
		finish(s, status);
	}
}

/* All that there is; first, if it is not NULL, a chain that was taken before.  One place for both,
 * so that what follows is compiled into it. */
static void __attribute__((noinline)) take_all(struct blk_queue *bq, struct virtqueue_chain *c)
{
	while (c || virtio_queue_take(bq->queue, &c)) {
		take(bq, c);
		c = NULL;
	}
}

void blk_queue_work(struct virtio_queue *q)
{
	struct blk_queue *bq = virtio_queue_state(q);

	bq->rules.size = storage_size(bq->blk->storage);
	take_all(bq, NULL);
}

/* ---- a stop within a bound ---- */

void blk_queue_withdraw(struct virtio_queue *q)
{
	storage_withdraw(((struct blk_queue *)virtio_queue_state(q))->channel);
}

/* All of it, from its beginning: what it had done before it was withdrawn it may do twice, for the
 * driver has not been told that it ended. */
void blk_queue_again(struct virtio_queue *q, struct virtqueue_chain *c)
{
	take_all(virtio_queue_state(q), c);
}

/* ---- life ---- */

static size_t ranges_bytes(const struct blk_queue *bq)
{
	return bq->slot_count * BLK_RANGES_MAX * sizeof(*bq->ranges);
}

static void slots_free(struct blk_queue *bq)
{
	pages_free(bq->slots, bq->stride * bq->slot_count);
	pages_free(bq->ranges, ranges_bytes(bq));
	bq->slots = NULL;
	bq->ranges = NULL;
}

static int slots_create(struct blk_queue *bq, unsigned count, struct error *e)
{
	size_t size = offsetof(struct blk_slot, io) + storage_io_size(bq->blk->storage);

	bq->stride = align_up(size, 64);
	bq->slot_count = count;
	bq->slots = pages_allocate(bq->stride * count);
	bq->ranges = pages_allocate(ranges_bytes(bq));
	if (bq->slots && bq->ranges)
		return 0;
	slots_free(bq);
	return error_set(e, -ENOMEM, "%u request slots: out of memory", count);
}

static void rules_set(struct blk_queue *bq)
{
	const struct storage_limits *limits = storage_limits(bq->blk->storage);
	uint64_t accepted = virtio_device_accepted(virtio_queue_device(bq->queue));
	uint64_t cache = 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;

	bq->rules = (struct blk_rules){
		.block_size = limits->block_size,
		.clear_max = BLK_CLEAR_MAX,
		.read_only = bq->blk->read_only,
		.can_discard = limits->can_discard,
		.can_write_zeroes = limits->can_write_zeroes,
	};
	bq->has_cache = limits->volatile_cache;
	bq->knows_no_cache = !(accepted & cache);
}

int blk_queue_start(struct virtio_queue *q, struct error *e)
{
	struct blk *b = virtio_device_state(virtio_queue_device(q));
	struct blk_queue *bq = &b->queues[virtio_queue_index(q)];
	int err;

	bq->queue = q;
	bq->channel = storage_channel_open(b->storage, virtio_queue_reactor(q), e);
	if (!bq->channel)
		return e->code;
	err = slots_create(bq, virtio_queue_size(q), e);
	if (err) {
		storage_channel_close(bq->channel);
		return err;
	}
	rules_set(bq);
	virtio_queue_set_state(q, bq);
	return 0;
}

void blk_queue_stop(struct virtio_queue *q)
{
	struct blk_queue *bq = virtio_queue_state(q);

	storage_channel_close(bq->channel);
	slots_free(bq);
}
