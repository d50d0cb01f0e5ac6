/* fetch.c - remote memory: rings, descriptors, headers and payload on their way to us.
 *
 * Theory of operation.  Two kinds of machines share the link.
 *
 * One per queue brings the available ring: its index, then the new heads, then the descriptor
 * table (whole: one transfer serves the batch, however its chains are laid out), and starts a chain
 * machine for each head.  When nothing is new it asks for a notification and looks once more.
 *
 * One per chain brings what the descriptors name: the indirect table, if any, then header and
 * readable payload at once.  Chains arrive in any order and are popped in the ring's.  A chain
 * that finds no buffer free waits for one, and those behind it too, for order's sake.
 *
 * Everything is copied once and used from the copy.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "link/buffer_pool.h"
#include "virtqueue/remote_queue.h"

static void sync_run(struct virtqueue *q);
static void chain_data(struct virtqueue *q, struct remote_chain *c);

/* ---- memory ---- */

static void free_remote_queue(struct remote_queue *r)
{
	buffer_pool_free(r->pool);
	free(r->raw_heads);
	free(r->raw_table);
	free(r->fifo);
	free(r->elements);
	free(r);
}

struct remote_queue *remote_queue_get(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	size_t size = q->options.size_max;

	if (r)
		return r;
	r = calloc(1, sizeof(*r));
	if (!r)
		goto no_memory;
	r->pool = buffer_pool_create(POOL_BYTES);
	r->raw_heads = calloc(size, sizeof(*r->raw_heads));
	r->raw_table = calloc(size, sizeof(*r->raw_table));
	r->fifo = calloc(size, sizeof(*r->fifo));
	r->elements = calloc(size, sizeof(*r->elements));
	if (r->pool && r->raw_heads && r->raw_table && r->fifo && r->elements)
		return q->remote = r;
	free_remote_queue(r);
no_memory:
	virtqueue_break(q, "out of memory for a remote queue");
	return NULL;
}

static void free_chain(struct remote_chain *c)
{
	free(c->list);
	free(c->table);
	free(c->transfers);
	free(c);
}

static struct remote_chain *chain_get(struct virtqueue *q, struct chain_slot *s)
{
	struct remote_chain *c = s->remote;

	if (c)
		return c;
	c = calloc(1, sizeof(*c));
	if (!c)
		goto no_memory;
	c->queue = q;
	c->list = calloc(q->segments_max, sizeof(*c->list));
	c->table = calloc(q->segments_max, sizeof(*c->table));
	c->transfers = calloc(q->segments_max + 2, sizeof(*c->transfers));
	if (c->list && c->table && c->transfers)
		return s->remote = c;
	free_chain(c);
no_memory:
	virtqueue_break(q, "out of memory for a remote request");
	return NULL;
}

void remote_queue_free(struct virtqueue *q)
{
	if (!q->remote)
		return;
	for (unsigned i = 0; i < q->options.size_max; i++)
		if (q->slots[i].remote)
			free_chain(q->slots[i].remote);
	free_remote_queue(q->remote);
	q->remote = NULL;
}

void remote_chain_drop_buffer(struct virtqueue *q, struct remote_chain *c)
{
	if (c->buffer)
		buffer_pool_return(q->remote->pool, c->buffer, c->buffer_bytes);
	c->buffer = NULL;
}

/* ---- transfers ---- */

static void remote_failed(struct virtqueue *q)
{
	virtqueue_break(q, "guest memory could not be reached over the link");
}

static void begun(struct virtqueue *q, struct map_epoch *epoch, int answer, unsigned *pending)
{
	if (answer == LINK_PENDING) {
		epoch->users++;
		q->remote->transfers++;
		++*pending;
	} else if (answer < 0) {
		remote_failed(q);
	}
}

void remote_read(struct virtqueue *q, struct map_epoch *epoch, struct link_transfer *t,
		 unsigned *pending)
{
	begun(q, epoch, link_read(&q->link, epoch->map, t), pending);
}

void remote_write(struct virtqueue *q, struct map_epoch *epoch, struct link_transfer *t,
		  unsigned *pending)
{
	begun(q, epoch, link_write(&q->link, epoch->map, &q->log, t), pending);
}

