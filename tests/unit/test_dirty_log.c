/* Broken if this fails: a migration copies the pages that the device has written, all of them and
 * no others, and finds them in a terabyte without looking at it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/dirty_log.h"
#include "reactor/reactor_random.h"

enum { PAGE = 4096, PAGES = 5000, ROUNDS = 3000 };

static bool bit_is_set(const uint64_t *bitmap, uint64_t bit)
{
	return le64toh(bitmap[bit / 64]) >> bit % 64 & 1;
}

static struct dirty_log *create(uint64_t iova, uint64_t length, uint64_t page_size)
{
	struct dirty_log_range range = { iova, length };
	struct error e = { 0 };
	struct dirty_log *log = dirty_log_create(&range, 1, page_size, &e);

	assert_non_null(log);
	return log;
}

/* ---- against a plain model ---- */

struct model {
	uint64_t random;
	uint64_t start; /* page number of the range's first */
	bool marked[PAGES];
};

static uint64_t pick(struct model *m, uint64_t n)
{
	return random_next(&m->random) % n;
}

static void mark_some(struct model *m, struct dirty_log *log)
{
	uint64_t iova = pick(m, (m->start + PAGES + 4) * PAGE), length = pick(m, 1 << pick(m, 18));

	dirty_log_mark(log, iova, length);
	for (uint64_t p = iova / PAGE; length && p <= (iova + length - 1) / PAGE; p++)
		if (p >= m->start && p < m->start + PAGES)
			m->marked[p - m->start] = true;
}

static void report_some(struct model *m, struct dirty_log *log)
{
	uint64_t page = (uint64_t)PAGE << pick(m, 4), per = page / PAGE;
	uint64_t first = align_up(m->start + pick(m, PAGES), per);
	uint64_t bitmap[PAGES / 64 + 2], pages;
	struct error e = { 0 };

	if (first >= m->start + PAGES)
		return;
	pages = 1 + pick(m, m->start + PAGES - first);
	assert_int_equal(
		dirty_log_report(log, first * PAGE, pages * PAGE, page, bitmap, sizeof(bitmap), &e),
		0);
	for (uint64_t i = 0; i < pages; i += per) {
		bool any = false;

		for (uint64_t j = i; j < i + per && j < pages; j++) {
			any |= m->marked[first - m->start + j];
			m->marked[first - m->start + j] = false;
		}
		assert_int_equal(bit_is_set(bitmap, i / per), any);
	}
}

static void reports_are_exact(void **state)
{
	struct model m = { .random = 7, .start = 1237 };
	struct dirty_log *log = create(m.start * PAGE, (uint64_t)PAGES * PAGE, PAGE);

	for (unsigned i = 0; i < ROUNDS; i++) {
		if (pick(&m, 8))
			mark_some(&m, log);
		else
			report_some(&m, log);
	}
	dirty_log_free(log);
}

/* ---- many threads ---- */

enum { THREADS = 3, MARKS = 200000 };

struct race {
	struct dirty_log *log;
	_Atomic uint32_t written[PAGES]; /* counts stores: the data */
	uint32_t copied[PAGES];          /* as the last copy found it */
	_Atomic unsigned running;
};

static void *write_pages(void *arg)
{
	struct race *r = arg;
	uint64_t random = (uintptr_t)&random;

	for (unsigned i = 0; i < MARKS; i++) {
		uint64_t page = random_next(&random) % 40 * (PAGES / 40);

		atomic_fetch_add_explicit(&r->written[page], 1, memory_order_relaxed);
		dirty_log_mark(r->log, page * PAGE, 1);
	}
	r->running--;
	return NULL;
}

static void copy_reported(struct race *r)
{
	uint64_t bitmap[PAGES / 64 + 1];

	assert_int_equal(dirty_log_report(r->log, 0, (uint64_t)PAGES * PAGE, PAGE, bitmap,
					  sizeof(bitmap), NULL),
			 0);
	for (unsigned i = 0; i < PAGES; i++)
		if (bit_is_set(bitmap, i))
			r->copied[i] = atomic_load_explicit(&r->written[i], memory_order_relaxed);
}

/* What was stored before a mark is in the copy that the mark leads to. */
static void no_store_is_lost(void **state)
{
	struct race *r = calloc(1, sizeof(*r));
	pthread_t threads[THREADS];

	r->log = create(0, (uint64_t)PAGES * PAGE, PAGE);
	r->running = THREADS;
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_pages, r), 0);
	while (r->running)
		copy_reported(r);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	copy_reported(r);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(r->copied[i], r->written[i]);
	dirty_log_free(r->log);
	free(r);
}

/* ---- a terabyte ---- */

