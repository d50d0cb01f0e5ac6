/* blk_request.c - from a driver's bytes to a checked request (virtio 1.3, 5.2.6). */
#include "device/blk_request.h"

#include <linux/virtio_blk.h>

#include "base/bytes.h"

enum { SECTOR_SIZE = 512 }; /* the unit of the protocol, whatever blk_size says */

/* A sector number times its size may not wrap. */
static bool place(const struct blk_rules *rules, uint64_t sector, uint64_t length, uint64_t *offset)
{
	if (sector > UINT64_MAX / SECTOR_SIZE)
		return false;
	*offset = sector * SECTOR_SIZE;
	return range_fits(*offset, length, rules->size) && *offset % rules->block_size == 0 &&
	       length % rules->block_size == 0;
}

static uint8_t parse_transfer(enum blk_kind kind, uint64_t sector, uint64_t length,
			      const struct blk_rules *rules, struct blk_request *request)
{
	request->kind = kind;
	request->length = length;
	return place(rules, sector, length, &request->offset) ? VIRTIO_BLK_S_OK
							      : VIRTIO_BLK_S_IOERR;
}

static uint8_t parse_clear(enum blk_kind kind, bool able, uint64_t bytes,
			   const struct blk_rules *rules, struct blk_request *request)
{
	request->kind = kind;
	if (!able)
		return VIRTIO_BLK_S_UNSUPP;
	/* 5.2.6.2: a discard or a write to a read-only device fails */
	if (rules->read_only || !bytes || bytes % BLK_RANGE_SIZE ||
	    bytes / BLK_RANGE_SIZE > BLK_RANGES_MAX)
		return VIRTIO_BLK_S_IOERR;
	request->range_count = bytes / BLK_RANGE_SIZE;
	return VIRTIO_BLK_S_OK;
}

uint8_t blk_request_parse(const void *header, size_t header_bytes, uint64_t readable_bytes,
			  uint64_t writable_bytes, const struct blk_rules *rules,
			  struct blk_request *request)
{
	uint64_t sector;

	*request = (struct blk_request){ .kind = BLK_OTHER };
	if (header_bytes < BLK_HEADER_SIZE)
		return VIRTIO_BLK_S_IOERR;
	sector = load_le64((const char *)header + 8);
	switch (load_le32(header)) {
	case VIRTIO_BLK_T_IN:
		return parse_transfer(BLK_READ, sector, writable_bytes, rules, request);
	case VIRTIO_BLK_T_OUT:
		if (rules->read_only)
			return VIRTIO_BLK_S_IOERR;
		return parse_transfer(BLK_WRITE, sector, readable_bytes, rules, request);
	case VIRTIO_BLK_T_FLUSH:
		request->kind = BLK_FLUSH;
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		request->kind = BLK_GET_ID;
		return writable_bytes < BLK_ID_SIZE ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_DISCARD:
		return parse_clear(BLK_DISCARD, rules->can_discard, readable_bytes, rules, request);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return parse_clear(BLK_WRITE_ZEROES, rules->can_write_zeroes, readable_bytes, rules,
				   request);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* 5.2.6.2: an unknown flag, or "unmap" in a discard, is not supported. */
static bool flags_known(enum blk_kind kind, uint32_t flags)
{
	uint32_t known = kind == BLK_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;

	return !(flags & ~known);
}

uint8_t blk_ranges_parse(const void *bytes, const struct blk_rules *rules,
			 const struct blk_request *request, struct blk_range *ranges)
{
	for (unsigned i = 0; i < request->range_count; i++) {
		const char *at = (const char *)bytes + i * BLK_RANGE_SIZE;
		uint32_t flags = load_le32(at + 12);
		struct blk_range *r = &ranges[i];

		if (!flags_known(request->kind, flags))
			return VIRTIO_BLK_S_UNSUPP;
		r->unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
		r->length = (uint64_t)load_le32(at + 8) * SECTOR_SIZE;
		if (r->length > rules->clear_max ||
		    !place(rules, load_le64(at), r->length, &r->offset))
			return VIRTIO_BLK_S_IOERR;
	}
	return VIRTIO_BLK_S_OK;
}
