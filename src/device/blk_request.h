/* blk_request.h - from a driver's bytes to a checked request (virtio 1.3, 5.2.6).
 *
 * Pure functions on our own copies: nothing here looks at guest memory, so nothing can change
 * between check and use.
 */
#ifndef DEVICE_BLK_REQUEST_H
#define DEVICE_BLK_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BLK_HEADER_SIZE = 16, BLK_RANGE_SIZE = 16, BLK_RANGES_MAX = 16, BLK_ID_SIZE = 20 };

enum blk_kind {
	BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES, BLK_GET_ID,
	BLK_OTHER,	/* refused before its kind was known */
	BLK_KINDS
};

/* What the device can do at this moment. */
struct blk_rules {
	uint64_t size;			/* bytes */
	uint32_t block_size;		/* bytes: offsets and lengths are multiples */
	uint64_t clear_max;		/* bytes of one discarded or zeroed range */
	bool read_only, can_discard, can_write_zeroes;
};

struct blk_range {
	uint64_t offset, length;	/* bytes */
	bool unmap;
};

struct blk_request {
	enum blk_kind kind;
	uint64_t offset, length;	/* bytes; READ, WRITE */
	unsigned range_count;		/* DISCARD, WRITE_ZEROES: ranges that follow as payload */
};

/* Checks the header against the sizes of the payload.  VIRTIO_BLK_S_OK, or the status to answer. */
uint8_t blk_request_parse(const void *header, size_t header_bytes, uint64_t readable_bytes,
			  uint64_t writable_bytes, const struct blk_rules *rules,
			  struct blk_request *request);

/* Checks request->range_count ranges of BLK_RANGE_SIZE bytes each.  Likewise. */
uint8_t blk_ranges_parse(const void *bytes, const struct blk_rules *rules,
			 const struct blk_request *request, struct blk_range *ranges);

#endif
