/* If this fails, a request reaches a disk it must not reach, or ends in the wrong way. */
#include "test_storage_bed.h"

#include "base/counter.h"

static unsigned char buffer[64 * 1024], other[64 * 1024];

static void reads_back_what_was_written(void **state)
{
	struct bed b;

	bed_open(&b, "memory:?size=1M");
	fill_pattern(buffer, sizeof(buffer), 1);
	assert_int_equal(bed_write(&b, 8192, sizeof(buffer), buffer), 0);
	memset(other, 0xff, sizeof(other));
	assert_int_equal(bed_read(&b, 8192, sizeof(other), other), 0);
	assert_memory_equal(buffer, other, sizeof(other));
	assert_int_equal(bed_read(&b, 8192 + sizeof(other), 512, other), 0);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(other[i], 0);
	assert_int_equal(bed_do(&b, STORAGE_FLUSH, 0, 0, 0, NULL), 0);
	bed_close(&b);
}

static void clears_exactly_what_it_should(enum storage_operation operation, unsigned flags)
{
	static unsigned char disk[64 * 1024];
	struct bed b;

	bed_open(&b, "memory:?size=64K");
	for (unsigned at = 0; at < sizeof(disk); at += 5 * 512) {
		uint64_t length = minimum_u64((1 + at / 512 % 30) * 512, sizeof(disk) - at);

		fill_pattern(buffer, sizeof(disk), at);
		memcpy(disk, buffer, sizeof(disk));
		memset(disk + at, 0, length);
		assert_int_equal(bed_write(&b, 0, sizeof(disk), buffer), 0);
		assert_int_equal(bed_do(&b, operation, flags, at, length, NULL), 0);
		assert_int_equal(bed_read(&b, 0, sizeof(disk), other), 0);
		assert_memory_equal(other, disk, sizeof(disk));
	}
	bed_close(&b);
}

static void memory_clears_to_the_byte(void **state)
{
	clears_exactly_what_it_should(STORAGE_DISCARD, 0);
	clears_exactly_what_it_should(STORAGE_WRITE_ZEROES, 0);
	clears_exactly_what_it_should(STORAGE_WRITE_ZEROES, STORAGE_UNMAP);
}

static void refuses_ranges_outside(void **state)
{
	struct bed b;

	bed_open(&b, "memory:?size=1M");
	assert_int_equal(bed_read(&b, (1 << 20) - 512, 512, buffer), 0);
	assert_int_equal(bed_read(&b, (1 << 20) - 512, 1024, buffer), -ENOSPC);
	assert_int_equal(bed_write(&b, 1 << 20, 512, buffer), -ENOSPC);
	assert_int_equal(bed_write(&b, UINT64_MAX - 511, 512, buffer), -ENOSPC);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 512, UINT64_MAX - 511, NULL), -ENOSPC);
	assert_int_equal(bed_do(&b, STORAGE_WRITE_ZEROES, 0, 512, 1 << 20, NULL), -ENOSPC);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 1 << 20, 0, NULL), 0);
	bed_close(&b);
}

static void refuses_misaligned_requests(void **state)
{
	struct bed b;

	bed_open(&b, "memory:?size=1M&block-size=4096");
	assert_int_equal(storage_limits(b.storage)->block_size, 4096);
	assert_int_equal(bed_read(&b, 512, 4096, buffer), -EINVAL);
	assert_int_equal(bed_write(&b, 4096, 512, buffer), -EINVAL);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 1, 4096, NULL), -EINVAL);
	assert_int_equal(bed_read(&b, 4096, 4096, buffer), 0);
	bed_close(&b);
}

static void refuses_writes_to_a_read_only_disk(void **state)
{
	struct bed b;

	bed_open_mode(&b, "memory:?size=1M", true);
	assert_true(storage_limits(b.storage)->read_only);
	assert_int_equal(bed_read(&b, 0, 512, buffer), 0);
	assert_int_equal(bed_do(&b, STORAGE_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(bed_write(&b, 0, 512, buffer), -EROFS);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 0, 512, NULL), -EROFS);
	assert_int_equal(bed_do(&b, STORAGE_WRITE_ZEROES, 0, 0, 512, NULL), -EROFS);
	bed_close(&b);
}

