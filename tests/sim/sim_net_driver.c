/* sim_net_driver.c - the driver: buffers for frames that come, frames that go, and lies. */
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "sim_net.h"

enum { PARTS_MAX = 4 };

/* ---- rings ---- */

struct buffer *buffer_free(struct queue *q)
{
	for (unsigned i = 0; i < BUFFERS; i++)
		if (!q->buffers[i].busy)
			return &q->buffers[i];
	return NULL;
}

void queue_add(struct queue *q, const struct guest_segment *segments, unsigned count,
	       struct buffer *b)
{
	b->busy = guest_queue_add(&q->ring, segments, count, NULL, b);
}

void queue_publish(struct queue *q)
{
	if (guest_queue_publish(&q->ring))
		eventfd_write(q->kick, 1);
}

bool queue_is_due(struct sim *s, struct queue *q)
{
	eventfd_t count;

	return q->started && (!s->interrupts || !eventfd_read(q->call, &count));
}

struct buffer *queue_take(struct sim *s, struct queue *q, uint32_t *length)
{
	void *token;
	int status = guest_queue_take(&q->ring, &token, length);

	if (status < 0)
		fail(s, "a descriptor came back that was not out");
	if (!status)
		return NULL;
	((struct buffer *)token)->busy = false;
	return token;
}

/* Some buffer, cut into a few segments. */
static unsigned cut(struct sim *s, const struct buffer *b, uint32_t bytes, bool writable,
		    struct guest_segment *parts)
{
	unsigned count = 1 + pick(s, PARTS_MAX), done = 0;
	uint32_t at = 0;

	for (; done + 1 < count && at + 1 < bytes; done++) {
		uint32_t part = 1 + pick(s, minimum_u64(bytes - at - 1, pick(s, 2) ? 16 : 600));

		parts[done] = (struct guest_segment){ b->iova + at, part, writable };
		at += part;
	}
	parts[done] = (struct guest_segment){ b->iova + at, bytes - at, writable };
	return done + 1;
}

/* ---- receiving ---- */

void receive_fill(struct sim *s, struct queue *q)
{
	struct guest_segment parts[PARTS_MAX];
	struct buffer *b;
	unsigned count;

	while ((b = buffer_free(q))) {
		b->room = s->room_least + pick(s, s->room_most - s->room_least + 1);
		if (s->hostile && !pick(s, 500)) {
			b->room = 1 + pick(s, 19);
			s->may_break = true;
		}
		count = cut(s, b, b->room, true, parts);
		if (q->ring.free_count < count)
			break;
		memset(b->bytes, 0xee, b->room);
		queue_add(q, parts, count, b);
	}
	queue_publish(q);
}

/* A frame of one buffer or more, which come back together; b is the first. */
static void receive_one(struct sim *s, unsigned pair, struct buffer *b, uint32_t length)
{
	uint8_t frame[RING * ROOM];
	unsigned head = model_header(&s->model),
		 count = length < head ? 0 : load_le16(b->bytes + 10);
	size_t n = 0;

	if (!count || count > (s->mergeable ? RING : 1))
		fail(s, "a header with an impossible number of buffers");
	for (;;) {
		if (length > b->room)
			fail(s, "more bytes in a buffer than it has");
		memcpy(frame + n, b->bytes, length);
		n += length;
		if (!--count)
			break;
		if (length < b->room)
			fail(s, "a buffer that is not full has a successor");
		b = queue_take(s, &s->queues[2 * pair], &length);
		if (!b || !length)
			fail(s, "a frame's buffers are missing");
	}
	frame_check_received(s, pair, frame, n);
}

static void receive_take(struct sim *s, unsigned pair)
{
	struct buffer *b;
	uint32_t length;

	while ((b = queue_take(s, &s->queues[2 * pair], &length)))
		if (length)
			receive_one(s, pair, b, length);
}

/* ---- sending ---- */

/* Random headers, runts, chains that are writable, and some that lie outside of memory. */
static unsigned make_hostile(struct sim *s, struct buffer *b, struct guest_segment *parts,
			     unsigned count, unsigned head)
{
	store_be16(b->bytes + head + 12, HOSTILE);
	for (unsigned i = 0; i < head; i++)
		b->bytes[i] = pick(s, 2) ? pick(s, 256) : pick(s, 6);
	switch (pick(s, 24)) {
	case 0:
		parts[0].iova = pick(s, 2) ? BUFFERS : s->memory.iova + s->memory.size - 1;
		s->may_break = true;
		break;
	case 1:
		memset(b->bytes, 0, head);
		store_be16(b->bytes + head + 12, FORBIDDEN);
		parts[count - 1].writable = true;
		break;
	case 2:
	case 3:
	case 4:
		parts[0].length = 1 + pick(s, head + 15);
		return 1;
	case 5:
		parts[count - 1] = (struct guest_segment){ s->memory.iova, s->memory.size, false };
		break;
	}
	return count;
}

static size_t write_frame(struct sim *s, uint8_t *to, struct flow *f)
{
	unsigned head = model_header(&s->model);
	struct virtio_net_hdr header = { 0 };
	bool partial = f->udp && model_accepted(&s->model, VIRTIO_NET_F_CSUM) && pick(s, 2);
	size_t n = partial ? frame_write_partial(to + head, f, f->sent, &header)
			   : frame_write(to + head, f, f->sent);

	memset(to, 0, head);
	memcpy(to, &header, sizeof(header));
	return head + n;
}

void transmit(struct sim *s, unsigned pair, bool hostile)
{
	struct queue *q = &s->queues[2 * pair + 1];
	struct flow *f = &s->from_guest[pair];
	struct buffer *b = buffer_free(q);
	struct guest_segment parts[PARTS_MAX];
	unsigned count;

	if (!b || q->ring.free_count < PARTS_MAX || f->sent + 1 >= NUMBERS)
		return;
	f->sent++;
	count = cut(s, b, write_frame(s, b->bytes, f), false, parts);
	if (hostile)
		count = make_hostile(s, b, parts, count, model_header(&s->model));
	queue_add(q, parts, count, b);
	queue_publish(q);
}

static void transmit_take(struct sim *s, struct queue *q)
{
	uint32_t length;

	while (queue_take(s, q, &length))
		;
}

/* ---- both ---- */

static void collect_queue(struct sim *s, unsigned index)
{
	struct queue *q = &s->queues[index];

	if (!queue_is_due(s, q))
		return;
	do {
		if (index % 2)
			transmit_take(s, q);
		else
			receive_take(s, index / 2);
	} while (s->interrupts && !guest_queue_listen(&q->ring));
}

void collect(struct sim *s)
{
	for (unsigned i = 0; i < 2 * s->model.pairs; i++)
		collect_queue(s, i);
	control_take(s);
}
