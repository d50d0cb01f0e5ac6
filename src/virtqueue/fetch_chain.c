/* fetch_chain.c - remote memory: what the descriptors of one chain name, on its way to us.
 *
 * The indirect table, if any (fetch_table.c), then header and readable payload at once.  Chains
 * arrive in any order and are popped in the ring's.  A chain that finds no buffer free waits for
 * one, and those behind it too, for order's sake.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "link/buffer_pool.h"
#include "virtqueue/remote_queue.h"

enum { ROOM_MIN = 8 }; /* descriptors */

/* ---- memory ---- */

void fetch_chain_free(struct remote_chain *c)
{
	if (!c)
		return;
	free(c->list);
	free(c->table);
	free(c->transfers);
	free(c);
}

static struct remote_chain *chain_get(struct virtqueue *q, struct chain_slot *s)
{
	if (!s->remote)
		s->remote = calloc(1, sizeof(*s->remote));
	if (!s->remote)
		virtqueue_break(q, "out of memory for a remote request");
	else
		s->remote->queue = q;
	return s->remote;
}

/* What a slot has once needed it keeps, so a steady load does not allocate. */
static unsigned rounded(unsigned count)
{
	unsigned room = ROOM_MIN;

	while (room < count)
		room *= 2;
	return room;
}

static int reserve_table(struct remote_chain *c, unsigned entries)
{
	if (entries <= c->table_room)
		return 0;
	free(c->table);
	c->table_room = 0;
	c->table = calloc(rounded(entries), sizeof(*c->table));
	if (!c->table)
		return -ENOMEM;
	c->table_room = rounded(entries);
	return 0;
}

/* No transfer of the chain is under way.  The list keeps what is in it. */
static int reserve_list(struct remote_chain *c, unsigned count)
{
	unsigned room = rounded(count);
	struct vring_desc *list;

	if (count <= c->list_room)
		return 0;
	list = realloc(c->list, room * sizeof(*list));
	if (!list)
		return -ENOMEM;
	c->list = list;
	free(c->transfers);
	c->list_room = 0;
	c->transfers = calloc(room + 2, sizeof(*c->transfers));
	if (!c->transfers)
		return -ENOMEM;
	c->list_room = room;
	return 0;
}

/* ---- transfers ---- */

void fetch_tell_if_quiet(struct virtqueue *q)
{
	if (q->reason || !q->remote->transfers)
		fetch_tell_owner(q);
}

static void chain_is_ready(struct virtqueue *q, struct remote_chain *c)
{
	struct remote_queue *r = q->remote;

	c->ready = true;
	if (r->fifo_count && r->fifo[r->fifo_first & q->mask] == c->head)
		fetch_tell_owner(q);
}

static void chain_read_done(struct link_transfer *t)
{
	struct remote_chain *c = t->owner;
	struct virtqueue *q = c->queue;

	remote_ended(q, q->slots[c->head].epoch, t, &c->pending);
	if (!q->reason && !c->pending)
		chain_is_ready(q, c);
	fetch_tell_if_quiet(q);
}

static void chain_read(struct virtqueue *q, struct remote_chain *c, struct link_transfer *t,
		       enum link_purpose purpose, uint64_t iova, void *local, uint32_t length)
{
	*t = (struct link_transfer){ .iova = iova,
				     .local = local,
				     .length = length,
				     .purpose = purpose,
				     .done = chain_read_done,
				     .owner = c };
	remote_read(q, q->slots[c->head].epoch, t, &c->pending);
}

/* Header first, the rest of the readable part to the start of the buffer. */
static void read_readable(struct virtqueue *q, struct remote_chain *c, struct chain_slot *s)
{
	struct link_transfer *t = c->transfers;
	uint64_t stored = 0;

	for (unsigned i = 0; i < c->count && !(c->list[i].flags & VRING_DESC_F_WRITE); i++) {
		uint64_t iova = c->list[i].addr, left = c->list[i].len;
		uint64_t head = minimum_u64(left, q->setup.header_size - s->chain.header_bytes);

		if (head) {
			chain_read(q, c, t++, LINK_HEADER, iova, s->header + s->chain.header_bytes,
				   head);
			s->chain.header_bytes += head;
		}
		if (left > head)
			chain_read(q, c, t++, LINK_PAYLOAD, iova + head, c->buffer + stored,
				   left - head);
		stored += left - head;
	}
}

/* Sizes of the two parts of the payload, header and status taken off. */
static void measure(struct virtqueue *q, struct remote_chain *c, struct chain_slot *s)
{
	uint64_t sums[2] = { 0, 0 };

	for (unsigned i = 0; i < c->count; i++)
		sums[!!(c->list[i].flags & VRING_DESC_F_WRITE)] += c->list[i].len;
	s->chain.has_status = q->options.has_status && sums[1];
	s->chain.readable_bytes = sums[0] - minimum_u64(sums[0], q->setup.header_size);
	s->chain.writable_bytes = sums[1] - s->chain.has_status;
	c->buffer_bytes = s->chain.readable_bytes + s->chain.writable_bytes;
}

