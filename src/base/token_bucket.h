/* token_bucket.h - at most so many units per second, shared by any threads.
 *
 * A bucket is one number: the time until which what has been taken so far keeps it busy.  Taking
 * moves that time on by its own cost (one compare-and-swap); what was taken may start once that
 * time lies no more than the burst in the future.  What costs more than the burst waits for the
 * rest to be paid.  So all who share a bucket are served in the order of their arrival, without a
 * queue to synchronise: each keeps its own list, whose starting times only grow.
 */
#ifndef BASE_TOKEN_BUCKET_H
#define BASE_TOKEN_BUCKET_H

#include <stdint.h>

struct token_bucket {			/* zeroed: no limit */
	uint64_t rate;			/* units per second; 0: no limit */
	uint64_t burst_ns;		/* how far ahead of its time something may start */
	uint64_t busy_until_ns;		/* atomic */
};

/* Before it is shared.  burst: units, at least 1. */
void token_bucket_set(struct token_bucket *b, uint64_t rate, uint64_t burst);

/* Any thread.  Takes `units` out; when what they stand for may start, on the clock of now_ns: 0 or
 * a time in the past means at once. */
uint64_t token_bucket_take(struct token_bucket *b, uint64_t units, uint64_t now_ns);

/* Any thread.  `units` that were taken and never used go back, for those who take from now on. */
void token_bucket_give(struct token_bucket *b, uint64_t units);

#endif