void remote_ended(struct virtqueue *q, struct map_epoch *epoch, const struct link_transfer *t,
		  unsigned *pending)
{
	--*pending;
	q->remote->transfers--;
	if (t->status < 0)
		remote_failed(q);
	epoch_put(q, epoch);
	fetch_drop_if_broken(q);
}

/* Something the owner waits for may have come about: chains to pop, or quiet. */
static void tell_owner(struct virtqueue *q)
{
	q->options.ready(q->options.arg);
}

/* A stop waits for the last transfer, whosever it is. */
static void tell_if_quiet(struct virtqueue *q)
{
	if (q->reason || !q->remote->transfers)
		tell_owner(q);
}

/* ---- one chain ---- */

static void chain_is_ready(struct virtqueue *q, struct remote_chain *c)
{
	struct remote_queue *r = q->remote;

	c->ready = true;
	if (r->fifo_count && r->fifo[r->fifo_first & q->mask] == c->head)
		tell_owner(q);
}

static void chain_read_done(struct link_transfer *t)
{
	struct remote_chain *c = t->owner;
	struct virtqueue *q = c->queue;

	remote_ended(q, q->slots[c->head].epoch, t, &c->pending);
	if (!q->reason && !c->pending)
		chain_is_ready(q, c);
	tell_if_quiet(q);
}

