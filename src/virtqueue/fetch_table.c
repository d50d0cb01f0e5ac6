/* fetch_table.c - remote memory: the indirect tables of a batch of chains, on their way to us.
 *
 * Each request of an indirect chain has a table of its own, a transfer each; but a driver's
 * allocator places those of a batch near one another, a page holding many.  Tables that lie close
 * are read in one piece, with what is between them, which is memory of the guest's that nobody
 * looks at.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtqueue/remote_queue.h"

enum {
	GROUP_BYTES = 4096,
	GAP_BYTES = 512, /* costs less than another transfer */
	GROUP_TABLES = GROUP_BYTES / sizeof(struct vring_desc),
};

struct table_group {
	struct table_group *next; /* of those that are not used */
	struct virtqueue *queue;
	struct map_epoch *epoch;
	struct link_transfer transfer;
	unsigned pending;
	unsigned count;
	uint16_t heads[GROUP_TABLES];
	struct vring_desc raw[GROUP_TABLES];
};

/* Of the batch's tables, sorted, those from first to end, which lie from iova on. */
struct piece {
	unsigned first, end;
	uint64_t iova, bytes;
};

int fetch_table_open(struct fetch_table *f, size_t size)
{
	f->heads = calloc(size, sizeof(*f->heads));
	return f->heads ? 0 : -ENOMEM;
}

void fetch_table_close(struct fetch_table *f)
{
	while (f->unused) {
		struct table_group *g = f->unused;

		f->unused = g->next;
		free(g);
	}
	free(f->heads);
}

void fetch_table_want(struct virtqueue *q, unsigned head)
{
	struct fetch_table *f = &q->remote->table;

	f->heads[f->count++] = head;
}

static const struct vring_desc *table_of(const struct virtqueue *q, unsigned head)
{
	const struct remote_chain *c = q->slots[head].remote;

	return &c->list[c->count - 1];
}

/* ---- one piece ---- */

static void group_arrived(struct virtqueue *q, struct table_group *g)
{
	for (unsigned i = 0; i < g->count && !q->reason; i++) {
		uint64_t offset = table_of(q, g->heads[i])->addr - g->transfer.iova;

		fetch_chain_table(q, q->slots[g->heads[i]].remote,
				  (const void *)((const char *)g->raw + offset));
	}
	g->next = q->remote->table.unused;
	q->remote->table.unused = g;
}

static void group_done(struct link_transfer *t)
{
	struct table_group *g = t->owner;
	struct virtqueue *q = g->queue;

	remote_ended(q, g->epoch, t, &g->pending);
	group_arrived(q, g);
	fetch_tell_if_quiet(q);
}

static struct table_group *group_take(struct virtqueue *q)
{
	struct table_group *g = q->remote->table.unused;

	if (!g)
		return calloc(1, sizeof(*g));
	q->remote->table.unused = g->next;
	return g;
}

static void read_group(struct virtqueue *q, const struct piece *p)
{
	const uint16_t *heads = q->remote->table.heads;
	struct table_group *g = group_take(q);

	if (!g) {
		virtqueue_break(q, "out of memory for a remote request");
		return;
	}
	g->queue = q;
	g->epoch = q->slots[heads[p->first]].epoch;
	g->count = p->end - p->first;
	for (unsigned i = 0; i < g->count; i++)
		g->heads[i] = heads[p->first + i];
	g->transfer = (struct link_transfer){ .iova = p->iova,
					      .local = g->raw,
					      .length = p->bytes,
					      .purpose = LINK_RING,
					      .done = group_done,
					      .owner = g };
	remote_read(q, g->epoch, &g->transfer, &g->pending);
	if (!g->pending)
		group_arrived(q, g);
}

/* ---- the batch ---- */

static int by_address(const void *a, const void *b, void *arg)
{
	const struct virtqueue *q = arg;
	uint64_t x = table_of(q, *(const uint16_t *)a)->addr;
	uint64_t y = table_of(q, *(const uint16_t *)b)->addr;

	return x < y ? -1 : x > y;
}

/* Whether the next table lies close behind the piece, which then has it. */
static bool piece_extend(const struct virtqueue *q, struct piece *p)
{
	const struct vring_desc *d = table_of(q, q->remote->table.heads[p->end]);
	uint64_t offset = d->addr - p->iova;

	if (offset > p->bytes + GAP_BYTES || offset + d->len > GROUP_BYTES || d->addr % 8 ||
	    p->end - p->first == GROUP_TABLES)
		return false;
	p->bytes = maximum_u64(p->bytes, offset + d->len);
	p->end++;
	return true;
}

static struct piece piece_from(const struct virtqueue *q, unsigned first)
{
	const struct vring_desc *d = table_of(q, q->remote->table.heads[first]);
	struct piece p = { .first = first, .end = first + 1, .iova = d->addr, .bytes = d->len };

	if (d->len > GROUP_BYTES || d->addr % 8)
		return p;
	while (p.end < q->remote->table.count && piece_extend(q, &p))
		;
	return p;
}

/* What is between the tables may be no memory: then each goes alone. */
static bool is_one_piece(const struct virtqueue *q, const struct piece *p)
{
	const struct map_epoch *epoch = q->slots[q->remote->table.heads[p->first]].epoch;
	void *host;

	return p->end - p->first > 1 &&
	       memory_map_part(epoch->map, p->iova, p->bytes, MEMORY_READ, &host) == p->bytes;
}

void fetch_table_read(struct virtqueue *q)
{
	struct fetch_table *f = &q->remote->table;
	struct piece p = { 0 };

	if (f->count > 1 && !q->reason)
		qsort_r(f->heads, f->count, sizeof(*f->heads), by_address, q);
	while (p.end < f->count && !q->reason) {
		p = piece_from(q, p.end);
		if (is_one_piece(q, &p)) {
			read_group(q, &p);
			continue;
		}
		for (unsigned i = p.first; i < p.end && !q->reason; i++)
			fetch_chain_read_table(q, q->slots[f->heads[i]].remote);
	}
	f->count = 0;
}