/* An empty request ends well and reaches no layer: this one would fail it. */
static void nothing_to_do_is_no_error(void **state)
{
	struct bed b;

	bed_open(&b, "fault+memory:?size=1M");
	assert_int_equal(bed_read(&b, 0, 0, buffer), 0);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 512, 0, NULL), 0);
	assert_int_equal(bed_do(&b, STORAGE_FLUSH, 0, 0, 0, NULL), -EIO);
	bed_close(&b);
	/* No cache: a flush has nothing to do either. */
	bed_open(&b, "fault+null:?size=1M");
	assert_int_equal(bed_do(&b, STORAGE_FLUSH, 0, 0, 0, NULL), 0);
	bed_close(&b);
}

static void null_leaves_or_clears_the_buffer(void **state)
{
	struct bed b;

	bed_open(&b, "null:");
	assert_int_equal(storage_size(b.storage), 1 << 30);
	memset(buffer, 0x55, 512);
	assert_int_equal(bed_read(&b, 0, 512, buffer), 0);
	assert_int_equal(buffer[511], 0x55);
	assert_int_equal(bed_write(&b, 0, 512, buffer), 0);
	assert_int_equal(bed_do(&b, STORAGE_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 0, 512, NULL), 0);
	bed_close(&b);
	bed_open(&b, "null:?size=2M&read-zeroes=on");
	assert_int_equal(bed_read(&b, 0, 512, buffer), 0);
	assert_int_equal(buffer[0] | buffer[511], 0);
	bed_close(&b);
}

/* Each done submits the next: none of them inside another's submit, all in one list. */
static unsigned again;
static struct bed *again_bed;

static void done_again(struct storage_io *io)
{
	request_done(io);
	if (--again)
		request_submit(again_bed->channel, CONTAINER_OF(io, struct request, io));
}

static void done_may_submit(void **state)
{
	struct bed b;
	struct request *q;

	bed_open(&b, "null:");
	again = 1000;
	again_bed = &b;
	q = bed_request(&b, STORAGE_READ, 0, 512, buffer);
	q->io.done = done_again;
	bed_submit(&b, q);
	assert_int_equal(q->done, 0);
	for (unsigned i = 0; again && i < 5000; i++)
		reactor_world_step(b.world);
	assert_int_equal(q->done, 1000);
	free(q);
	bed_close(&b);
}

static unsigned order[4], order_count;

static void note_order(struct storage_io *io)
{
	request_done(io);
	order[order_count++] = io->offset / 512;
}

static void completes_in_order_of_completion(void **state)
{
	struct request *q[4];
	struct bed b;

	bed_open(&b, "null:");
	order_count = 0;
	for (unsigned i = 0; i < 4; i++) {
		/* The third is refused by the funnel itself, which changes nothing. */
		q[i] = bed_request(&b, STORAGE_READ, i * 512, i == 2 ? 3 : 512, buffer);
		q[i]->io.done = note_order;
		bed_submit(&b, q[i]);
	}
	bed_run(&b);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(order[i], i);
		assert_int_equal(q[i]->io.status, i == 2 ? -EINVAL : 0);
		free(q[i]);
	}
	bed_close(&b);
}

static void close_in_done(struct storage_io *io)
{
	request_done(io);
	storage_channel_close(again_bed->channel);
	again_bed->channel = NULL;
}

static void the_last_done_may_close_the_channel(void **state)
{
	struct request *q;
	struct error e;
	struct bed b;

	bed_open(&b, "null:");
	again_bed = &b;
	q = bed_request(&b, STORAGE_READ, 0, 512, buffer);
	q->io.done = close_in_done;
	bed_submit(&b, q);
	bed_wait(&b, q);
	assert_null(b.channel);
	free(q);
	reactor_world_enter(b.world, b.worker[0]);
	b.channel = storage_channel_open(b.storage, b.worker[0], &e);
	bed_close(&b);
}

