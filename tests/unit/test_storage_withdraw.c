/* If this fails, a device cannot be stopped for a migration while requests wait in a filter, or one
 * that has been executed is handed back as if it had not. */
#include "test_storage_bed.h"

#include <unistd.h>

#include "base/counter.h"

enum { COUNT = 8, LENGTH = 4096 };

static struct storage_io *order[4 * COUNT];
static unsigned order_count;

static void note_order(struct storage_io *io)
{
	order[order_count++] = io;
	request_done(io);
}

static void submit_some(struct bed *b, struct request **q, enum storage_operation operation,
			void *buffer)
{
	order_count = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		q[i] = bed_request(b, operation, i * LENGTH, LENGTH, buffer);
		q[i]->io.flags = 0;
		q[i]->io.done = note_order;
		bed_submit(b, q[i]);
	}
}

static void withdraw(struct bed *b)
{
	reactor_world_enter(b->world, b->worker[0]);
	storage_withdraw(b->channel);
}

/* All are done, in the order in which they were submitted, with their fields as they were. */
static void check_withdrawn(struct bed *b, struct request **q)
{
	bed_run(b);
	assert_int_equal(order_count, COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_ptr_equal(order[i], &q[i]->io);
		assert_int_equal(q[i]->io.status, -ECANCELED);
		assert_int_equal(q[i]->io.flags, 0);
		assert_int_equal(q[i]->io.offset, i * LENGTH);
		assert_int_equal(q[i]->io.length, LENGTH);
		assert_ptr_equal(q[i]->io.iov, &q[i]->iov);
	}
}

static void free_some(struct request **q)
{
	for (unsigned i = 0; i < COUNT; i++)
		free(q[i]);
}

/* The sum over the whole process so far; see base/counter.h. */
static uint64_t counter(const char *name)
{
	char *text = NULL, wanted[64];
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	const char *at;
	uint64_t value;

	snprintf(wanted, sizeof(wanted), "storage vda %s ", name);
	counter_print_all(f);
	fclose(f);
	at = strstr(text, wanted);
	value = at ? strtoull(at + strlen(wanted), NULL, 10) : 0;
	free(text);
	return value;
}

static void check_filter(const char *uri)
{
	unsigned char buffer[LENGTH] = { 1 };
	struct request *q[COUNT];
	uint64_t begin_ns, withdrawn, writes;
	struct bed b;

	bed_open(&b, uri);
	begin_ns = reactor_world_now(b.world);
	withdrawn = counter("withdrawn");
	writes = counter("writes");
	submit_some(&b, q, STORAGE_WRITE, buffer);
	withdraw(&b);
	withdraw(&b);
	check_withdrawn(&b, q);
	for (unsigned i = 0; i < COUNT; i++)
		assert_in_range(q[i]->done_ns - begin_ns, 0, 1000000);
	assert_int_equal(counter("withdrawn") - withdrawn, COUNT);
	assert_int_equal(counter("writes") - writes, 0);
	assert_int_equal(bed_write(&b, 0, LENGTH, buffer), 0);
	assert_int_equal(counter("writes") - writes, 1);
	assert_int_equal(counter("errors"), 0);
	free_some(q);
	bed_close(&b);
}

static void filters_hand_back_what_waits(void **state)
{
	check_filter("delay+memory:?size=1M&ms=50");
	check_filter("limit+memory:?size=1M&bps=1&bps-burst=1");
	check_filter("split+delay+memory:?size=1M&ms=50&transfer-max=1K");
	check_filter("split+limit+memory:?size=1M&transfer-max=1K&bps=1&bps-burst=1");
	check_filter("log+fault+limit+split+delay+memory:?size=1M&ms=50&transfer-max=1K&iops=2&"
		     "iops-burst=3&fault-rate=0&log-file=/dev/null");
}

/* The disk is as it was: what is handed back is not executed later on. */
static void nothing_is_executed_later(void **state)
{
	unsigned char buffer[LENGTH], back[LENGTH];
	struct request *q[COUNT];
	struct bed b;

	bed_open(&b, "limit+delay+memory:?size=1M&ms=5&iops=500&iops-burst=4");
	memset(buffer, 7, sizeof(buffer));
	submit_some(&b, q, STORAGE_WRITE, buffer);
	withdraw(&b);
	check_withdrawn(&b, q);
	bed_run(&b);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(bed_read(&b, i * LENGTH, LENGTH, back), 0);
		assert_int_equal(back[0] | back[LENGTH - 1], 0);
	}
	free_some(q);
	bed_close(&b);
}

