/* If this fails, a filter loses, reorders or changes requests that it should only slow down, cut
 * or fail. */
#include "test_storage_bed.h"

#include <unistd.h>

#include "reactor/reactor_virtual.h"

enum { DISK = 1 << 20 };

static const uint64_t ms = 1000 * 1000;

/* Turns take simulated time too, so a reactor's clock and the world's differ by some of them. */
static void assert_takes(uint64_t took_ns, uint64_t at_least_ns, uint64_t at_most_ns)
{
	const uint64_t slack_ns = 20 * 1000;

	assert_in_range(took_ns + slack_ns, at_least_ns, at_most_ns + 2 * slack_ns);
}

static unsigned char buffer[DISK], other[DISK];

/* ---- split ---- */

/* Cuts a buffer into entries whose sizes are chosen by turns from the list. */
static unsigned scatter(struct iovec *iov, unsigned max, unsigned char *bytes, uint64_t length,
			const unsigned *sizes, unsigned size_count)
{
	unsigned n = 0;

	for (uint64_t at = 0; at < length; n++) {
		uint64_t part = minimum_u64(sizes[n % size_count], length - at);

		assert_true(n < max);
		iov[n] = (struct iovec){ bytes + at, part };
		at += part;
	}
	return n;
}

static int do_scattered(struct bed *b, enum storage_operation operation, uint64_t offset,
			const struct iovec *iov, unsigned count, uint64_t length)
{
	struct request *q = bed_request(b, operation, offset, length, NULL);
	int status;

	q->io.iov = iov;
	q->io.iov_count = count;
	bed_submit(b, q);
	bed_wait(b, q);
	assert_int_equal(q->io.offset, offset);
	assert_int_equal(q->io.length, length);
	assert_ptr_equal(q->io.iov, iov);
	assert_int_equal(q->io.iov_count, count);
	status = q->io.status;
	free(q);
	return status;
}

static void split_moves_every_byte(const char *uri, const unsigned *sizes, unsigned size_count)
{
	static struct iovec iov[DISK / 8];
	struct bed b;

	bed_open(&b, uri);
	for (uint64_t length = 512; length <= 96 * 1024; length += 9 * 512) {
		unsigned n = scatter(iov, DISK / 8, buffer, length, sizes, size_count);

		fill_pattern(buffer, length, length);
		assert_int_equal(do_scattered(&b, STORAGE_WRITE, 1024, iov, n, length), 0);
		memset(other, 0xee, length);
		assert_int_equal(bed_read(&b, 1024, length, other), 0);
		assert_memory_equal(buffer, other, length);
		n = scatter(iov, DISK / 8, other, length, sizes, size_count);
		memset(other, 0xee, length);
		assert_int_equal(do_scattered(&b, STORAGE_READ, 1024, iov, n, length), 0);
		assert_memory_equal(buffer, other, length);
	}
	bed_close(&b);
}

static void split_cuts_scattered_buffers(void **state)
{
	static const unsigned pages[] = { 4096 }, odd[] = { 100, 412, 1, 3000, 9000 },
			      tiny[] = { 8 }, large[] = { 1 << 20 }, mixed[] = { 511, 1, 65536, 7 };
	static const char *const uris[] = {
		"split+memory:?size=1M&transfer-max=4K",
		"split+memory:?size=1M&transfer-max=5000",
		"split+memory:?size=1M&transfer-max=512",
		"split+delay+memory:?size=1M&transfer-max=16K&ms=1&jitter=1ms",
		"split+split+memory:?size=1M&transfer-max=8K",
	};

	for (unsigned i = 0; i < ARRAY_LENGTH(uris); i++) {
		split_moves_every_byte(uris[i], pages, 1);
		split_moves_every_byte(uris[i], odd, ARRAY_LENGTH(odd));
		split_moves_every_byte(uris[i], tiny, 1);
		split_moves_every_byte(uris[i], large, 1);
		split_moves_every_byte(uris[i], mixed, ARRAY_LENGTH(mixed));
	}
}

/* What the layer below the split sees, through a log. */
static void check_chunks(const char *uri, enum storage_operation operation, uint64_t offset,
			 uint64_t length, const char *const *wanted, unsigned wanted_count)
{
	char path[] = "/tmp/test_storage_XXXXXX", full[256], line[256];
	int fd = mkstemp(path);
	FILE *log = fdopen(fd, "r");
	struct bed b;

	snprintf(full, sizeof(full), "%s&log-file=%s", uri, path);
	bed_open(&b, full);
	assert_int_equal(bed_do(&b, operation, 0, offset, length,
				operation <= STORAGE_WRITE ? buffer : NULL),
			 0);
	bed_close(&b);
	for (unsigned i = 0; i < wanted_count; i++) {
		assert_non_null(fgets(line, sizeof(line), log));
		if (!strstr(line, wanted[i]))
			fail_msg("\"%s\" lacks \"%s\"", line, wanted[i]);
	}
	assert_null(fgets(line, sizeof(line), log));
	fclose(log);
	unlink(path);
}

