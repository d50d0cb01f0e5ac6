/* deliver.c - remote memory: payload, status and used elements on their way back.
 *
 * Theory of operation.  A pushed chain's payload and status set off at once.  Used elements are
 * kept in a shadow of the used ring and go in batches, one batch at a time:
 *
 *   data      wait until payload and status of every chain of the batch have arrived
 *   elements  the batch's part of the used ring, in one transfer or two
 *   index     the used index: from now on the driver sees the batch; in a packed ring the first of
 *             the batch's used descriptors, whose others are its elements
 *   event     what the driver wants to be interrupted for; then, perhaps, the interrupt
 *
 * Each step waits for the one before, because the link may carry transfers out in any order.  Data
 * and status of a request travel together: what the driver must not see is a status without its
 * data, and it does not look at either before the used element, which waits for both.
 * What is pushed meanwhile makes up the next batch, so a slow link makes large batches.
 *
 * Requests over mapped memory that end while a batch is under way join the next one, for order's
 * sake; the link then stores directly.
 */
#include <assert.h>
#include <string.h>

#include "link/dirty_log.h"
#include "virtqueue/remote_queue.h"

static void deliver_run(struct virtqueue *q);

static void deliver_kick(struct virtqueue *q)
{
	deliver_run(q);
	if (!deliver_is_busy(q))
		q->options.ready(q->options.arg);
}

static void data_done(struct link_transfer *t)
{
	struct remote_chain *c = t->owner;
	struct virtqueue *q = c->queue;

	remote_ended(q, q->slots[c->head].epoch, t, &q->remote->data_pending[c->parity]);
	deliver_kick(q);
}

static void data_write(struct virtqueue *q, struct remote_chain *c, struct link_transfer *t,
		       enum link_purpose purpose, uint64_t iova, void *local, uint32_t length)
{
	*t = (struct link_transfer){ .iova = iova,
				     .local = local,
				     .length = length,
				     .purpose = purpose,
				     .done = data_done,
				     .owner = c };
	remote_write(q, q->slots[c->head].epoch, t, &q->remote->data_pending[c->parity]);
}

/* The status is the last writable byte: find its descriptor from the end. */
static uint64_t status_iova(const struct remote_chain *c)
{
	unsigned i = c->count - 1;

	while (!c->list[i].len)
		i--;
	return c->list[i].addr + c->list[i].len - 1;
}

static void write_back(struct virtqueue *q, struct chain_slot *s, uint64_t written, uint8_t status)
{
	struct remote_chain *c = s->remote;
	struct link_transfer *t = c->transfers;
	uint64_t from = s->chain.readable_bytes; /* there is no buffer if there is no payload */

	c->parity = q->remote->parity;
	for (unsigned i = 0; i < c->count && written; i++) {
		uint64_t part = minimum_u64(c->list[i].len, written);

		if (!(c->list[i].flags & VRING_DESC_F_WRITE) || !part)
			continue;
		data_write(q, c, t++, LINK_PAYLOAD, c->list[i].addr, c->buffer + from, part);
		from += part;
		written -= part;
	}
	c->status = status;
	if (s->chain.has_status)
		data_write(q, c, t, LINK_STATUS, status_iova(c), &c->status, 1);
}

/* A chain over mapped memory that has to queue up behind a batch. */
static void store_mapped(struct virtqueue *q, struct chain_slot *s, uint64_t written,
			 uint8_t status)
{
	virtqueue_mark_payload(q, s, written);
	if (s->status)
		virtqueue_store_status(q, s, status);
	slot_renew(q, s);
}

void deliver_push(struct virtqueue *q, struct chain_slot *s, uint64_t written, uint8_t status)
{
	struct remote_queue *r = q->remote;
	struct vring_used_elem *element;

	if (!deliver_is_busy(q) && q->used_index != q->published_index)
		virtqueue_flush(q);
	element = &r->elements[q->used_index++ & q->mask];
	element->id = htole32(s->chain.id);
	element->len = htole32(virtqueue_used_length(s, written));
	if (q->packed)
		packed_ring_advance(q, &q->ring.used, s->descriptors);
	r->collected++;
	if (s->is_remote)
		write_back(q, s, written, status);
	else
		store_mapped(q, s, written, status);
}

static void ring_done(struct link_transfer *t)
{
	struct virtqueue *q = t->owner;

	remote_ended(q, q->remote->deliver_epoch, t, &q->remote->deliver_pending);
	if (!q->remote->deliver_pending)
		deliver_kick(q);
}

void deliver_transfer(struct virtqueue *q, unsigned which, uint64_t iova, void *local,
		      uint32_t length, bool write)
{
	struct remote_queue *r = q->remote;
	struct link_transfer *t = &r->deliver_transfer[which];

	*t = (struct link_transfer){ .iova = iova,
				     .local = local,
				     .length = length,
				     .purpose = LINK_RING,
				     .done = ring_done,
				     .owner = q };
	r->deliver_epoch = q->epoch;
	(write ? remote_write : remote_read)(q, r->deliver_epoch, t, &r->deliver_pending);
}

/* Only now, not at push: what the region lists as returned is what the next index publishes, and
 * pushes of the next batch come while this one is under way. */
