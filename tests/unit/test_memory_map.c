/* Broken if this fails: the borders of the guest's memory, the life of its mappings, the survival
 * of a file that shrinks, or which pages are marked dirty. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "link/dirty_log.h"
#include "link/guarded_mapping.h"
#include "link/memory_map.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"

static int memory_file(size_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	return fd;
}

/* The map with one more region; the old one is let go. */
static struct memory_map *extended(struct memory_map *m, uint64_t iova, uint64_t length, int fd,
				   uint64_t offset, unsigned access)
{
	struct memory_region r = { iova, length, fd, offset, access };
	struct error e = { 0 };
	struct memory_map *next = memory_map_add(m, &r, &e);

	assert_non_null(next);
	memory_map_release(m);
	return next;
}

static void regions_are_found_up_to_their_last_byte(void **state)
{
	int fd = memory_file(0x4000);
	struct memory_map *m = memory_map_create(NULL);
	bool remote;
	void *host;

	m = extended(m, 0x10000, 0x2000, fd, 0, MEMORY_READ | MEMORY_WRITE);
	m = extended(m, 0x1000, 0x1000, fd, 0x3000, MEMORY_READ);
	close(fd);
	assert_int_equal(memory_map_part(m, 0x11fff, 16, MEMORY_READ, &host), 1);
	assert_int_equal(memory_map_part(m, 0x12000, 16, MEMORY_READ, &host), 0);
	assert_int_equal(memory_map_part(m, 0xffff, 16, MEMORY_READ, &host), 0);
	assert_int_equal(memory_map_part(m, 0x1000, 16, MEMORY_WRITE, &host), 0);
	assert_int_equal(memory_map_part(m, 0x1000, 16, MEMORY_READ, &host), 16);
	assert_non_null(memory_map_contiguous(m, 0x10000, 0x2000, MEMORY_WRITE, &remote));
	assert_null(memory_map_contiguous(m, 0x10000, 0x2001, MEMORY_WRITE, &remote));
	assert_false(remote);
	assert_null(memory_map_contiguous(m, UINT64_MAX - 1, 4, MEMORY_READ, &remote));
	memory_map_release(m);
}

static void bad_regions_are_refused(void **state)
{
	int fd = memory_file(0x2000);
	struct memory_map *m = memory_map_create(NULL);
	const struct memory_region bad[] = {
		{ 0x0800, 0x1000, fd, 0, MEMORY_READ }, /* overlaps */
		{ 0x5000, 0x3000, fd, 0, MEMORY_READ }, /* longer than the file */
		{ 0x5000, 0x1000, fd, UINT64_MAX - 0xfff, MEMORY_READ },
		{ UINT64_MAX - 0xff, 0x1000, -1, 0, MEMORY_READ }, /* wraps */
		{ 0x5000, 0, fd, 0, MEMORY_READ },
	};

	m = extended(m, 0x1000, 0x1000, fd, 0, MEMORY_READ);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error e = { 0 };

		assert_null(memory_map_add(m, &bad[i], &e));
		assert_true(e.code < 0 && e.text[0]);
	}
	assert_int_equal(memory_map_count(m), 1);
	memory_map_release(m);
	close(fd);
}

static void an_old_map_stays_valid(void **state)
{
	int fd = memory_file(0x1000);
	struct memory_map *old = memory_map_create(NULL), *new;
	bool remote;
	char *byte;

	old = extended(old, 0x1000, 0x1000, fd, 0, MEMORY_READ | MEMORY_WRITE);
	new = memory_map_remove(old, 0x1000, 0x1000, NULL);
	assert_non_null(new);
	assert_int_equal(memory_map_count(new), 0);
	byte = memory_map_contiguous(old, 0x1234, 1, MEMORY_WRITE, &remote);
	*byte = 7;
	assert_null(memory_map_remove(new, 0x1000, 0x1000, NULL));
	memory_map_release(new);
	memory_map_release(old);
	close(fd);
}

static void note(void *arg)
{
	++*(unsigned *)arg;
}

static void settle(struct reactor_world *w)
{
	for (unsigned i = 0; i < 100 && reactor_world_step(w); i++)
		;
}

