/* fetch_packed.c - remote memory: the packed ring's available descriptors on their way to us
 * (virtio 1.3, 2.8).
 *
 * Theory of operation.  One machine per queue reads slices of the ring, each from the first
 * descriptor that was not taken yet.  The bytes of one transfer may be read in any order, so a
 * chain that a slice shows available may be half written in it: the chain is taken from the next
 * slice, which was asked for after that.  Every slice reaches beyond the chains that are taken from
 * it and so shows, too, what the round after it has to take; how far is guessed by the last round.
 *
 * Notifications are always wanted (as the queue's start, or the mapped ring before it, left them):
 * they cost the driver an exit at each batch, and us nothing, whereas to name a descriptor would
 * cost us two transfers at each.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtqueue/remote_queue.h"

enum {
	GUESS_FIRST = 3, /* descriptors: header, one piece of payload, status */
	GUESS_MAX = 256,
	FLAGS = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE | VRING_DESC_F_INDIRECT,
};

int fetch_packed_open(struct fetch_packed *f, size_t size)
{
	f->raw = calloc(size, sizeof(*f->raw));
	f->guess = GUESS_FIRST;
	return f->raw ? 0 : -ENOMEM;
}

void fetch_packed_close(struct fetch_packed *f)
{
	free(f->raw);
}

/* So many descriptors from the fetch place on. */
static void read_slice(struct virtqueue *q, unsigned count)
{
	struct fetch_packed *f = &q->remote->packed;
	unsigned first = q->ring.fetch.at, part;

	f->length = minimum_u64(count, q->size);
	part = minimum_u64(f->length, q->size - first);
	q->remote->sync = SYNC_TABLE;
	q->remote->again = false;
	fetch_sync_transfer(q, 0, q->setup.descriptor_iova + 16ull * first, f->raw, 16 * part,
			    false);
	if (f->length > part)
		fetch_sync_transfer(q, 1, q->setup.descriptor_iova, f->raw + part,
				    16 * (f->length - part), false);
}

void fetch_packed_begin(struct virtqueue *q)
{
	struct fetch_packed *f = &q->remote->packed;

	f->known = f->taken = 0;
	counter_add(&q->numbers.syncs, 1);
	read_slice(q, f->guess + 1);
}

/* Descriptors of the chain that begins at `from`; 0: it goes on beyond the slice. */
static unsigned chain_length(const struct fetch_packed *f, unsigned from)
{
	unsigned at = from;

	while (at < f->length && le16toh(f->raw[at].flags) & VRING_DESC_F_NEXT)
		at++;
	return at < f->length ? at - from + 1 : 0;
}

static bool is_available(const struct virtqueue *q, unsigned at)
{
	struct packed_place place = q->ring.fetch;

	packed_ring_advance(q, &place, at);
	return packed_ring_shows(&q->remote->packed.raw[at], place.wrap);
}

static void take_chain(struct virtqueue *q, unsigned at, unsigned count)
{
	const struct vring_desc *from = (const void *)&q->remote->packed.raw[at];
	unsigned id;

	if (!is_available(q, at)) {
		virtqueue_break(q, "the driver took back an available descriptor");
		return;
	}
	for (unsigned i = 0; i < count; i++)
		q->walk[i] = descriptor_copy_packed(&from[i], FLAGS);
	id = q->walk[count - 1].next;
	if (id >= q->size)
		virtqueue_break(q, "a buffer id beyond the queue");
	else
		fetch_packed_chain(q, id, count);
}

/* Takes what is known to be available.  How many descriptors; fewer than known if a chain goes on
 * beyond the slice. */
static unsigned take_known(struct virtqueue *q)
{
	struct fetch_packed *f = &q->remote->packed;
	unsigned at = 0;

	while (at < f->known && !q->reason) {
		unsigned count = chain_length(f, at);

		if (!count)
			break;
		take_chain(q, at, count);
		at += count;
	}
	fetch_table_read(q);
	return at;
}

/* How far chains begin that this slice shows available, from `at` on. */
static unsigned look_ahead(const struct virtqueue *q, unsigned at)
{
	const struct fetch_packed *f = &q->remote->packed;
	unsigned from = at, known = 0;

	while (at < f->length && is_available(q, at)) {
		unsigned count = chain_length(f, at);

		known = at + 1 - from;
		if (!count)
			break;
		at += count;
	}
	return known;
}

/* more: what is available reaches to the end of the slice, and perhaps beyond. */
static void end_round(struct virtqueue *q, bool more)
{
	struct fetch_packed *f = &q->remote->packed;

	if (f->taken)
		f->guess = maximum_u64(f->taken, f->guess - f->guess / 8);
	if (more)
		f->guess *= 2;
	f->guess = minimum_u64(f->guess, GUESS_MAX);
	f->guess = maximum_u64(f->guess, GUESS_FIRST);
	f->taken = 0;
}

void fetch_packed_step(struct virtqueue *q)
{
	struct fetch_packed *f = &q->remote->packed;
	unsigned at = take_known(q), ahead, length = f->length;

	if (q->reason)
		return;
	ahead = look_ahead(q, at);
	f->taken += at;
	if (at < f->known && length == q->size && !at) {
		virtqueue_break(q, "a descriptor chain is longer than the ring");
		return;
	}
	packed_ring_advance(q, &q->ring.fetch, at);
	if (at < f->known) {
		f->known -= at;
		read_slice(q, 2 * length);
		return;
	}
	end_round(q, ahead && at + ahead + GUESS_FIRST >= length);
	f->known = ahead;
	if (ahead)
		read_slice(q, ahead + f->guess + 1);
	else if (at == length)
		fetch_packed_begin(q); /* nothing beyond has been looked at */
	else
		q->remote->sync = SYNC_IDLE;
}
