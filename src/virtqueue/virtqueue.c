/* virtqueue.c - the life of a queue, its request slots and its memory. */
#include "virtqueue/virtqueue.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/pages.h"
#include "link/dirty_log.h"
#include "link/guarded_mapping.h"
#include "virtqueue/remote_queue.h"
#include "virtqueue/ring.h"

static const struct counter_field fields[] = {
	{ "chains", offsetof(struct virtqueue_numbers, chains) },
	{ "indirect_chains", offsetof(struct virtqueue_numbers, indirect_chains) },
	{ "syncs", offsetof(struct virtqueue_numbers, syncs) },
	{ "empty_syncs", offsetof(struct virtqueue_numbers, empty_syncs) },
	{ "interrupts_sent", offsetof(struct virtqueue_numbers, interrupts_sent) },
	{ "interrupts_suppressed", offsetof(struct virtqueue_numbers, interrupts_suppressed) },
	{ "flushes", offsetof(struct virtqueue_numbers, flushes) },
	{ "resubmitted", offsetof(struct virtqueue_numbers, resubmitted) },
	{ "broken", offsetof(struct virtqueue_numbers, broken) },
};

/* ---- memory maps ---- */

static struct map_epoch *epoch_create(struct memory_map *map)
{
	struct map_epoch *epoch = calloc(1, sizeof(*epoch));

	if (epoch)
		epoch->map = memory_map_hold(map);
	return epoch;
}

static void epoch_free(struct map_epoch *epoch)
{
	memory_map_release(epoch->map);
	free(epoch);
}

void epoch_put(struct virtqueue *q, struct map_epoch *epoch)
{
	if (likely(--epoch->users || epoch == q->epoch))
		return;
	q->old_epochs--;
	epoch_free(epoch);
}

/* The present epoch ends: freed at once, or by its last user. */
static void epoch_replace(struct virtqueue *q, struct map_epoch *by)
{
	struct map_epoch *old = q->epoch;

	q->epoch = by;
	if (old == &q->nowhere)
		return;
	if (old->users)
		q->old_epochs++;
	else
		epoch_free(old);
}

/* ---- slots ---- */

/* When a slot is first used, not before: what an idle queue never touches is not resident. */
static void slot_lay_out(struct chain_slot *s, unsigned head)
{
	s->chain.id = head;
	s->chain.header = s->header;
	s->iov = s->inline_iov;
	s->iova = s->inline_iova;
	s->iov_max = INLINE_SEGMENTS;
}

struct chain_slot *slot_take(struct virtqueue *q, unsigned head)
{
	struct chain_slot *s = &q->slots[head];

	if (unlikely(s->epoch)) {
		virtqueue_break(q, "the driver made a descriptor available that is still in use");
		return NULL;
	}
	if (unlikely(!s->iov))
		slot_lay_out(s, head);
	s->epoch = q->epoch;
	q->epoch->users++;
	s->segments = 0;
	s->status = NULL;
	s->is_remote = s->again = false;
	s->chain.readable = s->chain.writable = 0;
	s->chain.readable_bytes = s->chain.writable_bytes = 0;
	s->chain.header_bytes = 0;
	s->chain.has_status = false;
	return s;
}

void slot_free(struct virtqueue *q, struct chain_slot *s)
{
	struct map_epoch *epoch = s->epoch;

	s->epoch = NULL;
	epoch_put(q, epoch);
}

/* Beyond the inline entries the slot moves to its part of the large arrays, for good. */
static void slot_grow(struct virtqueue *q, struct chain_slot *s)
{
	size_t at = (size_t)s->chain.id * q->segments_max;

	memcpy(q->large_iov + at, s->iov, s->segments * sizeof(*s->iov));
	memcpy(q->large_iova + at, s->iova, s->segments * sizeof(*s->iova));
	s->iov = q->large_iov + at;
	s->iova = q->large_iova + at;
	s->iov_max = q->segments_max;
}

void slot_renew(struct virtqueue *q, struct chain_slot *s)
{
	struct map_epoch *old = s->epoch;

	if (likely(old == q->epoch))
		return;
	q->epoch->users++;
	s->epoch = q->epoch;
	epoch_put(q, old);
}

