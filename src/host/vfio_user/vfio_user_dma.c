/* vfio_user_dma.c - the client's memory by messages. */
#include "host/vfio_user/vfio_user_dma.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/iov.h"
#include "link/link.h"
#include "link/memory_map.h"

/* What one message carries at most, whatever the client would take.  QEMU 11.1 loses the rest of a
 * reply that its socket takes only a part of; Linux takes this much as a whole or not at all. */
enum { MESSAGE_DATA_MAX = 32768 };

#define STRANDED_NS (1000 * UINT64_C(1000000))

enum {
	SLOTS = 256, /* messages under way; a power of two */
	ERRNO_MAX = 4095,
	PIECE = 32768, /* bytes that the kernel takes as one, at least */
};

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_SENT };

/* A transfer whose messages are under way, or are still to be made. */
struct job {
	struct link_transfer *transfer; /* NULL: free */
	uint32_t begun;                 /* bytes for which messages have been made */
	unsigned outstanding;           /* messages */
	int status;                     /* the first error */
	struct job *next;               /* free ones */
};

struct slot {
	struct vfio_user_header header;
	struct vfio_user_dma_access access; /* sent with the header, in one piece */
	struct job *job;                    /* NULL: free, or an orphan */
	char *local;                        /* borrowed, while there is a job */
	enum slot_state state;
	bool question;     /* a write of nothing, that the client's layout may be known */
	struct slot *next; /* in the order of sending; or free ones */
};

struct vfio_user_dma_tables {
	struct job jobs[SLOTS];
	struct slot slots[SLOTS];
	struct job *free_jobs;
	struct slot *free_slots;
	struct job *filling; /* the one that needs more messages than there were slots */
	struct slot *queued, **queued_end;
	uint8_t generation; /* so that an answer that comes twice is noticed */
};

enum {
	WIRE_SIZE = sizeof(struct vfio_user_header) + sizeof(struct vfio_user_dma_access),
	QEMU_PADDING = 4,
	PARTS_MAX = 3, /* of a message */
};

static const uint8_t zeroes[QEMU_PADDING];

_Static_assert(offsetof(struct slot, access) == sizeof(struct vfio_user_header),
	       "header and access are sent as one");

/* ---- to and from the queues' reactors ---- */

static void complete(void *arg)
{
	struct link_transfer *t = arg;

	link_transfer_complete(t, t->status);
}

static void finish(struct vfio_user_dma *d, struct link_transfer *t, int status)
{
	if (status)
		counter_add(&d->numbers->dma_errors, 1);
	t->status = status;
	t->task = (struct reactor_task){ .fn = complete, .arg = t };
	reactor_post(t->reactor, &t->task);
}

static uint64_t transfer_address(const struct link_transfer *t)
{
	return t->iova + t->finished;
}

/* The map that the transfer was made with may be older than the client's memory is now. */
static bool is_reachable(const struct vfio_user_dma *d, const struct link_transfer *t)
{
	enum memory_access access = t->write ? MEMORY_WRITE : MEMORY_READ;
	void *host = NULL;

	return memory_map_part(d->map, transfer_address(t), t->part, access, &host) == t->part &&
	       !host;
}

static void append(struct link_transfer *t, struct link_transfer ***end)
{
	t->next = NULL;
	**end = t;
	*end = &t->next;
}

static void enlist(struct vfio_user_dma *d, struct link_transfer *t)
{
	append(t, &d->waiting_end);
	reactor_defer(d->control, &d->turn);
}

/* A VMM that rearranges memory gives back at once what it takes away; one that does not would wait
 * for a release, or a reset, that waits for these. */
static void strand(struct vfio_user_dma *d, struct link_transfer *t)
{
	uint64_t deadline = reactor_now(d->control) + STRANDED_NS;

	if (!d->patience.reactor && reactor_timer_set(d->control, &d->patience, deadline)) {
		finish(d, t, -ENOMEM);
		return;
	}
	append(t, &d->stranded_end);
}

static struct link_transfer *take_stranded(struct vfio_user_dma *d)
{
	struct link_transfer *all = d->stranded;

	d->stranded = NULL;
	d->stranded_end = &d->stranded;
	reactor_timer_cancel(&d->patience);
	return all;
}

static void fail_stranded(struct vfio_user_dma *d, int status)
{
	struct link_transfer *next;

	for (struct link_transfer *t = take_stranded(d); t; t = next) {
		next = t->next;
		finish(d, t, status);
	}
}

static void patience_is_over(void *arg)
{
	fail_stranded(arg, -EFAULT);
}

