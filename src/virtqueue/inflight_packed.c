/* inflight_packed.c - which chains of a packed ring we have taken and not returned, in memory that
 * survives us.
 *
 * vhost-user protocol, "Inflight I/O tracking", packed virtqueue.  Used descriptors overwrite those
 * that chains were made of, so that the region holds a copy of each chain, as a list of entries;
 * the entries that are not in use are a list of their own.  Each before the next:
 *   take:     copies, last, num, counter, inflight = 1; free_head; old_free_head
 *   prepare:  the batch's entries before the free list, free_head; used place beside the old one
 *   publish:  (the first used descriptor's flags); inflight = 0 for each; old_free_head; old place
 * What has been prepared counts as published if the ring's descriptor at the old place is not
 * available any more, and as never done if it still is.
 *
 * The region is shared with a VMM that may write it: what is read here is checked, and read once.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "virtqueue/shadow.h"

struct packed_entry {
	uint8_t inflight; /* this and what is named "head's": of a chain's first entry */
	uint8_t padding;
	uint16_t next;    /* of the chain, or of the free list */
	uint16_t last;    /* head's: the chain's last entry */
	uint16_t num;     /* head's: the chain's entries */
	uint64_t counter; /* head's */
	uint16_t id;
	uint16_t flags;
	uint32_t length;
	uint64_t address;
};

/* Stored as a whole: old and new never contradict each other. */
union packed_used {
	struct {
		uint16_t at, old_at;
		uint8_t wrap, old_wrap;
		uint8_t padding[2];
	};
	uint64_t word;
};

struct inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t descriptors;
	uint16_t free_head, old_free_head;
	union packed_used used;
	uint8_t padding[8];
	struct packed_entry entry[];
};

_Static_assert(sizeof(struct packed_entry) == 32 && sizeof(struct inflight_packed) == 32,
	       "as the specification lays them out");

enum { INFLIGHT_VERSION = 1 };

size_t inflight_packed_size(uint16_t size)
{
	return sizeof(struct inflight_packed) + size * sizeof(struct packed_entry);
}

static struct inflight_packed *region_of(const struct virtqueue *q)
{
	return q->inflight;
}

