/* Broken if this fails: which requests of a driver reach the disk, and what the others are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>
#include <string.h>

#include "base/bytes.h"
#include "device/blk_request.h"

static const struct blk_rules writable = { .size = 1 << 20,
					   .block_size = 512,
					   .clear_max = 1 << 19,
					   .can_discard = true,
					   .can_write_zeroes = true };

static uint8_t parse(const struct blk_rules *rules, uint32_t type, uint64_t sector,
		     uint64_t readable, uint64_t written, struct blk_request *r)
{
	uint8_t header[BLK_HEADER_SIZE] = { 0 };

	store_le32(header, type);
	store_le64(header + 8, sector);
	return blk_request_parse(header, sizeof(header), readable, written, rules, r);
}

static void transfers_end_at_the_disks_end(void **state)
{
	struct blk_request r;

	assert_int_equal(parse(&writable, VIRTIO_BLK_T_IN, 2047, 0, 512, &r), VIRTIO_BLK_S_OK);
	assert_int_equal(r.kind, BLK_READ);
	assert_int_equal(r.offset, 2047 * 512);
	assert_int_equal(r.length, 512);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_IN, 2047, 0, 1024, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_OUT, 2048, 512, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_OUT, 1ull << 55, 512, 0, &r),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_OUT, UINT64_MAX / 512 + 1, 512, 0, &r),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_IN, 0, 0, 100, &r), VIRTIO_BLK_S_IOERR);
}

static void blocks_of_the_disk_are_whole(void **state)
{
	struct blk_rules rules = writable;
	struct blk_request r;

	rules.block_size = 4096;
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_IN, 8, 0, 4096, &r), VIRTIO_BLK_S_OK);
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_IN, 1, 0, 4096, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_OUT, 8, 512, 0, &r), VIRTIO_BLK_S_IOERR);
}

static void a_read_only_disk_is_never_changed(void **state)
{
	struct blk_rules rules = writable;
	struct blk_request r;

	rules.read_only = true;
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_IN, 0, 0, 512, &r), VIRTIO_BLK_S_OK);
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_OUT, 0, 512, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_DISCARD, 0, 16, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 0, &r),
			 VIRTIO_BLK_S_IOERR);
}

static void unknown_and_impossible_requests_are_told_apart(void **state)
{
	struct blk_rules rules = writable;
	struct blk_request r;

	rules.can_discard = false;
	assert_int_equal(parse(&writable, 77, 0, 0, 0, &r), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_SCSI_CMD, 0, 0, 0, &r), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(parse(&rules, VIRTIO_BLK_T_DISCARD, 0, 16, 0, &r), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_GET_ID, 0, 0, 20, &r), VIRTIO_BLK_S_OK);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_GET_ID, 0, 0, 19, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_DISCARD, 0, 0, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_DISCARD, 0, 24, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse(&writable, VIRTIO_BLK_T_DISCARD, 0, 17 * 16, 0, &r),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(blk_request_parse("", 15, 0, 512, &writable, &r), VIRTIO_BLK_S_IOERR);
}

static uint8_t parse_range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags,
			   struct blk_range *range)
{
	uint8_t bytes[BLK_RANGE_SIZE];
	struct blk_request r;

	store_le64(bytes, sector);
	store_le32(bytes + 8, sectors);
	store_le32(bytes + 12, flags);
	assert_int_equal(parse(&writable, type, 0, sizeof(bytes), 0, &r), VIRTIO_BLK_S_OK);
	return blk_ranges_parse(bytes, &writable, &r, range);
}

static void ranges_are_checked_one_by_one(void **state)
{
	struct blk_range r;

	assert_int_equal(parse_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 1, &r), VIRTIO_BLK_S_OK);
	assert_int_equal(r.offset, 4096);
	assert_int_equal(r.length, 4096);
	assert_true(r.unmap);
	assert_int_equal(parse_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 2, &r), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, 8, 8, 1, &r), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, 2040, 9, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, 0, 1025, 0, &r), VIRTIO_BLK_S_IOERR);
	assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, UINT64_MAX, 1, 0, &r),
			 VIRTIO_BLK_S_IOERR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transfers_end_at_the_disks_end),
		cmocka_unit_test(blocks_of_the_disk_are_whole),
		cmocka_unit_test(a_read_only_disk_is_never_changed),
		cmocka_unit_test(unknown_and_impossible_requests_are_told_apart),
		cmocka_unit_test(ranges_are_checked_one_by_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
