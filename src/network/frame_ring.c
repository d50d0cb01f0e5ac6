/* frame_ring.c - frames on their way from any thread to one.
 *
 * Two rings move together: slots, one per frame, and units of 64 bytes, of which a frame takes as
 * many as it needs, in one piece.  How much of both is reserved, and how much freed, is one word
 * each, so a frame's slot and its bytes come by one compare-and-swap.  A slot is published by its
 * sequence number, which nobody but the ring writes: frames' bytes lie elsewhere.
 */
#include "network/frame_ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/iov.h"
#include "base/pages.h"

enum { UNIT = 64, UNITS = FRAME_RING_BYTES / UNIT };

struct slot {
	_Atomic uint32_t sequence; /* its number in all laps, plus 1, when published */
	uint32_t length;           /* bytes */
	uint32_t first;            /* unit */
	uint32_t taken;            /* units, with those skipped at the end of the ring */
	struct virtio_net_hdr header;
};

/* Both count up for ever and wrap. */
struct place {
	uint32_t slots, units;
};

struct frame_ring {
	_Atomic uint64_t reserved; /* struct place, of those who put */
	void (*wake)(void *arg);
	void *arg;
	struct slot *slots;                  /* owned */
	uint8_t *bytes;                      /* owned */
	_Alignas(64) _Atomic uint64_t freed; /* struct place, of the one that takes */
	_Atomic bool asleep, open;
};

static struct place place_of(uint64_t word)
{
	return (struct place){ .slots = (uint32_t)word, .units = word >> 32 };
}

static uint64_t word_of(struct place p)
{
	return (uint64_t)p.units << 32 | p.slots;
}

struct frame_ring *frame_ring_create(void (*wake)(void *arg), void *arg)
{
	struct frame_ring *r = aligned_alloc(64, align_up(sizeof(*r), 64));

	if (!r)
		return NULL;
	memset(r, 0, sizeof(*r));
	r->wake = wake;
	r->arg = arg;
	r->slots = pages_allocate(FRAME_RING_SLOTS * sizeof(*r->slots));
	r->bytes = pages_allocate(FRAME_RING_BYTES);
	if (r->slots && r->bytes)
		return r;
	frame_ring_free(r);
	return NULL;
}

void frame_ring_free(struct frame_ring *r)
{
	if (!r)
		return;
	pages_free(r->slots, FRAME_RING_SLOTS * sizeof(*r->slots));
	pages_free(r->bytes, FRAME_RING_BYTES);
	free(r);
}

/* ---- putting ---- */

/* Where a frame of so many units may begin; *taken: with what is skipped before it. */
static uint32_t first_unit(struct place at, uint32_t units, uint32_t *taken)
{
	uint32_t first = at.units % UNITS;

	if (first + units <= UNITS) {
		*taken = units;
		return first;
	}
	*taken = UNITS - first + units;
	return 0;
}

static bool has_room(struct place at, struct place freed, uint32_t taken)
{
	return at.slots - freed.slots < FRAME_RING_SLOTS && at.units - freed.units + taken <= UNITS;
}

/* Only as many turns as other threads put and take frames meanwhile.  What is freed is read before
 * what is reserved: the other way round it could be the greater of the two, and an empty ring look
 * full.  It looks full, too, when a whole lap went by between the two: hence the second look. */
static bool reserve(struct frame_ring *r, uint32_t units, struct place *at, uint32_t *taken)
{
	for (;;) {
		uint64_t freed = atomic_load_explicit(&r->freed, memory_order_acquire);
		uint64_t word = atomic_load_explicit(&r->reserved, memory_order_relaxed);
		struct place next;

		*at = next = place_of(word);
		first_unit(*at, units, taken);
		if (unlikely(!has_room(*at, place_of(freed), *taken))) {
			if (atomic_load_explicit(&r->freed, memory_order_relaxed) == freed)
				return false;
			continue;
		}
		next.slots++;
		next.units += *taken;
		if (atomic_compare_exchange_weak(&r->reserved, &word, word_of(next)))
			return true;
	}
}

int frame_ring_put(struct frame_ring *r, const struct virtio_net_hdr *header,
		   const struct iovec *iov, unsigned n, size_t bytes)
{
	struct place at;
	struct slot *s;
	uint32_t taken;

	if (!atomic_load_explicit(&r->open, memory_order_relaxed) || bytes > NETWORK_FRAME_MAX ||
	    !reserve(r, (bytes + UNIT - 1) / UNIT, &at, &taken))
		return -ENOBUFS;
	s = &r->slots[at.slots % FRAME_RING_SLOTS];
	s->first = first_unit(at, (bytes + UNIT - 1) / UNIT, &taken);
	s->taken = taken;
	s->header = *header;
	s->length = iov_copy_from(iov, n, 0, r->bytes + (size_t)s->first * UNIT, bytes);
	atomic_store(&s->sequence, at.slots + 1);
	if (atomic_load(&r->asleep) && atomic_exchange(&r->asleep, false))
		r->wake(r->arg);
	return 0;
}

/* ---- taking ---- */

static struct slot *head(struct frame_ring *r)
{
	struct place freed = place_of(atomic_load_explicit(&r->freed, memory_order_relaxed));
	struct slot *s = &r->slots[freed.slots % FRAME_RING_SLOTS];

	return atomic_load(&s->sequence) == freed.slots + 1 ? s : NULL;
}

int frame_ring_peek(struct frame_ring *r, struct network_frame *f)
{
	struct slot *s = head(r);

	if (!s) {
		atomic_store(&r->asleep, true);
		s = head(r);
		if (!s)
			return 0;
		atomic_store(&r->asleep, false);
	}
	*f = (struct network_frame){ .header = s->header,
				     .bytes = r->bytes + (size_t)s->first * UNIT,
				     .length = s->length };
	return 1;
}

void frame_ring_consume(struct frame_ring *r)
{
	struct place freed = place_of(atomic_load_explicit(&r->freed, memory_order_relaxed));

	freed.units += r->slots[freed.slots % FRAME_RING_SLOTS].taken;
	freed.slots++;
	atomic_store_explicit(&r->freed, word_of(freed), memory_order_release);
}

static unsigned forget(struct frame_ring *r)
{
	unsigned count = 0;

	for (; head(r); count++)
		frame_ring_consume(r);
	return count;
}

bool frame_ring_is_open(const struct frame_ring *r)
{
	return atomic_load_explicit(&r->open, memory_order_relaxed);
}

unsigned frame_ring_open(struct frame_ring *r)
{
	unsigned forgotten = forget(r);

	atomic_store(&r->asleep, true);
	atomic_store(&r->open, true);
	return forgotten;
}

unsigned frame_ring_close(struct frame_ring *r)
{
	atomic_store(&r->open, false);
	atomic_store(&r->asleep, false);
	return forget(r);
}
