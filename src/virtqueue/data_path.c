/* data_path.c - requests taken from a queue and returned to it: the public funnel.
 *
 * What is particular to a ring's layout is in split_ring.c and packed_ring.c, what is particular to
 * memory that is not mapped in fetch.c and deliver.c.  A request takes the slow way (fetch,
 * deliver) only if some of its memory is remote; requests behind it wait for it, so that order is
 * kept.
 */
#include <assert.h>
#include <errno.h>

#include "link/dirty_log.h"
#include "virtqueue/remote_queue.h"
#include "virtqueue/ring.h"

/* ---- taking ---- */

int virtqueue_sync(struct virtqueue *q)
{
	int err;

	if (unlikely(q->reason))
		return -EPROTO;
	if (unlikely(virtqueue_memory_is_lost(q)))
		return virtqueue_break(q, "a file behind the guest's memory has shrunk");
	if (unlikely(virtqueue_is_remote(q) || fetch_is_syncing(q)))
		return fetch_sync(q);
	if (unlikely(q->packed))
		return fetch_has_chains(q) ? fetch_is_ready(q)
					   : packed_ring_sync(q) || has_resubmissions(q);
	err = split_ring_sync(q);
	if (unlikely(err))
		return err;
	if (unlikely(fetch_has_chains(q)))
		return fetch_is_ready(q);
	return q->seen_index != q->available_index || has_resubmissions(q);
}

/* The next head: first what a former process left in flight, then the ring's.  False: none. */
static bool next_head(struct virtqueue *q, unsigned *head)
{
	if (unlikely(has_resubmissions(q))) {
		*head = q->resubmit[q->resubmit_next].head;
		return !virtqueue_is_remote(q);
	}
	if (q->fetched_index == q->seen_index)
		return false;
	*head = q->heads[q->fetched_index & q->mask];
	return true;
}

static void head_done(struct virtqueue *q, struct chain_slot *s)
{
	if (unlikely(has_resubmissions(q))) {
		q->resubmit_next++;
		s->again = true;
		return;
	}
	q->fetched_index++;
	q->available_index++;
}

void chain_taken(struct virtqueue *q, struct chain_slot *s)
{
	counter_add(&q->numbers.chains, 1);
	s->turn = q->available_index;
	if (q->inflight && !q->packed)
		inflight_take(q, s->chain.id);
	s->chain.iov = s->iov;
	if (q->packed && !s->again)
		packed_ring_advance(q, &q->ring.available, s->descriptors);
	if (unlikely(q->in_order)) {
		s->returned = false;
		q->order[(uint16_t)(q->order_first + q->order_count++) & q->mask] = s->chain.id;
	}
}

/* Some of the chain's memory is remote: it and all that follow go through fetch.c, in order. */
static int pop_remote(struct virtqueue *q, struct chain_slot *s, struct virtqueue_chain **c)
{
	unsigned head;

	slot_free(q, s);
	while (next_head(q, &head)) {
		bool again = has_resubmissions(q);
		int err = fetch_chain(q, head, again);

		if (err)
			return err;
		if (again)
			q->resubmit_next++;
		else
			q->fetched_index++;
	}
	fetch_table_read(q);
	return fetch_pop(q, c);
}

/* As pop_remote(), from a place on. */
static int pop_packed_remote(struct virtqueue *q, struct packed_place from,
			     struct virtqueue_chain **c)
{
	unsigned id;
	int n;

	if (!remote_queue_get(q))
		return -EPROTO;
	q->ring.fetch = from;
	while ((n = packed_ring_walk(q, &id)) > 0)
		if (fetch_packed_chain(q, id, n))
			return -EPROTO;
	fetch_table_read(q);
	return n < 0 ? n : fetch_pop(q, c);
}

/* The next chain's descriptors, in q->walk: first what a former process left in flight. */
static int next_packed(struct virtqueue *q, unsigned *id, bool *again)
{
	*again = has_resubmissions(q);
	return unlikely(*again) ? inflight_packed_walk(q, id) : packed_ring_walk(q, id);
}

/* s: of the chain in q->walk, whose last descriptor was `last` before its table replaced it. */
static int take_packed(struct virtqueue *q, struct chain_slot *s, const struct vring_desc *last)
{
	if (unlikely(s->again))
		s->inflight = q->resubmit[q->resubmit_next].head;
	else if (q->inflight && inflight_packed_take(q, s, last))
		return -EPROTO;
	if (!s->again)
		q->seen_index++;
	head_done(q, s);
	chain_taken(q, s);
	return 0;
}

static int pop_packed(struct virtqueue *q, struct virtqueue_chain **c)
{
	struct packed_place from = q->ring.fetch;
	struct chain_slot *s;
	struct vring_desc last;
	unsigned id;
	bool again;
	int answer, n = next_packed(q, &id, &again);

	if (n <= 0)
		return n;
	s = slot_take(q, id);
	if (unlikely(!s))
		return -EPROTO;
	s->descriptors = n;
	s->again = again;
	last = q->walk[n - 1];
	answer = chain_map(q, s, n);
	if (likely(!answer))
		answer = take_packed(q, s, &last);
	if (unlikely(answer)) {
		slot_free(q, s);
		return answer == CHAIN_REMOTE ? pop_packed_remote(q, from, c) : answer;
	}
	*c = &s->chain;
	return 1;
}

