/* guest_blk.h - a block driver over one queue: a fixed number of request slots, each with a buffer.
 * The plain driver of unit tests and the benchmark; the simulation lays its requests out itself. */
#ifndef DRIVER_GUEST_BLK_H
#define DRIVER_GUEST_BLK_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>

#include "driver/guest_queue.h"

enum { GUEST_BLK_RANGES_MAX = 2 };

/* What a request needs beside its payload, in guest memory, one line: the device reads the header
 * and stores the status behind it. */
struct guest_blk_record {
	_Alignas(64) struct virtio_blk_outhdr header;
	uint8_t status;
	_Alignas(8) struct virtio_blk_discard_write_zeroes ranges[GUEST_BLK_RANGES_MAX];
};

struct guest_blk_slot {
	struct guest_blk_record *record;	/* in guest memory */
	void *buffer;				/* in guest memory, buffer_size bytes */
	uint64_t record_iova, buffer_iova;
	struct guest_layout indirect;
	uint64_t submitted_ns;			/* the caller's, like the next */
	void *owner;
};

struct guest_blk {
	struct guest_queue *queue;		/* borrowed */
	struct guest_blk_slot *slots;		/* owned */
	unsigned slot_count;
	uint32_t buffer_size;			/* bytes */
	bool indirect;				/* put each chain into an indirect table */
};

/* Slots and buffers are taken from m. */
void guest_blk_open(struct guest_blk *b, struct guest_queue *q, struct guest_memory *m,
		    unsigned slots, uint32_t buffer_size, bool indirect);
void guest_blk_close(struct guest_blk *b);
/* Puts each slot's indirect table on a page of its own. */
void guest_blk_scatter_tables(struct guest_blk *b, struct guest_memory *m);

/* Adds a request; nothing is published.  type: VIRTIO_BLK_T_IN, OUT, FLUSH or GET_ID with `length`
 * bytes of the slot's buffer.  False: no room in the ring. */
bool guest_blk_add(struct guest_blk *b, struct guest_blk_slot *s, uint32_t type, uint64_t sector,
		   uint32_t length);
/* VIRTIO_BLK_T_DISCARD or WRITE_ZEROES of one range. */
bool guest_blk_add_clear(struct guest_blk *b, struct guest_blk_slot *s, uint32_t type,
			 uint64_t sector, uint32_t sectors, uint32_t flags);

/* 1 *s has come back, its status is in its record; 0 none; -EPROTO as guest_queue_take(). */
int guest_blk_take(struct guest_blk *b, struct guest_blk_slot **s);

#endif