static void those_that_come_later_go_on(void **state)
{
	struct request *q[COUNT], *later;
	struct bed b;

	bed_open(&b, "limit+delay+null:?ms=5&iops=100&iops-burst=1");
	submit_some(&b, q, STORAGE_READ, NULL);
	withdraw(&b);
	later = bed_request(&b, STORAGE_READ, 0, LENGTH, NULL);
	bed_submit(&b, later);
	check_withdrawn(&b, q);
	bed_wait(&b, later);
	assert_int_equal(later->io.status, 0);
	free(later);
	free_some(q);
	bed_close(&b);
}

/* A rate is not used up by what was withdrawn: else the guest of a migration that was cancelled
 * would wait for its requests twice. */
static void limit_gives_its_tokens_back(void **state)
{
	struct request *q[COUNT], *later;
	uint64_t begin_ns;
	struct bed b;

	bed_open(&b, "limit+null:?iops=10&iops-burst=1&bps=40K&bps-burst=4K");
	for (unsigned round = 0; round < 20; round++) {
		submit_some(&b, q, STORAGE_READ, NULL);
		withdraw(&b);
		bed_run(&b);
		free_some(q);
	}
	begin_ns = reactor_world_now(b.world);
	later = bed_request(&b, STORAGE_READ, 0, LENGTH, NULL);
	bed_submit(&b, later);
	bed_wait(&b, later);
	/* Each round let one pass at most, of ten in a second. */
	assert_in_range(later->done_ns - begin_ns, 0, 200000000);
	free(later);
	bed_close(&b);
}

static void set_true(void *arg)
{
	*(bool *)arg = true;
}

static void run_to(struct bed *b, uint64_t ns)
{
	bool over = false;
	struct reactor_timer timer = { .fn = set_true, .arg = &over };

	reactor_timer_set(b->worker[0], &timer, reactor_world_now(b->world) + ns);
	while (!over)
		assert_true(reactor_world_step(b->world));
}

/* Of four chunks the first `done` were executed. */
static void check_split(const char *uri, unsigned done, int status)
{
	static unsigned char buffer[4 * LENGTH], back[4 * LENGTH];
	struct request *q;
	struct bed b;

	bed_open(&b, uri);
	fill_pattern(buffer, sizeof(buffer), 3);
	q = bed_request(&b, STORAGE_WRITE, LENGTH, sizeof(buffer), buffer);
	bed_submit(&b, q);
	run_to(&b, done * 10000000ull + 6000000);
	for (unsigned i = 0; i < 3; i++)
		withdraw(&b);
	bed_wait(&b, q);
	assert_int_equal(q->io.status, status);
	assert_int_equal(q->io.flags, 0);
	assert_int_equal(q->io.length, sizeof(buffer));
	assert_int_equal(bed_read(&b, LENGTH, sizeof(back), back), 0);
	assert_int_equal(!memcmp(buffer, back, sizeof(back)), !status);
	assert_int_equal(back[0] != 0, !status);
	free(q);
	bed_close(&b);
}

static void what_is_executed_in_part_goes_on(void **state)
{
	for (unsigned done = 0; done < 4; done++) {
		int status = done ? 0 : -ECANCELED;

		check_split("split+delay+memory:?size=1M&delay-write=10ms&transfer-max=4K", done,
			    status);
		check_split("split+delay+delay+memory:?size=1M&delay-write=5ms&transfer-max=4K",
			    done, status);
	}
	check_split("split+limit+memory:?size=1M&bps=400K&bps-burst=4K&transfer-max=4K", 2, 0);
}

/* These never hold anything: what the kernel has, it finishes. */
static void providers_finish_what_they_have(void **state)
{
	static unsigned char buffer[LENGTH];
	char path[] = "/tmp/test_storage_XXXXXX", file[64];
	const char *uris[] = { "null:?size=1M", "memory:?size=1M", file };
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	snprintf(file, sizeof(file), "file:%s?direct=off", path);
	for (unsigned i = 0; i < ARRAY_LENGTH(uris); i++) {
		struct request *q[COUNT];
		struct bed b;

		bed_open(&b, uris[i]);
		withdraw(&b);
		submit_some(&b, q, STORAGE_WRITE, buffer);
		withdraw(&b);
		bed_run(&b);
		assert_int_equal(order_count, COUNT);
		for (unsigned k = 0; k < COUNT; k++)
			assert_int_equal(q[k]->io.status, 0);
		free_some(q);
		bed_close(&b);
	}
	unlink(path);
}

static void the_log_says_so(void **state)
{
	char path[] = "/tmp/test_storage_XXXXXX", uri[96], text[2000] = { 0 };
	int fd = mkstemp(path);
	struct request *q[COUNT];
	struct bed b;

	snprintf(uri, sizeof(uri), "log+delay+null:?ms=5&log-file=%s", path);
	bed_open(&b, uri);
	submit_some(&b, q, STORAGE_READ, NULL);
	withdraw(&b);
	check_withdrawn(&b, q);
	free_some(q);
	bed_close(&b);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, "read offset 4096 length 4096: withdrawn in 0 ns\n"));
	close(fd);
	unlink(path);
}