void vfio_user_dma_set_map(struct vfio_user_dma *d, const struct memory_map *map)
{
	struct link_transfer *next;

	d->map = map;
	if (!map) {
		fail_stranded(d, -EFAULT);
		return;
	}
	for (struct link_transfer *t = take_stranded(d); t; t = next) {
		next = t->next;
		if (is_reachable(d, t))
			enlist(d, t);
		else
			strand(d, t);
	}
}

static void arrive(void *arg)
{
	struct link_transfer *t = arg;
	struct vfio_user_dma *d = CONTAINER_OF(memory_map_remote(t->map), struct vfio_user_dma,
					       remote);

	if (!d->map || !d->tables || d->refusing)
		finish(d, t, -EFAULT);
	else if (is_reachable(d, t))
		enlist(d, t);
	else
		strand(d, t);
}

static void submit(struct link_remote *remote, struct link_transfer *t)
{
	struct vfio_user_dma *d = CONTAINER_OF(remote, struct vfio_user_dma, remote);

	t->task = (struct reactor_task){ .fn = arrive, .arg = t };
	reactor_post(d->control, &t->task);
}

static const struct link_remote_type type = {
	.name = "vfio-user",
	.read = submit,
	.write = submit,
};

/* ---- jobs and their messages ---- */

static void free_job(struct vfio_user_dma_tables *b, struct job *j)
{
	j->transfer = NULL;
	j->next = b->free_jobs;
	b->free_jobs = j;
}

static void free_slot(struct vfio_user_dma_tables *b, struct slot *s)
{
	s->state = SLOT_FREE;
	s->job = NULL;
	s->question = false;
	s->next = b->free_slots;
	b->free_slots = s;
}

static void end_job(struct vfio_user_dma *d, struct job *j)
{
	if (d->tables->filling == j)
		d->tables->filling = NULL;
	finish(d, j->transfer, j->status);
	free_job(d->tables, j);
}

static struct job *next_job(struct vfio_user_dma *d)
{
	struct vfio_user_dma_tables *b = d->tables;
	struct job *j = b->free_jobs;

	if (b->filling)
		return b->filling;
	if (!d->waiting || !j)
		return NULL;
	b->free_jobs = j->next;
	*j = (struct job){ .transfer = d->waiting };
	d->waiting = d->waiting->next;
	if (!d->waiting)
		d->waiting_end = &d->waiting;
	return b->filling = j;
}

static void count_message(struct vfio_user_dma *d, bool write, uint32_t bytes)
{
	counter_add(write ? &d->numbers->dma_writes : &d->numbers->dma_reads, 1);
	counter_add(write ? &d->numbers->dma_write_bytes : &d->numbers->dma_read_bytes, bytes);
}

static struct slot *queue_message(struct vfio_user_dma *d, bool write, uint64_t address,
				  uint32_t length)
{
	struct vfio_user_dma_tables *b = d->tables;
	struct slot *s = b->free_slots;

	b->free_slots = s->next;
	s->header = (struct vfio_user_header){
		.id = (uint16_t)(b->generation++ << 8 | (s - b->slots)),
		.command = write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ,
		.size = WIRE_SIZE + (write ? length : 0),
	};
	s->access = (struct vfio_user_dma_access){ address, length };
	s->state = SLOT_QUEUED;
	s->next = NULL;
	*b->queued_end = s;
	b->queued_end = &s->next;
	return s;
}

static void make_message(struct vfio_user_dma *d, struct job *j)
{
	struct link_transfer *t = j->transfer;
	uint32_t length = minimum_u64(t->part - j->begun,
				      minimum_u64(d->transfer_max, MESSAGE_DATA_MAX));
	struct slot *s = queue_message(d, t->write, transfer_address(t) + j->begun, length);

	s->local = (char *)t->local + t->finished + j->begun;
	s->job = j;
	count_message(d, t->write, length);
	j->outstanding++;
	j->begun += length;
	if (j->begun == t->part)
		d->tables->filling = NULL;
}

static void ask_for_layout(struct vfio_user_dma *d)
{
	queue_message(d, true, transfer_address(d->waiting), 0)->question = true;
	d->layout = LAYOUT_ASKED;
}

static void make_messages(struct vfio_user_dma *d)
{
	struct job *j;

	if (d->layout == LAYOUT_UNKNOWN && d->waiting)
		ask_for_layout(d);
	if (d->layout < LAYOUT_PLAIN)
		return;
	while (d->tables->free_slots && (j = next_job(d)))
		make_message(d, j);
}

static void end_turn(void *arg)
{
	struct vfio_user_dma *d = arg;

	if (!d->tables)
		return;
	make_messages(d);
	if (d->tables->queued)
		d->ready(d->owner);
}

