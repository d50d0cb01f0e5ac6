/* guest_queue.c - the driver's side of a split ring (virtio 1.3, 2.7). */
#include "driver/guest_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "driver/guest_memory.h"

enum { MUTED_LAG = 1 << 14 }; /* used elements until used_event is pushed away again */

static size_t available_bytes(uint16_t size)
{
	return 4 + 2u * size + 2;
}

static size_t used_bytes(uint16_t size)
{
	return 4 + 8u * size + 2;
}

void guest_queue_open(struct guest_queue *q, struct guest_memory *m, uint16_t size,
		      bool event_index)
{
	*q = (struct guest_queue){ .size = size, .mask = size - 1, .event_index = event_index };
	q->descriptor_iova = guest_memory_allocate(m, 16u * size, 64);
	/* lines of their own: each side writes to one of the two */
	q->driver_iova = guest_memory_allocate(m, available_bytes(size), 64);
	q->device_iova = guest_memory_allocate(m, used_bytes(size), 64);
	q->descriptors = guest_memory_at(m, q->descriptor_iova);
	q->available = guest_memory_at(m, q->driver_iova);
	q->used = guest_memory_at(m, q->device_iova);
	q->tokens = calloc(size, sizeof(*q->tokens));
	q->next = calloc(size, sizeof(*q->next));
	q->tail = calloc(size, sizeof(*q->tail));
	q->lengths = calloc(size, sizeof(*q->lengths));
	if (!q->tokens || !q->next || !q->tail || !q->lengths)
		abort();
	guest_queue_restart(q, 0);
}

void guest_queue_close(struct guest_queue *q)
{
	free(q->tokens);
	free(q->next);
	free(q->tail);
	free(q->lengths);
	*q = (struct guest_queue){ 0 };
}

void guest_queue_restart(struct guest_queue *q, uint16_t index)
{
	memset(q->descriptors, 0, 16u * q->size);
	memset(q->available, 0, available_bytes(q->size));
	memset(q->used, 0, used_bytes(q->size));
	memset(q->tokens, 0, q->size * sizeof(*q->tokens));
	for (unsigned i = 0; i < q->size; i++)
		q->next[i] = i + 1;
	q->free_head = 0;
	q->free_count = q->size;
	q->available_index = q->published_index = q->used_index = q->muted_index = index;
	q->available->idx = q->used->idx = htole16(index);
	q->available->ring[q->size] = htole16(index);
	q->muted = false;
}

/* ---- adding ---- */

static void put(struct vring_desc *d, const struct guest_segment *s, uint16_t flags, uint16_t next)
{
	d->addr = htole64(s->iova);
	d->len = htole32(s->length);
	d->flags = htole16(flags | (s->writable ? VRING_DESC_F_WRITE : 0));
	d->next = htole16(next);
}

static void put_table(const struct guest_layout *l, const struct guest_segment *segments,
		      unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		put(&l->table[i], &segments[i], i + 1 < count ? VRING_DESC_F_NEXT : 0, i + 1);
}

/* Writes the chain into free descriptors, from free_head on, which are linked already.  The last.
 */
static uint16_t put_chain(struct guest_queue *q, const struct guest_segment *segments,
			  unsigned direct, bool more)
{
	uint16_t at = q->free_head, last = at;

	for (unsigned i = 0; i < direct; i++) {
		bool chained = more || i + 1 < direct;

		put(&q->descriptors[at], &segments[i], chained ? VRING_DESC_F_NEXT : 0,
		    q->next[at]);
		last = at;
		at = q->next[at];
	}
	return more ? at : last;
}

static void offer(struct guest_queue *q, uint16_t tail, unsigned descriptors, void *token)
{
	uint16_t head = q->free_head;

	q->free_head = q->next[tail];
	q->free_count -= descriptors;
	q->tail[head] = tail;
	q->lengths[head] = descriptors;
	q->tokens[head] = token;
	q->available->ring[q->available_index++ & q->mask] = htole16(head);
}

bool guest_queue_add(struct guest_queue *q, const struct guest_segment *segments, unsigned count,
		     const struct guest_layout *layout, void *token)
{
	unsigned direct = layout ? layout->direct : count;
	bool indirect = direct < count;
	uint16_t tail;

	if (direct + indirect > q->free_count)
		return false;
	tail = put_chain(q, segments, direct, indirect);
	if (indirect) {
		struct guest_segment table = { .iova = layout->table_iova,
					       .length = 16 * (count - direct) };

		put_table(layout, segments + direct, count - direct);
		put(&q->descriptors[tail], &table, VRING_DESC_F_INDIRECT, 0);
	}
	offer(q, tail, direct + indirect, token);
	return true;
}

/* virtio 1.3, 2.7.13.4: the index is stored before the device's wish is read. */
bool guest_queue_publish(struct guest_queue *q)
{
	uint16_t old = q->published_index;

	if (q->available_index == old)
		return false;
	__atomic_store_n(&q->available->idx, htole16(q->available_index), __ATOMIC_RELEASE);
	q->published_index = q->available_index;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_index)
		return !(le16toh(__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED)) &
			 VRING_USED_F_NO_NOTIFY);
	return vring_need_event(le16toh(__atomic_load_n((uint16_t *)(void *)&q->used->ring[q->size],
							__ATOMIC_RELAXED)),
				q->published_index, old);
}

/* ---- taking ---- */

static void push_event_away(struct guest_queue *q)
{
	q->muted_index = q->used_index;
	__atomic_store_n(&q->available->ring[q->size], htole16(q->used_index - 1),
			 __ATOMIC_RELAXED);
}

static void free_chain(struct guest_queue *q, uint16_t head)
{
	q->next[q->tail[head]] = q->free_head;
	q->free_head = head;
	q->free_count += q->lengths[head];
	q->tokens[head] = NULL;
}

int guest_queue_take(struct guest_queue *q, void **token, uint32_t *length)
{
	const struct vring_used_elem *element = &q->used->ring[q->used_index & q->mask];
	uint32_t id;

	if (!guest_queue_has_used(q))
		return 0;
	id = le32toh(__atomic_load_n(&element->id, __ATOMIC_RELAXED));
	if (id >= q->size || !q->tokens[id])
		return -EPROTO;
	*token = q->tokens[id];
	*length = le32toh(__atomic_load_n(&element->len, __ATOMIC_RELAXED));
	free_chain(q, id);
	q->used_index++;
	if (unlikely(q->muted && q->event_index &&
		     (uint16_t)(q->used_index - q->muted_index) >= MUTED_LAG))
		push_event_away(q);
	return 1;
}

bool guest_queue_listen(struct guest_queue *q)
{
	q->muted = false;
	if (q->event_index)
		__atomic_store_n(&q->available->ring[q->size], htole16(q->used_index),
				 __ATOMIC_RELAXED);
	else
		__atomic_store_n(&q->available->flags, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return !guest_queue_has_used(q);
}

void guest_queue_mute(struct guest_queue *q)
{
	q->muted = true;
	if (q->event_index)
		push_event_away(q);
	else
		__atomic_store_n(&q->available->flags, htole16(VRING_AVAIL_F_NO_INTERRUPT),
				 __ATOMIC_RELAXED);
}
