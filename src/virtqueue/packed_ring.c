/* packed_ring.c - descriptor ring of mapped memory (virtio 1.3, 2.8).
 *
 * Barriers.  A descriptor's flags: our acquire load of those of a chain's first descriptor pairs
 * with the driver's release store, so that the rest of the chain is what it published.  Used
 * descriptors of a batch are stored with their flags, all but the first one's; those are stored
 * last, with release, and show the driver the batch.  Two places need a full fence because each
 * side stores, then loads what the other stored: publish, then look whether an interrupt is wanted;
 * ask for notifications, then look at the next descriptor.
 *
 * We never name a descriptor that we want to be notified of (RING_EVENT_FLAGS_DESC): notifications
 * are on while the queue rests and off while it is polled.
 */
#include <errno.h>
#include <string.h>

#include "link/dirty_log.h"
#include "virtqueue/shadow.h"

enum {
	AVAILABLE = 1 << VRING_PACKED_DESC_F_AVAIL,
	USED = 1 << VRING_PACKED_DESC_F_USED,
	FLAGS = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT,
};

_Static_assert(sizeof(struct vring_packed_desc) == sizeof(struct vring_desc), "of one size");

/* ---- places ---- */

void packed_ring_advance(const struct virtqueue *q, struct packed_place *place, unsigned count)
{
	unsigned at = place->at + count;

	if (at >= q->size) {
		at -= q->size;
		place->wrap = !place->wrap;
	}
	place->at = at;
}

void packed_ring_go_back(const struct virtqueue *q, struct packed_place *place, unsigned count)
{
	if (place->at < count) {
		place->at += q->size;
		place->wrap = !place->wrap;
	}
	place->at -= count;
}

static struct packed_place place_of(uint16_t position)
{
	return (struct packed_place){ .at = position & PLACE_MASK, .wrap = position & PLACE_WRAP };
}

void packed_ring_begin(struct virtqueue *q)
{
	q->ring = (struct packed_ring){ .fetch = place_of(q->setup.available_index),
					.available = place_of(q->setup.available_index),
					.used = place_of(q->setup.used_index),
					.published = place_of(q->setup.used_index) };
}

static struct vring_packed_desc *descriptor_at(const struct virtqueue *q, unsigned at)
{
	return (struct vring_packed_desc *)(void *)q->descriptors + at;
}

static struct vring_packed_desc_event *device_event(const struct virtqueue *q)
{
	return (struct vring_packed_desc_event *)(void *)q->used;
}

int packed_ring_locate(struct virtqueue *q, const struct memory_map *map)
{
	const uint64_t event = sizeof(struct vring_packed_desc_event);
	void *descriptors = NULL, *driver = NULL, *device = NULL;
	bool found = ring_part_locate(map, q->setup.descriptor_iova, 16ull * q->size,
				      MEMORY_READ | MEMORY_WRITE, &descriptors) &&
		     ring_part_locate(map, q->setup.driver_iova, event, MEMORY_READ, &driver) &&
		     ring_part_locate(map, q->setup.device_iova, event, MEMORY_WRITE, &device);

	q->descriptors = found ? descriptors : NULL;
	q->available = found ? driver : NULL;
	q->used = found ? device : NULL;
	return found ? 0 : -EFAULT;
}

/* ---- taking ---- */

/* virtio 1.3, 2.8.1: available means marked so in this lap, and not yet used in it. */
static bool flags_are_available(uint16_t flags, bool wrap)
{
	return !!(flags & AVAILABLE) == wrap && !!(flags & USED) != wrap;
}

bool packed_ring_shows(const struct vring_packed_desc *d, bool wrap)
{
	return flags_are_available(le16toh(d->flags), wrap);
}

bool packed_ring_is_available(const struct virtqueue *q, struct packed_place place)
{
	const uint16_t *flags = &descriptor_at(q, place.at)->flags;

	return flags_are_available(le16toh(__atomic_load_n(flags, __ATOMIC_ACQUIRE)), place.wrap);
}

static bool next_is_available(const struct virtqueue *q)
{
	return packed_ring_is_available(q, q->ring.fetch);
}

bool packed_ring_sync(struct virtqueue *q)
{
	bool found = next_is_available(q);

	counter_add(&q->numbers.syncs, 1);
	if (!found)
		counter_add(&q->numbers.empty_syncs, 1);
	return found;
}

int packed_ring_walk(struct virtqueue *q, unsigned *id)
{
	unsigned n = 0;
	struct vring_desc *d;

	if (!next_is_available(q))
		return 0;
	do {
		if (unlikely(n == q->size || n == q->segments_max))
			return virtqueue_break(q, "a descriptor chain is longer than the ring");
		d = &q->walk[n++];
		*d = descriptor_copy_packed(&q->descriptors[q->ring.fetch.at], FLAGS);
		packed_ring_advance(q, &q->ring.fetch, 1);
	} while (d->flags & VRING_DESC_F_NEXT);
	*id = d->next;
	if (unlikely(*id >= q->size))
		return virtqueue_break(q, "a buffer id beyond the queue");
	link_count_read(&q->link, LINK_RING, n, 16ull * n);
	return n;
}