static void return_batch(struct virtqueue *q)
{
	for (uint16_t i = q->published_index; q->inflight && i != q->remote->batch_end; i++)
		inflight_return(q, le32toh(q->remote->elements[i & q->mask].id));
}

static void begin_batch(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	r->deliver = DELIVER_DATA;
	r->flush_wanted = false;
	r->batch_end = q->used_index;
	r->parity = !r->parity; /* what is pushed from now on belongs to the next batch */
	return_batch(q);
}

/* The chains' memory is not touched any more: whoever wants it back need not wait for the ring. */
static void renew_batch(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	for (uint16_t i = q->published_index; i != r->batch_end; i++)
		slot_renew(q, &q->slots[le32toh(r->elements[i & q->mask].id)]);
}

/* virtio 1.3, 2.7.8: the elements begin 4 bytes into the ring. */
static void begin_elements(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	unsigned first = q->published_index & q->mask;
	unsigned count = (uint16_t)(r->batch_end - q->published_index);
	unsigned part = minimum_u64(count, q->size - first);

	r->deliver = DELIVER_ELEMENTS;
	if (q->packed) {
		deliver_packed_put(q);
		return;
	}
	deliver_transfer(q, 0, q->setup.device_iova + 4 + 8ull * first, r->elements + first,
			 8 * part, true);
	if (count > part)
		deliver_transfer(q, 1, q->setup.device_iova + 4, r->elements, 8 * (count - part),
				 true);
}

/* The driver may reuse the batch's descriptors as soon as it sees the index. */
static void free_batch(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	for (uint16_t i = q->published_index; i != r->batch_end; i++) {
		struct chain_slot *s = &q->slots[le32toh(r->elements[i & q->mask].id)];

		if (s->is_remote)
			remote_chain_drop_buffer(q, s->remote);
		slot_free(q, s);
		r->collected--;
	}
	fetch_chain_allot(q);
}

static void begin_index(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	free_batch(q);
	r->deliver = DELIVER_INDEX;
	if (q->packed) {
		deliver_packed_show(q);
		return;
	}
	r->used_word = htole16(r->batch_end);
	deliver_transfer(q, 0, q->setup.device_iova + 2, &r->used_word, 2, true);
}

static void begin_event(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	uint64_t at = q->event_index ? 4 + 2ull * q->size : 0;

	r->old_published = q->published_index;
	q->published_index = r->batch_end;
	if (q->inflight)
		inflight_publish(q);
	counter_add(&q->numbers.flushes, 1);
	r->deliver = DELIVER_EVENT;
	if (q->packed) {
		deliver_transfer(q, 0, q->setup.driver_iova, &r->wanted_event,
				 sizeof(r->wanted_event), false);
		return;
	}
	deliver_transfer(q, 0, q->setup.driver_iova + at, &r->wanted_word, 2, false);
}

static bool driver_wants_interrupt(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	struct packed_place old = q->ring.published;
	uint16_t word = le16toh(r->wanted_word);

	if (q->packed) {
		q->ring.published = r->packed_end;
		return packed_ring_needs_event(q, &r->wanted_event, old);
	}
	return q->event_index ? vring_need_event(word, q->published_index, r->old_published)
			      : !(word & VRING_AVAIL_F_NO_INTERRUPT);
}

static void end_event(struct virtqueue *q)
{
	q->remote->deliver = DELIVER_IDLE;
	virtqueue_interrupt_if(q, driver_wants_interrupt(q));
}

/* The next step, if what it waits for has happened.  False: not yet, or nothing to do. */
static bool deliver_step(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	if (r->deliver_pending || (q->homeless && r->deliver > DELIVER_DATA))
		return false;
	switch (r->deliver) {
	case DELIVER_IDLE:
		if (!r->flush_wanted || !r->collected)
			return false;
		begin_batch(q);
		return true;
	case DELIVER_DATA:
		if (r->data_pending[!r->parity])
			return false;
		renew_batch(q);
		if (q->homeless)
			return false;
		begin_elements(q);
		return true;
	case DELIVER_ELEMENTS:
		begin_index(q);
		return true;
	case DELIVER_INDEX:
		begin_event(q);
		return true;
	case DELIVER_EVENT:
		end_event(q);
		return true;
	}
	return false;
}

/* A broken queue publishes nothing more, but frees what it holds. */
static void give_up(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	if (r->deliver_pending || r->data_pending[0] || r->data_pending[1])
		return;
	if (r->deliver <= DELIVER_ELEMENTS || r->collected) {
		r->batch_end = q->used_index;
		if (r->deliver > DELIVER_ELEMENTS)
			q->published_index = q->used_index - r->collected;
		free_batch(q);
	}
	q->published_index = q->used_index;
	q->ring.published = q->ring.used;
	r->deliver = DELIVER_IDLE;
}

static void deliver_run(struct virtqueue *q)
{
	while (!q->reason && deliver_step(q))
		;
	if (q->reason)
		give_up(q);
}

void deliver_flush(struct virtqueue *q)
{
	q->remote->flush_wanted = true;
	deliver_run(q);
}

void deliver_resume(struct virtqueue *q)
{
	deliver_kick(q);
}

bool deliver_is_busy(const struct virtqueue *q)
{
	return q->remote && (q->remote->collected || q->remote->deliver != DELIVER_IDLE);
}
