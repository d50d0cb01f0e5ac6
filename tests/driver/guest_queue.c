/* guest_queue.c - the driver's side of a split ring (virtio 1.3, 2.7), and what both kinds share.
 */
#include "driver/guest_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue_packed.h"

enum {
	MUTED_LAG = 1 << 14, /* used elements until used_event is pushed away again */
	PAGE = 4096,
	LINE = 64,
};

static size_t available_bytes(uint16_t size)
{
	return 4 + 2u * size + 2;
}

static size_t used_bytes(uint16_t size)
{
	return 4 + 8u * size + 2;
}

void guest_queue_go_across(struct guest_memory *m)
{
	guest_memory_allocate(m, PAGE - LINE, PAGE);
}

static void split_locate(struct guest_queue *q, struct guest_memory *m, bool across)
{
	q->descriptor_iova = guest_memory_allocate(m, 16u * q->size, 64);
	/* lines of their own: each side writes to one of the two */
	q->driver_iova = guest_memory_allocate(m, available_bytes(q->size), 64);
	if (across)
		guest_queue_go_across(m);
	q->device_iova = guest_memory_allocate(m, used_bytes(q->size), 64);
	q->descriptors = guest_memory_at(m, q->descriptor_iova);
	q->available = guest_memory_at(m, q->driver_iova);
	q->used = guest_memory_at(m, q->device_iova);
}

void guest_queue_open_flags(struct guest_queue *q, struct guest_memory *m, uint16_t size,
			    unsigned flags)
{
	*q = (struct guest_queue){ .size = size,
				   .mask = size - 1,
				   .packed = flags & GUEST_QUEUE_PACKED,
				   .event_index = flags & GUEST_QUEUE_EVENT_INDEX,
				   .in_order = flags & GUEST_QUEUE_IN_ORDER };
	(q->packed ? packed_locate : split_locate)(q, m, flags & GUEST_QUEUE_ACROSS);
	q->tokens = calloc(size, sizeof(*q->tokens));
	q->next = calloc(size, sizeof(*q->next));
	q->tail = calloc(size, sizeof(*q->tail));
	q->lengths = calloc(size, sizeof(*q->lengths));
	q->order = calloc(size, sizeof(*q->order));
	if (!q->tokens || !q->next || !q->tail || !q->lengths || !q->order)
		abort();
	guest_queue_restart(q, 0);
}

void guest_queue_open(struct guest_queue *q, struct guest_memory *m, uint16_t size,
		      bool event_index)
{
	guest_queue_open_flags(q, m, size, event_index ? GUEST_QUEUE_EVENT_INDEX : 0);
}

void guest_queue_close(struct guest_queue *q)
{
	free(q->tokens);
	free(q->next);
	free(q->tail);
	free(q->lengths);
	free(q->order);
	*q = (struct guest_queue){ 0 };
}

static void split_restart(struct guest_queue *q, uint16_t index)
{
	memset(q->descriptors, 0, 16u * q->size);
	memset(q->available, 0, available_bytes(q->size));
	memset(q->used, 0, used_bytes(q->size));
	q->available->idx = q->used->idx = htole16(index);
	q->available->ring[q->size] = htole16(index);
}

void guest_queue_restart(struct guest_queue *q, uint16_t index)
{
	memset(q->tokens, 0, q->size * sizeof(*q->tokens));
	for (unsigned i = 0; i < q->size; i++)
		q->next[i] = i + 1;
	if (q->in_order) /* descriptors go round in ring order, virtio 1.3, 2.7.13.1 */
		q->next[q->size - 1] = 0;
	q->free_head = 0;
	q->free_count = q->size;
	q->available_index = q->published_index = q->used_index = q->muted_index = index;
	q->batch = 0;
	q->muted = false;
	if (q->packed)
		packed_restart(q);
	else
		split_restart(q, index);
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
	q->order[q->available_index & q->mask] = head;
	q->available->ring[q->available_index++ & q->mask] = htole16(head);
}

bool guest_queue_add(struct guest_queue *q, const struct guest_segment *segments, unsigned count,
		     const struct guest_layout *layout, void *token)
{
	unsigned direct = layout ? layout->direct : count;
	bool indirect = direct < count;
	uint16_t tail;

	if (q->packed)
		return packed_add(q, segments, count, layout, token);
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
	if (q->packed)
		return packed_publish(q);
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
	if (!q->in_order || q->packed) {
		q->next[q->tail[head]] = q->free_head;
		q->free_head = head;
	}
	q->free_count += q->lengths[head];
	q->tokens[head] = NULL;
}

/* The used element at used_index.  0 or -EPROTO. */
static int split_used(const struct guest_queue *q, uint16_t *head, uint32_t *length)
{
	const struct vring_used_elem *element = &q->used->ring[q->used_index & q->mask];
	uint32_t id = le32toh(__atomic_load_n(&element->id, __ATOMIC_RELAXED));

	if (id >= q->size || !q->tokens[id])
		return -EPROTO;
	*head = id;
	*length = le32toh(__atomic_load_n(&element->len, __ATOMIC_RELAXED));
	return 0;
}

/* How many chains, from the oldest on, end with this one; the device has to have said so many. */
static int begin_batch(struct guest_queue *q, uint16_t head, uint32_t length)
{
	uint16_t most = guest_queue_outstanding(q), told = most;

	if (!q->packed)
		told = le16toh(__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE)) - q->used_index;
	for (uint16_t i = 0; i < most && i < told; i++)
		if (q->order[(q->used_index + i) & q->mask] == head) {
			q->batch = i + 1;
			q->batch_length = length;
			return 0;
		}
	return -EPROTO;
}

static void take_oldest(struct guest_queue *q, uint16_t *head, uint32_t *length)
{
	*head = q->order[q->used_index & q->mask];
	*length = --q->batch ? UINT32_MAX : q->batch_length;
}

int guest_queue_take(struct guest_queue *q, void **token, uint32_t *length)
{
	uint16_t head;
	int err = 0;

	if (!guest_queue_has_used(q))
		return 0;
	if (!q->batch)
		err = q->packed ? packed_used(q, &head, length) : split_used(q, &head, length);
	if (!err && q->in_order && !q->batch)
		err = begin_batch(q, head, *length);
	if (err)
		return err;
	if (q->in_order)
		take_oldest(q, &head, length);
	*token = q->tokens[head];
	if (q->packed)
		packed_advance(q, head);
	free_chain(q, head);
	q->used_index++;
	if (unlikely(q->muted && q->event_index && !q->packed &&
		     (uint16_t)(q->used_index - q->muted_index) >= MUTED_LAG))
		push_event_away(q);
	return 1;
}

bool guest_queue_listen(struct guest_queue *q)
{
	q->muted = false;
	if (q->packed)
		packed_listen(q);
	else if (q->event_index)
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
	if (q->packed)
		packed_mute(q);
	else if (q->event_index)
		push_event_away(q);
	else
		__atomic_store_n(&q->available->flags, htole16(VRING_AVAIL_F_NO_INTERRUPT),
				 __ATOMIC_RELAXED);
}
