/* sim_layout.c - how a request lies in guest memory.
 *
 * The readable bytes (header, payload) and the writable ones (payload, status) are each cut into
 * segments at random places, or where drivers usually do.  Segments lie in the request's area in
 * order, with gaps of known bytes before, between and behind, which nobody may touch. */
#include <linux/virtio_blk.h>
#include <string.h>

#include "base/bytes.h"
#include "sim.h"

enum { GAP_MAX = 48, GAP_BYTE = 0xa5, STATUS_UNSET = 0xee, HEADER_BYTES = 16, CUTS_MAX = 12 };

/* ---- segments ---- */

static void append(struct sim *s, struct sim_request *r, uint32_t length, bool writable)
{
	r->area_used += 1 + sim_pick(s, GAP_MAX);
	r->segments[r->segment_count++] = (struct guest_segment){ r->area_iova + r->area_used,
								  length, writable };
	r->area_used += length;
}

/* Cuts `length` bytes into at most CUTS_MAX segments. */
static void append_cut(struct sim *s, struct sim_request *r, uint32_t length, bool writable)
{
	for (unsigned i = 1; i < CUTS_MAX && length > 1 && sim_chance(s, 2); i++) {
		uint32_t part = 1 + sim_pick(s, length - 1);

		append(s, r, part, writable);
		length -= part;
	}
	append(s, r, length, writable);
}

/* A part of its own for header or status, as most drivers do. */
static void append_parts(struct sim *s, struct sim_request *r, uint32_t first, uint32_t second,
			 bool writable)
{
	if (first && second && sim_chance(s, 2)) {
		append_cut(s, r, first, writable);
		append_cut(s, r, second, writable);
	} else if (first + second) {
		append_cut(s, r, first + second, writable);
	}
}

static void choose_indirect(struct sim *s, struct sim_queue *q, struct sim_request *r)
{
	unsigned room = q->ring.free_count;

	r->layout.direct = r->segment_count;
	if (!s->plan.indirect)
		return;
	if (sim_chance(s, 2) || r->segment_count > room)
		r->layout.direct = sim_chance(s, 2) ? 0 : sim_pick(s, r->segment_count);
	if (r->layout.direct >= room)
		r->layout.direct = room ? room - 1 : 0;
	if (s->plan.packed && r->layout.direct < r->segment_count) /* all, or none: 2.8.7 */
		r->layout.direct = 0;
}

static void choose_segments(struct sim *s, struct sim_queue *q, struct sim_request *r)
{
	r->segment_count = r->area_used = 0;
	append_parts(s, r, minimum_u64(r->readable, HEADER_BYTES),
		     r->readable - minimum_u64(r->readable, HEADER_BYTES), false);
	r->readable_count = r->segment_count;
	append_parts(s, r, r->writable - 1, 1, true);
	choose_indirect(s, q, r);
}

/* ---- bytes ---- */

/* Copies between a flat buffer and the request's readable or writable segments. */
static void copy(struct sim *s, const struct sim_request *r, bool writable, uint32_t offset,
		 void *local, uint32_t length, bool to_guest)
{
	char *at = local;

	for (unsigned i = 0; i < r->segment_count && length; i++) {
		const struct guest_segment *g = &r->segments[i];
		uint32_t part;

		if (g->writable != writable)
			continue;
		if (offset >= g->length) {
			offset -= g->length;
			continue;
		}
		part = minimum_u64(length, g->length - offset);
		sim_guest_copy(s, g->iova + offset, at, part, to_guest);
		offset = 0;
		at += part;
		length -= part;
	}
}

static void put_header(struct sim *s, const struct sim_request *r)
{
	struct virtio_blk_outhdr header = { .type = htole32(r->type) };

	if (r->range_count == 1 && r->type <= VIRTIO_BLK_T_OUT)
		header.sector = htole64(r->ranges[0].sector);
	copy(s, r, false, 0, &header, minimum_u64(r->readable, sizeof(header)), true);
}

static void put_sectors(struct sim *s, const struct sim_request *r)
{
	char bytes[PAYLOAD_MAX];

	for (uint32_t i = 0; i < r->payload / SECTOR; i++)
		sim_disk_fill(bytes + i * SECTOR, r->stamp, r->ranges[0].sector + i);
	copy(s, r, false, HEADER_BYTES, bytes, r->payload, true);
}

static void put_ranges(struct sim *s, const struct sim_request *r)
{
	struct virtio_blk_discard_write_zeroes list[RANGES_MAX];

	for (unsigned i = 0; i < r->range_count; i++)
		list[i] = (struct virtio_blk_discard_write_zeroes){
			.sector = htole64(r->ranges[i].sector),
			.num_sectors = htole32(r->ranges[i].sectors),
			.flags = htole32(r->type == VIRTIO_BLK_T_WRITE_ZEROES ? sim_pick(s, 2) : 0),
		};
	copy(s, r, false, HEADER_BYTES, list, r->range_count * sizeof(list[0]), true);
}

static void fill_area(struct sim *s, const struct sim_request *r)
{
	static char gap[AREA];

	memset(gap, GAP_BYTE, sizeof(gap));
	sim_guest_copy(s, r->area_iova, gap, r->area_used + GAP_MAX, true);
}

void sim_layout_write(struct sim *s, struct sim_queue *q, struct sim_request *r)
{
	uint8_t unset = STATUS_UNSET;

	choose_segments(s, q, r);
	fill_area(s, r);
	put_header(s, r);
	if (r->type == VIRTIO_BLK_T_OUT && r->range_count)
		put_sectors(s, r);
	if (r->type == VIRTIO_BLK_T_DISCARD || r->type == VIRTIO_BLK_T_WRITE_ZEROES)
		put_ranges(s, r);
	copy(s, r, true, r->writable - 1, &unset, 1, true);
}

/* ---- back ---- */

void sim_layout_read_payload(struct sim *s, const struct sim_request *r, void *to)
{
	copy(s, r, true, 0, to, r->writable - 1, false);
}

uint8_t sim_layout_status(struct sim *s, const struct sim_request *r)
{
	uint8_t status;

	copy(s, r, true, r->writable - 1, &status, 1, false);
	return status;
}

static void check_gap(struct sim *s, uint64_t from, uint64_t to)
{
	uint8_t bytes[2 * GAP_MAX];

	sim_guest_copy(s, from, bytes, to - from, false);
	for (uint64_t i = 0; i < to - from; i++)
		if (bytes[i] != GAP_BYTE)
			sim_fail(s, "a byte at 0x%llx was written, which belongs to no request",
				 (unsigned long long)(from + i));
}

void sim_layout_check_gaps(struct sim *s, const struct sim_request *r)
{
	uint64_t at = r->area_iova;

	for (unsigned i = 0; i < r->segment_count; i++) {
		check_gap(s, at, r->segments[i].iova);
		at = r->segments[i].iova + r->segments[i].length;
	}
	check_gap(s, at, r->area_iova + r->area_used + GAP_MAX);
}
