/* token_bucket.c - at most so many units per second. */
#include "base/token_bucket.h"

#include "base/bytes.h"

static const uint64_t second_ns = 1000ull * 1000 * 1000;
static const uint64_t forever_ns = 1ull << 62;

static uint64_t cost_ns(const struct token_bucket *b, uint64_t units)
{
	__extension__ unsigned __int128 ns = (unsigned __int128)units * second_ns + b->rate - 1;

	return ns / b->rate > forever_ns ? forever_ns : ns / b->rate;
}

void token_bucket_set(struct token_bucket *b, uint64_t rate, uint64_t burst)
{
	*b = (struct token_bucket){ .rate = rate };
	b->burst_ns = rate ? cost_ns(b, maximum_u64(burst, 1)) : 0;
}

uint64_t token_bucket_take(struct token_bucket *b, uint64_t units, uint64_t now_ns)
{
	uint64_t found = __atomic_load_n(&b->busy_until_ns, __ATOMIC_RELAXED);
	uint64_t cost, place;

	if (!b->rate)
		return 0;
	cost = cost_ns(b, units);
	/* Only as many turns as other threads take out of it meanwhile. */
	do {
		place = minimum_u64(maximum_u64(found, now_ns), forever_ns);
	} while (!__atomic_compare_exchange_n(&b->busy_until_ns, &found, place + cost, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return place + cost > b->burst_ns ? place + cost - b->burst_ns : 0;
}

void token_bucket_give(struct token_bucket *b, uint64_t units)
{
	uint64_t found = __atomic_load_n(&b->busy_until_ns, __ATOMIC_RELAXED), cost, left;

	if (!b->rate)
		return;
	cost = cost_ns(b, units);
	do {
		left = found - minimum_u64(found, cost);
	} while (!__atomic_compare_exchange_n(&b->busy_until_ns, &found, left, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}
