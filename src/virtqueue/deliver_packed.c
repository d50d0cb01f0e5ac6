/* deliver_packed.c - remote memory: the used descriptors of a batch on their way to a packed ring
 * (virtio 1.3, 2.8.6).
 *
 * A chain's used descriptor lies where the chain began, so those of a batch are some way apart.
 * They go in one piece all the same (two around the ring's end): the descriptors between, which are
 * ours until the driver has gone past them, are filled as used, which is what they are.  The first
 * of the batch goes alone, and last: before it the driver sees nothing of the batch.  Where the
 * ring is mapped that one is not copied but stored, the flags once and last: the descriptor may be
 * the driver's again at once, and a copy may store bytes twice.
 */
#include "virtqueue/remote_queue.h"

static void fill(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	struct packed_place place = q->ring.published;

	for (uint16_t i = q->published_index; i != r->batch_end; i++) {
		const struct vring_used_elem *e = &r->elements[i & q->mask];
		unsigned id = le32toh(e->id);

		packed_ring_fill_used(&r->packed_used[place.at], id, le32toh(e->len), place.wrap);
		packed_ring_advance(q, &place, 1);
		for (unsigned n = 1; n < q->slots[id].descriptors; n++) {
			packed_ring_fill_used(&r->packed_used[place.at], id, 0, place.wrap);
			packed_ring_advance(q, &place, 1);
		}
	}
	r->packed_end = place;
}

/* Where the last chain of the batch began. */
static unsigned last_used(const struct virtqueue *q)
{
	const struct remote_queue *r = q->remote;
	const struct vring_used_elem *e = &r->elements[(uint16_t)(r->batch_end - 1) & q->mask];
	unsigned count = q->slots[le32toh(e->id)].descriptors;

	return (r->packed_end.at + q->size - count) % q->size;
}

static void put(struct virtqueue *q, unsigned which, unsigned first, unsigned count)
{
	deliver_transfer(q, which, q->setup.descriptor_iova + 16ull * first,
			 q->remote->packed_used + first, 16 * count, true);
}

void deliver_packed_put(struct virtqueue *q)
{
	unsigned first = q->ring.published.at, last;

	fill(q);
	last = last_used(q);
	if (last > first)
		put(q, 0, first + 1, last - first);
	if (last >= first)
		return;
	if (first + 1 < q->size)
		put(q, 0, first + 1, q->size - first - 1);
	put(q, 1, 0, last + 1);
}

void deliver_packed_show(struct virtqueue *q)
{
	unsigned at = q->ring.published.at;

	if (virtqueue_is_remote(q))
		put(q, 0, at, 1);
	else
		packed_ring_store_used(q, at, &q->remote->packed_used[at]);
}
