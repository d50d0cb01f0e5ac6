/* shadow.h - what a virtqueue keeps in its own memory: shared by the files of this room.
 *
 *   virtqueue.c   the life of a queue, its slots and its memory
 *   data_path.c   requests taken and returned: the public funnel
 *   ring.h        which of the two rings it is
 *   descriptor.c  descriptors copied into a list of ours, checked
 *   chain_map.c   such a list in mapped memory made into segments
 *   split_ring.c  available and used ring of mapped memory (virtio 1.3, 2.7)
 *   packed_ring.c descriptor ring of mapped memory (virtio 1.3, 2.8)
 *   untake.c      what was taken and not begun goes back, before a stop
 *   inflight*.c   the region that survives us (vhost-user INFLIGHT_SHMFD), of either ring
 *   fetch*.c      remote memory: rings, descriptors, header and payload on their way to us
 *   deliver.c     remote memory: payload, status and used elements on their way back
 *
 * Indexes run freely and wrap at 65536, as in the ring.  In order:
 *   used_index <= available_index (popped) <= fetched_index (on its way) <= seen_index
 * They count requests; where a packed ring's descriptors are is in struct packed_ring beside them.
 */
#ifndef VIRTQUEUE_SHADOW_H
#define VIRTQUEUE_SHADOW_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "link/link.h"
#include "link/memory_map.h"
#include "virtqueue/virtqueue.h"

enum {
	INLINE_SEGMENTS = 4,	/* payload entries kept in the slot itself */
	SEGMENTS_MIN = 256, /* every queue takes chains of this many descriptors, however small */
	CHAIN_REMOTE = 1,	/* an answer: some of the chain's memory is not mapped */
};

/* Memory as it was when a request began.  One per map that is still in use: the present one, and
 * those that chains or transfers still stand on; the last of them lets go of the map. */
struct map_epoch {
	struct memory_map *map;		/* held; NULL: nothing can be reached */
	unsigned users;			/* chains out and transfers under way */
};

struct remote_chain;
struct remote_queue;

/* Everything about one chain, by its head.  The large arrays are allocated once per queue, when it
 * first starts, and touched only by chains that need them; so is a slot. */
struct chain_slot {
	struct virtqueue_chain chain;
	uint8_t *status;		/* in mapped guest memory; NULL: none, or remote */
	uint64_t status_iova;
	struct map_epoch *epoch;	/* NULL: the slot is free */
	struct remote_chain *remote;	/* owned; NULL until the chain is first fetched remotely */
	bool is_remote;			/* of the chain that is out */
	bool returned;			/* IN_ORDER: waits for those before it */
	uint8_t returned_status;
	uint16_t descriptors;		/* packed: of the ring that the chain takes up */
	uint16_t inflight;		/* packed: its entry in the region */
	bool again;			/* a former process had taken it */
	uint16_t turn;			/* available_index, when it was taken, it included */
	uint64_t returned_bytes;
	uint16_t segments;		/* entries used of iov and iova */
	uint16_t iov_max;
	struct iovec *iov;		/* inline_iov, or the slot's part of the large array; NULL:
					 * the slot was never used */
	uint64_t *iova;			/* guest addresses beside iov, kept for the dirty log */
	struct iovec inline_iov[INLINE_SEGMENTS];
	uint64_t inline_iova[INLINE_SEGMENTS];
	uint8_t header[VIRTQUEUE_HEADER_MAX];
};

/* A place in a packed ring: virtio 1.3, 2.8.1. */
struct packed_place {
	uint16_t at;			/* descriptor */
	bool wrap;			/* wrap counter */
};

/* As one number: virtio 1.3, 4.1.5.2. */
enum { PLACE_WRAP = 1 << 15, PLACE_MASK = PLACE_WRAP - 1 };

static inline uint16_t packed_ring_position(struct packed_place place)
{
	return place.at | (place.wrap ? PLACE_WRAP : 0);
}

struct packed_ring {
	struct packed_place fetch;	/* the next descriptor to look at */
	struct packed_place available;	/* behind what was popped */
	struct packed_place used;	/* the next used descriptor to write */
	struct packed_place published;	/* the first that the driver does not see yet */
	uint16_t first_flags;		/* of that one, raw: they are stored last */
};