static void answer_slot(struct vfio_user_dma *d, struct slot *s, int status)
{
	struct job *j = s->job;

	free_slot(d->tables, s);
	if (!j)
		return;
	j->outstanding--;
	if (status && !j->status) {
		j->status = status;
		j->begun = j->transfer->part; /* no more of it */
		if (d->tables->filling == j)
			d->tables->filling = NULL;
	}
	if (!j->outstanding && j->begun == j->transfer->part)
		end_job(d, j);
}

/* ---- life ---- */

void vfio_user_dma_prepare(struct vfio_user_dma *d)
{
	d->remote.type = &type;
	d->waiting_end = &d->waiting;
	d->stranded_end = &d->stranded;
	d->patience = (struct reactor_timer){ .fn = patience_is_over, .arg = d };
	d->turn = (struct reactor_task){ .fn = end_turn, .arg = d };
}

int vfio_user_dma_open(struct vfio_user_dma *d)
{
	struct vfio_user_dma_tables *b;

	if (d->tables)
		return 0;
	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	for (unsigned i = SLOTS; i--;) {
		free_job(b, &b->jobs[i]);
		free_slot(b, &b->slots[i]);
	}
	b->queued_end = &b->queued;
	d->tables = b;
	return 0;
}

void vfio_user_dma_close(struct vfio_user_dma *d)
{
	assert(!d->waiting && !d->stranded && (!d->tables || !d->tables->filling));
	free(d->tables);
	d->tables = NULL;
	free(d->leftover);
	d->leftover = NULL;
	d->sent = 0;
	d->layout = LAYOUT_UNKNOWN;
}

/* ---- sending ---- */

bool vfio_user_dma_has_output(const struct vfio_user_dma *d)
{
	return d->tables && d->tables->queued;
}

bool vfio_user_dma_is_cut(const struct vfio_user_dma *d)
{
	return d->sent;
}

static bool is_qemus(const struct vfio_user_dma *d, const struct slot *s)
{
	return d->layout == LAYOUT_QEMU && !s->question;
}

/* The parts of one message from byte `skip` on. */
static unsigned describe(const struct vfio_user_dma *d, struct slot *s, size_t skip,
			 struct iovec *iov)
{
	size_t data = s->header.size - WIRE_SIZE;
	size_t padding = data && is_qemus(d, s) ? QEMU_PADDING : 0;
	const struct iovec all[PARTS_MAX] = { { &s->header, WIRE_SIZE - padding },
					      { s->local, data },
					      { (void *)zeroes, padding } };
	uint64_t covered;

	return iov_slice(all, PARTS_MAX, skip, s->header.size - skip, iov, PARTS_MAX, &covered);
}

unsigned vfio_user_dma_gather(struct vfio_user_dma *d, struct iovec *iov, unsigned max)
{
	size_t skip = d->sent, bytes = 0;
	unsigned count = 0;

	for (struct slot *s = d->tables->queued; s && count + PARTS_MAX <= max; s = s->next) {
		if (count && bytes + WIRE_SIZE > PIECE)
			break;
		count += describe(d, s, skip, iov + count);
		bytes += s->header.size - skip;
		skip = 0;
	}
	return count;
}

static void take_first(struct vfio_user_dma *d)
{
	struct vfio_user_dma_tables *b = d->tables;
	struct slot *s = b->queued;

	b->queued = s->next;
	if (!b->queued)
		b->queued_end = &b->queued;
	s->state = SLOT_SENT;
	free(d->leftover);
	d->leftover = NULL;
	d->sent = 0;
}

void vfio_user_dma_sent(struct vfio_user_dma *d, size_t bytes)
{
	counter_add(&d->numbers->dma_batches, 1);
	while (bytes) {
		size_t left = d->tables->queued->header.size - d->sent;

		if (bytes < left) {
			d->sent += bytes;
			return;
		}
		bytes -= left;
		take_first(d);
	}
}

/* ---- receiving ---- */

static struct slot *find_slot(const struct vfio_user_dma *d, const struct vfio_user_header *h)
{
	struct slot *s = d->tables ? &d->tables->slots[h->id % SLOTS] : NULL;

	return s && s->state == SLOT_SENT && s->header.id == h->id &&
			       s->header.command == h->command
		       ? s
		       : NULL;
}

static bool size_is_right(const struct slot *s, const struct vfio_user_header *h)
{
	if (h->flags & VFIO_USER_FLAG_ERROR)
		return h->size == VFIO_USER_HEADER_SIZE;
	if (s->header.command == VFIO_USER_DMA_READ)
		return h->size == WIRE_SIZE + s->access.count;
	/* The specification has a count of four bytes here, and QEMU sends neither field. */
	return h->size == VFIO_USER_HEADER_SIZE || h->size == WIRE_SIZE - 4 || h->size == WIRE_SIZE;
}