static void split_cuts_where_it_should(void **state)
{
	static const char *const reads[] = { "read offset 512 length 4096: ok",
					     "read offset 4608 length 4096: ok",
					     "read offset 8704 length 512: ok" };
	/* The first chunk is shorter, so that those after it begin on the granule. */
	static const char *const clears[] = { "discard offset 512 length 7680: ok",
					      "discard offset 8192 length 8192: ok",
					      "discard offset 16384 length 512: ok" };
	static const char *const one[] = { "read offset 512 length 4096: ok" };

	check_chunks("split+log+memory:?size=1M&transfer-max=4K", STORAGE_READ, 512, 8704, reads,
		     3);
	check_chunks("split+log+memory:?size=1M&transfer-max=4K", STORAGE_READ, 512, 4096, one, 1);
	check_chunks("split+log+memory:?size=1M&clear-max=8K", STORAGE_DISCARD, 512, 16384, clears,
		     3);
}

/* However the buffer lies, what goes down begins and ends with a block. */
static void check_whole_blocks(const unsigned *sizes, unsigned size_count)
{
	static struct iovec iov[2000];
	char path[] = "/tmp/test_storage_XXXXXX", uri[128], line[256];
	int fd = mkstemp(path);
	FILE *log = fdopen(fd, "r");
	unsigned long long expected = 0;
	struct bed b;

	snprintf(uri, sizeof(uri), "split+log+memory:?size=1M&transfer-max=8K&log-file=%s", path);
	bed_open(&b, uri);
	assert_int_equal(do_scattered(&b, STORAGE_WRITE, 0, iov,
				      scatter(iov, 2000, buffer, 128 * 1024, sizes, size_count),
				      128 * 1024),
			 0);
	bed_close(&b);
	while (fgets(line, sizeof(line), log)) {
		unsigned long long offset, length;
		const char *at = strstr(line, "offset");

		assert_non_null(at);
		assert_int_equal(sscanf(at, "offset %llu length %llu", &offset, &length), 2);
		assert_int_equal(offset, expected);
		assert_in_range(length, 512, 8192);
		assert_int_equal(length % 512, 0);
		expected += length;
	}
	assert_int_equal(expected, 128 * 1024);
	fclose(log);
	unlink(path);
}

static void split_cuts_whole_blocks(void **state)
{
	static const unsigned odd[] = { 100, 412, 1, 3000, 9000, 511 }, small[] = { 100 };

	check_whole_blocks(odd, ARRAY_LENGTH(odd));
	check_whole_blocks(small, 1);
}

static void split_ends_with_the_first_error(void **state)
{
	struct bed b;

	bed_open(&b, "split+fault+memory:?size=1M&transfer-max=4K&fault-kinds=write&fault-every=3&"
		     "fault-errno=ENOSPC");
	fill_pattern(buffer, 64 * 1024, 3);
	assert_int_equal(bed_write(&b, 0, 64 * 1024, buffer), -ENOSPC);
	assert_int_equal(bed_read(&b, 0, 64 * 1024, other), 0);
	assert_memory_equal(buffer, other, 8192);
	for (unsigned i = 8192; i < 64 * 1024; i++)
		assert_int_equal(other[i], 0);
	bed_close(&b);
}

/* Ten thousand chunks that complete inside submit must not need ten thousand stack frames. */
static void split_does_not_recurse(void **state)
{
	struct bed b;

	bed_open(&b, "split+null:?size=1T&clear-max=512");
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 0, 1 << 30, NULL), 0);
	bed_close(&b);
}

/* ---- delay ---- */

static uint64_t time_of(struct bed *b, enum storage_operation operation, unsigned flags)
{
	uint64_t begin = reactor_world_now(b->world);

	assert_int_equal(bed_do(b, operation, flags, 0, operation == STORAGE_FLUSH ? 0 : 512,
				operation <= STORAGE_WRITE ? buffer : NULL),
			 0);
	return reactor_world_now(b->world) - begin;
}

