/* split_ring.c - available and used ring of mapped memory (virtio 1.3, 2.7).
 *
 * Barriers.  available->idx: our acquire load pairs with the driver's release store, so that heads
 * and descriptors read after it are those it published.  used->idx: our release store pairs with
 * the driver's acquire load.  Two places need a full fence because each side stores, then loads
 * what the other stored: publish, then look whether an interrupt is wanted (the driver: asks for an
 * interrupt, then looks at used->idx); ask for a notification, then look at available->idx (the
 * driver: publishes, then looks whether a notification is wanted).
 */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "link/dirty_log.h"
#include "virtqueue/shadow.h"

static uint64_t available_bytes(const struct virtqueue *q)
{
	return sizeof(struct vring_avail) + 2ull * q->size + 2; /* with used_event */
}

static uint64_t used_bytes(const struct virtqueue *q)
{
	return sizeof(struct vring_used) + 8ull * q->size + 2; /* with avail_event */
}

int split_ring_locate(struct virtqueue *q, const struct memory_map *map)
{
	void *descriptors = NULL, *available = NULL, *used = NULL;
	bool found = ring_part_locate(map, q->setup.descriptor_iova, 16ull * q->size, MEMORY_READ,
				      &descriptors) &&
		     ring_part_locate(map, q->setup.driver_iova, available_bytes(q), MEMORY_READ,
				      &available) &&
		     ring_part_locate(map, q->setup.device_iova, used_bytes(q), MEMORY_WRITE,
				      &used);

	q->descriptors = found ? descriptors : NULL;
	q->available = found ? available : NULL;
	q->used = found ? used : NULL;
	return found ? 0 : -EFAULT;
}

static void copy_heads(struct virtqueue *q, uint16_t from, uint16_t to)
{
	for (uint16_t i = from; i != to; i++)
		q->heads[i & q->mask] = le16toh(
			__atomic_load_n(&q->available->ring[i & q->mask], __ATOMIC_RELAXED));
}

/* The driver has just written what follows: ask for it all at once, not one miss at a time. */
static void prefetch_descriptors(struct virtqueue *q, uint16_t from, uint16_t to)
{
	for (uint16_t i = from; i != to; i++)
		__builtin_prefetch(&q->descriptors[q->heads[i & q->mask] & q->mask]);
}

int split_ring_sync(struct virtqueue *q)
{
	uint16_t index = le16toh(__atomic_load_n(&q->available->idx, __ATOMIC_ACQUIRE));
	uint16_t old = q->seen_index;

	counter_add(&q->numbers.syncs, 1);
	if (index == old) {
		counter_add(&q->numbers.empty_syncs, 1);
		return 0;
	}
	if (unlikely((uint16_t)(index - q->available_index) > q->size))
		return virtqueue_break(q, "the available index ran ahead by more than the queue");
	copy_heads(q, old, index);
	prefetch_descriptors(q, old, index);
	q->seen_index = index;
	link_count_read(&q->link, LINK_RING, 2, 4 + 2ull * (uint16_t)(index - old));
	return 0;
}

int split_ring_chain(struct virtqueue *q, struct chain_slot *s, unsigned head)
{
	const char *reason = "";
	int n = descriptor_walk(q->descriptors, q->size, head, q->walk, q->segments_max, &reason);

	if (unlikely(n < 0))
		return virtqueue_break(q, reason);
	link_count_read(&q->link, LINK_RING, n, 16ull * n);
	return chain_map(q, s, n);
}

void split_ring_put_used(struct virtqueue *q, unsigned id, uint32_t length)
{
	struct vring_used_elem *element = &q->used->ring[q->used_index++ & q->mask];

	element->id = htole32(id);
	element->len = htole32(length);
}

/* virtio 1.3, 2.7.8: the elements that were put since. */
void split_ring_mark_put(struct virtqueue *q, uint16_t since)
{
	for (uint16_t i = since; i != q->used_index; i++)
		dirty_log_mark(q->log, q->setup.device_iova + 4 + 8ull * (i & q->mask), 8);
}

void split_ring_publish(struct virtqueue *q)
{
	uint16_t old = q->published_index;

	__atomic_store_n(&q->used->idx, htole16(q->used_index), __ATOMIC_RELEASE);
	q->published_index = q->used_index;
	link_count_write(&q->link, LINK_RING, 2, 2 + 8ull * (uint16_t)(q->used_index - old));
	if (unlikely(q->log)) {
		split_ring_mark_put(q, old);
		dirty_log_mark(q->log, q->setup.device_iova, 4);
	}
}

bool split_ring_wants_interrupt(struct virtqueue *q, uint16_t old)
{
	uint16_t event;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_index)
		return !(le16toh(__atomic_load_n(&q->available->flags, __ATOMIC_RELAXED)) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	event = le16toh(__atomic_load_n(&q->available->ring[q->size], __ATOMIC_RELAXED));
	return vring_need_event(event, q->published_index, old);
}

static void store_flags(struct virtqueue *q, uint16_t flags)
{
	__atomic_store_n(&q->used->flags, htole16(flags), __ATOMIC_RELAXED);
	link_count_write(&q->link, LINK_RING, 1, 2);
	if (unlikely(q->log))
		dirty_log_mark(q->log, q->setup.device_iova, 2);
}

static void store_available_event(struct virtqueue *q, uint16_t event)
{
	uint16_t *at = (uint16_t *)(void *)&q->used->ring[q->size];

	__atomic_store_n(at, htole16(event), __ATOMIC_RELAXED);
	link_count_write(&q->link, LINK_RING, 1, 2);
	if (unlikely(q->log))
		dirty_log_mark(q->log, q->setup.device_iova + 4 + 8ull * q->size, 2);
}

bool split_ring_listen(struct virtqueue *q)
{
	if (q->event_index)
		store_available_event(q, q->seen_index);
	else if (!q->listening)
		store_flags(q, 0);
	q->listening = true;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return le16toh(__atomic_load_n(&q->available->idx, __ATOMIC_RELAXED)) == q->seen_index &&
	       q->available_index == q->seen_index;
}

/* With event indexes there is nothing to say: the driver passes the one we left behind once. */
void split_ring_mute(struct virtqueue *q)
{
	if (!q->event_index && q->listening)
		store_flags(q, VRING_USED_F_NO_NOTIFY);
	q->listening = false;
}

void virtqueue_interrupt(struct virtqueue *q)
{
	uint64_t one = 1;

	if (q->interrupt < 0)
		return;
	counter_add(&q->numbers.interrupts_sent, 1);
	if (write(q->interrupt, &one, sizeof(one)) < 0 && errno != EAGAIN)
		counter_add(&q->link.numbers.failures, 1);
}