void packed_ring_take_back(struct virtqueue *q, unsigned count)
{
	struct packed_place place = q->ring.used;

	for (unsigned i = 0; i < count; i++) {
		__atomic_store_n(&descriptor_at(q, place.at)->flags,
				 htole16(place.wrap ? AVAILABLE : USED), __ATOMIC_RELAXED);
		packed_ring_advance(q, &place, 1);
	}
	q->ring.fetch = q->ring.available = place;
}

/* ---- giving back ---- */

static uint16_t used_flags(uint32_t length, bool wrap)
{
	return (wrap ? AVAILABLE | USED : 0) | (length ? VRING_DESC_F_WRITE : 0);
}

void packed_ring_fill_used(struct vring_packed_desc *d, unsigned id, uint32_t length, bool wrap)
{
	*d = (struct vring_packed_desc){ .id = htole16(id),
					 .len = htole32(length),
					 .flags = htole16(used_flags(length, wrap)) };
}

void packed_ring_put_used(struct virtqueue *q, const struct chain_slot *s, uint32_t length)
{
	struct vring_packed_desc *d = descriptor_at(q, q->ring.used.at);
	uint16_t flags = htole16(used_flags(length, q->ring.used.wrap));

	d->id = htole16(s->chain.id);
	d->len = htole32(length);
	if (q->used_index++ == q->published_index)
		q->ring.first_flags = flags;
	else
		__atomic_store_n(&d->flags, flags, __ATOMIC_RELEASE);
	if (unlikely(q->log))
		dirty_log_mark(q->log, q->setup.descriptor_iova + 16ull * q->ring.used.at, 16);
	packed_ring_advance(q, &q->ring.used, s->descriptors);
}

void packed_ring_store_used(struct virtqueue *q, unsigned at, const struct vring_packed_desc *used)
{
	struct vring_packed_desc *d = descriptor_at(q, at);

	d->id = used->id;
	d->len = used->len;
	__atomic_store_n(&d->flags, used->flags, __ATOMIC_RELEASE);
	if (unlikely(q->log))
		dirty_log_mark(q->log, q->setup.descriptor_iova + 16ull * at, 16);
	link_count_write(&q->link, LINK_RING, 1, 16);
}

/* The place of the first was marked when it was put, so it is marked once more. */
void packed_ring_publish(struct virtqueue *q)
{
	unsigned first = q->ring.published.at;
	unsigned count = (uint16_t)(q->used_index - q->published_index);

	__atomic_store_n(&descriptor_at(q, first)->flags, q->ring.first_flags, __ATOMIC_RELEASE);
	if (unlikely(q->log))
		dirty_log_mark(q->log, q->setup.descriptor_iova + 16ull * first, 16);
	q->published_index = q->used_index;
	q->ring.published = q->ring.used;
	link_count_write(&q->link, LINK_RING, count, 16ull * count);
}

/* ---- events: virtio 1.3, 2.8.14 ---- */

/* Whether the place that the driver named is one of those from old up to the published one. */
bool packed_ring_needs_event(const struct virtqueue *q, const struct vring_packed_desc_event *event,
			     struct packed_place old)
{
	uint16_t flags = le16toh(event->flags) & 3, named = le16toh(event->off_wrap);
	struct packed_place to = q->ring.published;
	unsigned at = named & PLACE_MASK, end = to.at + (to.wrap != old.wrap ? q->size : 0);

	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !q->event_index)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (!!(named & PLACE_WRAP) != old.wrap)
		at += q->size;
	return at >= old.at && at < end;
}

bool packed_ring_wants_interrupt(struct virtqueue *q, struct packed_place old)
{
	const uint32_t *from = (const uint32_t *)(void *)q->available;
	struct vring_packed_desc_event event;
	uint32_t word;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	word = __atomic_load_n(from, __ATOMIC_RELAXED);
	memcpy(&event, &word, sizeof(event));
	return packed_ring_needs_event(q, &event, old);
}

static void store_event(struct virtqueue *q, uint16_t flags)
{
	__atomic_store_n(&device_event(q)->flags, htole16(flags), __ATOMIC_RELAXED);
	link_count_write(&q->link, LINK_RING, 1, 2);
	if (unlikely(q->log))
		dirty_log_mark(q->log, q->setup.device_iova, 4);
}

bool packed_ring_listen(struct virtqueue *q)
{
	if (!q->listening)
		store_event(q, VRING_PACKED_EVENT_FLAG_ENABLE);
	q->listening = true;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !next_is_available(q);
}

void packed_ring_mute(struct virtqueue *q)
{
	if (q->listening)
		store_event(q, VRING_PACKED_EVENT_FLAG_DISABLE);
	q->listening = false;
}
