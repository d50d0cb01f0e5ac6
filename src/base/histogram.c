/* histogram.c - a distribution of latencies in constant space. */
#include "base/histogram.h"

static uint64_t bucket_count(const struct histogram *h, unsigned i)
{
	return __atomic_load_n(&h->buckets[i], __ATOMIC_RELAXED);
}

/* The first value that falls into bucket i. */
static uint64_t bucket_start(unsigned i)
{
	unsigned exponent;

	if (i < HISTOGRAM_STEPS)
		return i;
	exponent = i / HISTOGRAM_STEPS + 2;
	return (uint64_t)(HISTOGRAM_STEPS + i % HISTOGRAM_STEPS) << (exponent - 3);
}

uint64_t histogram_count(const struct histogram *h)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		sum += bucket_count(h, i);
	return sum;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
		into->buckets[i] += bucket_count(from, i);
}

uint64_t histogram_percentile(const struct histogram *h, unsigned per_mille)
{
	uint64_t total = histogram_count(h);
	uint64_t wanted = (total * per_mille + 999) / 1000;
	uint64_t seen = 0;

	if (!total)
		return 0;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += bucket_count(h, i);
		if (seen >= wanted && seen)
			return bucket_start(i + 1) - 1;
	}
	return bucket_start(HISTOGRAM_BUCKETS);
}
