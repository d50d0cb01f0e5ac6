/* guest_queue_packed.c - the driver's side of a packed ring (virtio 1.3, 2.8).
 *
 * Descriptors go into the ring one behind the other, with the flags that say "available" in this
 * round; only those of the first unpublished chain's first descriptor are kept back, since the
 * device reads nothing behind a descriptor that is not available.
 */
#include "driver/guest_queue_packed.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue.h"

#define AVAILABLE (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED      (1u << VRING_PACKED_DESC_F_USED)

void packed_locate(struct guest_queue *q, struct guest_memory *m, bool across)
{
	if (across)
		guest_queue_go_across(m);
	q->descriptor_iova = guest_memory_allocate(m, 16u * q->size, 64);
	q->driver_iova = guest_memory_allocate(m, sizeof(*q->driver_event), 64);
	q->device_iova = guest_memory_allocate(m, sizeof(*q->device_event), 64);
	q->ring = guest_memory_at(m, q->descriptor_iova);
	q->driver_event = guest_memory_at(m, q->driver_iova);
	q->device_event = guest_memory_at(m, q->device_iova);
}

void packed_restart(struct guest_queue *q)
{
	memset(q->ring, 0, 16u * q->size);
	memset(q->driver_event, 0, sizeof(*q->driver_event));
	memset(q->device_event, 0, sizeof(*q->device_event));
	for (unsigned i = 0; i < q->size; i++)
		q->tail[i] = i; /* an id is a free list's entry of its own */
	q->next_available = q->next_used = q->published = 0;
	q->available_wrap = q->used_wrap = true;
}

/* ---- adding ---- */

static uint16_t available_flags(const struct guest_queue *q)
{
	return q->available_wrap ? AVAILABLE : USED;
}

/* first: of a chain that is the first one the device has not seen. */
static void put(struct guest_queue *q, const struct guest_segment *s, uint16_t flags, uint16_t id,
		bool first)
{
	struct vring_packed_desc *d = &q->ring[q->next_available];

	flags |= available_flags(q) | (s->writable ? VRING_DESC_F_WRITE : 0);
	d->addr = htole64(s->iova);
	d->len = htole32(s->length);
	d->id = htole16(id);
	if (first)
		q->first_flags = flags;
	else
		__atomic_store_n(&d->flags, htole16(flags), __ATOMIC_RELAXED);
	if (++q->next_available == q->size) {
		q->next_available = 0;
		q->available_wrap = !q->available_wrap;
	}
}

/* Flags but WRITE are reserved in a table, and so are ids: its order is the chain's. */
static void put_table(struct vring_packed_desc *table, const struct guest_segment *segments,
		      unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		table[i] = (struct vring_packed_desc){
			.addr = htole64(segments[i].iova),
			.len = htole32(segments[i].length),
			.flags = htole16(segments[i].writable ? VRING_DESC_F_WRITE : 0),
		};
}

static uint16_t take_id(struct guest_queue *q, unsigned descriptors, void *token)
{
	uint16_t id = q->free_head;

	q->free_head = q->next[id];
	q->free_count -= descriptors;
	q->lengths[id] = descriptors;
	q->tokens[id] = token;
	return id;
}

bool packed_add(struct guest_queue *q, const struct guest_segment *segments, unsigned count,
		const struct guest_layout *layout, void *token)
{
	bool first = q->available_index == q->published_index;
	bool indirect = layout && layout->direct < count;
	uint16_t id;

	assert(!indirect || !layout->direct); /* INDIRECT and NEXT exclude each other */
	if ((indirect ? 1 : count) > q->free_count)
		return false;
	id = take_id(q, indirect ? 1 : count, token);
	if (indirect) {
		struct guest_segment table = { layout->table_iova, 16 * count, false };

		put_table((void *)layout->table, segments, count);
		put(q, &table, VRING_DESC_F_INDIRECT, id, first);
	} else {
		for (unsigned i = 0; i < count; i++)
			put(q, &segments[i], i + 1 < count ? VRING_DESC_F_NEXT : 0, id,
			    first && !i);
	}
	q->order[q->available_index++ & q->mask] = id;
	return true;
}

/* virtio 1.3, 2.8.10: whether the place the device wants to hear of is among those just passed. */
static bool wants_notification(const struct guest_queue *q, uint16_t old)
{
	uint16_t flags = le16toh(__atomic_load_n(&q->device_event->flags, __ATOMIC_ACQUIRE));
	uint16_t place = le16toh(__atomic_load_n(&q->device_event->off_wrap, __ATOMIC_RELAXED));
	uint16_t event = place & 0x7fff, new = q->next_available;
	bool wrap = place >> VRING_PACKED_EVENT_F_WRAP_CTR;

	if ((flags & 3) != VRING_PACKED_EVENT_FLAG_DESC)
		return (flags & 3) == VRING_PACKED_EVENT_FLAG_ENABLE;
	if (wrap != q->available_wrap)
		event -= q->size;
	if (new <= old)
		old -= q->size;
	return vring_need_event(event, new, old);
}

bool packed_publish(struct guest_queue *q)
{
	uint16_t old = q->published;

	__atomic_store_n(&q->ring[old].flags, htole16(q->first_flags), __ATOMIC_RELEASE);
	q->published = q->next_available;
	q->published_index = q->available_index;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return wants_notification(q, old);
}

/* ---- taking ---- */

int packed_used(const struct guest_queue *q, uint16_t *id, uint32_t *length)
{
	const struct vring_packed_desc *d = &q->ring[q->next_used];

	*id = le16toh(__atomic_load_n(&d->id, __ATOMIC_RELAXED));
	*length = le32toh(__atomic_load_n(&d->len, __ATOMIC_RELAXED));
	return *id < q->size && q->tokens[*id] ? 0 : -EPROTO;
}

void packed_advance(struct guest_queue *q, uint16_t id)
{
	q->next_used += q->lengths[id];
	if (q->next_used >= q->size) {
		q->next_used -= q->size;
		q->used_wrap = !q->used_wrap;
	}
}

void packed_listen(struct guest_queue *q)
{
	uint16_t place = q->next_used | q->used_wrap << VRING_PACKED_EVENT_F_WRAP_CTR;

	__atomic_store_n(&q->driver_event->off_wrap, htole16(place), __ATOMIC_RELAXED);
	__atomic_store_n(&q->driver_event->flags,
			 htole16(q->event_index ? VRING_PACKED_EVENT_FLAG_DESC
						: VRING_PACKED_EVENT_FLAG_ENABLE),
			 __ATOMIC_RELEASE);
}

void packed_mute(struct guest_queue *q)
{
	__atomic_store_n(&q->driver_event->flags, htole16(VRING_PACKED_EVENT_FLAG_DISABLE),
			 __ATOMIC_RELAXED);
}
