/* Broken if this fails: what --link-model understands, or the time that a modelled bus takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "link/link.h"
#include "link/link_model.h"
#include "link/memory_map.h"
#include "reactor/reactor_virtual.h"

enum { BYTES = 1 << 20, TRANSFERS = 8 };

static void settings_are_understood(void **state)
{
	struct link_model_settings s;

	assert_int_equal(
		link_model_parse("latency=1us,bandwidth=32GB/s,read=256,write=128", &s, NULL), 0);
	assert_int_equal(s.latency_ns, 1000);
	assert_int_equal(s.bandwidth, 32000000000);
	assert_int_equal(s.read, 256);
	assert_int_equal(s.write, 128);
	assert_int_equal(link_model_parse("latency=250ns", &s, NULL), 0);
	assert_int_equal(s.latency_ns, 250);
	assert_int_equal(s.bandwidth | s.read | s.write, 0);
}

static void nonsense_is_refused_with_its_reason(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "", "latency" },
		{ "latency", "latency must be" },
		{ "latency=", "latency must be" },
		{ "latency=1", "latency must be" },
		{ "latency=-1us", "latency must be" },
		{ "latency=2000ms", "latency must be" },
		{ "latency=99999999999999999999ns", "latency must be" },
		{ "latency=1us,latency=2us", "twice" },
		{ "bandwidth=1KB/s", "bandwidth must be" },
		{ "bandwidth=1001GB/s", "bandwidth must be" },
		{ "read=63", "read must be" },
		{ "write=4097", "write must be" },
		{ "speed=1us", "\"speed\"" },
		{ "latency=1us,", "\"\"" },
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct link_model_settings s;
		struct error e = { 0 };

		assert_true(link_model_parse(bad[i].text, &s, &e) < 0);
		if (!strstr(e.text, bad[i].says))
			fail_msg("%s: %s", bad[i].text, e.text);
	}
}

/* One link in a simulated world, over one shared region behind a bus. */
struct bed {
	struct reactor_world *world;
	struct reactor *reactor;
	struct link_model *model;
	struct memory_map *map;
	struct link link;
	char *guest, local[BYTES];
	struct link_transfer transfers[TRANSFERS];
	uint64_t ended_ns[TRANSFERS];
	unsigned ended;
};

static void bed_open(struct bed *b, const char *model)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct memory_region region = { 0x1000, BYTES, fd, 0, MEMORY_READ | MEMORY_WRITE };
	struct memory_map *empty = memory_map_create(NULL), *plain;
	struct link_model_settings s;

	assert_int_equal(ftruncate(fd, BYTES), 0);
	b->guest = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	b->world = reactor_world_create(1);
	b->reactor = reactor_virtual_create(b->world, "worker");
	assert_int_equal(link_model_parse(model, &s, NULL), 0);
	b->model = link_model_create(&s, NULL);
	plain = memory_map_add(empty, &region, NULL);
	b->map = memory_map_with_model(plain, b->model, NULL);
	memory_map_release(empty);
	memory_map_release(plain);
	close(fd);
	link_open(&b->link, "test");
	b->link.reactor = b->reactor;
	b->ended = 0;
}

static void bed_close(struct bed *b)
{
	link_close(&b->link);
	memory_map_release(b->map);
	link_model_free(b->model);
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	munmap(b->guest, BYTES);
}

static void has_ended(struct link_transfer *t)
{
	struct bed *b = t->owner;

	b->ended_ns[t - b->transfers] = reactor_world_now(b->world);
	b->ended++;
}

static int begin(struct bed *b, unsigned index, bool write, uint32_t bytes)
{
	struct link_transfer *t = &b->transfers[index];

	*t = (struct link_transfer){ .iova = 0x1000,
				     .local = b->local,
				     .length = bytes,
				     .purpose = LINK_PAYLOAD,
				     .done = has_ended,
				     .owner = b };
	return write ? link_write(&b->link, b->map, NULL, t) : link_read(&b->link, b->map, t);
}

/* Until `count` transfers have ended; from when they began, in nanoseconds. */
static void run(struct bed *b, unsigned count)
{
	for (unsigned steps = 0; b->ended < count && steps < 100000; steps++)
		assert_true(reactor_world_step(b->world));
	assert_int_equal(b->ended, count);
}

/* A virtual turn begins up to a microsecond late. */
static void assert_took(const struct bed *b, unsigned index, uint64_t began, uint64_t expected)
{
	assert_in_range(b->ended_ns[index] - began, expected, expected + 3000);
}

static struct bed bed;

static void every_byte_waits_its_time(void **state)
{
	uint64_t began;

	/* 100 MB/s: 10 ns a byte; 16 transactions of 256 bytes have 16 headers. */
	bed_open(&bed, "latency=50us,bandwidth=100MB/s,read=256,write=4096");
	memset(bed.guest, 'x', 4096);
	reactor_world_enter(bed.world, bed.reactor);
	began = reactor_world_now(bed.world);
	assert_int_equal(begin(&bed, 0, false, 4096), LINK_PENDING);
	assert_int_equal(begin(&bed, 1, false, 4096), LINK_PENDING);
	assert_int_equal(bed.ended, 0);
	run(&bed, 2);
	assert_took(&bed, 0, began, 50000 + 10 * (4096 + 16 * 24));
	assert_took(&bed, 1, began, 50000 + 20 * (4096 + 16 * 24));
	assert_int_equal(bed.local[4095], 'x');
	assert_int_equal(link_model_transactions(bed.model), 32);
	bed_close(&bed);
}

static void the_lanes_are_independent(void **state)
{
	uint64_t began;

	bed_open(&bed, "latency=10us,bandwidth=100MB/s");
	memset(bed.local, 'y', 4096);
	reactor_world_enter(bed.world, bed.reactor);
	began = reactor_world_now(bed.world);
	assert_int_equal(begin(&bed, 0, false, BYTES), LINK_PENDING);
	assert_int_equal(begin(&bed, 1, true, 64), LINK_PENDING);
	run(&bed, 2);
	assert_took(&bed, 0, began, 10000 + 10ull * (BYTES + 24));
	assert_took(&bed, 1, began, 10000 + 10 * (64 + 24));
	assert_int_equal(bed.guest[63], 'y');
	bed_close(&bed);
}

/* Outside the map the bus carries the request, and the answer is an error. */
static void a_fault_comes_back_over_the_bus(void **state)
{
	bed_open(&bed, "latency=10us");
	reactor_world_enter(bed.world, bed.reactor);
	assert_int_equal(begin(&bed, 0, true, BYTES - 0xfff + 0x1000), LINK_PENDING);
	run(&bed, 1);
	assert_true(bed.transfers[0].status < 0);
	assert_int_equal(bed.link.numbers.failures, 1);
	bed_close(&bed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(settings_are_understood),
		cmocka_unit_test(nonsense_is_refused_with_its_reason),
		cmocka_unit_test(every_byte_waits_its_time),
		cmocka_unit_test(the_lanes_are_independent),
		cmocka_unit_test(a_fault_comes_back_over_the_bus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
