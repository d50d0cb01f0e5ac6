/* Broken if this fails: sums and copies of scatter lists, percentiles, or the counters of objects
 * that have gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/histogram.h"
#include "base/iov.h"

static void iov_copies_across_entries(void **state)
{
	char a[3] = "", b[1] = "", c[8] = "", back[12] = "";
	struct iovec iov[] = { { a, 3 }, { b, 1 }, { NULL, 0 }, { c, 8 } };

	assert_int_equal(iov_length(iov, 4), 12);
	assert_int_equal(iov_copy_to(iov, 4, 2, "xyzuvw", 6), 6);
	assert_memory_equal(a + 2, "x", 1);
	assert_memory_equal(b, "y", 1);
	assert_memory_equal(c, "zuvw", 4);
	assert_int_equal(iov_copy_from(iov, 4, 2, back, 12), 10);
	assert_memory_equal(back, "xyzuvw", 6);
	assert_int_equal(iov_copy_to(iov, 4, 12, "q", 1), 0);
	assert_int_equal(iov_fill(iov, 4, 3, 'f', 2), 2);
	assert_memory_equal(b, "f", 1);
	assert_memory_equal(c, "f", 1);
}

static void iov_slices_stop_at_both_bounds(void **state)
{
	char m[16];
	struct iovec iov[] = { { m, 4 }, { m + 4, 4 }, { m + 8, 8 } }, out[3];
	uint64_t covered;

	assert_int_equal(iov_slice(iov, 3, 2, 8, out, 3, &covered), 3);
	assert_int_equal(covered, 8);
	assert_ptr_equal(out[0].iov_base, m + 2);
	assert_int_equal(out[2].iov_len, 2);
	assert_int_equal(iov_slice(iov, 3, 2, 8, out, 2, &covered), 2);
	assert_int_equal(covered, 6);
	assert_int_equal(iov_slice(iov, 3, 16, 1, out, 3, &covered), 0);
}

static void ranges_do_not_wrap(void **state)
{
	assert_true(range_fits(0, 10, 10));
	assert_true(range_fits(10, 0, 10));
	assert_false(range_fits(11, 0, 10));
	assert_false(range_fits(1, UINT64_MAX, 10));
	assert_false(range_fits(UINT64_MAX, 2, 10));
}

static void percentiles_are_true_to_a_bucket(void **state)
{
	struct histogram h = { 0 };

	assert_int_equal(histogram_percentile(&h, 500), 0);
	for (uint64_t v = 1; v <= 1000; v++)
		histogram_add(&h, v * 1000);
	assert_int_equal(histogram_count(&h), 1000);
	assert_in_range(histogram_percentile(&h, 500), 500 * 1000, 500 * 1000 * 9 / 8);
	assert_in_range(histogram_percentile(&h, 990), 990 * 1000, 990 * 1000 * 9 / 8);
	histogram_add(&h, UINT64_MAX);
	assert_int_equal(histogram_count(&h), 1001);
	for (unsigned shift = 0; shift < 42; shift++)
		assert_true(histogram_bucket(1ull << shift) < HISTOGRAM_BUCKETS);
}

struct numbers {
	uint64_t first, second;
};

static const struct counter_field fields[] = {
	{ "first", offsetof(struct numbers, first) },
	{ "second", offsetof(struct numbers, second) },
};

static struct counter_group group(const char *name, const struct numbers *n)
{
	struct counter_group g = { .room = "test", .fields = fields, .count = 2, .values = n };

	snprintf(g.name, sizeof(g.name), "%s", name);
	return g;
}

static void counters_of_the_gone_are_summed(void **state)
{
	struct numbers a = { 1, 0 }, b = { 20, 5 };
	struct counter_group ga = group("x", &a), gb = group("x", &b);
	char text[256] = "";
	FILE *to = fmemopen(text, sizeof(text), "w");

	counter_group_add(&ga);
	counter_group_add(&gb);
	counter_group_remove(&ga);
	counter_add(&b.second, 2);
	counter_print_all(to);
	counter_group_remove(&gb);
	fclose(to);
	assert_string_equal(text, "test x first 21\ntest x second 7\n");
}

static void errors_tell_their_way_up(void **state)
{
	struct error e = { 0 };

	assert_int_equal(error_set(&e, -22, "size %d", 3), -22);
	assert_int_equal(error_wrap(&e, "queue %d", 1), -22);
	assert_string_equal(e.text, "queue 1: size 3");
	assert_int_equal(error_set(NULL, -5, "nobody listens"), -5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(iov_copies_across_entries),
		cmocka_unit_test(iov_slices_stop_at_both_bounds),
		cmocka_unit_test(ranges_do_not_wrap),
		cmocka_unit_test(percentiles_are_true_to_a_bucket),
		cmocka_unit_test(counters_of_the_gone_are_summed),
		cmocka_unit_test(errors_tell_their_way_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