/* A chain that a former process had taken, and when. */
struct resubmission {
	uint64_t counter;
	uint16_t head;			/* packed: its entry in the region */
	uint16_t descriptors;		/* packed: as in its slot */
};

/* Entries of a packed ring's in-flight region: the free ones, and those that the next publication
 * frees, newest first. */
struct inflight_batch {
	uint16_t free_head;
	uint16_t head, tail;		/* tail: the last entry of the first chain that came back */
	uint16_t count;
};

struct virtqueue_numbers {
	uint64_t chains, indirect_chains, syncs, empty_syncs;
	uint64_t interrupts_sent, interrupts_suppressed;
	uint64_t flushes, resubmitted, broken;
};

struct coalescing {			/* coalesce.c */
	uint64_t wait_ns;		/* an interrupt is held for at most so long; 0: off */
	uint16_t chains;		/* or until so many have come back; 0: no matter */
	uint16_t since;			/* published_index at the last interrupt */
	bool held;
	struct reactor_timer timer;	/* set while held */
};

struct virtqueue {
	/* Where the rings are; NULL: remote.  Of a packed ring: descriptors, the driver's and the
	 * device's event suppression. */
	const struct vring_desc *descriptors;
	struct vring_avail *available;
	struct vring_used *used;
	struct packed_ring ring;

	uint16_t size;
	uint16_t mask;			/* of our own arrays: covers size */
	uint16_t available_index, fetched_index, seen_index;
	uint16_t used_index;		/* next used element to fill */
	uint16_t published_index;	/* what the driver sees */
	bool packed, in_order, event_index, indirect, listening, started;
	bool homeless;			/* the present memory has not all of the rings */
	int interrupt;			/* borrowed; -1: none */
	struct map_epoch *epoch;	/* owned: the present one; &nowhere: none */
	struct chain_slot *slots;	/* owned, size_max; NULL until the first start */
	uint16_t *heads;		/* owned, size_max: shadow of the available ring */
	struct dirty_log *log;		/* borrowed; NULL: off */
	void *inflight;			/* borrowed; NULL: off */
	struct inflight_batch batch;
	uint64_t inflight_counter;	/* the last one given to a chain */
	struct coalescing coalescing;
	struct virtqueue_numbers numbers;

	/* Rarely touched. */
	struct map_epoch nowhere;	/* never has users */
	unsigned old_epochs;		/* that still have users */
	struct virtqueue_options options;
	struct virtqueue_setup setup;
	char name[64];
	unsigned losses_seen;		/* of guarded mappings, process-wide */
	unsigned segments_max;
	struct iovec *large_iov;	/* owned, size_max * segments_max */
	uint64_t *large_iova;
	struct vring_desc *walk;	/* owned, segments_max: the chain being parsed */
	struct vring_desc *table;	/* owned, segments_max: an indirect table across regions */
	uint16_t *order;		/* owned, size_max: IN_ORDER, what is out, as popped */
	uint16_t order_first, order_count;
	struct resubmission *resubmit;	/* owned, size_max: to hand out before the ring's heads */
	unsigned resubmit_count, resubmit_next;
	struct remote_queue *remote;	/* owned; NULL until needed */
	const char *reason;		/* static; NULL: not broken */
	struct link link;
	struct counter_group group;
	struct reactor *reactor;
};

static inline bool has_resubmissions(const struct virtqueue *q)
{
	return q->resubmit_next != q->resubmit_count;
}

/* virtqueue.c */
int virtqueue_break(struct virtqueue *q, const char *reason);	/* -EPROTO */
void epoch_put(struct virtqueue *q, struct map_epoch *epoch);	/* one user less */
struct chain_slot *slot_take(struct virtqueue *q, unsigned head); /* NULL: the queue is broken */
void slot_free(struct virtqueue *q, struct chain_slot *s);
void slot_renew(struct virtqueue *q, struct chain_slot *s);	/* holds the present map instead */
/* Appends one payload entry.  False: too many. */
bool slot_append(struct virtqueue *q, struct chain_slot *s, void *host, uint64_t iova,
		 uint64_t length, bool writable);

