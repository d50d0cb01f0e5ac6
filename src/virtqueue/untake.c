/* untake.c - what was taken and not begun goes back, before a stop.
 *
 * A ring has a place for what comes next, and none for what was left out before it.  So the chains
 * at the end, behind which nothing has come back, are put back by moving that place; the others can
 * only be remembered, and handed out again by the next start.  With IN_ORDER nothing has come back
 * behind a chain that is out: what has ended there, and waits, goes back as well and is done again,
 * for the driver does not know of it.
 */
#include <stdlib.h>

#include "virtqueue/remote_queue.h"

static struct chain_slot *slot_of(struct virtqueue_chain *c)
{
	return CONTAINER_OF(c, struct chain_slot, chain);
}

static void let_go(struct virtqueue *q, struct chain_slot *s)
{
	if (s->is_remote)
		remote_chain_drop_buffer(q, s->remote);
	slot_free(q, s);
}

static void untake(struct virtqueue *q, struct chain_slot *s)
{
	q->available_index--;
	if (q->packed)
		packed_ring_go_back(q, &q->ring.available, s->descriptors);
	if (q->inflight)
		inflight_untake(q, s);
	let_go(q, s);
}

/* Where a chain that came again stands among those. */
static unsigned rank_of(const struct virtqueue *q, const struct chain_slot *s)
{
	unsigned i = 0;

	while (i < q->resubmit_count &&
	       q->resubmit[i].head != (q->packed ? s->inflight : s->chain.id))
		i++;
	return i;
}

/* Latest last: what came again first; indexes wrap, but no more than 32768 chains are out. */
static int by_turn(const void *a, const void *b, void *queue)
{
	const struct virtqueue *q = queue;
	const struct chain_slot *s = slot_of(*(struct virtqueue_chain *const *)a);
	const struct chain_slot *t = slot_of(*(struct virtqueue_chain *const *)b);
	uint16_t x = q->available_index - s->turn, y = q->available_index - t->turn;

	if (s->again != t->again)
		return s->again ? -1 : 1;
	if (s->again)
		return rank_of(q, s) < rank_of(q, t) ? -1 : rank_of(q, s) > rank_of(q, t);
	return x > y ? -1 : x < y;
}

static bool is_last_taken(const struct virtqueue *q, const struct chain_slot *s)
{
	return s->turn == q->available_index && !s->again;
}

static struct chain_slot *last_in_order(struct virtqueue *q)
{
	return &q->slots[q->order[(uint16_t)(q->order_first + q->order_count - 1) & q->mask]];
}

/* What was stored for a chain that had ended is in the guest's memory, and is told to nobody. */
static void mark_returned(struct virtqueue *q, struct chain_slot *s)
{
	if (s->returned && !s->is_remote)
		virtqueue_mark_payload(q, s, s->returned_bytes);
}

static void forget_returned(struct virtqueue *q, struct chain_slot *s)
{
	mark_returned(q, s);
	q->order_count--;
	untake(q, s);
}

static void forget_returned_at_the_end(struct virtqueue *q)
{
	while (q->in_order && q->order_count && last_in_order(q)->returned &&
	       is_last_taken(q, last_in_order(q)))
		forget_returned(q, last_in_order(q));
}

/* What was brought here and not popped comes again; of a former process's, too. */
static void drop_what_was_not_popped(struct virtqueue *q)
{
	if (!q->remote)
		return;
	q->resubmit_next -= q->remote->resubmits_out;
	fetch_forget(q);
}

unsigned virtqueue_untake(struct virtqueue *q, struct virtqueue_chain **chains, unsigned count)
{
	drop_what_was_not_popped(q);
	qsort_r(chains, count, sizeof(struct virtqueue_chain *), by_turn, q);
	forget_returned_at_the_end(q);
	while (count && is_last_taken(q, slot_of(chains[count - 1]))) {
		if (q->in_order)
			q->order_count--;
		untake(q, slot_of(chains[--count]));
		forget_returned_at_the_end(q);
	}
	q->fetched_index = q->seen_index = q->available_index;
	q->ring.fetch = q->ring.available;
	return count;
}

bool virtqueue_can_leave(const struct virtqueue *q)
{
	return !q->packed || q->inflight;
}

unsigned virtqueue_leave(struct virtqueue *q, struct virtqueue_chain **chains, unsigned count,
			 uint16_t *ids)
{
	unsigned n = 0;

	drop_what_was_not_popped(q);
	for (unsigned i = 0; i < count && !q->in_order; i++) {
		ids[n++] = chains[i]->id;
		let_go(q, slot_of(chains[i]));
	}
	for (; q->in_order && q->order_count; q->order_count--, q->order_first++) {
		ids[n] = q->order[q->order_first & q->mask];
		mark_returned(q, &q->slots[ids[n]]);
		let_go(q, &q->slots[ids[n++]]);
	}
	for (; has_resubmissions(q); q->resubmit_next++)
		ids[n++] = q->resubmit[q->resubmit_next].head;
	return n;
}

bool virtqueue_has_left(const struct virtqueue *q)
{
	return has_resubmissions(q) || (q->remote && q->remote->resubmits_out);
}
