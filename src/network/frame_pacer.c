/* frame_pacer.c - frames of one queue that wait until they are due. */
#include "network/frame_pacer.h"

#include <errno.h>

enum { PULLED = 64 /* frames from below at a time: one that never ends must not hold us */ };

/* 0, or -ENOBUFS. */
static int hold(struct frame_pacer *p, enum frame_way which, const struct virtio_net_hdr *header,
		const struct iovec *iov, unsigned n, size_t bytes)
{
	struct frame_pacer_way *way = &p->ways[which];

	if (!frame_queue_has_room(&way->frames, bytes))
		return -ENOBUFS;
	return frame_queue_put(&way->frames, header, iov, n, bytes,
			       p->due(p->queue, which, header, bytes));
}

/* Whether there is one to take now: the first holds up those behind it.  If not, the timer is set
 * for it; without memory for a timer nothing would ever wake it, so it goes early. */
static bool is_due(struct frame_pacer *p, struct frame_pacer_way *way, struct network_frame *f)
{
	struct reactor *r = network_queue_reactor(p->queue);
	uint64_t due_ns;

	if (!frame_queue_peek(&way->frames, f, &due_ns))
		return false;
	return due_ns <= reactor_now(r) || reactor_timer_set(r, &way->timer, due_ns);
}

/* ---- sending ---- */

static void send_due(struct frame_pacer *p)
{
	struct frame_pacer_way *way = &p->ways[FRAME_SEND];
	struct network_frame f;

	while (is_due(p, way, &f)) {
		struct iovec iov = { f.bytes, f.length };

		if (network_forward(p->queue, &f.header, &iov, 1, f.length))
			network_queue_count_send_drop(p->queue);
		frame_queue_consume(&way->frames);
	}
}

static void send_timer(void *arg)
{
	struct frame_pacer *p = arg;

	send_due(p);
	network_forward_flush(p->queue);
}

int frame_pacer_send(struct frame_pacer *p, const struct virtio_net_hdr *header,
		     const struct iovec *iov, unsigned n, size_t bytes)
{
	int status = hold(p, FRAME_SEND, header, iov, n, bytes);

	send_due(p);
	return status;
}

/* ---- receiving ---- */

static void come_timer(void *arg)
{
	struct frame_pacer *p = arg;

	network_queue_ready(p->queue);
}

/* True: there may be more. */
static bool pull(struct frame_pacer *p)
{
	struct network_frame f;
	unsigned count = 0;

	for (; count < PULLED && network_peek_below(p->queue, &f); count++) {
		struct iovec iov = { f.bytes, f.length };

		if (hold(p, FRAME_COME, &f.header, &iov, 1, f.length))
			network_queue_count_drop(p->queue);
		network_consume_below(p->queue);
	}
	return count == PULLED;
}

int frame_pacer_peek(struct frame_pacer *p, struct network_frame *f)
{
	struct reactor *r = network_queue_reactor(p->queue);
	bool more = pull(p);

	if (is_due(p, &p->ways[FRAME_COME], f))
		return 1;
	if (more) /* in the next turn; out of memory is told by the next frame from below */
		reactor_timer_set(r, &p->ways[FRAME_COME].timer, reactor_now(r));
	return 0;
}

void frame_pacer_consume(struct frame_pacer *p)
{
	frame_queue_consume(&p->ways[FRAME_COME].frames);
}

/* ---- life ---- */

void frame_pacer_open(struct frame_pacer *p, struct network_layer_queue *q, size_t bytes_max,
		      uint64_t (*due)(struct network_layer_queue *q, enum frame_way way,
				      const struct virtio_net_hdr *header, size_t bytes))
{
	p->queue = q;
	p->due = due;
	p->ways[FRAME_SEND].timer = (struct reactor_timer){ .fn = send_timer, .arg = p };
	p->ways[FRAME_COME].timer = (struct reactor_timer){ .fn = come_timer, .arg = p };
	for (unsigned i = 0; i < 2; i++)
		p->ways[i].frames.bytes_max = bytes_max;
}

/* Frames to the guest are lost as those are that wait below. */
static void count_waiting(struct frame_pacer *p)
{
	struct frame_queue *come = &p->ways[FRAME_COME].frames, *send = &p->ways[FRAME_SEND].frames;

	for (; come->head; frame_queue_consume(come))
		network_queue_count_lost(p->queue, 1);
	for (; send->head; frame_queue_consume(send))
		network_queue_count_send_drop(p->queue);
}

void frame_pacer_close(struct frame_pacer *p)
{
	count_waiting(p);
	for (unsigned i = 0; i < 2; i++) {
		reactor_timer_cancel(&p->ways[i].timer);
		frame_queue_clear(&p->ways[i].frames);
	}
}