/* The last map with the mapping tells, not the one that was asked; a remote region tells soon. */
static void the_end_of_a_mapping_is_told(void **state)
{
	struct reactor_world *world = reactor_world_create(1);
	struct reactor *reactor = reactor_virtual_create(world, "control");
	int fd = memory_file(0x1000);
	struct memory_map *old = memory_map_create(NULL), *new;
	unsigned mapped = 0, remote = 0;
	struct reactor_task tasks[] = { { .fn = note, .arg = &mapped },
					{ .fn = note, .arg = &remote } };

	old = extended(old, 0x1000, 0x1000, fd, 0, MEMORY_READ);
	old = extended(old, 0x8000, 0x1000, -1, 0, MEMORY_READ);
	new = memory_map_remove(old, 0x8000, 0x1000, NULL);
	memory_map_on_release(old, 0x1000, reactor, &tasks[0]);
	memory_map_on_release(old, 0x8000, reactor, &tasks[1]);
	memory_map_release(old);
	settle(world);
	assert_int_equal(mapped, 0);
	assert_int_equal(remote, 1);
	memory_map_release(new);
	settle(world);
	assert_int_equal(mapped, 1);
	reactor_free(reactor);
	reactor_world_free(world);
	close(fd);
}

/* An unmap may cover more than one region, and must name whole ones. */
static void removal_takes_every_region_inside(void **state)
{
	struct memory_map *m = memory_map_create(NULL), *less;

	m = extended(m, 0x1000, 0x1000, -1, 0, MEMORY_READ);
	m = extended(m, 0x3000, 0x1000, -1, 0, MEMORY_READ);
	m = extended(m, 0x9000, 0x1000, -1, 0, MEMORY_READ);
	assert_null(memory_map_remove(m, 0x1000, 0x800, NULL));
	less = memory_map_remove(m, 0, 0x8000, NULL);
	assert_int_equal(memory_map_count(less), 1);
	memory_map_release(less);
	memory_map_release(m);
}

static void a_shrunk_file_reads_as_zeroes(void **state)
{
	int fd = memory_file(0x2000);
	struct memory_map *m = memory_map_create(NULL);
	unsigned losses = guarded_mapping_losses();
	volatile char *byte;
	bool remote;

	m = extended(m, 0, 0x2000, fd, 0, MEMORY_READ | MEMORY_WRITE);
	byte = memory_map_contiguous(m, 0x1800, 1, MEMORY_WRITE, &remote);
	*byte = 1;
	assert_false(memory_map_is_lost(m));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(*byte, 0);
	assert_true(memory_map_is_lost(m));
	assert_int_equal(guarded_mapping_losses(), losses + 1);
	memory_map_release(m);
	close(fd);
}

/* 8 pages per byte of a shared log. */
static void exactly_the_touched_pages_are_marked(void **state)
{
	int fd = memory_file(4096);
	struct error e = { 0 };
	struct dirty_log *log = dirty_log_share(fd, 0, 4096, &e);
	uint8_t bits[4];

	assert_non_null(log);
	dirty_log_mark(log, 0x1fff, 1);
	dirty_log_mark(log, 0x7fff, 2);
	dirty_log_mark(log, 0x9000, 0);
	dirty_log_mark(log, 0x10000, 0x3000);
	dirty_log_mark(log, 4096ull * 8 * 4096 - 1, 0x2000); /* the last page, and one beyond */
	assert_int_equal(pread(fd, bits, 4, 0), 4);
	assert_int_equal(bits[0], 1 << 1 | 1 << 7);
	assert_int_equal(bits[1], 1 << 0);
	assert_int_equal(bits[2], 7);
	assert_int_equal(pread(fd, bits, 1, 4095), 1);
	assert_int_equal(bits[0], 0x80);
	dirty_log_free(log);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(regions_are_found_up_to_their_last_byte),
		cmocka_unit_test(bad_regions_are_refused),
		cmocka_unit_test(an_old_map_stays_valid),
		cmocka_unit_test(the_end_of_a_mapping_is_told),
		cmocka_unit_test(removal_takes_every_region_inside),
		cmocka_unit_test(a_shrunk_file_reads_as_zeroes),
		cmocka_unit_test(exactly_the_touched_pages_are_marked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