int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain **c)
{
	struct chain_slot *s;
	unsigned head;
	int answer;

	if (unlikely(q->reason))
		return -EPROTO;
	if (unlikely(fetch_has_chains(q)))
		return fetch_pop(q, c);
	if (unlikely(q->homeless))
		return 0;
	if (unlikely(q->packed))
		return virtqueue_is_remote(q) || fetch_is_syncing(q) ? 0 : pop_packed(q, c);
	if (!next_head(q, &head))
		return 0;
	if (unlikely(head >= q->size))
		return virtqueue_break(q, "the available ring names a descriptor beyond the queue");
	s = slot_take(q, head);
	if (unlikely(!s))
		return -EPROTO;
	answer = split_ring_chain(q, s, head);
	if (unlikely(answer == CHAIN_REMOTE))
		return pop_remote(q, s, c);
	if (unlikely(answer < 0)) {
		slot_free(q, s);
		return answer;
	}
	head_done(q, s);
	chain_taken(q, s);
	*c = &s->chain;
	return 1;
}

/* ---- giving back ---- */

/* Marks the first `written` bytes of the writable part. */
void virtqueue_mark_payload(struct virtqueue *q, const struct chain_slot *s, uint64_t written)
{
	if (!q->log)
		return;
	for (unsigned i = s->chain.readable; i < s->segments && written; i++) {
		uint64_t part = minimum_u64(written, s->iov[i].iov_len);

		dirty_log_mark(q->log, s->iova[i], part);
		written -= part;
	}
}

void virtqueue_store_status(struct virtqueue *q, struct chain_slot *s, uint8_t status)
{
	*s->status = status;
	link_count_write(&q->link, LINK_STATUS, 1, 1);
	if (unlikely(q->log))
		dirty_log_mark(q->log, s->status_iova, 1);
}

static void push(struct virtqueue *q, struct chain_slot *s, uint64_t written, uint8_t status)
{
	if (unlikely(q->remote != NULL) &&
	    (s->is_remote || deliver_is_busy(q) || virtqueue_is_remote(q))) {
		deliver_push(q, s, written, status);
		return;
	}
	if (unlikely(!q->used)) {
		q->used_index++;
		slot_free(q, s);
		return;
	}
	if (written)
		link_count_write(&q->link, LINK_PAYLOAD, s->chain.writable, written);
	if (unlikely(q->log))
		virtqueue_mark_payload(q, s, written);
	if (s->status)
		virtqueue_store_status(q, s, status);
	ring_put_used(q, s, virtqueue_used_length(s, written));
	if (q->inflight && q->packed)
		inflight_packed_return(q, s);
	else if (q->inflight)
		inflight_return(q, s->chain.id);
	slot_free(q, s);
}

/* virtio 1.3, 2.7.9 and 2.8.9: what has ended early waits for those popped before it.  All of them
 * end some time: a stop waits for that. */
static void push_in_order(struct virtqueue *q)
{
	while (q->order_count) {
		struct chain_slot *s = &q->slots[q->order[q->order_first & q->mask]];

		if (!s->returned)
			break;
		q->order_first++;
		q->order_count--;
		push(q, s, s->returned_bytes, s->returned_status);
	}
}

void virtqueue_push(struct virtqueue *q, struct virtqueue_chain *c, uint64_t written,
		    uint8_t status)
{
	struct chain_slot *s = CONTAINER_OF(c, struct chain_slot, chain);

	assert(s->epoch && written <= c->writable_bytes);
	if (likely(!q->in_order)) {
		push(q, s, written, status);
		return;
	}
	s->returned = true;
	s->returned_bytes = written;
	s->returned_status = status;
	push_in_order(q);
}

void virtqueue_flush(struct virtqueue *q)
{
	if (unlikely(q->remote && deliver_is_busy(q))) {
		deliver_flush(q);
		return;
	}
	if (q->used_index == q->published_index)
		return;
	/* Broken: elements that were lost on the link lie before those that were put since, or the
	 * ring itself has gone. */
	if (unlikely(q->reason && (q->remote || virtqueue_is_remote(q)))) {
		ring_forget_put(q);
		return;
	}
	counter_add(&q->numbers.flushes, 1);
	virtqueue_interrupt_if(q, ring_publish(q));
}

/* ---- notifications ---- */

bool virtqueue_listen(struct virtqueue *q)
{
	return virtqueue_is_remote(q) || q->reason || ring_listen(q);
}

void virtqueue_mute(struct virtqueue *q)
{
	if (!virtqueue_is_remote(q) && !q->reason)
		ring_mute(q);
}
