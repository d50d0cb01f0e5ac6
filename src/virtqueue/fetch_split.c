/* fetch_split.c - remote memory: the split ring's available part on its way to us
 * (virtio 1.3, 2.7).
 *
 * Theory of operation.  One machine per queue, one step after the other:
 *
 *   index   what the driver has made available; after a notification only
 *   ask     avail_event: a notification is wanted for what comes behind the index just read
 *   heads   the new heads, and with them, mostly in the same transfer, the index once more
 *   table   the descriptors that the heads name, in as few pieces as they lie in: from the lowest
 *           head to the highest plus what chains have lately been long.  A chain that goes on
 *           elsewhere costs a second read, of the whole table, and after a few of those the whole
 *           table is read at once.
 *
 * The heads are read after the index that covers them, in a transfer of its own: the bytes of one
 * transfer may be read in any order.  For the same reason the index that comes with the heads is
 * good for the next round only.
 *
 * Whoever stops looking must have asked, and have looked once more after that.  If the last batch
 * was followed by silence this one asks before it reads heads, and the index that comes with them
 * is that look; else it goes on to the next batch without asking, for the driver is busy.  Without
 * event indexes the driver notifies every time, and nothing is asked.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtqueue/remote_queue.h"

enum {
	WITH_INDEX = 512,       /* bytes: heads further from the index are read without it */
	EXPECTED_FIRST = 3,     /* header, one piece of payload, status */
	EXPECTED_MAX = 64,      /* descriptors */
	SCATTERED_BATCHES = 32, /* are read with the whole table before a guess is made again */
	SCATTERED_MAX = 1024,   /* descriptors: a larger table is not */
};

enum place { PLACE_UNREAD, PLACE_WANTED, PLACE_READ };

int fetch_split_open(struct fetch_split *f, size_t size)
{
	f->raw_ring = calloc(size + 1, sizeof(*f->raw_ring));
	f->raw_table = calloc(size, sizeof(*f->raw_table));
	f->place = calloc(size, sizeof(*f->place));
	f->expected = EXPECTED_FIRST;
	return f->raw_ring && f->raw_table && f->place ? 0 : -ENOMEM;
}

void fetch_split_close(struct fetch_split *f)
{
	free(f->raw_ring);
	free(f->raw_table);
	free(f->place);
}

/* What a former process left comes first; its heads are known already. */
static bool has_asked(const struct virtqueue *q, uint16_t index)
{
	return !q->event_index || (q->remote->asked && q->remote->asked_index == index);
}

/* ---- index, ask ---- */

/* virtio 1.3, 2.7.6: flags, then the index. */
void fetch_split_begin(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	r->sync = SYNC_INDEX;
	r->again = false;
	r->split.index_read = false;
	counter_add(&q->numbers.syncs, 1);
	fetch_sync_transfer(q, 0, q->setup.driver_iova + 2, r->split.raw_ring, 2, false);
}

/* virtio 1.3, 2.7.7.2: avail_event is behind the used elements. */
static void begin_ask(struct virtqueue *q, uint16_t index)
{
	struct remote_queue *r = q->remote;

	r->sync = SYNC_ASK;
	r->asked = true;
	r->asked_index = index;
	r->split.event_word = htole16(index);
	fetch_sync_transfer(q, 0, q->setup.device_iova + 4 + 8ull * q->size, &r->split.event_word,
			    2, true);
}

/* ---- heads ---- */

/* With them one look for the next batch: in the same transfer if they lie near the index, else in
 * that of the heads that lie around the ring's end, if any do. */
static void begin_heads(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	uint16_t *raw = r->split.raw_ring;
	unsigned first = q->seen_index & q->mask;
	unsigned count = (uint16_t)(r->split.new_index - q->seen_index);
	unsigned part = minimum_u64(count, q->size - first);
	uint64_t index_iova = q->setup.driver_iova + 2;

	r->sync = SYNC_HEADS;
	r->again = false;
	r->split.index_read = true;
	if (2 * (1 + first + part) <= WITH_INDEX) {
		fetch_sync_transfer(q, 0, index_iova, raw, 2 * (1 + first + part), false);
		return;
	}
	fetch_sync_transfer(q, 0, index_iova + 2ull * (1 + first), raw + 1 + first, 2 * part,
			    false);
	fetch_sync_transfer(q, 1, index_iova, raw, 2 * (1 + count - part), false);
}

/* ---- table ---- */

static void want(struct virtqueue *q, unsigned head)
{
	struct fetch_split *f = &q->remote->split;
	unsigned end = minimum_u64((uint64_t)head + f->expected, q->size);

	for (unsigned i = head; i < end; i++)
		f->place[i] = PLACE_WANTED;
}

static void want_batch(struct virtqueue *q)
{
	struct fetch_split *f = &q->remote->split;

	for (unsigned i = q->resubmit_next; i != q->resubmit_count; i++)
		want(q, q->resubmit[i].head);
	for (uint16_t i = q->seen_index; i != f->new_index; i++)
		want(q, le16toh(f->raw_ring[1 + (i & q->mask)]));
}

/* From first, which is wanted, over gaps that are not worth a transfer. */
static unsigned piece_end(const struct virtqueue *q, unsigned first)
{
	const uint8_t *place = q->remote->split.place;
	unsigned end = first + 1;

	for (unsigned i = end; i < q->size && i - end < TABLE_GAP; i++)
		if (place[i] == PLACE_WANTED)
			end = i + 1;
	return end;
}

