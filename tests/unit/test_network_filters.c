/* If this fails, a filter of the network holds back, reorders, changes or forgets frames that it
 * should not, or writes a file that nobody can read. */
#include "network_bed.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

/* ---- opening ---- */

static void refuse(struct bed *b, const char *uri, const char *wanted)
{
	struct error e = { 0 };

	assert_null(network_port_open("net0", uri, 1, b->reactor, &e));
	if (!strstr(e.text, wanted) || !strstr(e.text, "net0"))
		fail_msg("\"%s\" lacks \"%s\"", e.text, wanted);
}

static void refuses_what_makes_no_sense(void **state)
{
	struct bed *b = *state;

	refuse(b, "delay+null:?ms=5&time=5ms", "exclude");
	refuse(b, "delay+null:?time=2", "\"time\"");
	refuse(b, "delay+null:?ms=99999999999", "a day");
	refuse(b, "delay+null:?ms=1&delay-queue=1K", "\"delay-queue\"");
	refuse(b, "loss+null:", "\"loss\"");
	refuse(b, "loss+null:?loss=101", "percentage");
	refuse(b, "limit+null:", "\"pps\"");
	refuse(b, "limit+null:?pps=0", "\"pps\"");
	refuse(b, "limit+null:?bps=1M&pps-burst=3", "needs \"pps\"");
	refuse(b, "limit+null:?pps=1&limit-queue=2G", "\"limit-queue\"");
	refuse(b, "log+null:?log-file=/nowhere/x", "/nowhere/x");
	refuse(b, "capture+null:", "\"file\"");
	refuse(b, "capture+null:?file=/nowhere/x", "/nowhere/x");
	refuse(b, "capture+null:?file=/tmp/x&snap=13", "\"snap\"");
	refuse(b, "capture+null:?file=/dev/full", "No space");
}

/* Two users of one switch, filters before the first. */
static struct user *pair(struct bed *b, const char *filters, const char *options)
{
	static unsigned switches;
	char uri[256];

	snprintf(uri, sizeof(uri), "%s+switch:filters%u?%s", filters, ++switches, options);
	user_open(b, 0, uri);
	snprintf(uri, sizeof(uri), "switch:filters%u", switches);
	user_open(b, 1, uri);
	for (unsigned i = 0; i < 2; i++)
		user_take(&b->users[i]);
	return b->users;
}

/* ---- delay ---- */

static void delay_holds_each_way(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "delay", "delay-send=5ms&delay-come=20ms");
	uint64_t begin = reactor_now(b->reactor);

	user_send(&u[0], 255, 1, 10, 100);
	user_send(&u[1], 255, 2, 20, 100);
	bed_run(b, second);
	assert_int_equal(u[1].count, 1);
	assert_int_equal(u[0].count, 1);
	assert_frame(&u[1].frames[0], 100, 255, 1, 10);
	assert_frame(&u[0].frames[0], 100, 255, 2, 20);
	assert_in_range(u[1].frames[0].time_ns - begin, 5 * ms, 6 * ms);
	assert_in_range(u[0].frames[0].time_ns - begin, 20 * ms, 21 * ms);
}

static void delay_keeps_the_order(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "delay", "ms=1&jitter=20ms");

	for (unsigned i = 0; i < 100; i++) {
		user_send(&u[0], 255, 1, i, 60);
		user_send(&u[1], 255, 2, i, 60);
		bed_run(b, ms / 10);
	}
	bed_run(b, second);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(u[i].count, 100);
		for (unsigned j = 0; j < 100; j++)
			assert_int_equal(frame_number(&u[i].frames[j]), j);
	}
}

static void delay_is_bounded(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "delay", "ms=100&delay-queue=128K");
	unsigned refused = 0;

	for (unsigned i = 0; i < 400; i++) {
		refused += user_send(&u[0], 255, 1, i, 1000) != 0;
		user_send(&u[1], 255, 2, i, 1000);
	}
	bed_run(b, second);
	assert_in_range(refused, 270, 290);
	assert_int_equal(u[1].count, 400 - refused);
	assert_int_equal(user_counts(&u[0], "sent_dropped"), refused);
	assert_int_equal(user_counts(&u[0], "come_dropped"), 400 - u[0].count);
	assert_in_range(u[0].count, 110, 130);
}

