/* virtqueue.h - take requests from the driver, give them back.
 *
 * The one place that reads or writes ring memory, follows descriptors, marks pages dirty and
 * decides whether to interrupt.
 *
 * virtqueue_sync() brings what the driver has made available into our shadow: over a mapped link
 * at once, over a remote one in a few batched transfers, after which `ready` runs.
 * virtqueue_pop() hands out one request after the other.  Every byte of guest memory that decides
 * anything (indexes, descriptors, the request's header) is read once, by copying, and used from
 * the copy.  Payload is reached in place where memory is mapped, else in buffers of ours that are
 * filled before pop and sent back by push.
 *
 * Owner: the reactor given to virtqueue_start().  No locks, no atomics but the ring's own
 * acquire/release pairs.
 */
#ifndef VIRTQUEUE_VIRTQUEUE_H
#define VIRTQUEUE_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct dirty_log;
struct error;
struct memory_map;
struct reactor;
struct virtqueue;

enum { VIRTQUEUE_HEADER_MAX = 32, VIRTQUEUE_SIZE_MAX = 32768 };

struct virtqueue_options {
	const char *name;	/* "vda/0": counters; copied */
	uint16_t size_max;	/* descriptors */
	bool has_status;	/* the last writable byte is a status: see virtqueue_push() */
	void (*ready)(void *arg);	/* something that was under way over the link has ended */
	void *arg;
};

/* One request.  Owned by the queue, valid from pop to push. */
struct virtqueue_chain {
	uint16_t id;			/* < queue size; unique while in flight */
	uint16_t header_bytes; /* less than header_size if the readable part is too short */
	bool has_status;		/* false: there is no writable byte to put a status in */
	unsigned readable;		/* entries of iov the device may read ... */
	unsigned writable; /* ... followed by those it may write (virtio 1.3, 2.7.4.2) */
	uint64_t readable_bytes, writable_bytes; /* sums of the two, header and status excluded */
	const void *header;		/* in our memory */
	const struct iovec *iov;	/* the payload, header and status excluded */
};

struct virtqueue_setup {
	uint64_t features;		/* what the driver has accepted */
	uint16_t size;			/* descriptors, <= size_max; split: power of two */
	uint16_t header_size;	/* bytes: what every request begins with; <= VIRTQUEUE_HEADER_MAX */
	uint16_t available_index;	/* where to go on reading */
	/* Where to go on writing; of a mapped split ring the ring itself says.  Packed: both have
	 * the descriptor's place (virtio 1.3, 4.1.5.2), and in bit 15 the wrap counter (1 at
	 * first). */
	uint16_t used_index;
	uint64_t descriptor_iova, driver_iova, device_iova;
	/* Shared region, borrowed until stop; NULL: off.  A packed ring in a map that has anything
	 * remote is not tracked.  What the region says of a packed ring's places goes before
	 * available_index and used_index, which nobody may know after a crash. */
	void *inflight;
	size_t inflight_bytes;		/* at least virtqueue_inflight_size(size, packed) */
	/* Of a split ring without such a region: chains that virtqueue_leave() left, by their ids,
	 * in their order.  They are handed out first.  Borrowed for the call. */
	const uint16_t *left;
	uint16_t left_count;
};

struct virtqueue *virtqueue_create(const struct virtqueue_options *options, struct error *e);
void virtqueue_free(struct virtqueue *q);	/* stopped; NULL is ignored */

/* Begins with setup over map (held until replaced or stopped).  With in-flight tracking, requests
 * that a former process had taken and not returned are handed out again first, in the order in
 * which it had taken them.  -EINVAL, or -EFAULT when a ring does not lie in the map. */
int virtqueue_start(struct virtqueue *q, struct reactor *r, const struct virtqueue_setup *setup,
		    struct memory_map *map, struct error *e);
/* Before a stop: what was taken and never begun goes back.  Of `count` chains, in any order, those
 * are untaken that the driver made available last of all: the ring is as if nobody had looked at
 * them.  Between them and the end none may have come back.  The number of the others: they are the
 * first of chains[] then, in the order in which they were taken, and still out.  The queue is
 * settled but for that. */
