/* fetch.c - remote memory: rings, descriptors, headers and payload on their way to us.
 *
 * Theory of operation.  Two kinds of machines share the link.  One per queue brings the available
 * ring (fetch_split.c) and starts a chain machine for each head; one per chain brings what its
 * descriptors name (fetch_chain.c).  Here is what both stand on, and the order in which chains are
 * popped.
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

/* ---- memory ---- */

static void free_remote_queue(struct remote_queue *r)
{
	buffer_pool_free(r->pool);
	fetch_split_close(&r->split);
	fetch_packed_close(&r->packed);
	fetch_table_close(&r->table);
	free(r->packed_used);
	free(r->sync_transfers);
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
	r->sync_transfers = calloc(SYNC_TRANSFERS(size), sizeof(*r->sync_transfers));
	r->fifo = calloc(size, sizeof(*r->fifo));
	r->elements = calloc(size, sizeof(*r->elements));
	r->packed_used = calloc(size, sizeof(*r->packed_used));
	if (!fetch_split_open(&r->split, size) && !fetch_packed_open(&r->packed, size) &&
	    !fetch_table_open(&r->table, size) && r->packed_used && r->pool && r->sync_transfers &&
	    r->fifo && r->elements)
		return q->remote = r;
	free_remote_queue(r);
no_memory:
	virtqueue_break(q, "out of memory for a remote queue");
	return NULL;
}

void remote_queue_free(struct virtqueue *q)
{
	if (!q->remote)
		return;
	for (unsigned i = 0; i < q->options.size_max; i++)
		fetch_chain_free(q->slots[i].remote);
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

void fetch_tell_owner(struct virtqueue *q)
{
	q->options.ready(q->options.arg);
}

/* ---- chains in the order of the ring ---- */

void fetch_append(struct virtqueue *q, unsigned id)
{
	struct remote_queue *r = q->remote;

	r->fifo[(r->fifo_first + r->fifo_count++) & q->mask] = id;
}

int fetch_chain(struct virtqueue *q, unsigned head, bool again)
{
	const char *reason = "";
	int n;

	if (head >= q->size)
		return virtqueue_break(q, "the available ring names a descriptor beyond the queue");
	if (!remote_queue_get(q))
		return -EPROTO;
	q->remote->resubmits_out += again;
	n = descriptor_walk(q->descriptors, q->size, head, q->walk, q->segments_max, &reason);
	if (n < 0)
		return virtqueue_break(q, reason);
	fetch_chain_begin(q, head, n);
	return q->reason ? -EPROTO : 0;
}

int fetch_packed_chain(struct virtqueue *q, unsigned id, unsigned count)
{
	fetch_chain_begin(q, id, count);
	if (q->reason)
		return -EPROTO;
	q->slots[id].descriptors = count;
	q->fetched_index = ++q->seen_index;
	return 0;
}

/* ---- the queue's machine ---- */

static void sync_done(struct link_transfer *t)
{
	struct virtqueue *q = t->owner;

	remote_ended(q, q->remote->sync_epoch, t, &q->remote->sync_pending);
	if (!q->remote->sync_pending)
		sync_run(q);
}

void fetch_sync_transfer(struct virtqueue *q, unsigned which, uint64_t iova, void *local,
			 uint32_t length, bool write)
{
	struct remote_queue *r = q->remote;
	struct link_transfer *t = &r->sync_transfers[which];

	*t = (struct link_transfer){ .iova = iova,
				     .local = local,
				     .length = length,
				     .purpose = LINK_RING,
				     .done = sync_done,
				     .owner = q };
	r->sync_epoch = q->epoch;
	(write ? remote_write : remote_read)(q, r->sync_epoch, t, &r->sync_pending);
}

static void look_begin(struct virtqueue *q)
{
	if (q->packed)
		fetch_packed_begin(q);
	else
		fetch_split_begin(q);
}

static void look_step(struct virtqueue *q)
{
	if (q->packed)
		fetch_packed_step(q);
	else
		fetch_split_step(q);
}

/* Goes on until something is under way, or nothing is left to do. */
static void sync_run(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	while (r->sync != SYNC_IDLE && !r->sync_pending && !q->reason && !q->homeless)
		look_step(q);
	if (q->reason && !r->sync_pending)
		r->sync = SYNC_IDLE;
	if (r->sync == SYNC_IDLE && r->again && !q->reason && !q->homeless) {
		look_begin(q);
		if (!r->sync_pending)
			sync_run(q);
	}
	if (r->sync == SYNC_IDLE)
		fetch_tell_owner(q);
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
	if (r->sync == SYNC_IDLE && !r->in_sync && !q->homeless) {
		r->in_sync = true;
		look_begin(q);
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
	r->allotted--;
	s->again = r->resubmits_out;
	if (s->again)
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

void fetch_resume(struct virtqueue *q)
{
	if (q->remote->sync != SYNC_IDLE && !q->remote->sync_pending)
		sync_run(q);
}

void fetch_look_again(struct virtqueue *q)
{
	if (q->remote)
		q->remote->asked = false;
}

static void drop_chains(struct virtqueue *q)
{
	struct remote_queue *r = q->remote;

	r->table.count = 0;
	r->allotted = 0;
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
	r->again = r->asked = false;
	r->resubmits_out = 0;
	q->fetched_index = q->seen_index = q->available_index;
	q->ring.fetch = q->ring.available;
}
