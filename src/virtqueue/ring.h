/* ring.h - what virtqueue.c asks of a mapped ring, whichever of the two it is. */
#ifndef VIRTQUEUE_RING_H
#define VIRTQUEUE_RING_H

#include "virtqueue/shadow.h"

static inline int ring_locate(struct virtqueue *q, const struct memory_map *map)
{
	return q->packed ? packed_ring_locate(q, map) : split_ring_locate(q, map);
}

static inline void ring_put_used(struct virtqueue *q, const struct chain_slot *s, uint32_t length)
{
	if (unlikely(q->packed))
		packed_ring_put_used(q, s, length);
	else
		split_ring_put_used(q, s->chain.id, length);
}

/* Publishes all that was put.  Whether an interrupt is wanted. */
static inline bool ring_publish(struct virtqueue *q)
{
	struct packed_place place = q->ring.published;
	uint16_t index = q->published_index;

	if (unlikely(q->packed)) {
		if (q->inflight)
			inflight_packed_prepare(q);
		packed_ring_publish(q);
		if (q->inflight)
			inflight_packed_publish(q);
		return packed_ring_wants_interrupt(q, place);
	}
	split_ring_publish(q);
	if (q->inflight)
		inflight_publish(q);
	return split_ring_wants_interrupt(q, index);
}

/* What was put is not going to be published: it was stored nevertheless. */
static inline void ring_forget_put(struct virtqueue *q)
{
	if (q->log && q->used && !q->packed)
		split_ring_mark_put(q, q->published_index);
	q->published_index = q->used_index;
}

static inline bool ring_listen(struct virtqueue *q)
{
	return q->packed ? packed_ring_listen(q) : split_ring_listen(q);
}

static inline void ring_mute(struct virtqueue *q)
{
	if (q->packed)
		packed_ring_mute(q);
	else
		split_ring_mute(q);
}

#endif