bool slot_append(struct virtqueue *q, struct chain_slot *s, void *host, uint64_t iova,
		 uint64_t length, bool writable)
{
	if (unlikely(s->segments == s->iov_max)) {
		if (s->iov_max == q->segments_max)
			return false;
		slot_grow(q, s);
	}
	s->iov[s->segments] = (struct iovec){ host, length };
	s->iova[s->segments++] = iova;
	if (writable) {
		s->chain.writable++;
		s->chain.writable_bytes += length;
	} else {
		s->chain.readable++;
		s->chain.readable_bytes += length;
	}
	return true;
}

/* ---- changes of memory ---- */

/* Whatever kind the ring is of next, nothing is half done in the mapped one.  Put elements are
 * published, for their shadow was the ring itself.  Heads that were only copied are read again:
 * nothing has been decided by them.  A ring that is not polled any more wants notifications. */
static void settle_mapped_ring(struct virtqueue *q)
{
	if (virtqueue_is_remote(q) || q->reason)
		return;
	virtqueue_flush(q);
	ring_listen(q);
	q->seen_index = q->fetched_index;
}

static int without_memory(struct virtqueue *q, const char *reason, int err)
{
	epoch_replace(q, &q->nowhere);
	q->descriptors = NULL;
	q->available = NULL;
	q->used = NULL;
	virtqueue_break(q, reason);
	return err;
}

/* The queue waits for its rings.  What is under way goes on with the memory that it began with, and
 * is brought back when there is a ring again.  An in-flight region cannot say so of a packed ring.
 */
static int no_ring(struct virtqueue *q)
{
	if (q->inflight && q->packed && (q->old_epochs || !virtqueue_is_settled(q)))
		return without_memory(q, "a ring does not lie in the new memory map", -EFAULT);
	if (!remote_queue_get(q))
		return -ENOMEM;
	q->homeless = true;
	return -EFAULT;
}

static bool stays_mapped(const struct memory_map *map)
{
	return !memory_map_remote(map) && !memory_map_model(map);
}

int virtqueue_set_memory(struct virtqueue *q, struct memory_map *map)
{
	struct map_epoch *new;

	if (!map)
		return without_memory(q, "the guest's memory was taken away", -EFAULT);
	new = epoch_create(map);
	if (!new)
		return without_memory(q, "out of memory for a new memory map", -ENOMEM);
	settle_mapped_ring(q);
	epoch_replace(q, new);
	if (q->inflight && q->packed && !stays_mapped(map))
		return virtqueue_break(q,
				       "remote memory, though the in-flight region needs the ring");
	if (ring_locate(q, map))
		return no_ring(q);
	fetch_look_again(q);
	if (q->homeless) {
		q->homeless = false;
		fetch_resume(q);
		deliver_resume(q);
	}
	return 0;
}

bool virtqueue_memory_is_lost(struct virtqueue *q)
{
	unsigned losses = guarded_mapping_losses();

	if (likely(losses == q->losses_seen))
		return false;
	q->losses_seen = losses;
	return memory_map_is_lost(q->epoch->map);
}

/* ---- life ---- */

static void deallocate(struct virtqueue *q)
{
	size_t size = q->options.size_max, large = size * q->segments_max;

	pages_free(q->slots, size * sizeof(*q->slots));
	pages_free(q->heads, size * sizeof(*q->heads));
	pages_free(q->order, size * sizeof(*q->order));
	pages_free(q->resubmit, size * sizeof(*q->resubmit));
	pages_free(q->walk, q->segments_max * sizeof(*q->walk));
	pages_free(q->table, q->segments_max * sizeof(*q->table));
	pages_free(q->large_iov, large * sizeof(*q->large_iov));
	pages_free(q->large_iova, large * sizeof(*q->large_iova));
	q->slots = NULL;
}

/* At the first start: of a function's queues a driver may use few, or none for long. */
static int allocate(struct virtqueue *q, struct error *e)
{
	size_t size = q->options.size_max, large;

	if (q->slots)
		return 0;
	q->segments_max = size > SEGMENTS_MIN ? size : SEGMENTS_MIN;
	large = size * q->segments_max;
	q->slots = pages_allocate(size * sizeof(*q->slots));
	q->heads = pages_allocate(size * sizeof(*q->heads));
	q->order = pages_allocate(size * sizeof(*q->order));
	q->resubmit = pages_allocate(size * sizeof(*q->resubmit));
	q->walk = pages_allocate(q->segments_max * sizeof(*q->walk));
	q->table = pages_allocate(q->segments_max * sizeof(*q->table));
	q->large_iov = pages_allocate(large * sizeof(*q->large_iov));
	q->large_iova = pages_allocate(large * sizeof(*q->large_iova));
	if (q->slots && q->heads && q->order && q->resubmit && q->walk && q->table &&
	    q->large_iov && q->large_iova)
		return 0;
	deallocate(q);
	return error_set(e, -ENOMEM, "queue of %u descriptors: out of memory", q->options.size_max);
}