/* A file behind the map has shrunk: what we read from now on is not the driver's. */
bool virtqueue_memory_is_lost(struct virtqueue *q);

/* data_path.c */
void chain_taken(struct virtqueue *q, struct chain_slot *s);
/* The two things that a returned chain over mapped memory needs beside its used element. */
void virtqueue_mark_payload(struct virtqueue *q, const struct chain_slot *s, uint64_t written);
void virtqueue_store_status(struct virtqueue *q, struct chain_slot *s, uint8_t status);

/* What the driver is told: all that was written, and the status behind it if nothing is missing
 * between (virtio 1.3, 2.7.8.2: at least so many bytes from the start). */
static inline uint32_t virtqueue_used_length(const struct chain_slot *s, uint64_t written)
{
	return written + (s->chain.has_status && written == s->chain.writable_bytes);
}

/* descriptor.c: copies the chain at head into out (each descriptor read once) and checks its form.
 * Entries, or -EPROTO with *reason.  If the last entry has VRING_DESC_F_INDIRECT the rest of the
 * chain is in that table. */
int descriptor_walk(const struct vring_desc *table, unsigned entries, unsigned head,
		    struct vring_desc *out, unsigned max, const char **reason);
/* Checks what both walks found: order, sum.  0 or -EPROTO. */
int descriptor_check(const struct vring_desc *list, unsigned count, const char **reason);
/* Checks an indirect descriptor.  The entries of its table, or -EPROTO. */
int descriptor_table_entries(const struct virtqueue *q, const struct vring_desc *d,
			     const char **reason);

struct vring_desc descriptor_copy_packed(const struct vring_desc *from, uint16_t flags);
/* Copies an indirect table of the ring's kind: as descriptor_walk(). */
int descriptor_table_walk(const struct virtqueue *q, const struct vring_desc *table,
			  unsigned entries, struct vring_desc *out, unsigned max,
			  const char **reason);

/* chain_map.c */
/* One part of a ring.  True: it is in mapped memory, in one piece, or remote as a whole. */
bool ring_part_locate(const struct memory_map *map, uint64_t iova, uint64_t bytes, unsigned access,
		      void **host);
/* Makes the `count` descriptors in q->walk, the last of which may name an indirect table, into the
 * slot's segments: 0, CHAIN_REMOTE or -EPROTO. */
int chain_map(struct virtqueue *q, struct chain_slot *s, unsigned count);

/* packed_ring.c */
void packed_ring_begin(struct virtqueue *q);
int packed_ring_locate(struct virtqueue *q, const struct memory_map *map);
bool packed_ring_sync(struct virtqueue *q);	/* whether there is a chain to pop */
/* Copies the next available chain into q->walk and goes past it; *id: its buffer's.  Descriptors, 0
 * for none, or -EPROTO. */
int packed_ring_walk(struct virtqueue *q, unsigned *id);
void packed_ring_put_used(struct virtqueue *q, const struct chain_slot *s, uint32_t length);
/* Whether the descriptor at a place of the mapped ring is available in its lap. */
bool packed_ring_is_available(const struct virtqueue *q, struct packed_place place);
/* So many descriptors, from the used place on, had been taken before: what was written over them
 * and not published must never be seen as used. */
void packed_ring_take_back(struct virtqueue *q, unsigned count);
void packed_ring_publish(struct virtqueue *q);
bool packed_ring_wants_interrupt(struct virtqueue *q, struct packed_place old);
bool packed_ring_listen(struct virtqueue *q);
void packed_ring_mute(struct virtqueue *q);
/* Shared with the remote side. */
void packed_ring_advance(const struct virtqueue *q, struct packed_place *place, unsigned count);
void packed_ring_go_back(const struct virtqueue *q, struct packed_place *place, unsigned count);
bool packed_ring_shows(const struct vring_packed_desc *d, bool wrap);
void packed_ring_fill_used(struct vring_packed_desc *d, unsigned id, uint32_t length, bool wrap);
/* Stores one used descriptor into the mapped ring: its flags last, and once. */
void packed_ring_store_used(struct virtqueue *q, unsigned at, const struct vring_packed_desc *used);
bool packed_ring_needs_event(const struct virtqueue *q, const struct vring_packed_desc_event *event,
			struct packed_place old);

