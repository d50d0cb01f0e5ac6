/* histogram.h - a distribution of latencies in constant space.
 *
 * Buckets grow with the value: eight per power of two, so a percentile is true to 12 %.
 * One thread adds; any thread may read.
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 8, HISTOGRAM_BUCKETS = 40 * HISTOGRAM_STEPS };

struct histogram {
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Values of 2^42 (over an hour in nanoseconds) and more share the last bucket. */
static inline unsigned histogram_bucket(uint64_t value)
{
	unsigned exponent, index;

	if (value < HISTOGRAM_STEPS)
		return value;
	exponent = 63 - __builtin_clzll(value);
	index = (exponent - 2) * HISTOGRAM_STEPS + (unsigned)((value >> (exponent - 3)) & 7);
	return index < HISTOGRAM_BUCKETS ? index : HISTOGRAM_BUCKETS - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	uint64_t *bucket = &h->buckets[histogram_bucket(value)];

	__atomic_store_n(bucket, __atomic_load_n(bucket, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

uint64_t histogram_count(const struct histogram *h);
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The largest value of the bucket that holds the given part of all values, 0 when empty.
 * per_mille: 500 = median, 999 = p99.9. */
uint64_t histogram_percentile(const struct histogram *h, unsigned per_mille);

#endif