static void describe_payload(struct remote_chain *c, struct chain_slot *s)
{
	s->segments = 0;
	if (s->chain.readable_bytes)
		s->iov[s->segments++] = (struct iovec){ c->buffer, s->chain.readable_bytes };
	s->chain.readable = s->segments;
	if (s->chain.writable_bytes)
		s->iov[s->segments++] = (struct iovec){ c->buffer + s->chain.readable_bytes,
							s->chain.writable_bytes };
	s->chain.writable = s->segments - s->chain.readable;
}

static bool buffer_take(struct virtqueue *q, struct remote_chain *c)
{
	if (!c->buffer_bytes)
		return true;
	c->buffer = buffer_pool_take(q->remote->pool, c->buffer_bytes);
	if (!c->buffer && buffer_pool_is_unused(q->remote->pool))
		virtqueue_break(q, "out of memory for a request's payload");
	return c->buffer;
}

static void chain_begin_payload(struct virtqueue *q, struct remote_chain *c)
{
	struct chain_slot *s = &q->slots[c->head];

	describe_payload(c, s);
	read_readable(q, c, s);
	if (!c->pending && !q->reason)
		chain_is_ready(q, c);
}

static void chain_data(struct virtqueue *q, struct remote_chain *c)
{
	const char *reason = "";

	if (descriptor_check(c->list, c->count, &reason)) {
		virtqueue_break(q, reason);
		return;
	}
	measure(q, c, &q->slots[c->head]);
	if (c->buffer_bytes > PAYLOAD_MAX) {
		virtqueue_break(q, "a request of more payload than is taken over a remote link");
		return;
	}
	c->measured = true;
	fetch_chain_allot(q);
}

/* Requests are popped in the order of the ring, so buffers are given out in it: if a later one took
 * the last, the first would wait for a buffer that comes back only after its own turn. */
void fetch_chain_allot(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	while (!q->reason && r->allotted < r->fifo_count) {
		unsigned head = r->fifo[(r->fifo_first + r->allotted) & q->mask];
		struct remote_chain *c = q->slots[head].remote;

		if (!c->measured || !buffer_take(q, c))
			return;
		r->allotted++;
		chain_begin_payload(q, c);
	}
}

/* ---- indirect tables ---- */

/* The entries take the place of the descriptor that names the table. */
void fetch_chain_table(struct virtqueue *q, struct remote_chain *c, const struct vring_desc *table)
{
	const struct vring_desc d = c->list[c->count - 1];
	const char *reason = "";
	int n = descriptor_table_walk(q, table, d.len / sizeof(d), q->walk,
				      q->segments_max - (c->count - 1), &reason);

	if (n > 0 && reserve_list(c, c->count - 1 + n)) {
		reason = "out of memory for a remote request";
		n = -ENOMEM;
	}
	if (n < 0) {
		virtqueue_break(q, reason);
		return;
	}
	memcpy(c->list + c->count - 1, q->walk, n * sizeof(d));
	c->count += n - 1;
	counter_add(&q->numbers.indirect_chains, 1);
	chain_data(q, c);
}

static void chain_table_done(struct link_transfer *t)
{
	struct remote_chain *c = t->owner;
	struct virtqueue *q = c->queue;

	remote_ended(q, q->slots[c->head].epoch, t, &c->pending);
	if (!q->reason)
		fetch_chain_table(q, c, c->table);
	fetch_tell_if_quiet(q);
}

void fetch_chain_read_table(struct virtqueue *q, struct remote_chain *c)
{
	const struct vring_desc *d = &c->list[c->count - 1];
	struct link_transfer *t = &c->transfers[0];

	if (reserve_table(c, d->len / sizeof(*d))) {
		virtqueue_break(q, "out of memory for a remote request");
		return;
	}
	*t = (struct link_transfer){ .iova = d->addr,
				     .local = c->table,
				     .length = d->len,
				     .purpose = LINK_RING,
				     .done = chain_table_done,
				     .owner = c };
	remote_read(q, q->slots[c->head].epoch, t, &c->pending);
	if (!c->pending && !q->reason)
		fetch_chain_table(q, c, c->table);
}

static void want_table(struct virtqueue *q, struct remote_chain *c)
{
	const char *reason = "";

	if (descriptor_table_entries(q, &c->list[c->count - 1], &reason) < 0)
		virtqueue_break(q, reason);
	else
		fetch_table_want(q, c->head);
}

void fetch_chain_begin(struct virtqueue *q, unsigned id, unsigned count)
{
	struct remote_chain *c;
	struct chain_slot *s = slot_take(q, id);

	if (!s)
		return;
	s->is_remote = true;
	fetch_append(q, id);
	c = chain_get(q, s);
	if (!c)
		return;
	c->ready = c->measured = false;
	c->head = id;
	if (reserve_list(c, count)) {
		virtqueue_break(q, "out of memory for a remote request");
		return;
	}
	memcpy(c->list, q->walk, count * sizeof(*c->list));
	c->count = count;
	if (c->list[count - 1].flags & VRING_DESC_F_INDIRECT)
		want_table(q, c);
	else
		chain_data(q, c);
}
