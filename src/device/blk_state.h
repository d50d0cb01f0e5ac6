/* blk_state.h - a block device and its queues, as blk.c and blk_queue.c share them. */
#ifndef DEVICE_BLK_STATE_H
#define DEVICE_BLK_STATE_H

#include <linux/virtio_blk.h>

#include "base/counter.h"
#include "base/histogram.h"
#include "device/blk_request.h"
#include "storage/storage.h"
#include "virtio/virtio_queue.h"

struct stream_reader;
struct stream_writer;

enum { BLK_CLEAR_MAX = 1 << 30 };	/* bytes of one range of DISCARD or WRITE_ZEROES */
enum { BLK_SEGMENT_MAX = 1 << 20 };	/* bytes: size_max */
enum { BLK_SEGMENTS_MAX = 254 };	/* seg_max, queue size permitting */

struct blk_numbers {
	uint64_t requests[BLK_KINDS];
	uint64_t bytes_read, bytes_written, bytes_discarded, bytes_zeroed;
	uint64_t errors, unsupported;
};

/* Lives as long as the device; what belongs to one run of the queue is from start to stop. */
struct blk_queue {
	struct blk *blk;
	struct virtio_queue *queue;
	struct storage_channel *channel;	/* from start to stop */
	char *slots;				/* owned, from start to stop; pages.h */
	unsigned slot_count;
	struct blk_range *ranges;		/* owned, likewise: BLK_RANGES_MAX per slot */
	size_t stride;				/* bytes from slot to slot */
	struct blk_rules rules;			/* size is kept fresh */
	bool has_cache;				/* a write is stable only after a flush */
	bool knows_no_cache;			/* the driver: it takes every write for stable */
	struct blk_numbers numbers;
	struct histogram latency[BLK_KINDS];	/* nanoseconds */
	struct counter_group group;
};

struct blk {
	struct storage *storage;		/* borrowed */
	struct virtio_device *device;		/* owned */
	bool read_only;
	bool write_back;			/* atomic: the driver may set it (CONFIG_WCE) */
	char serial[BLK_ID_SIZE];		/* padded with zeroes */
	struct virtio_blk_config config;	/* little-endian, as the driver reads it */
	unsigned queue_count;
	struct blk_queue queues[];
};

/* blk_migration.c: entries of struct virtio_device_type. */
extern const char *const blk_records[];
void blk_save_identity(const struct virtio_device *d, struct stream_writer *w);
void blk_save(const struct virtio_device *d, struct stream_writer *w);
int blk_load(struct virtio_device *d, const char *name, struct stream_reader *r, bool apply,
	     struct error *e);

/* blk_queue.c: the entries of struct virtio_device_type that run on a worker. */
int blk_queue_start(struct virtio_queue *q, struct error *e);
void blk_queue_work(struct virtio_queue *q);
void blk_queue_stop(struct virtio_queue *q);
void blk_queue_withdraw(struct virtio_queue *q);
void blk_queue_again(struct virtio_queue *q, struct virtqueue_chain *c);

#endif
