/* inflight.c - which requests we have taken and not returned, in memory that survives us.
 *
 * vhost-user protocol, "Inflight I/O tracking", split virtqueue.  The front-end keeps the region
 * while we are restarted.  Order of stores, each before the next:
 *   take:    counter, inflight = 1
 *   return:  next = last_batch_head, last_batch_head = head  (for each of a batch)
 *   publish: used ring's index, inflight = 0 (for each of the batch), used_idx = used ring's index
 * Whoever finds used_idx behind the used ring knows that the batch at last_batch_head was
 * published, and finishes clearing it.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "virtqueue/shadow.h"

struct inflight_descriptor {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct inflight {
	uint64_t features;
	uint16_t version;
	uint16_t descriptors;
	uint16_t last_batch_head;
	uint16_t used_index;
	struct inflight_descriptor descriptor[];
};

enum { INFLIGHT_VERSION = 1 };

size_t virtqueue_inflight_size(uint16_t size, bool packed)
{
	return packed ? inflight_packed_size(size)
		      : sizeof(struct inflight) + size * sizeof(struct inflight_descriptor);
}

static struct inflight *region_of(const struct virtqueue *q)
{
	return q->inflight;
}

/* Keeps the compiler, and x86's store order does the rest: a crash is of this process, not of the
 * machine, so what was stored is there. */
static void ordered(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static uint64_t next_counter(struct virtqueue *q)
{
	return ++q->inflight_counter;
}

void inflight_take(struct virtqueue *q, unsigned head)
{
	struct inflight_descriptor *d = &region_of(q)->descriptor[head];

	/* Handed out again: it keeps its place before those that are not yet, should we be killed
	 * once more. */
	if (__atomic_load_n(&d->inflight, __ATOMIC_RELAXED))
		return;
	d->counter = next_counter(q);
	ordered();
	d->inflight = 1;
}

void inflight_return(struct virtqueue *q, unsigned head)
{
	struct inflight *f = region_of(q);

	f->descriptor[head].next = f->last_batch_head;
	ordered();
	f->last_batch_head = head;
}

/* As if it had not been taken: of whatever is in flight it is the last. */
void inflight_untake(struct virtqueue *q, const struct chain_slot *s)
{
	if (q->packed)
		inflight_packed_untake(q, s);
	else
		region_of(q)->descriptor[s->chain.id].inflight = 0;
}

/* Clears the batch, newest first; its length is what the used ring has gained. */
static void clear_batch(struct virtqueue *q, uint16_t count)
{
	struct inflight *f = region_of(q);
	uint16_t head = __atomic_load_n(&f->last_batch_head, __ATOMIC_RELAXED);

	for (; count && head < q->size; count--) {
		f->descriptor[head].inflight = 0;
		head = __atomic_load_n(&f->descriptor[head].next, __ATOMIC_RELAXED);
	}
	ordered();
	f->used_index = q->published_index;
}

void inflight_publish(struct virtqueue *q)
{
	ordered();
	clear_batch(q, q->published_index - region_of(q)->used_index);
}

static int by_counter(const void *a, const void *b)
{
	const struct resubmission *x = a, *y = b;

	return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* Copied before it is sorted: the region is shared with somebody who may change it meanwhile. */
static void collect(struct virtqueue *q, const struct inflight *f)
{
	q->resubmit_count = q->resubmit_next = 0;
	q->inflight_counter = 0;
	for (unsigned i = 0; i < q->size; i++) {
		struct resubmission *r = &q->resubmit[q->resubmit_count];

		if (!__atomic_load_n(&f->descriptor[i].inflight, __ATOMIC_RELAXED))
			continue;
		*r = (struct resubmission){ .counter = f->descriptor[i].counter, .head = i };
		q->inflight_counter = maximum_u64(q->inflight_counter, r->counter);
		q->resubmit_count++;
	}
	qsort(q->resubmit, q->resubmit_count, sizeof(*q->resubmit), by_counter);
}

/* A version of 0 means fresh: whoever made the region cleared it. */
static int recover_split(struct virtqueue *q, void *region, struct error *e)
{
	struct inflight *f = region;
	uint16_t version = f->version;

	if (version > INFLIGHT_VERSION)
		return error_set(e, -EINVAL, "in-flight region: version %u, not %u", version,
				 INFLIGHT_VERSION);
	if (!version)
		f->used_index = q->published_index;
	f->version = INFLIGHT_VERSION;
	f->descriptors = q->size;
	q->inflight = f;
	if (f->used_index != q->published_index)
		clear_batch(q, q->published_index - f->used_index);
	collect(q, f);
	return 0;
}

int inflight_recover(struct virtqueue *q, void *region, size_t bytes, struct error *e)
{
	if (bytes < virtqueue_inflight_size(q->size, q->packed))
		return error_set(e, -EINVAL,
				 "in-flight region of %zu bytes is too small for %u descriptors",
				 bytes, q->size);
	return q->packed ? inflight_packed_recover(q, region, e) : recover_split(q, region, e);
}