static void delay_waits_as_long_as_it_says(void **state)
{
	uint64_t least = UINT64_MAX, most = 0;
	struct bed b;

	bed_open(&b, "delay+memory:?size=1M&ms=5&delay-write=7ms&delay-clear=9ms");
	assert_takes(time_of(&b, STORAGE_READ, 0), 5 * ms, 5 * ms + ms / 2);
	assert_takes(time_of(&b, STORAGE_WRITE, 0), 7 * ms, 7 * ms + ms / 2);
	assert_takes(time_of(&b, STORAGE_FLUSH, 0), 5 * ms, 5 * ms + ms / 2);
	assert_takes(time_of(&b, STORAGE_DISCARD, 0), 9 * ms, 9 * ms + ms / 2);
	assert_takes(time_of(&b, STORAGE_WRITE_ZEROES, 0), 9 * ms, 9 * ms + ms / 2);
	bed_close(&b);
	bed_open(&b, "delay+memory:?size=1M&time=500us&jitter=1ms");
	for (unsigned i = 0; i < 50; i++) {
		uint64_t time = time_of(&b, STORAGE_READ, 0);

		assert_takes(time, ms / 2, 2 * ms);
		least = minimum_u64(least, time);
		most = maximum_u64(most, time);
	}
	assert_true(most - least > ms / 2);
	bed_close(&b);
}

static void delay_refuses_nonsense(void **state)
{
	refuses_uri("delay+null:?ms=5&time=5ms", -EINVAL, "exclude each other");
	refuses_uri("delay+null:?ms=5ms", -EINVAL, "\"ms\"");
	refuses_uri("delay+null:?time=5", -EINVAL, "\"time\"");
	refuses_uri("delay+null:?ms=99999999999999", -EINVAL, "too large");
	refuses_uri("delay+null:?delay-read=x", -EINVAL, "\"delay-read\"");
}

/* ---- fault ---- */

static unsigned failures(const char *uri, enum storage_operation operation, unsigned requests,
			 int error, unsigned char *which)
{
	unsigned failed = 0;
	struct bed b;

	bed_open(&b, uri);
	for (unsigned i = 0; i < requests; i++) {
		int status = bed_do(&b, operation, 0, 0, operation == STORAGE_FLUSH ? 0 : 512,
				    operation <= STORAGE_WRITE ? buffer : NULL);

		assert_true(status == 0 || status == error);
		failed += status != 0;
		if (which)
			which[i] = status != 0;
	}
	bed_close(&b);
	return failed;
}

static void fault_counts(void **state)
{
	unsigned char which[20];

	assert_int_equal(failures("fault+null:", STORAGE_READ, 20, -EIO, NULL), 20);
	assert_int_equal(failures("fault+null:?fault-every=5", STORAGE_READ, 20, -EIO, which), 4);
	assert_int_equal(which[4] & which[9] & which[14] & which[19], 1);
	assert_int_equal(failures("fault+null:?fault-after=15&fault-errno=ENOMEM", STORAGE_WRITE,
				  20, -ENOMEM, which),
			 5);
	assert_int_equal(which[14], 0);
	assert_int_equal(which[15], 1);
	assert_int_equal(failures("fault+null:?fault-count=3", STORAGE_DISCARD, 20, -EIO, which),
			 3);
	assert_int_equal(which[0] & which[1] & which[2], 1);
	assert_int_equal(failures("fault+memory:?size=1M&fault-kinds=flush,discard", STORAGE_READ,
				  20, -EIO, NULL),
			 0);
	assert_int_equal(failures("fault+memory:?size=1M&fault-kinds=flush,discard", STORAGE_FLUSH,
				  20, -EIO, NULL),
			 20);
}

static void fault_rates(void **state)
{
	static unsigned char first[4000], second[4000];
	unsigned n;

	n = failures("fault+null:?fault-rate=25", STORAGE_READ, 4000, -EIO, NULL);
	assert_in_range(n, 850, 1150);
	n = failures("fault+null:?fault-rate=0.1%25&fault-rate-write=50", STORAGE_WRITE, 4000, -EIO,
		     NULL);
	assert_in_range(n, 1850, 2150);
	assert_int_equal(failures("fault+null:?fault-rate-write=50", STORAGE_READ, 100, -EIO, NULL),
			 0);
	failures("fault+null:?fault-rate=10&fault-seed=3", STORAGE_READ, 4000, -EIO, first);
	n = failures("fault+null:?fault-rate=10&fault-seed=3", STORAGE_READ, 4000, -EIO, second);
	assert_in_range(n, 300, 500);
	assert_memory_equal(first, second, sizeof(first));
	failures("fault+null:?fault-rate=10&fault-seed=4", STORAGE_READ, 4000, -EIO, second);
	assert_memory_not_equal(first, second, sizeof(first));
}