/* No layer ends a request with that status unless it hands it back. */
static void the_status_means_nothing_else(void **state)
{
	refuses_uri("fault+null:?fault-errno=ECANCELED", -EINVAL, "was withdrawn");
}

/* ---- whatever happens ---- */

enum { RANGES = 16, RANGE = 4 * LENGTH };

/* A write, over and over, of a byte that has never been written there before. */
struct range {
	struct request *request;
	unsigned char bytes[RANGE];
	unsigned char attempt;
	unsigned char content; /* of the disk, when no write is under way */
	bool busy, doubtful;   /* doubtful: the last write was withdrawn */
};

static void range_check(struct bed *b, struct range *r, unsigned i)
{
	unsigned char back[RANGE];

	assert_int_equal(bed_read(b, (uint64_t)i * RANGE, RANGE, back), 0);
	for (unsigned k = 0; k < RANGE; k++)
		assert_int_equal(back[k], r->content);
	r->doubtful = false;
}

static void range_write(struct bed *b, struct range *ranges, unsigned i)
{
	struct range *r = &ranges[i];

	if (r->doubtful)
		range_check(b, r, i);
	memset(r->bytes, ++r->attempt, RANGE);
	r->request = bed_request(b, STORAGE_WRITE, (uint64_t)i * RANGE, RANGE, r->bytes);
	r->request->io.flags = 0;
	r->busy = true;
	bed_submit(b, r->request);
}

/* What was withdrawn was not executed, what succeeded was, whole. */
static void range_settle(struct range *r, unsigned *withdrawn)
{
	if (!r->busy || !r->request->done)
		return;
	assert_int_equal(r->request->done, 1);
	assert_true(r->request->io.status == 0 || r->request->io.status == -ECANCELED);
	r->doubtful = r->request->io.status == -ECANCELED;
	*withdrawn += r->doubtful;
	r->content = r->doubtful ? r->content : r->attempt;
	r->busy = false;
	free(r->request);
}

static void play(struct bed *b, struct range *ranges, unsigned *withdrawn)
{
	for (unsigned turn = 0; turn < 400; turn++) {
		unsigned i = reactor_world_random(b->world) % RANGES;

		if (!ranges[i].busy)
			range_write(b, ranges, i);
		if (reactor_world_random(b->world) % 40 == 0)
			withdraw(b);
		for (unsigned steps = reactor_world_random(b->world) % 4; steps > 0; steps--)
			reactor_world_step(b->world);
		for (unsigned k = 0; k < RANGES; k++)
			range_settle(&ranges[k], withdrawn);
	}
	bed_run(b);
	for (unsigned k = 0; k < RANGES; k++) {
		range_settle(&ranges[k], withdrawn);
		assert_false(ranges[k].busy);
		range_check(b, &ranges[k], k);
	}
}

static void each_is_executed_or_handed_back(void **state)
{
	static const char *const uris[] = {
		"delay+memory:?size=1M&time=10us&jitter=2ms",
		"limit+memory:?size=1M&iops=2000&iops-burst=3&bps=4M&bps-burst=16K",
		"split+delay+memory:?size=1M&time=10us&jitter=1ms&transfer-max=4K",
		"split+limit+memory:?size=1M&iops=8000&iops-burst=2&transfer-max=4K",
		("delay+split+limit+split+delay+memory:?size=1M&time=10us&jitter=1ms&iops=20000&"
		 "iops-burst=2&transfer-max=4K"),
	};
	unsigned withdrawn = 0;

	for (unsigned round = 0; round < 60 * ARRAY_LENGTH(uris); round++) {
		static struct range ranges[RANGES];
		struct bed b;

		memset(ranges, 0, sizeof(ranges));
		bed_open_seeded(&b, uris[round % ARRAY_LENGTH(uris)], round + 1);
		play(&b, ranges, &withdrawn);
		bed_close(&b);
	}
	assert_true(withdrawn > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(filters_hand_back_what_waits),
		cmocka_unit_test(nothing_is_executed_later),
		cmocka_unit_test(those_that_come_later_go_on),
		cmocka_unit_test(limit_gives_its_tokens_back),
		cmocka_unit_test(what_is_executed_in_part_goes_on),
		cmocka_unit_test(providers_finish_what_they_have),
		cmocka_unit_test(the_log_says_so),
		cmocka_unit_test(the_status_means_nothing_else),
		cmocka_unit_test(each_is_executed_or_handed_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
