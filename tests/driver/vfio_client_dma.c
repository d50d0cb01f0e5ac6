/* vfio_client_dma.c - how a vfio-user client answers DMA_READ and DMA_WRITE. */
#include "driver/vfio_client_dma.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "driver/guest_memory.h"
#include "driver/vfio_client_channel.h"

enum {
	COUNT_AT = 8,
	DATA_AT = 16,
	COMPACT_DATA_AT = 12,
	WRITE_REPLY = 12,      /* bytes, as the specification has it: a count of 4 bytes; */
	WRITE_REPLY_LONG = 16, /* as libvfio-user has it */
};

/* ---- guest memory ---- */

/* The guest's processors look at this memory at the same time, with loads and stores of their own,
 * which to a thread sanitizer is a race.  libc moves 2 bytes as one word, so no index is torn. */
#ifdef __SANITIZE_THREAD__
__attribute__((no_sanitize("thread"))) static void copy(void *to, const void *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((volatile char *)to)[i] = ((const volatile char *)from)[i];
}
#else
static void copy(void *to, const void *from, size_t n)
{
	memcpy(to, from, n);
}
#endif

static void *reach(struct vfio_client_channel *c, const struct vfio_client_dma *d)
{
	bool writes = d->header.command == VFIO_USER_DMA_WRITE;

	for (unsigned i = 0; i < c->window_count; i++) {
		const struct vfio_client_window *w = &c->windows[i];

		if (d->address >= w->address &&
		    range_fits(d->address - w->address, d->count, w->size) &&
		    (writes ? w->writable : w->readable))
			return w->memory->bytes + w->offset + (d->address - w->address);
	}
	c->counters.strays++;
	return NULL;
}

/* ---- answers ---- */

/* Room for a reply of so many bytes, header and all, with the header filled in. */
static char *put_reply(const struct vfio_client_dma *d, size_t size, uint32_t error)
{
	struct vfio_client_inbox *b = d->from;
	struct vfio_client_header h = d->header;
	char *at;

	h.size = size;
	h.flags = VFIO_USER_REPLY | (error ? VFIO_USER_ERROR : 0);
	h.error = error;
	if (b->answers_size + size > b->answers_capacity) {
		b->answers_capacity = 2 * (b->answers_size + size);
		b->answers = realloc(b->answers, b->answers_capacity);
		if (!b->answers)
			abort();
	}
	at = b->answers + b->answers_size;
	memset(at, 0, minimum_u64(size, sizeof(h) + DATA_AT));
	memcpy(at, &h, sizeof(h));
	b->answers_size += size;
	return at + sizeof(h);
}

static void put_error(struct vfio_client_channel *c, const struct vfio_client_dma *d,
		      uint32_t error)
{
	c->counters.errors++;
	if (!(d->header.flags & VFIO_USER_NO_REPLY))
		put_reply(d, sizeof(d->header), error);
}

static void answer_read(struct vfio_client_channel *c, const struct vfio_client_dma *d,
			const void *memory)
{
	char *payload = put_reply(d, sizeof(d->header) + DATA_AT + d->count, 0);

	memcpy(payload, &d->address, sizeof(d->address));
	memcpy(payload + COUNT_AT, &d->count, sizeof(d->count));
	if (c->compact_dma)
		memset(payload + COMPACT_DATA_AT + d->count, 0, DATA_AT - COMPACT_DATA_AT);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	copy(payload + (c->compact_dma ? COMPACT_DATA_AT : DATA_AT), memory, d->count);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	c->counters.reads++;
	c->counters.read_bytes += d->count;
}

static void answer_write(struct vfio_client_channel *c, const struct vfio_client_dma *d,
			 void *memory)
{
	size_t size = d->header.id & 1 ? WRITE_REPLY_LONG : WRITE_REPLY;
	char *payload;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	copy(memory, d->data, d->count);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	c->counters.writes++;
	c->counters.write_bytes += d->count;
	if (d->header.flags & VFIO_USER_NO_REPLY)
		return;
	payload = put_reply(d, sizeof(d->header) + (c->compact_dma ? 0 : size), 0);
	if (c->compact_dma)
		return;
	memcpy(payload, &d->address, sizeof(d->address));
	memcpy(payload + COUNT_AT, &d->count, size - COUNT_AT);
}