static void read_pieces(struct virtqueue *q)
{
	struct fetch_split *f = &q->remote->split;
	unsigned used = 0;

	for (unsigned i = 0; i < q->size; i++) {
		unsigned end;

		if (f->place[i] != PLACE_WANTED)
			continue;
		end = piece_end(q, i);
		memset(f->place + i, PLACE_READ, end - i);
		fetch_sync_transfer(q, used++, q->setup.descriptor_iova + 16ull * i,
				    f->raw_table + i, 16 * (end - i), false);
		i = end;
	}
}

static void read_whole_table(struct virtqueue *q)
{
	struct fetch_split *f = &q->remote->split;

	f->whole = true;
	memset(f->place, PLACE_READ, q->size);
	fetch_sync_transfer(q, 0, q->setup.descriptor_iova, f->raw_table, 16u * q->size, false);
}

static void begin_table(struct virtqueue *q)
{
	struct fetch_split *f = &q->remote->split;

	q->remote->sync = SYNC_TABLE;
	f->whole = false;
	if (f->scattered && q->size <= SCATTERED_MAX) {
		f->scattered--;
		read_whole_table(q);
		return;
	}
	memset(f->place, PLACE_UNREAD, q->size);
	want_batch(q);
	read_pieces(q);
}

/* Whether all of the chain has been read; *span: how far it reaches from its head, at least. */
static bool chain_is_here(const struct virtqueue *q, unsigned head, unsigned *span)
{
	const struct fetch_split *f = &q->remote->split;
	unsigned at = head;

	for (unsigned n = 0; n < q->size && at < q->size; n++) {
		const struct vring_desc *d = &f->raw_table[at];

		if (f->place[at] != PLACE_READ)
			return false;
		if (at >= head)
			*span = maximum_u64(*span, at - head + 1);
		if (!(le16toh(d->flags) & VRING_DESC_F_NEXT))
			break;
		at = le16toh(d->next);
	}
	return true; /* or wrong in itself: whoever walks it finds out */
}

static bool batch_is_here(struct virtqueue *q)
{
	struct fetch_split *f = &q->remote->split;
	unsigned span = 1;
	bool here = true;

	for (unsigned i = q->resubmit_next; here && i != q->resubmit_count; i++)
		here = chain_is_here(q, q->resubmit[i].head, &span);
	for (uint16_t i = q->seen_index; here && i != f->new_index; i++)
		here = chain_is_here(q, le16toh(f->raw_ring[1 + (i & q->mask)]), &span);
	if (here)
		f->expected = minimum_u64(maximum_u64(span, f->expected - 1), EXPECTED_MAX);
	return here;
}

static void begin_chain(struct virtqueue *q, unsigned head)
{
	const char *reason = "the available ring names a descriptor beyond the queue";
	int n = -EPROTO;

	if (head < q->size)
		n = descriptor_walk(q->remote->split.raw_table, q->size, head, q->walk,
				    q->segments_max, &reason);
	if (n < 0)
		virtqueue_break(q, reason);
	else
		fetch_chain_begin(q, head, n);
}

static void begin_chains(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	while (has_resubmissions(q) && !q->reason) {
		r->resubmits_out++;
		begin_chain(q, q->resubmit[q->resubmit_next++].head);
	}
	while (q->seen_index != r->split.new_index && !q->reason) {
		unsigned head = le16toh(r->split.raw_ring[1 + (q->seen_index & q->mask)]);

		q->fetched_index = ++q->seen_index;
		begin_chain(q, head);
	}
	fetch_table_read(q);
}

/* ---- steps ---- */

static void end_look(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	struct fetch_split *f = &r->split;

	f->new_index = le16toh(f->raw_ring[0]);
	if ((uint16_t)(f->new_index - q->available_index) > q->size)
		virtqueue_break(q, "the available index ran ahead by more than the queue");
	else if (f->new_index != q->seen_index && f->ask_early && !has_asked(q, f->new_index))
		begin_ask(q, f->new_index);
	else if (f->new_index != q->seen_index)
		begin_heads(q);
	else if (has_resubmissions(q))
		begin_table(q);
	else if (!has_asked(q, q->seen_index))
		begin_ask(q, q->seen_index);
	else
		r->sync = SYNC_IDLE;
}

static void end_table(struct virtqueue *q)
{
	struct fetch_split *f = &q->remote->split;

	if (!f->whole && !batch_is_here(q)) {
		f->scattered = SCATTERED_BATCHES;
		read_whole_table(q);
		return;
	}
	begin_chains(q);
	if (q->reason)
		return;
	if (!f->index_read) {
		fetch_split_begin(q);
		return;
	}
	f->ask_early = le16toh(f->raw_ring[0]) == q->seen_index;
	end_look(q);
}

void fetch_split_step(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	switch (r->sync) {
	case SYNC_INDEX:
		end_look(q);
		break;
	case SYNC_ASK:
		if (r->split.new_index != q->seen_index)
			begin_heads(q);
		else
			fetch_split_begin(q);
		break;
	case SYNC_HEADS:
		begin_table(q);
		break;
	case SYNC_TABLE:
		end_table(q);
		break;
	case SYNC_IDLE:
		break;
	}
}