int vfio_user_dma_reply_begin(struct vfio_user_dma *d, const struct vfio_user_header *h,
			      struct vfio_user_sink *sink, struct error *e)
{
	const struct slot *s = find_slot(d, h);

	if (!s)
		return error_set(e, -EPROTO, "reply %u to command %u: nobody asked for it", h->id,
				 h->command);
	if (!size_is_right(s, h))
		return error_set(e, -EPROTO, "reply to command %u: %" PRIu32 " bytes", h->command,
				 h->size);
	*sink = (struct vfio_user_sink){
		.fields_size = minimum_u64(h->size, WIRE_SIZE) - VFIO_USER_HEADER_SIZE,
		.data = s->job ? s->local : NULL,
		.data_size = h->size > WIRE_SIZE ? h->size - WIRE_SIZE : 0,
		.slot = s - d->tables->slots,
	};
	if (sink->data_size && is_qemus(d, s)) {
		sink->fields_size -= QEMU_PADDING;
		sink->padding_size = QEMU_PADDING;
	}
	return 0;
}

static int reply_status(const struct vfio_user_header *h)
{
	if (!(h->flags & VFIO_USER_FLAG_ERROR))
		return 0;
	return h->error && h->error <= ERRNO_MAX ? -(int)h->error : -EIO;
}

static bool is_bare(const struct vfio_user_header *h)
{
	return !(h->flags & VFIO_USER_FLAG_ERROR) && h->size == VFIO_USER_HEADER_SIZE;
}

int vfio_user_dma_reply_end(struct vfio_user_dma *d, const struct vfio_user_header *h,
			    const struct vfio_user_sink *sink, struct error *e)
{
	struct slot *s = &d->tables->slots[sink->slot];

	if (sink->fields_size && memcmp(&sink->fields, &s->access, sink->fields_size))
		return error_set(e, -EPROTO,
				 "reply to command %u: 0x%" PRIx64 " + 0x%" PRIx64
				 " instead of 0x%" PRIx64 " + 0x%" PRIx64,
				 h->command, sink->fields.address, sink->fields.count,
				 s->access.address, s->access.count);
	if (s->question)
		d->layout = is_bare(h) ? LAYOUT_QEMU : LAYOUT_PLAIN;
	answer_slot(d, s, reply_status(h));
	if (d->waiting || d->tables->filling)
		reactor_defer(d->control, &d->turn);
	return 0;
}

bool vfio_user_dma_is_wanted(const struct vfio_user_dma *d, const struct vfio_user_sink *sink)
{
	return d->tables->slots[sink->slot].job;
}

/* ---- failing ---- */

static void fail_waiting(struct vfio_user_dma *d, int status)
{
	struct link_transfer *t;

	while ((t = d->waiting)) {
		d->waiting = t->next;
		finish(d, t, status);
	}
	d->waiting_end = &d->waiting;
}

/* The first queued message has been sent in part: its rest is kept for it. */
static int keep_rest(struct vfio_user_dma *d, struct slot *s)
{
	size_t bytes = s->header.size - WIRE_SIZE;

	s->job = NULL;
	if (!bytes)
		return 0;
	d->leftover = malloc(bytes);
	if (!d->leftover)
		return -ENOMEM;
	memcpy(d->leftover, s->local, bytes);
	s->local = d->leftover;
	return 0;
}

/* Messages that have not been sent are withdrawn. */
static int withdraw(struct vfio_user_dma *d, const struct job *j)
{
	struct vfio_user_dma_tables *b = d->tables;
	struct slot **link = &b->queued;
	int err = 0;

	while (*link) {
		struct slot *s = *link;

		if (s->job == j && !(s == b->queued && d->sent)) {
			*link = s->next;
			free_slot(b, s);
			continue;
		}
		if (s->job == j)
			err = keep_rest(d, s);
		link = &s->next;
	}
	b->queued_end = link;
	return err;
}

static int fail_job(struct vfio_user_dma *d, struct job *j, int status)
{
	int err = withdraw(d, j);

	for (unsigned i = 0; i < SLOTS; i++)
		if (d->tables->slots[i].job == j)
			d->tables->slots[i].job = NULL; /* an orphan */
	j->status = status;
	end_job(d, j);
	return err;
}

int vfio_user_dma_fail_all(struct vfio_user_dma *d, int status)
{
	int err = 0;

	fail_waiting(d, status);
	fail_stranded(d, status);
	for (unsigned i = 0; d->tables && i < SLOTS; i++) {
		struct job *j = &d->tables->jobs[i];

		if (j->transfer && fail_job(d, j, status))
			err = -ENOMEM;
	}
	return err;
}