static void answer(struct vfio_client_channel *c, const struct vfio_client_dma *d)
{
	void *memory = reach(c, d);

	if (!memory)
		put_error(c, d, EFAULT);
	else if (d->header.command == VFIO_USER_DMA_READ)
		answer_read(c, d, memory);
	else
		answer_write(c, d, memory);
}

/* ---- commands ---- */

static void hold(struct vfio_client_channel *c, struct vfio_client_dma *d, bool deferred)
{
	void *copied = NULL;

	if (c->held_count == VFIO_USER_HELD)
		abort();
	if (d->header.command == VFIO_USER_DMA_WRITE) {
		copied = malloc(d->count + 1);
		if (!copied)
			abort();
		memcpy(copied, d->data, d->count);
	}
	d->data = copied;
	d->deferred = deferred;
	c->held[c->held_count++] = *d;
}

static void carry_out(struct vfio_client_channel *c, struct vfio_client_dma *d)
{
	switch (c->judge ? c->judge(c->judge_arg, d) : VFIO_USER_ANSWER) {
	case VFIO_USER_ANSWER:
		answer(c, d);
		break;
	case VFIO_USER_HOLD:
		hold(c, d, false);
		break;
	case VFIO_USER_FAIL:
		put_error(c, d, EFAULT);
		break;
	}
}

/* 0, or the error that a client would answer. */
static uint32_t parse(const struct vfio_client_channel *c, struct vfio_client_dma *d,
		      const char *payload, size_t size)
{
	bool writes = d->header.command == VFIO_USER_DMA_WRITE;

	if (!writes && d->header.command != VFIO_USER_DMA_READ)
		return ENOSYS;
	if (size < DATA_AT)
		return EINVAL;
	memcpy(&d->address, payload, sizeof(d->address));
	memcpy(&d->count, payload + COUNT_AT, c->compact_dma ? 4 : 8);
	if (d->count > c->transfer_max)
		return E2BIG;
	if (size != DATA_AT + (writes ? d->count : 0))
		return EINVAL;
	d->data = (char *)payload + (c->compact_dma ? COMPACT_DATA_AT : DATA_AT);
	return 0;
}

void vfio_client_dma_command(struct vfio_client_channel *c, struct vfio_client_inbox *b,
			     const struct vfio_client_header *h, const char *payload)
{
	struct vfio_client_dma d = { .header = *h, .from = b };
	uint32_t error = parse(c, &d, payload, h->size - sizeof(*h));

	if (error) {
		c->counters.malformed++;
		put_error(c, &d, error);
	} else if (c->deaf_while_waiting && c->waiting) {
		hold(c, &d, true);
	} else {
		carry_out(c, &d);
	}
}

/* Commands that the judge holds go to the end of what is held, beyond count. */
void vfio_client_dma_answer_deferred(struct vfio_client_channel *c)
{
	unsigned count = c->held_count, kept = 0;

	for (unsigned i = 0; i < count; i++) {
		struct vfio_client_dma d = c->held[i];
		void *data = d.data;

		if (!d.deferred) {
			c->held[kept++] = d;
			continue;
		}
		carry_out(c, &d); /* copies the data again if it holds */
		free(data);
	}
	memmove(c->held + kept, c->held + count, (c->held_count - count) * sizeof(*c->held));
	c->held_count = kept + c->held_count - count;
}

unsigned vfio_client_dma_release(struct vfio_client_channel *c, bool backwards)
{
	unsigned count = c->held_count;

	for (unsigned i = 0; i < count; i++) {
		struct vfio_client_dma *d = &c->held[backwards ? count - 1 - i : i];

		answer(c, d);
		free(d->data);
	}
	c->held_count = 0;
	return count;
}