static void fault_refuses_nonsense(void **state)
{
	static const char *const rates[] = { "x",   "",        "1..2",      "101", "-1",
					     "1%2", "1%25%25", "0.1234567", ".",   "1234567890" };
	char uri[80];

	for (unsigned i = 0; i < ARRAY_LENGTH(rates); i++) {
		snprintf(uri, sizeof(uri), "fault+null:?fault-rate=%s", rates[i]);
		refuses_uri(uri, -EINVAL, "\"fault-rate\"");
	}
	refuses_uri("fault+null:?fault-errno=EBAD", -EINVAL, "\"fault-errno\"");
	refuses_uri("fault+null:?fault-kinds=read,writ", -EINVAL, "\"fault-kinds\"");
	refuses_uri("fault+null:?fault-every=x", -EINVAL, "\"fault-every\"");
}

/* ---- limit ---- */

/* Offers requests from one or both workers at once; returns when the last was done, after
 * checking that each worker's were done in order. */
static uint64_t time_to_serve(struct bed *b, unsigned requests, uint64_t length, bool both)
{
	struct request *q[400];
	struct storage_channel *ch[2] = { b->channel, NULL };
	uint64_t begin = reactor_world_now(b->world), last[2] = { 0, 0 };

	if (both) {
		reactor_world_enter(b->world, b->worker[1]);
		ch[1] = storage_channel_open(b->storage, b->worker[1], NULL);
	}
	for (unsigned i = 0; i < requests; i++) {
		reactor_world_enter(b->world, b->worker[both ? i % 2 : 0]);
		q[i] = bed_request(b, STORAGE_READ, 0, length, buffer);
		request_submit(ch[both ? i % 2 : 0], q[i]);
	}
	for (unsigned i = 0; i < requests; i++) {
		bed_wait(b, q[i]);
		assert_int_equal(q[i]->io.status, 0);
		assert_true(q[i]->done_ns >= last[both ? i % 2 : 0]);
		last[both ? i % 2 : 0] = q[i]->done_ns;
		free(q[i]);
	}
	if (both) {
		reactor_world_enter(b->world, b->worker[1]);
		storage_channel_close(ch[1]);
		/* A shared rate is shared fairly: neither worker's last comes much earlier. */
		assert_in_range(last[0] > last[1] ? last[0] - last[1] : last[1] - last[0], 0,
				(last[0] - begin) / 10);
	}
	return maximum_u64(last[0], last[1]) - begin;
}

static void limit_keeps_requests_per_second(void **state)
{
	struct bed b;

	bed_open(&b, "limit+null:?iops=1000&iops-burst=1");
	assert_takes(time_to_serve(&b, 201, 512, false), 200 * ms, 201 * ms);
	bed_close(&b);
	bed_open(&b, "limit+null:?iops=1000&iops-burst=1");
	assert_takes(time_to_serve(&b, 201, 512, true), 200 * ms, 201 * ms);
	bed_close(&b);
}

static void limit_lets_a_burst_pass(void **state)
{
	struct bed b;

	bed_open(&b, "limit+null:?iops=1000&iops-burst=50");
	assert_takes(time_to_serve(&b, 50, 512, false), 0, ms / 2);
	assert_takes(time_to_serve(&b, 50, 512, false), 50 * ms, 51 * ms);
	assert_takes(time_to_serve(&b, 50, 512, false), 50 * ms, 51 * ms);
	bed_close(&b);
	/* Unless given: a tenth of a second's. */
	bed_open(&b, "limit+null:?iops=1000");
	assert_takes(time_to_serve(&b, 100, 512, false), 0, ms / 2);
	assert_takes(time_to_serve(&b, 1, 512, false), ms / 2, 2 * ms);
	bed_close(&b);
}

static void limit_keeps_bytes_per_second(void **state)
{
	struct bed b;

	bed_open(&b, "limit+null:?bps=1M&bps-burst=64K");
	/* 16 x 64 KiB: the first is the burst, 15 are paid for, 62.5 ms each. */
	assert_takes(time_to_serve(&b, 16, 64 * 1024, false), 937 * ms, 939 * ms);
	bed_close(&b);
	bed_open(&b, "limit+null:?bps=1G&iops=100&iops-burst=1");
	assert_takes(time_to_serve(&b, 21, 4096, false), 200 * ms, 201 * ms);
	bed_close(&b);
}