struct virtqueue *virtqueue_create(const struct virtqueue_options *options, struct error *e)
{
	struct virtqueue *q = calloc(1, sizeof(*q));

	if (!q) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	q->options = *options;
	q->interrupt = -1;
	q->epoch = &q->nowhere;
	snprintf(q->name, sizeof(q->name), "%s", options->name);
	link_open(&q->link, q->name);
	q->group = (struct counter_group){ .room = "virtqueue",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &q->numbers };
	memcpy(q->group.name, q->name, sizeof(q->group.name));
	counter_group_add(&q->group);
	return q;
}

void virtqueue_free(struct virtqueue *q)
{
	if (!q)
		return;
	assert(!q->started);
	remote_queue_free(q);
	counter_group_remove(&q->group);
	link_close(&q->link);
	deallocate(q);
	free(q);
}

static int check_setup(const struct virtqueue *q, const struct virtqueue_setup *s, struct error *e)
{
	bool packed = s->features & (1ull << VIRTIO_F_RING_PACKED);

	if (!s->size || s->size > q->options.size_max || !(packed || is_power_of_two(s->size)))
		return error_set(e, -EINVAL, "size %u is not a power of two up to %u", s->size,
				 q->options.size_max);
	if (packed && ((s->available_index & PLACE_MASK) >= s->size ||
		       (s->used_index & PLACE_MASK) >= s->size))
		return error_set(e, -EINVAL, "positions 0x%x and 0x%x are beyond the ring",
				 s->available_index, s->used_index);
	/* virtio 1.3, 2.7 and 2.8.10: alignment of the three parts */
	if (s->descriptor_iova % 16 || s->driver_iova % 2 || s->device_iova % 4)
		return error_set(e, -EINVAL, "rings at 0x%llx, 0x%llx, 0x%llx are not aligned",
				 (unsigned long long)s->descriptor_iova,
				 (unsigned long long)s->driver_iova,
				 (unsigned long long)s->device_iova);
	return 0;
}

/* A packed ring may have any size. */
static uint16_t mask_over(uint16_t size)
{
	uint32_t power = 1;

	while (power < size)
		power *= 2;
	return power - 1;
}

static void begin_at(struct virtqueue *q, const struct virtqueue_setup *s)
{
	q->setup = *s;
	q->size = s->size;
	q->mask = mask_over(s->size);
	q->packed = s->features & (1ull << VIRTIO_F_RING_PACKED);
	q->in_order = s->features & (1ull << VIRTIO_F_IN_ORDER);
	q->order_first = q->order_count = 0;
	q->event_index = s->features & (1ull << VIRTIO_RING_F_EVENT_IDX);
	q->indirect = s->features & (1ull << VIRTIO_RING_F_INDIRECT_DESC);
	q->available_index = q->fetched_index = q->seen_index = s->available_index;
	q->used_index = q->published_index = q->packed ? s->available_index : s->used_index;
	packed_ring_begin(q);
	q->resubmit_count = q->resubmit_next = 0;
	q->inflight = NULL;
	q->batch = (struct inflight_batch){ 0 };
	q->reason = NULL;
	q->homeless = false;
	q->losses_seen = guarded_mapping_losses();
}

/* They are a part of what lies between the used index and the available one. */
static int take_up_left(struct virtqueue *q, struct error *e)
{
	const struct virtqueue_setup *s = &q->setup;

	if (s->left_count && q->packed)
		return error_set(e, -EINVAL, "a packed ring with %u requests left behind",
				 s->left_count);
	for (unsigned i = 0; i < s->left_count; i++) {
		if (s->left[i] >= q->size)
			return error_set(e, -EINVAL, "a request left behind at descriptor %u",
					 s->left[i]);
		q->resubmit[i] = (struct resubmission){ .head = s->left[i] };
	}
	q->resubmit_count = s->left_count;
	counter_add(&q->numbers.resubmitted, q->resubmit_count);
	return 0;
}