static void chain_read(struct virtqueue *q, struct remote_chain *c, struct link_transfer *t,
		       uint64_t iova, void *local, uint32_t length)
{
	*t = (struct link_transfer){ .iova = iova,
				     .local = local,
				     .length = length,
				     .purpose = LINK_PAYLOAD,
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
		uint64_t head = minimum_u64(left, q->options.header_size - s->chain.header_bytes);

		if (head) {
			chain_read(q, c, t++, iova, s->header + s->chain.header_bytes, head);
			s->chain.header_bytes += head;
		}
		if (left > head)
			chain_read(q, c, t++, iova + head, c->buffer + stored, left - head);
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
	s->chain.readable_bytes = sums[0] - minimum_u64(sums[0], q->options.header_size);
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

/* A buffer, or its turn to wait for one: nobody overtakes who waits. */
static bool buffer_take(struct virtqueue *q, struct remote_chain *c)
{
	if (c->buffer_bytes && !c->buffer)
		c->buffer = buffer_pool_take(q->remote->pool, c->buffer_bytes);
	c->waits_for_buffer = c->buffer_bytes && !c->buffer;
	if (c->waits_for_buffer && buffer_pool_is_unused(q->remote->pool))
		virtqueue_break(q, "out of memory for a request's payload");
	q->remote->starved |= c->waits_for_buffer;
	return !c->waits_for_buffer;
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
	c->waits_for_buffer = q->remote->starved;
	if (!c->waits_for_buffer && buffer_take(q, c))
		chain_begin_payload(q, c);
}

void fetch_retry(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	if (!r->starved || q->reason)
		return;
	r->starved = false;
	for (unsigned i = 0; i < r->fifo_count && !r->starved; i++) {
		struct remote_chain *c = q->slots[r->fifo[(r->fifo_first + i) & q->mask]].remote;

		if (c->waits_for_buffer && buffer_take(q, c))
			chain_begin_payload(q, c);
	}
}

static void chain_table_walk(struct virtqueue *q, struct remote_chain *c)
{
	const struct vring_desc d = c->list[c->count - 1];
	const char *reason = "";
	int n = descriptor_walk(c->table, d.len / sizeof(d), 0, c->list + c->count - 1,
				q->segments_max - (c->count - 1), &reason);

	if (n < 0) {
		virtqueue_break(q, reason);
		return;
	}
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
		chain_table_walk(q, c);
	tell_if_quiet(q);
}

static void chain_read_table(struct virtqueue *q, struct remote_chain *c)
{
	const struct vring_desc *d = &c->list[c->count - 1];
	struct link_transfer *t = &c->transfers[0];
	const char *reason = "";

	if (descriptor_table_entries(q, d, &reason) < 0) {
		virtqueue_break(q, reason);
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
		chain_table_walk(q, c);
}

/* Starts the machine of one chain whose descriptors are in table (ours, or mapped). */
static void chain_begin(struct virtqueue *q, const struct vring_desc *table, unsigned head)
{
	struct remote_queue *r = q->remote;
	const char *reason = "";
	struct remote_chain *c;
	struct chain_slot *s;
	int n;

	if (head >= q->size) {
		virtqueue_break(q, "the available ring names a descriptor beyond the queue");
		return;
	}
	s = slot_take(q, head);
	if (!s)
		return;
	s->is_remote = true;
	r->fifo[(r->fifo_first + r->fifo_count++) & q->mask] = head;
	c = chain_get(q, s);
	if (!c)
		return;
	c->ready = c->waits_for_buffer = false;
	c->head = head;
	n = descriptor_walk(table, q->size, head, c->list, q->segments_max, &reason);
	if (n < 0) {
		virtqueue_break(q, reason);
		return;
	}
	c->count = n;
	if (c->list[n - 1].flags & VRING_DESC_F_INDIRECT)
		chain_read_table(q, c);
	else
		chain_data(q, c);
}

int fetch_chain(struct virtqueue *q, unsigned head, bool again)
{
	if (!remote_queue_get(q))
		return -EPROTO;
	q->remote->resubmits_out += again;
	chain_begin(q, q->descriptors, head);
	return q->reason ? -EPROTO : 0;
}

/* ---- the queue's machine ---- */

static void sync_done(struct link_transfer *t)
{
	struct virtqueue *q = t->owner;

	remote_ended(q, q->remote->sync_epoch, t, &q->remote->sync_pending);
	if (!q->remote->sync_pending)
		sync_run(q);
}

static void sync_transfer(struct virtqueue *q, unsigned which, uint64_t iova, void *local,
			  uint32_t length, bool write)
{
	struct remote_queue *r = q->remote;
	struct link_transfer *t = &r->sync_transfer[which];

	*t = (struct link_transfer){ .iova = iova,
				     .local = local,
				     .length = length,
				     .purpose = LINK_RING,
				     .done = sync_done,
				     .owner = q };
	r->sync_epoch = q->epoch;
	(write ? remote_write : remote_read)(q, r->sync_epoch, t, &r->sync_pending);
}

static void begin_index(struct virtqueue *q)
{
	q->remote->sync = SYNC_INDEX;
	q->remote->again = false;
	counter_add(&q->numbers.syncs, 1);
	sync_transfer(q, 0, q->setup.driver_iova, q->remote->index_words, 4, false);
}

/* virtio 1.3, 2.7.7.2: avail_event is behind the used elements. */
static void begin_listen(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	r->sync = SYNC_LISTEN;
	r->asked = true;
	r->asked_index = q->seen_index;
	r->event_word = htole16(q->seen_index);
	sync_transfer(q, 0, q->setup.device_iova + 4 + 8ull * q->size, &r->event_word, 2, true);
}

/* The new heads lie in one piece, or in two around the ring's end. */
static void begin_heads(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;
	unsigned first = q->seen_index & q->mask;
	unsigned count = (uint16_t)(r->new_index - q->seen_index);
	unsigned part = minimum_u64(count, q->size - first);

	r->sync = SYNC_HEADS;
	sync_transfer(q, 0, q->setup.driver_iova + 4 + 2ull * first, r->raw_heads + first, 2 * part,
		      false);
	if (count > part)
		sync_transfer(q, 1, q->setup.driver_iova + 4, r->raw_heads, 2 * (count - part),
			      false);
}

static void begin_table(struct virtqueue *q)
{
	q->remote->sync = SYNC_TABLE;
	sync_transfer(q, 0, q->setup.descriptor_iova, q->remote->raw_table, 16u * q->size, false);
}

/* What a former process left comes first; its heads are known already. */
static bool has_resubmits(const struct virtqueue *q)
{
	return q->resubmit_next != q->resubmit_count;
}

static void end_index(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	r->new_index = le16toh(r->index_words[1]);
	if ((uint16_t)(r->new_index - q->available_index) > q->size)
		virtqueue_break(q, "the available index ran ahead by more than the queue");
	else if (r->new_index != q->seen_index)
		begin_heads(q);
	else if (has_resubmits(q))
		begin_table(q);
	else if (q->event_index && !(r->asked && r->asked_index == q->seen_index))
		begin_listen(q);
	else
		r->sync = SYNC_IDLE;
}

static void end_table(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	while (has_resubmits(q) && !q->reason) {
		r->resubmits_out++;
		chain_begin(q, r->raw_table, q->resubmit[q->resubmit_next++].head);
	}
	while (q->seen_index != r->new_index && !q->reason) {
		unsigned head = le16toh(r->raw_heads[q->seen_index & q->mask]);

		q->fetched_index = ++q->seen_index;
		chain_begin(q, r->raw_table, head);
	}
	begin_index(q);
}

static void sync_end_step(struct virtqueue *q)
{
	switch (q->remote->sync) {
	case SYNC_INDEX:
		end_index(q);
		break;
	case SYNC_HEADS:
		begin_table(q);
		break;
	case SYNC_TABLE:
		end_table(q);
		break;
	case SYNC_LISTEN:
		begin_index(q);
		break;
	case SYNC_IDLE:
		break;
	}
}

/* Goes on until something is under way, or nothing is left to do. */
static void sync_run(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	while (r->sync != SYNC_IDLE && !r->sync_pending && !q->reason)
		sync_end_step(q);
	if (q->reason && !r->sync_pending)
		r->sync = SYNC_IDLE;
	if (r->sync == SYNC_IDLE && r->again && !q->reason) {
		begin_index(q);
		if (!r->sync_pending)
			sync_run(q);
	}
	if (r->sync == SYNC_IDLE)
		tell_owner(q);
}

/* ---- for virtqueue.c ---- */

bool fetch_is_ready(const struct virtqueue *q)
{
	const struct remote_queue *r = q->remote;

	return r->fifo_count && q->slots[r->fifo[r->fifo_first & q->mask]].remote->ready;
}

int fetch_sync(struct virtqueue *q)
{
	struct remote_queue *r = remote_queue_get(q);

	if (!r)
		return -EPROTO;
	r->again = true;
	if (r->sync == SYNC_IDLE && !r->in_sync) {
		r->in_sync = true;
		begin_index(q);
		if (!r->sync_pending)
			sync_run(q);
		r->in_sync = false;
	}
	return q->reason ? -EPROTO : fetch_is_ready(q);
}

int fetch_pop(struct virtqueue *q, struct virtqueue_chain **c)
{
	struct remote_queue *r = q->remote;
	struct chain_slot *s;

	if (q->reason)
		return -EPROTO;
	if (!fetch_is_ready(q))
		return 0;
	s = &q->slots[r->fifo[r->fifo_first & q->mask]];
	r->fifo_first++;
	r->fifo_count--;
	if (r->resubmits_out)
		r->resubmits_out--;
	else
		q->available_index++;
	chain_taken(q, s);
	*c = &s->chain;
	return 1;
}

bool fetch_has_chains(const struct virtqueue *q)
{
	return q->remote && q->remote->fifo_count;
}

bool fetch_is_busy(const struct virtqueue *q)
{
	return q->remote && (q->remote->transfers || q->remote->sync != SYNC_IDLE);
}

bool fetch_is_syncing(const struct virtqueue *q)
{
	return q->remote && q->remote->sync != SYNC_IDLE;
}

void fetch_look_again(struct virtqueue *q)
{
	if (q->remote)
		q->remote->asked = false;
}

static void drop_chains(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	for (; r->fifo_count; r->fifo_count--) {
		struct chain_slot *s = &q->slots[r->fifo[r->fifo_first++ & q->mask]];

		if (s->remote)
			remote_chain_drop_buffer(q, s->remote);
		slot_free(q, s);
	}
}

void fetch_drop_if_broken(struct virtqueue *q)
{
	if (q->remote && q->reason && !q->remote->transfers)
		drop_chains(q);
}

void fetch_forget(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	if (!r)
		return;
	assert(!r->transfers);
	drop_chains(q);
	r->starved = r->again = r->asked = false;
	r->resubmits_out = 0;
	q->fetched_index = q->seen_index = q->available_index;
}