/* A flush costs no bytes, yet stays behind the writes that came before it. */
static void limit_keeps_the_order(void **state)
{
	struct request *write, *late, *flush;
	struct bed b;

	bed_open(&b, "limit+memory:?size=1M&bps=1M&bps-burst=4K");
	write = bed_request(&b, STORAGE_WRITE, 0, 4096, buffer);
	late = bed_request(&b, STORAGE_WRITE, 0, 65536, buffer);
	flush = bed_request(&b, STORAGE_FLUSH, 0, 0, NULL);
	bed_submit(&b, write);
	bed_submit(&b, late);
	bed_submit(&b, flush);
	bed_wait(&b, flush);
	assert_int_equal(write->done, 1);
	assert_int_equal(late->done, 1);
	assert_true(flush->done_ns >= 60 * ms);
	free(write);
	free(late);
	free(flush);
	bed_close(&b);
}

static void limit_refuses_nonsense(void **state)
{
	refuses_uri("limit+null:", -EINVAL, "\"iops\", \"bps\" or both");
	refuses_uri("limit+null:?iops=0", -EINVAL, "nothing could ever pass");
	refuses_uri("limit+null:?iops-burst=5&bps=1M", -EINVAL, "needs \"iops\"");
	refuses_uri("limit+null:?iops=1K", -EINVAL, "\"iops\"");
	refuses_uri("limit+null:?bps=x", -EINVAL, "\"bps\"");
}

/* ---- log ---- */

static void log_is_bounded(void **state)
{
	char path[] = "/tmp/test_storage_XXXXXX", uri[128], line[256];
	int fd = mkstemp(path);
	FILE *log = fdopen(fd, "r");
	unsigned lines = 0;
	struct bed b;

	snprintf(uri, sizeof(uri), "log+delay+null:?ms=3&log-lines=2&log-file=%s", path);
	bed_open(&b, uri);
	for (unsigned i = 0; i < 5; i++)
		bed_do(&b, STORAGE_WRITE_ZEROES, STORAGE_UNMAP, 512 * i, 512, NULL);
	bed_close(&b);
	assert_non_null(fgets(line, sizeof(line), log));
	assert_non_null(
		strstr(line, " disk vda worker0: write-zeroes unmap offset 0 length 512: ok in 3"));
	while (fgets(line, sizeof(line), log))
		lines++;
	assert_int_equal(lines, 2);
	assert_non_null(strstr(line, "log-lines=2 reached"));
	fclose(log);
	unlink(path);
	refuses_uri("log+null:?log-file=/nowhere/log", -ENOENT, "/nowhere/log");
}

/* ---- stacks ---- */

static uint64_t time_to_fail(struct bed *b)
{
	uint64_t begin = reactor_world_now(b->world);

	assert_int_equal(bed_read(b, 0, 512, buffer), -EIO);
	return reactor_world_now(b->world) - begin;
}

static void filters_stack(void **state)
{
	struct bed b;

	/* A fault above the delay fails at once, one below it after the wait. */
	bed_open(&b, "fault+delay+null:?ms=5&fault-kinds=read");
	assert_takes(time_to_fail(&b), 0, ms);
	bed_close(&b);
	bed_open(&b, "delay+fault+null:?ms=5&fault-kinds=read");
	assert_takes(time_to_fail(&b), 5 * ms, 6 * ms);
	bed_close(&b);
	bed_open(&b, "limit+delay+fault+split+delay+memory:?size=1M&ms=1&iops=100000&fault-rate=0&"
		     "transfer-max=4K");
	fill_pattern(buffer, DISK, 1);
	assert_int_equal(bed_write(&b, 0, DISK, buffer), 0);
	assert_int_equal(bed_read(&b, 0, DISK, other), 0);
	assert_memory_equal(buffer, other, DISK);
	bed_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split_cuts_scattered_buffers),
		cmocka_unit_test(split_cuts_where_it_should),
		cmocka_unit_test(split_cuts_whole_blocks),
		cmocka_unit_test(split_ends_with_the_first_error),
		cmocka_unit_test(split_does_not_recurse),
		cmocka_unit_test(delay_waits_as_long_as_it_says),
		cmocka_unit_test(delay_refuses_nonsense),
		cmocka_unit_test(fault_counts),
		cmocka_unit_test(fault_rates),
		cmocka_unit_test(fault_refuses_nonsense),
		cmocka_unit_test(limit_keeps_requests_per_second),
		cmocka_unit_test(limit_lets_a_burst_pass),
		cmocka_unit_test(limit_keeps_bytes_per_second),
		cmocka_unit_test(limit_keeps_the_order),
		cmocka_unit_test(limit_refuses_nonsense),
		cmocka_unit_test(log_is_bounded),
		cmocka_unit_test(filters_stack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