/* What the driver sees as used is the truth; a former process may have ended behind it. */
static int take_over(struct virtqueue *q, const struct memory_map *map, struct error *e)
{
	int err;

	if (q->packed && !stays_mapped(map))
		return take_up_left(q, e);
	if (q->used && !q->packed)
		q->used_index = q->published_index = __atomic_load_n(&q->used->idx,
								     __ATOMIC_ACQUIRE);
	if (!q->setup.inflight)
		return take_up_left(q, e);
	err = inflight_recover(q, q->setup.inflight, q->setup.inflight_bytes, e);
	if (err)
		return err;
	q->available_index = q->used_index + q->resubmit_count;
	q->fetched_index = q->seen_index = q->available_index;
	counter_add(&q->numbers.resubmitted, q->resubmit_count);
	return 0;
}

int virtqueue_start(struct virtqueue *q, struct reactor *r, const struct virtqueue_setup *setup,
		    struct memory_map *map, struct error *e)
{
	int err = check_setup(q, setup, e);
	struct map_epoch *epoch;

	assert(!q->started && setup->header_size <= VIRTQUEUE_HEADER_MAX);
	if (!err)
		err = allocate(q, e);
	if (err)
		return err;
	begin_at(q, setup);
	q->reactor = q->link.reactor = r;
	if (ring_locate(q, map) || memory_map_is_lost(map))
		return error_set(e, -EFAULT, "rings at 0x%llx, 0x%llx, 0x%llx are not in memory",
				 (unsigned long long)setup->descriptor_iova,
				 (unsigned long long)setup->driver_iova,
				 (unsigned long long)setup->device_iova);
	epoch = epoch_create(map);
	if (!epoch)
		return error_set(e, -ENOMEM, "out of memory");
	err = take_over(q, map, e);
	if (err) {
		epoch_free(epoch);
		return err;
	}
	epoch_replace(q, epoch);
	q->started = true;
	q->listening = true;
	return 0;
}

void virtqueue_stop(struct virtqueue *q)
{
	assert(q->started);
	/* whoever goes on may reach the ring over a link, and poll nothing */
	settle_mapped_ring(q);
	fetch_forget(q);
	virtqueue_set_coalescing(q, 0, 0);
	assert(!q->epoch->users && !q->old_epochs);
	epoch_replace(q, &q->nowhere);
	q->inflight = NULL;
	q->started = false;
}

void virtqueue_position(const struct virtqueue *q, uint16_t *available, uint16_t *used)
{
	*available = q->packed ? packed_ring_position(q->ring.available) : q->available_index;
	*used = q->packed ? packed_ring_position(q->ring.used) : q->used_index;
}

bool virtqueue_is_settled(const struct virtqueue *q)
{
	return q->used_index == q->published_index && !fetch_is_busy(q) && !deliver_is_busy(q);
}

void virtqueue_set_log(struct virtqueue *q, struct dirty_log *log)
{
	q->log = log;
}

/* An interrupt may have got lost between an old descriptor and the new one: one more is harmless,
 * one too few hangs the driver. */
void virtqueue_set_interrupt(struct virtqueue *q, int fd)
{
	q->interrupt = fd;
	if (fd >= 0 && q->started)
		virtqueue_interrupt(q);
}

void virtqueue_move_interrupt(struct virtqueue *q, int fd)
{
	q->interrupt = fd;
}

bool virtqueue_is_remote(const struct virtqueue *q)
{
	return !q->used || !q->available || !q->descriptors;
}

bool virtqueue_has_fetched(const struct virtqueue *q)
{
	return fetch_has_chains(q);
}

const char *virtqueue_reason(const struct virtqueue *q)
{
	return q->reason;
}

int virtqueue_break(struct virtqueue *q, const char *reason)
{
	if (!q->reason) {
		q->reason = reason;
		counter_add(&q->numbers.broken, 1);
	}
	return -EPROTO;
}

void virtqueue_abandon(struct virtqueue *q, const char *reason)
{
	virtqueue_break(q, reason);
	fetch_drop_if_broken(q);
}