static void a_terabyte_is_not_looked_at(void **state)
{
	const uint64_t terabyte = UINT64_C(1) << 40;
	const uint64_t pages[] = { 0, 1, 77777777, 99999999, terabyte / PAGE - 1 };
	struct dirty_log *log = create(0, terabyte, PAGE);
	size_t bytes = terabyte / PAGE / 8;
	uint64_t *bitmap = calloc(1, bytes), before, set = 0;

	for (unsigned i = 0; i < ARRAY_LENGTH(pages); i++)
		dirty_log_mark(log, pages[i] * PAGE, 1);
	assert_int_equal(dirty_log_report(log, 0, terabyte, PAGE, bitmap, bytes, NULL), 0);
	for (uint64_t i = 0; i < bytes / 8; i++)
		set += __builtin_popcountll(bitmap[i]);
	assert_int_equal(set, ARRAY_LENGTH(pages));
	for (unsigned i = 0; i < ARRAY_LENGTH(pages); i++)
		assert_true(bit_is_set(bitmap, pages[i]));
	/* 1,024 at the top, then two for each place that has anything; of 4,194,304 at the bottom
	 */
	assert_in_range(dirty_log_words_read(log), 1024, 1024 + 2 * ARRAY_LENGTH(pages));
	before = dirty_log_words_read(log);
	assert_int_equal(dirty_log_report(log, 0, terabyte, PAGE, bitmap, bytes, NULL), 0);
	assert_int_equal(dirty_log_words_read(log) - before, 1024);
	free(bitmap);
	dirty_log_free(log);
}

/* ---- ranges ---- */

static void ranges_are_apart(void **state)
{
	const struct dirty_log_range ranges[] = { { 64 * PAGE, 10 * PAGE }, { 0, 3 * PAGE + 1 } };
	struct dirty_log *log = dirty_log_create(ranges, 2, PAGE, NULL);
	uint64_t bitmap[4];

	assert_non_null(log);
	dirty_log_mark(log, 0, UINT64_MAX);
	assert_int_equal(dirty_log_report(log, 64 * PAGE, 10 * PAGE, PAGE, bitmap, 32, NULL), 0);
	assert_true(le64toh(bitmap[0]) == (1 << 10) - 1);
	assert_int_equal(dirty_log_report(log, 0, 4 * PAGE, PAGE, bitmap, 32, NULL), 0);
	assert_true(le64toh(bitmap[0]) == 15);
	dirty_log_mark(log, UINT64_MAX - 5, 100); /* wraps: ends with the address space */
	dirty_log_mark(log, 5 * PAGE, 50 * PAGE);
	assert_int_equal(dirty_log_report(log, 0, 4 * PAGE, PAGE, bitmap, 32, NULL), 0);
	assert_true(bitmap[0] == 0);
	dirty_log_free(log);
}

static void refuse(uint64_t iova, uint64_t length, uint64_t page, size_t bytes, const char *why)
{
	struct dirty_log *log = create(64 * PAGE, 100 * PAGE, 2 * PAGE);
	uint64_t bitmap[4];
	struct error e = { 0 };

	assert_int_equal(dirty_log_report(log, iova, length, page, bitmap, bytes, &e), -EINVAL);
	assert_non_null(strstr(e.text, why));
	dirty_log_free(log);
}

static void bad_reports_are_refused(void **state)
{
	refuse(64 * PAGE, 2 * PAGE, PAGE, 32, "the log's have 8192");
	refuse(64 * PAGE, 2 * PAGE, 12288, 32, "pages of 12288");
	refuse(65 * PAGE, PAGE, 2 * PAGE, 32, "no range that is logged");
	refuse(0, PAGE, 2 * PAGE, 32, "no range that is logged");
	refuse(64 * PAGE, 0, 2 * PAGE, 32, "no range that is logged");
	refuse(64 * PAGE, 102 * PAGE, 2 * PAGE, 32, "no range that is logged");
	refuse(64 * PAGE, UINT64_MAX, 2 * PAGE, 32, "no range that is logged");
	refuse(64 * PAGE, 2 * PAGE, 2 * PAGE, 7, "into 7 bytes");
}

static void refuse_log(const struct dirty_log_range *ranges, unsigned count, uint64_t page,
		       const char *why)
{
	struct error e = { 0 };

	assert_null(dirty_log_create(ranges, count, page, &e));
	assert_int_equal(e.code, -EINVAL);
	assert_non_null(strstr(e.text, why));
}

static void bad_logs_are_refused(void **state)
{
	const struct dirty_log_range good = { 0, PAGE }, empty = { 0, 0 },
				     wraps = { PAGE, UINT64_MAX };
	const struct dirty_log_range overlap[] = { { PAGE, PAGE }, { 0, PAGE + 1 } };

	refuse_log(&good, 0, PAGE, "0 ranges");
	refuse_log(&good, 1, 2048, "pages of 2048");
	refuse_log(&good, 1, 5000, "pages of 5000");
	refuse_log(&empty, 1, PAGE, "is none");
	refuse_log(&wraps, 1, PAGE, "is none");
	refuse_log(overlap, 2, PAGE, "overlap at 0x1000");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reports_are_exact),
		cmocka_unit_test(no_store_is_lost),
		cmocka_unit_test(a_terabyte_is_not_looked_at),
		cmocka_unit_test(ranges_are_apart),
		cmocka_unit_test(bad_reports_are_refused),
		cmocka_unit_test(bad_logs_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
