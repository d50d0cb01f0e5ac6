/* fuzz_blk_request.c - a request's header and ranges: what passes the parser must be possible. */
#include <assert.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "base/bytes.h"
#include "device/blk_request.h"
#include "fuzz.h"

enum { CONTROL_BYTES = 10 };

static void check_ranges(const uint8_t *bytes, size_t n, const struct blk_rules *rules,
			 const struct blk_request *request)
{
	uint8_t copy[BLK_RANGES_MAX * BLK_RANGE_SIZE] = { 0 };
	struct blk_range ranges[BLK_RANGES_MAX];

	assert(request->range_count <= BLK_RANGES_MAX);
	memcpy(copy, bytes, minimum_u64(n, request->range_count * BLK_RANGE_SIZE));
	if (blk_ranges_parse(copy, rules, request, ranges) != VIRTIO_BLK_S_OK)
		return;
	for (unsigned i = 0; i < request->range_count; i++)
		assert(range_fits(ranges[i].offset, ranges[i].length, rules->size) &&
		       ranges[i].length <= rules->clear_max);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct blk_rules rules = { .size = 1 << 30, .block_size = 512, .clear_max = 1 << 20 };
	struct blk_request request;
	size_t header;

	if (n < CONTROL_BYTES)
		return 0;
	rules.read_only = bytes[0] & 1;
	rules.can_discard = bytes[0] & 2;
	rules.can_write_zeroes = bytes[0] & 4;
	rules.block_size <<= bytes[1] % 8;
	header = minimum_u64(n - CONTROL_BYTES, BLK_HEADER_SIZE);
	if (blk_request_parse(bytes + CONTROL_BYTES, header, load_le32(bytes + 2),
			      load_le32(bytes + 6), &rules, &request) != VIRTIO_BLK_S_OK)
		return 0;
	assert(range_fits(request.offset, request.length, rules.size));
	assert(request.kind != BLK_WRITE || !rules.read_only);
	check_ranges(bytes + CONTROL_BYTES + header, n - CONTROL_BYTES - header, &rules, &request);
	return 0;
}