static void channels_are_counted_per_reactor(void **state)
{
	struct storage_channel *same, *second;
	struct request *q;
	struct error e;
	struct bed b;

	bed_open(&b, "memory:?size=1M");
	same = storage_channel_open(b.storage, b.worker[0], &e);
	assert_ptr_equal(same, b.channel);
	storage_channel_close(same);
	assert_int_equal(bed_read(&b, 0, 512, buffer), 0);

	reactor_world_enter(b.world, b.worker[1]);
	second = storage_channel_open(b.storage, b.worker[1], &e);
	assert_ptr_not_equal(second, b.channel);
	fill_pattern(buffer, 512, 9);
	q = bed_request(&b, STORAGE_WRITE, 0, 512, buffer);
	request_submit(second, q);
	bed_wait(&b, q);
	free(q);
	assert_int_equal(bed_read(&b, 0, 512, other), 0);
	assert_memory_equal(buffer, other, 512);
	reactor_world_enter(b.world, b.worker[1]);
	storage_channel_close(second);
	bed_close(&b);
}

static void counts_what_passes(void **state)
{
	char *text = NULL;
	size_t size;
	FILE *to;
	struct reactor_world *w = reactor_world_create(1);
	struct reactor *r = reactor_virtual_create(w, "control");
	struct error e = { 0 };
	struct storage *s;
	struct storage_channel *ch;
	struct request *q;

	reactor_world_enter(w, r);
	s = storage_open("vdcount", "memory:?size=1M", false, r, &e);
	ch = storage_channel_open(s, r, &e);
	for (unsigned i = 0; i < 3; i++) {
		q = request_create(s, w, STORAGE_WRITE, i == 2 ? 1 << 20 : 0, 4096, buffer);
		request_submit(ch, q);
		while (!q->done && reactor_world_step(w))
			;
		free(q);
	}
	storage_channel_close(ch);
	storage_close(s);
	to = open_memstream(&text, &size);
	counter_print_all(to);
	fclose(to);
	assert_non_null(strstr(text, "storage vdcount writes 3\n"));
	assert_non_null(strstr(text, "storage vdcount write_bytes 12288\n"));
	assert_non_null(strstr(text, "storage vdcount errors 1\n"));
	assert_null(strstr(text, "storage vdcount reads"));
	free(text);
	reactor_world_enter(w, NULL);
	reactor_free(r);
	reactor_world_free(w);
}

static void refuses_bad_disks(void **state)
{
	refuses_uri("memory:", -EINVAL, "\"size\" is needed");
	refuses_uri("memory:?size=1000", -EINVAL, "multiple of the block size");
	refuses_uri("memory:?size=8388608T", -ENOMEM, "address space");
	refuses_uri("memory:?size=0", -EINVAL, "\"size\" is needed");
	refuses_uri("null:?block-size=256", -EINVAL, "not a power of two");
	refuses_uri("null:?block-size=3000", -EINVAL, "not a power of two");
	refuses_uri("null:?read-zeroes=yes", -EINVAL, "neither on nor off");
	refuses_uri("delay+nulll:?size=1G", -EINVAL, "unknown scheme");
	refuses_uri("delay+null:?mss=1", -EINVAL, "unknown option");
	refuses_uri("file:/nowhere/disk", -ENOENT, "file:/nowhere/disk: No such file");
}

static void null_size_is_whole_blocks(void **state)
{
	struct bed b;

	bed_open(&b, "null:?size=10000&block-size=4096");
	assert_int_equal(storage_size(b.storage), 8192);
	assert_int_equal(storage_limits(b.storage)->size, 8192);
	bed_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_back_what_was_written),
		cmocka_unit_test(memory_clears_to_the_byte),
		cmocka_unit_test(refuses_ranges_outside),
		cmocka_unit_test(refuses_misaligned_requests),
		cmocka_unit_test(refuses_writes_to_a_read_only_disk),
		cmocka_unit_test(nothing_to_do_is_no_error),
		cmocka_unit_test(null_leaves_or_clears_the_buffer),
		cmocka_unit_test(done_may_submit),
		cmocka_unit_test(completes_in_order_of_completion),
		cmocka_unit_test(the_last_done_may_close_the_channel),
		cmocka_unit_test(channels_are_counted_per_reactor),
		cmocka_unit_test(counts_what_passes),
		cmocka_unit_test(refuses_bad_disks),
		cmocka_unit_test(null_size_is_whole_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