/* split_ring.c */
int split_ring_locate(struct virtqueue *q, const struct memory_map *map);
int split_ring_sync(struct virtqueue *q);	/* copies new heads; 0 or -errno */
int split_ring_chain(struct virtqueue *q, struct chain_slot *s, unsigned head);
void split_ring_put_used(struct virtqueue *q, unsigned id, uint32_t length);
void split_ring_publish(struct virtqueue *q);
void split_ring_mark_put(struct virtqueue *q, uint16_t since);	/* q->log is set */
bool split_ring_wants_interrupt(struct virtqueue *q, uint16_t old);
bool split_ring_listen(struct virtqueue *q);
void split_ring_mute(struct virtqueue *q);
void virtqueue_interrupt(struct virtqueue *q);

/* coalesce.c: after a publication; wanted: the driver is to hear of it. */
void virtqueue_coalesce(struct virtqueue *q, bool wanted);

static inline void virtqueue_interrupt_if(struct virtqueue *q, bool wanted)
{
	if (unlikely(q->coalescing.wait_ns))
		virtqueue_coalesce(q, wanted);
	else if (wanted)
		virtqueue_interrupt(q);
	else
		counter_add(&q->numbers.interrupts_suppressed, 1);
}

/* inflight.c */
int inflight_recover(struct virtqueue *q, void *region, size_t bytes, struct error *e);
void inflight_take(struct virtqueue *q, unsigned head);
void inflight_return(struct virtqueue *q, unsigned head);
void inflight_publish(struct virtqueue *q);
void inflight_untake(struct virtqueue *q, const struct chain_slot *s);	/* either ring's */

/* inflight_packed.c: of a mapped ring; remote ones are not tracked. */
size_t inflight_packed_size(uint16_t size);
int inflight_packed_recover(struct virtqueue *q, void *region, struct error *e);
/* Of the chain whose descriptors are in q->walk, but for the last one.  0 or -EPROTO. */
int inflight_packed_take(struct virtqueue *q, struct chain_slot *s, const struct vring_desc *last);
void inflight_packed_return(struct virtqueue *q, const struct chain_slot *s);
void inflight_packed_untake(struct virtqueue *q, const struct chain_slot *s);
void inflight_packed_prepare(struct virtqueue *q);	/* just before the batch is published */
void inflight_packed_publish(struct virtqueue *q);	/* just after */
/* The next chain to hand out again: as packed_ring_walk(). */
int inflight_packed_walk(struct virtqueue *q, unsigned *id);

/* fetch.c */
int fetch_sync(struct virtqueue *q);
int fetch_pop(struct virtqueue *q, struct virtqueue_chain **c);
bool fetch_is_busy(const struct virtqueue *q);	/* something is on its way */
bool fetch_is_syncing(const struct virtqueue *q);	/* the available ring is */
void fetch_look_again(struct virtqueue *q);	/* the memory has changed: ask the driver again */
void fetch_resume(struct virtqueue *q);		/* there is a ring again */
bool fetch_has_chains(const struct virtqueue *q);	/* not popped yet, here or on their way */
/* Mapped ring, remote payload.  again: left by a former process. */
int fetch_chain(struct virtqueue *q, unsigned head, bool again);
/* The same for a packed ring, whose chain is in q->walk; remote_queue_get() before. */
int fetch_packed_chain(struct virtqueue *q, unsigned id, unsigned count);
struct remote_queue *remote_queue_get(struct virtqueue *q);	/* NULL: the queue is broken */
bool fetch_is_ready(const struct virtqueue *q);	/* the next chain can be popped */
void fetch_forget(struct virtqueue *q);		/* drops chains that were not popped */
/* The same for a broken queue, as soon as nothing is on its way: they hold memory. */
void fetch_drop_if_broken(struct virtqueue *q);
void remote_queue_free(struct virtqueue *q);

/* deliver.c */
void deliver_push(struct virtqueue *q, struct chain_slot *s, uint64_t written, uint8_t status);
void deliver_flush(struct virtqueue *q);
void deliver_resume(struct virtqueue *q);	/* there is a ring again */
bool deliver_is_busy(const struct virtqueue *q);

#endif
