/* guest_queue.h - the driver's side of a split ring or a packed one (virtio 1.3, 2.7 and 2.8).
 *
 * Shared by unit tests, simulation, fuzzing and the benchmark.  It trusts the device only as far as
 * a test should: a used element that names nothing outstanding is reported, not believed.
 *
 * One thread.  Add chains, publish them together, tell the device if publish says so; take what it
 * has used.  Descriptors of a chain are written anew each time, as real drivers do.  With IN_ORDER
 * the device may tell of several chains by one used element.
 */
#ifndef DRIVER_GUEST_QUEUE_H
#define DRIVER_GUEST_QUEUE_H

#include <endian.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

struct guest_memory;

struct guest_segment {
	uint64_t iova;		/* bytes */
	uint32_t length;	/* bytes */
	bool writable;		/* by the device; such segments come last */
};

/* A chain's place in memory.  The first `direct` segments are descriptors of the queue's own table;
 * the rest, if any, goes into the indirect table that one more descriptor names. */
struct guest_layout {
	unsigned direct;		/* packed: 0, or all */
	struct vring_desc *table;	/* room for the rest; NULL when direct is all there are */
	uint64_t table_iova;		/* bytes */
};

struct guest_queue {
	struct vring_desc *descriptors;
	struct vring_avail *available;
	struct vring_used *used;
	uint16_t size, mask;
	bool event_index;
	bool muted;			/* no interrupts wanted */
	uint16_t free_head, free_count;
	uint16_t available_index;	/* next entry to fill */
	uint16_t published_index;	/* what the device sees */
	uint16_t used_index;		/* next used element to look at */
	uint16_t muted_index;		/* used_event was last pushed away here */
	void **tokens;			/* owned; by head: NULL, not outstanding */
	uint16_t *next;			/* owned; by descriptor: the free list, and chains */
	uint16_t *tail;			/* owned; by head: last descriptor of its chain */
	uint16_t *lengths;		/* owned; by head: descriptors of its chain */
	uint64_t descriptor_iova, driver_iova, device_iova;

	/* Packed: the indexes above count chains, these are places in the ring. */
	bool packed;
	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver_event, *device_event;
	uint16_t next_available, next_used, published;	/* published: what the device sees */
	bool available_wrap, used_wrap;
	uint16_t first_flags;		/* of the first chain that is not published */

	/* IN_ORDER */
	bool in_order;
	uint16_t *order;		/* owned: heads (packed: ids) by chain counter */
	uint16_t batch;			/* chains that the last used element speaks of, not taken */
	uint32_t batch_length;		/* of the last of them */
};

enum {
	GUEST_QUEUE_PACKED = 1,
	GUEST_QUEUE_EVENT_INDEX = 2,
	GUEST_QUEUE_IN_ORDER = 4,
	GUEST_QUEUE_ACROSS = 8,		/* what the device writes crosses the end of a page */
};

/* Lays the rings out in m, empty.  size is a power of two. */
void guest_queue_open(struct guest_queue *q, struct guest_memory *m, uint16_t size,
		      bool event_index);
/* The same with GUEST_QUEUE_*. */
void guest_queue_open_flags(struct guest_queue *q, struct guest_memory *m, uint16_t size,
			    unsigned flags);
void guest_queue_close(struct guest_queue *q);

/* Begins anew with empty rings in the same place, both indexes at `index` (packed: at the ring's
 * begin, both wrap counters 1, whatever index is). */
void guest_queue_restart(struct guest_queue *q, uint16_t index);

/* token is not NULL and comes back from guest_queue_take().  layout NULL: all direct.  False: there
 * are not enough free descriptors. */
bool guest_queue_add(struct guest_queue *q, const struct guest_segment *segments, unsigned count,
		     const struct guest_layout *layout, void *token);

/* Shows the device what was added.  True: it wants to be notified of it. */
bool guest_queue_publish(struct guest_queue *q);

/* 1 one chain came back, with the length that the device states (UINT32_MAX: it stated none, which
 * means all, IN_ORDER); 0 none; -EPROTO the device used what was not outstanding. */
int guest_queue_take(struct guest_queue *q, void **token, uint32_t *length);

/* Asks for an interrupt at the next used element.  False: there is one already. */
bool guest_queue_listen(struct guest_queue *q);
void guest_queue_mute(struct guest_queue *q);

/* virtio 1.3, 2.8.1: used when both bits are what the driver's counter is. */
static inline bool guest_queue_packed_has_used(const struct guest_queue *q)
{
	uint16_t flags = le16toh(__atomic_load_n(&q->ring[q->next_used].flags, __ATOMIC_ACQUIRE));
	bool available = flags >> VRING_PACKED_DESC_F_AVAIL & 1;
	bool used = flags >> VRING_PACKED_DESC_F_USED & 1;

	return used == q->used_wrap && available == used;
}

static inline bool guest_queue_has_used(const struct guest_queue *q)
{
	if (q->batch)
		return true;
	if (q->packed)
		return guest_queue_packed_has_used(q);
	return le16toh(__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE)) != q->used_index;
}

/* Chains out, published or not. */
static inline unsigned guest_queue_outstanding(const struct guest_queue *q)
{
	return (uint16_t)(q->available_index - q->used_index);
}

/* Where a device that has used everything stands, as vhost-user's VRING_BASE puts it: the index;
 * packed: place and wrap counter, for both sides. */
static inline uint32_t guest_queue_base(const struct guest_queue *q)
{
	uint16_t place = q->next_used | q->used_wrap << 15;

	return q->packed ? (uint32_t)place << 16 | place : q->used_index;
}

#endif