static void closing_forgets_what_waits(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "delay", "ms=100");

	user_send(&u[0], 255, 1, 1, 100);
	user_send(&u[1], 255, 2, 1, 100);
	bed_run(b, ms);
	user_close(&u[0]);
	bed_run(b, second);
	assert_int_equal(u[1].count, 0);
}

/* ---- loss ---- */

static void loss_by_chance(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "loss", "loss-send=25&loss-come=0");

	for (unsigned i = 0; i < 400; i++) {
		assert_int_equal(user_send(&u[0], 255, 1, i, 60), 0);
		user_send(&u[1], 255, 2, i, 60);
		bed_run(b, ms);
	}
	assert_in_range(u[1].count, 260, 340);
	assert_int_equal(u[0].count, 400);
	assert_int_equal(user_counts(&u[0], "sent_dropped"), 400 - u[1].count);
}

/* What was looked at once stays: its chance is not thrown again. */
static void loss_decides_once(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "loss", "loss-come=50");
	struct network_frame f;

	u[0].idle = true;
	for (unsigned i = 0; i < 200; i++)
		user_send(&u[1], 255, 2, i, 60);
	bed_run(b, ms);
	assert_int_equal(network_peek(u[0].queue, &f), 1);
	for (unsigned i = 0; i < 100; i++) {
		struct network_frame again;

		assert_int_equal(network_peek(u[0].queue, &again), 1);
		assert_ptr_equal(again.bytes, f.bytes);
	}
	u[0].idle = false;
	user_take(&u[0]);
	bed_run(b, second);
	assert_in_range(u[0].count, 70, 130);
	assert_int_equal(user_counts(&u[0], "come_dropped"), 200 - u[0].count);
}

/* A stream that is lost as a whole must leave the worker its other work: this test would not end.
 */
static void all_is_lost(void **state)
{
	struct bed *b = *state;
	struct user *u = user_open(b, 0, "loss+null:?frame=64&loss=100");

	user_take(u);
	bed_run(b, ms / 100);
	assert_int_equal(u->count, 0);
	assert_true(user_counts(u, "come_dropped") >= 64);
}

/* ---- limit ---- */

static void limit_packets(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "limit", "pps=100&pps-burst=10");
	uint64_t begin = reactor_now(b->reactor);

	for (unsigned i = 0; i < 110; i++) {
		user_send(&u[0], 255, 1, i, 60);
		user_send(&u[1], 255, 2, i, 60);
	}
	bed_run(b, 10 * second);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(u[i].count, 110);
		assert_in_range(u[i].frames[9].time_ns - begin, 0, 2 * ms);
		assert_in_range(u[i].frames[109].time_ns - begin, 995 * ms, 1010 * ms);
	}
}

static void limit_bytes(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "limit", "bps=100K&bps-burst=1K");
	uint64_t begin = reactor_now(b->reactor);

	for (unsigned i = 0; i < 101; i++)
		user_send(&u[0], 255, 1, i, 1024);
	bed_run(b, 10 * second);
	assert_int_equal(u[1].count, 101);
	assert_in_range(u[1].frames[100].time_ns - begin, 995 * ms, 1010 * ms);
}

/* ---- log ---- */

static char *contents(const char *path, size_t *size)
{
	FILE *f = fopen(path, "rb");
	char *text = calloc(1, 1 << 20);

	*size = fread(text, 1, (1 << 20) - 1, f);
	fclose(f);
	return text;
}

static void log_tells_of_each(void **state)
{
	struct bed *b = *state;
	char path[] = "/tmp/outboard-log.XXXXXX", options[64];
	size_t size;
	char *text;
	struct user *u;

	close(mkstemp(path));
	snprintf(options, sizeof(options), "log-lines=2&log-file=%s", path);
	u = pair(b, "log", options);
	user_send(&u[0], 2, 1, 1, 100);
	user_send(&u[1], 255, 2, 1, 60);
	bed_run(b, ms);
	user_send(&u[0], 2, 1, 1, 100);
	text = contents(path, &size);
	assert_non_null(strstr(text, "/0 sent: 02:00:00:00:00:01 to 02:00:00:00:00:02 type 88b5 "
				     "length 100\n"));
	assert_non_null(strstr(text, "/0 come: 02:00:00:00:00:02 to ff:ff:ff:ff:ff:ff type 88b5 "
				     "length 60\n"));
	assert_non_null(strstr(text, "log-lines=2 reached"));
	assert_null(strstr(strstr(text, "reached"), "sent"));
	free(text);
	unlink(path);
}

