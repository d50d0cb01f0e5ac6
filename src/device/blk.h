/* blk.h - a virtio block device (virtio 1.3, 5.2) in front of a storage. */
#ifndef DEVICE_BLK_H
#define DEVICE_BLK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct blk;
struct error;
struct storage;
struct virtio_device;
struct virtio_device_options;

struct blk_options {
	struct storage *storage;	/* borrowed until blk_free() */
	const char *serial;		/* at most 20 bytes, GET_ID; NULL: the device's name */
	uint32_t block_size;		/* bytes, power of two, 512..65536; 0: the storage's */
	bool read_only;			/* offer VIRTIO_BLK_F_RO even if the storage could write */
};

/* Control thread.  NULL with *e. */
struct blk *blk_create(const struct blk_options *options,
		       const struct virtio_device_options *device_options, struct error *e);
void blk_free(struct blk *b);			/* queues stopped; NULL is ignored */
struct virtio_device *blk_device(struct blk *b);	/* owned by b */

/* Latency percentiles per kind of request, as "latency NAME read p50_ns=... p99_ns=..." lines.  Any
 * thread. */
void blk_print_latencies(struct blk *b, FILE *to);

#endif