/* Keeps the compiler, as in inflight.c. */
static void ordered(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static uint16_t load(const uint16_t *from)
{
	return __atomic_load_n(from, __ATOMIC_RELAXED);
}

static void store_used(struct virtqueue *q, struct packed_place now, struct packed_place old)
{
	const union packed_used used = {
		.at = now.at, .old_at = old.at, .wrap = now.wrap, .old_wrap = old.wrap
	};

	__atomic_store_n(&region_of(q)->used.word, used.word, __ATOMIC_RELEASE);
}

static int inconsistent(struct virtqueue *q)
{
	return virtqueue_break(q, "somebody wrote into the in-flight region");
}

/* ---- take ---- */

static void entry_fill(struct packed_entry *e, const struct vring_desc *d)
{
	e->address = d->addr;
	e->length = d->len;
	e->flags = d->flags;
	e->id = d->next;
}

int inflight_packed_take(struct virtqueue *q, struct chain_slot *s, const struct vring_desc *last)
{
	struct inflight_packed *f = region_of(q);
	uint16_t head = q->batch.free_head, at = head, end = head;

	for (unsigned i = 0; i < s->descriptors; i++) {
		if (at >= q->size)
			return inconsistent(q);
		entry_fill(&f->entry[at], i + 1 < s->descriptors ? &q->walk[i] : last);
		end = at;
		at = load(&f->entry[at].next);
	}
	f->entry[head].last = end;
	f->entry[head].num = s->descriptors;
	f->entry[head].counter = ++q->inflight_counter;
	ordered();
	f->entry[head].inflight = 1;
	ordered();
	f->free_head = at;
	ordered();
	f->old_free_head = at;
	q->batch.free_head = at;
	s->inflight = head;
	return 0;
}

/* ---- return ---- */

/* The list is linked at once, since nobody reads `next` of a last entry that is in flight; it joins
 * the free list when the batch is prepared. */
void inflight_packed_return(struct virtqueue *q, const struct chain_slot *s)
{
	struct inflight_packed *f = region_of(q);
	uint16_t last = load(&f->entry[s->inflight].last);

	if (last >= q->size) {
		inconsistent(q);
		return;
	}
	if (!q->batch.count++)
		q->batch.tail = last;
	else
		f->entry[last].next = q->batch.head;
	q->batch.head = s->inflight;
}

/* In the order of a take, backward.  What old_free_head leads to is free, whatever else is said of
 * it: that store decides. */
void inflight_packed_untake(struct virtqueue *q, const struct chain_slot *s)
{
	struct inflight_packed *f = region_of(q);
	uint16_t last = load(&f->entry[s->inflight].last);

	if (last >= q->size) {
		inconsistent(q);
		return;
	}
	f->entry[last].next = q->batch.free_head;
	ordered();
	f->free_head = q->batch.free_head = s->inflight;
	ordered();
	f->old_free_head = s->inflight;
	ordered();
	f->entry[s->inflight].inflight = 0;
}

void inflight_packed_prepare(struct virtqueue *q)
{
	struct inflight_packed *f = region_of(q);

	if (!q->batch.count)
		return;
	f->entry[q->batch.tail].next = q->batch.free_head;
	ordered();
	f->free_head = q->batch.free_head = q->batch.head;
	store_used(q, q->ring.used, q->ring.published);
	ordered();
}

void inflight_packed_publish(struct virtqueue *q)
{
	struct inflight_packed *f = region_of(q);
	uint16_t head = q->batch.head;

	ordered();
	for (; q->batch.count && head < q->size; q->batch.count--) {
		uint16_t last = load(&f->entry[head].last);

		f->entry[head].inflight = 0;
		head = last < q->size ? load(&f->entry[last].next) : q->size;
	}
	q->batch.count = 0;
	ordered();
	f->old_free_head = q->batch.free_head;
	ordered();
	store_used(q, q->ring.used, q->ring.used);
}

/* ---- recovery ---- */

static void begin_fresh(struct virtqueue *q, struct inflight_packed *f)
{
	f->features = 0;
	f->descriptors = q->size;
	for (unsigned i = 0; i < q->size; i++)
		f->entry[i] = (struct packed_entry){ .next = i + 1 };
	f->free_head = f->old_free_head = q->batch.free_head = 0;
	store_used(q, q->ring.used, q->ring.used);
	ordered();
	f->version = INFLIGHT_VERSION;
}

/* Where the ring is, and which entries are free: what had been prepared is taken as done or not. */
static int settle(struct virtqueue *q, struct inflight_packed *f, struct error *e)
{
	union packed_used used = { .word = __atomic_load_n(&f->used.word, __ATOMIC_RELAXED) };
	struct packed_place now = { .at = used.at, .wrap = used.wrap };
	struct packed_place old = { .at = used.old_at, .wrap = used.old_wrap };
	uint16_t free_head = load(&f->old_free_head);

	if (now.at >= q->size || old.at >= q->size)
		return error_set(e, -EINVAL,
				 "in-flight region: places %u and %u are beyond the ring", now.at,
				 old.at);
	if (now.at == old.at && now.wrap == old.wrap)
		old = now;
	else if (!packed_ring_is_available(q, old)) {
		free_head = load(&f->free_head);
		old = now;
	}
	q->ring.used = q->ring.published = old;
	f->free_head = q->batch.free_head = free_head;
	ordered();
	f->old_free_head = free_head;
	store_used(q, old, old);
	return 0;
}

static void clear_free_entries(struct virtqueue *q, struct inflight_packed *f)
{
	uint16_t at = q->batch.free_head;

	for (unsigned i = 0; i < q->size && at < q->size; i++) {
		f->entry[at].inflight = 0;
		at = load(&f->entry[at].next);
	}
}

static int by_counter(const void *a, const void *b)
{
	const struct resubmission *x = a, *y = b;

	return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* The descriptors that what is in flight takes up, or -EINVAL. */
static int collect(struct virtqueue *q, const struct inflight_packed *f, struct error *e)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < q->size; i++) {
		struct resubmission *r = &q->resubmit[q->resubmit_count];

		if (!__atomic_load_n(&f->entry[i].inflight, __ATOMIC_RELAXED))
			continue;
		*r = (struct resubmission){ .counter = f->entry[i].counter,
					    .head = i,
					    .descriptors = load(&f->entry[i].num) };
		sum += r->descriptors;
		if (!r->descriptors || sum > q->size)
			return error_set(e, -EINVAL,
					 "in-flight region: entry %u has %u descriptors", i,
					 r->descriptors);
		q->inflight_counter = maximum_u64(q->inflight_counter, r->counter);
		q->resubmit_count++;
	}
	qsort(q->resubmit, q->resubmit_count, sizeof(*q->resubmit), by_counter);
	return sum;
}

static int check(const struct virtqueue *q, const struct inflight_packed *f, struct error *e)
{
	uint16_t version = load(&f->version), descriptors = load(&f->descriptors);

	if (version > INFLIGHT_VERSION)
		return error_set(e, -EINVAL, "in-flight region: version %u, not %u", version,
				 INFLIGHT_VERSION);
	if (version && descriptors != q->size)
		return error_set(e, -EINVAL,
				 "in-flight region: of a ring of %u descriptors, not %u",
				 descriptors, q->size);
	return 0;
}

int inflight_packed_recover(struct virtqueue *q, void *region, struct error *e)
{
	struct inflight_packed *f = region;
	int err = check(q, f, e), sum;

	if (err)
		return err;
	q->inflight = region;
	q->inflight_counter = 0;
	if (!load(&f->version)) {
		begin_fresh(q, f);
		return 0;
	}
	err = settle(q, f, e);
	if (err)
		return err;
	clear_free_entries(q, f);
	sum = collect(q, f, e);
	if (sum < 0)
		return sum;
	packed_ring_take_back(q, sum);
	return 0;
}

int inflight_packed_walk(struct virtqueue *q, unsigned *id)
{
	const struct inflight_packed *f = region_of(q);
	const struct resubmission *r = &q->resubmit[q->resubmit_next];
	uint16_t at = r->head;

	for (unsigned i = 0; i < r->descriptors; i++) {
		if (at >= q->size || i == q->segments_max)
			return inconsistent(q);
		q->walk[i] = (struct vring_desc){ .addr = f->entry[at].address,
						  .len = f->entry[at].length,
						  .flags = load(&f->entry[at].flags),
						  .next = load(&f->entry[at].id) };
		at = load(&f->entry[at].next);
	}
	*id = q->walk[r->descriptors - 1].next;
	return *id < q->size ? r->descriptors : inconsistent(q);
}