unsigned virtqueue_untake(struct virtqueue *q, struct virtqueue_chain **chains, unsigned count);
/* Whether the queue's next start can hand out again what is still out now. */
bool virtqueue_can_leave(const struct virtqueue *q);
/* Lets go of chains that are still out, all there are, for the next start to hand out again: their
 * ids, in order, and those of chains that this start was to hand out again and has not, for
 * setup.left.  ids has room for one per descriptor; how many there are.  Of a packed ring only
 * their number means something. */
unsigned virtqueue_leave(struct virtqueue *q, struct virtqueue_chain **chains, unsigned count,
			 uint16_t *ids);
/* Whether there are such that are still to be handed out again. */
bool virtqueue_has_left(const struct virtqueue *q);

/* No chain is out and virtqueue_is_settled(). */
void virtqueue_stop(struct virtqueue *q);
void virtqueue_position(const struct virtqueue *q, uint16_t *available, uint16_t *used);

/* Nothing is under way over a remote link and nothing waits to be published. */
bool virtqueue_is_settled(const struct virtqueue *q);

/* From now on nothing begins with the old map; requests begun with it keep it.  A ring may lie in
 * memory of the other kind now (mapped, remote): requests go on.  NULL: no memory.  0; -EFAULT or
 * -ENOMEM with a virtqueue_reason(): the queue is broken; -EFAULT without: a ring does not lie in
 * the new map, and the queue rests until another map has all.  What is under way ends meanwhile and
 * is brought back then, or let go by virtqueue_abandon(). */
int virtqueue_set_memory(struct virtqueue *q, struct memory_map *map);
void virtqueue_set_log(struct virtqueue *q, struct dirty_log *log);	/* NULL: off */
/* A borrowed eventfd, -1: none.  set: sends an interrupt at once, since one may have been due and
 * gone nowhere.  move: sends none, since it would have come by the old descriptor. */
void virtqueue_set_interrupt(struct virtqueue *q, int fd);
void virtqueue_move_interrupt(struct virtqueue *q, int fd);

/* An interrupt that is due waits for wait_ns at most, or until so many chains (0: however many)
 * have come back since the last one.  wait_ns 0: off, as it is after a start. */
void virtqueue_set_coalescing(struct virtqueue *q, uint32_t chains, uint64_t wait_ns);

/* 1 there are chains to pop, 0 nothing new or still on its way (ready runs when it has arrived),
 * -errno the driver broke the ring: broken for good, virtqueue_reason() says why. */
int virtqueue_sync(struct virtqueue *q);
int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain **c);	/* 1, 0 or -errno */

/* Returns a chain.  The first `written` bytes of its writable part may have been stored.  status is
 * stored behind them where the queue has_status.  Not visible to the driver before flush. */
void virtqueue_push(struct virtqueue *q, struct virtqueue_chain *c, uint64_t written,
		    uint8_t status);

/* Publishes all pushed chains and interrupts at most once. */
void virtqueue_flush(struct virtqueue *q);

/* Asks the driver for a notification of what comes next.  False: something has come meanwhile, the
 * caller syncs again.  Mute: no notification is needed, the caller looks by itself. */
bool virtqueue_listen(struct virtqueue *q);
void virtqueue_mute(struct virtqueue *q);

bool virtqueue_is_remote(const struct virtqueue *q);	/* looking costs transfers: do not poll */
bool virtqueue_has_fetched(const struct virtqueue *q);	/* remote: chains that are not popped yet */
/* Broken for good, if it was not yet; reason is static.  What was not popped is let go, so that a
 * change of memory does not wait for it. */
void virtqueue_abandon(struct virtqueue *q, const char *reason);
const char *virtqueue_reason(const struct virtqueue *q);	/* NULL: not broken */
size_t virtqueue_inflight_size(uint16_t size, bool packed);	/* bytes */

#endif