/* ---- capture ---- */

struct block {
	uint32_t type, length;
	const uint8_t *bytes;
};

static uint32_t word(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

/* The blocks of a file, each with its length at both ends. */
static unsigned blocks_of(const char *text, size_t size, struct block *to, unsigned max)
{
	unsigned count = 0;

	for (size_t at = 0; at < size; at += to[count++].length) {
		const uint8_t *bytes = (const uint8_t *)text + at;

		assert_true(count < max && at + 12 <= size);
		to[count] = (struct block){ word(bytes), word(bytes + 4), bytes };
		assert_true(to[count].length % 4 == 0 && at + to[count].length <= size);
		assert_int_equal(word(bytes + to[count].length - 4), to[count].length);
	}
	return count;
}

static void assert_packet(const struct block *p, unsigned way, size_t kept, size_t length)
{
	const uint8_t *options = p->bytes + 28 + (kept + 3) / 4 * 4;

	assert_int_equal(p->type, 6);
	assert_int_equal(word(p->bytes + 20), kept);
	assert_int_equal(word(p->bytes + 24), length);
	assert_int_equal(word(options), 2 | 4 << 16);
	assert_int_equal(word(options + 4), way);
}

static void capture_holds_each(void **state)
{
	struct bed *b = *state;
	char path[] = "/tmp/outboard-capture.XXXXXX", options[64];
	struct block blocks[8];
	struct error e = { 0 };
	size_t size;
	char *text;
	struct user *u;

	close(mkstemp(path));
	snprintf(options, sizeof(options), "snap=90&file=%s", path);
	u = pair(b, "capture", options);
	snprintf(options, sizeof(options), "capture+null:?file=%s", path);
	assert_null(network_port_open("net9", options, 1, b->reactor, &e));
	assert_non_null(strstr(e.text, "another one captures"));
	user_send(&u[0], 2, 1, 1, 101);
	user_send(&u[1], 255, 2, 7, 63);
	bed_run(b, ms);
	user_close(&u[0]);
	text = contents(path, &size);
	assert_int_equal(blocks_of(text, size, blocks, 8), 5);
	assert_int_equal(blocks[0].type, 0x0a0d0d0a);
	assert_int_equal(blocks[1].type, 1);
	assert_packet(&blocks[2], 2, 90, 101);
	assert_packet(&blocks[3], 1, 63, 63);
	assert_int_equal(load_be32(blocks[3].bytes + 28 + 14), 7);
	assert_int_equal(blocks[4].type, 5);
	free(text);
	unlink(path);
}

static void capture_ends_at_its_size(void **state)
{
	struct bed *b = *state;
	char path[] = "/tmp/outboard-capture.XXXXXX", options[64];
	struct block blocks[512];
	size_t size;
	char *text;
	struct user *u;

	close(mkstemp(path));
	snprintf(options, sizeof(options), "file-max=10K&file=%s", path);
	u = pair(b, "capture", options);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(user_send(&u[0], 2, 1, i, 1000), 0);
		usleep(100);
	}
	bed_run(b, ms);
	assert_int_equal(u[1].count, 300);
	user_close(&u[0]);
	text = contents(path, &size);
	assert_true(size <= 10240);
	assert_true(blocks_of(text, size, blocks, 512) >= 2);
	free(text);
	unlink(path);
}

#define FILTER_TEST(name) cmocka_unit_test_setup_teardown(name, bed_create, bed_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		FILTER_TEST(refuses_what_makes_no_sense),
		FILTER_TEST(delay_holds_each_way),
		FILTER_TEST(delay_keeps_the_order),
		FILTER_TEST(delay_is_bounded),
		FILTER_TEST(closing_forgets_what_waits),
		FILTER_TEST(loss_by_chance),
		FILTER_TEST(loss_decides_once),
		FILTER_TEST(all_is_lost),
		FILTER_TEST(limit_packets),
		FILTER_TEST(limit_bytes),
		FILTER_TEST(log_tells_of_each),
		FILTER_TEST(capture_holds_each),
		FILTER_TEST(capture_ends_at_its_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
