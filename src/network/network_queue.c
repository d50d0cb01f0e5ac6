/* network_queue.c - where frames pass: the funnel, and what ports and guests leave to software. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "base/pages.h"
#include "network/network_layer.h"

static const struct counter_field fields[] = {
	{ "sent_frames", offsetof(struct network_numbers, sent_frames) },
	{ "sent_bytes", offsetof(struct network_numbers, sent_bytes) },
	{ "sent_refused", offsetof(struct network_numbers, sent_refused) },
	{ "sent_dropped", offsetof(struct network_numbers, sent_dropped) },
	{ "sent_by_software", offsetof(struct network_numbers, sent_by_software) },
	{ "come_frames", offsetof(struct network_numbers, come_frames) },
	{ "come_bytes", offsetof(struct network_numbers, come_bytes) },
	{ "come_dropped", offsetof(struct network_numbers, come_dropped) },
	{ "come_by_software", offsetof(struct network_numbers, come_by_software) },
	{ "come_handed_over", offsetof(struct network_numbers, come_handed_over) },
	{ "come_lost_stopping", offsetof(struct network_numbers, come_lost_stopping) },
};

/* ---- for layers ---- */

void *network_queue_state(struct network_layer_queue *q)
{
	return q->state;
}

void *network_queue_layer_state(struct network_layer_queue *q)
{
	return q->layer->state;
}

struct network_layer *network_queue_layer(struct network_layer_queue *q)
{
	return q->layer;
}

struct reactor *network_queue_reactor(const struct network_layer_queue *q)
{
	return q->queue->reactor;
}

unsigned network_queue_index(const struct network_layer_queue *q)
{
	return q->queue->index;
}

void network_queue_ready(struct network_layer_queue *q)
{
	q->queue->ready(q->queue->arg);
}

void network_queue_count_lost(struct network_layer_queue *q, unsigned count)
{
	counter_add(&q->queue->numbers.come_lost_stopping, count);
}

void network_queue_count_drop(struct network_layer_queue *q)
{
	counter_add(&q->queue->numbers.come_dropped, 1);
}

void network_queue_count_send_drop(struct network_layer_queue *q)
{
	counter_add(&q->queue->numbers.sent_dropped, 1);
}

static int layer_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	while (!q->provider->send)
		q--;
	return q->provider->send(q, header, iov, n, bytes);
}

static int layer_peek(struct network_layer_queue *q, struct network_frame *f)
{
	while (!q->provider->peek)
		q--;
	return q->provider->peek(q, f);
}

static void layer_consume(struct network_layer_queue *q)
{
	while (!q->provider->consume)
		q--;
	q->provider->consume(q);
}

int network_forward(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes)
{
	return layer_send(q - 1, header, iov, n, bytes);
}

int network_peek_below(struct network_layer_queue *q, struct network_frame *f)
{
	return layer_peek(q - 1, f);
}

void network_consume_below(struct network_layer_queue *q)
{
	layer_consume(q - 1);
}

/* ---- sending ---- */

static bool buffer_allocate(uint8_t **buffer)
{
	if (!*buffer)
		*buffer = pages_allocate(NETWORK_FRAME_MAX);
	return *buffer;
}

static int send_piece(struct network_queue *q, uint8_t *bytes, size_t length)
{
	static const struct virtio_net_hdr nothing_undone;
	struct iovec iov = { bytes, length };

	return layer_send(q->top, &nothing_undone, &iov, 1, length);
}

/* The first refusal ends it: what follows would be of no use to who waits for the whole. */
static int send_segments(struct network_queue *q, const struct virtio_net_hdr *header, size_t bytes)
{
	struct frame_segments s;
	int status = frame_segments_begin(&s, q->whole, bytes, header);
	size_t length;

	while (!status && (length = frame_segments_next(&s, q->piece)) > 0)
		status = send_piece(q, q->piece, length);
	return status;
}

/* What the port cannot leave undone is done on a copy, which nobody can change any more. */
static int send_by_software(struct network_queue *q, const struct virtio_net_hdr *header,
			    const struct iovec *iov, unsigned n, size_t bytes)
{
	if (!buffer_allocate(&q->whole) || !buffer_allocate(&q->piece))
		return -ENOMEM;
	counter_add(&q->numbers.sent_by_software, 1);
	if (iov_copy_from(iov, n, 0, q->whole, bytes) != bytes)
		return -EINVAL;
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		return send_segments(q, header, bytes);
	frame_finish_checksum(q->whole, bytes, header);
	return send_piece(q, q->whole, bytes);
}

int network_send(struct network_queue *q, const struct virtio_net_hdr *header,
		 const struct iovec *iov, unsigned n, size_t bytes)
{
	int status;

	if (unlikely(frame_header_check(header, bytes))) {
		counter_add(&q->numbers.sent_refused, 1);
		return -EINVAL;
	}
	if (likely(!(frame_header_needs(header) & ~q->port->limits.offloads)))
		status = layer_send(q->top, header, iov, n, bytes);
	else
		status = send_by_software(q, header, iov, n, bytes);
	if (unlikely(status)) {
		counter_add(status == -EINVAL ? &q->numbers.sent_refused : &q->numbers.sent_dropped,
			    1);
		return status;
	}
	counter_add(&q->numbers.sent_frames, 1);
	counter_add(&q->numbers.sent_bytes, bytes);
	return 0;
}

static void flush_from(struct network_layer_queue *top)
{
	for (struct network_layer_queue *l = top; l >= top->queue->layers; l--)
		if (l->provider->flush)
			l->provider->flush(l);
}

void network_forward_flush(struct network_layer_queue *q)
{
	flush_from(q - 1);
}

void network_flush(struct network_queue *q)
{
	flush_from(q->top);
}

/* ---- steering ---- */

/* At most so many in one turn: they are not this queue's user's. */
enum { HAND_OVERS_PER_TURN = 256 };

/* NULL: the port has but one queue. */
static struct frame_inbox *inbox_of(const struct network_queue *q)
{
	return q->index < q->port->steering.queues ? q->port->steering.inboxes[q->index] : NULL;
}

static void hand_over(struct network_queue *q, unsigned to, const struct network_frame *f)
{
	if (steering_hand_over(&q->port->steering, to, f))
		counter_add(&q->numbers.come_dropped, 1);
	else
		counter_add(&q->numbers.come_handed_over, 1);
	layer_consume(q->top);
}

/* The next of the port's frames that is this queue's. */
static bool peek_port(struct network_queue *q, struct network_frame *f)
{
	for (unsigned count = 0; layer_peek(q->top, f); count++) {
		unsigned to = steering_choose(q->steering, q->index, f);

		if (to == q->index)
			return true;
		if (count == HAND_OVERS_PER_TURN) {
			q->ready(q->arg);
			return false;
		}
		hand_over(q, to, f);
	}
	return false;
}

/* One that was handed to this queue stays, whatever has been asked for since. */
static bool peek_inbox(struct network_queue *q, struct network_frame *f)
{
	struct frame_inbox *inbox = inbox_of(q);

	if (!inbox || !frame_inbox_peek(inbox, f))
		return false;
	steering_choose(q->steering, q->index, f);
	return true;
}

static bool peek_source(struct network_queue *q, enum steering_source from, struct network_frame *f)
{
	bool found = from == STEERING_INBOX ? peek_inbox(q, f) : peek_port(q, f);

	q->next_from = found ? from : STEERING_NONE;
	return found;
}

/* What was seen and not consumed is seen again. */
static int peek_steered(struct network_queue *q, struct network_frame *f)
{
	enum steering_source first = q->next_from;

	if (steering_follow(&q->port->steering, &q->steering))
		return 0;
	if (!first)
		first = q->inbox_first ? STEERING_INBOX : STEERING_PORT;
	return peek_source(q, first, f) ||
	       peek_source(q, first == STEERING_PORT ? STEERING_INBOX : STEERING_PORT, f);
}

static int peek_next(struct network_queue *q, struct network_frame *f)
{
	if (unlikely(steering_is_set(&q->port->steering)))
		return peek_steered(q, f);
	f->hash_report = 0;
	return layer_peek(q->top, f);
}

static void consume_next(struct network_queue *q)
{
	enum steering_source from = q->next_from;

	q->next_from = STEERING_NONE;
	q->inbox_first = from == STEERING_PORT;
	if (unlikely(from == STEERING_INBOX))
		frame_inbox_consume(inbox_of(q));
	else
		layer_consume(q->top);
}

/* ---- receiving ---- */

static void hold_segment(struct network_queue *q, size_t length)
{
	q->held.bytes = q->segment;
	q->held.length = length;
}

/* A frame that the user has not asked for: done here what it leaves undone.  False: it was no good,
 * and is gone. */
static bool hold(struct network_queue *q, struct network_frame *f)
{
	counter_add(&q->numbers.come_by_software, 1);
	q->held = *f;
	q->held.header = (struct virtio_net_hdr){ 0 };
	q->holds = true;
	if (f->header.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		frame_finish_checksum(f->bytes, f->length, &f->header);
		return true;
	}
	if (!buffer_allocate(&q->segment) ||
	    frame_segments_begin(&q->segments, f->bytes, f->length, &f->header)) {
		counter_add(&q->numbers.come_dropped, 1);
		q->holds = false;
		consume_next(q);
		return false;
	}
	q->segmenting = true;
	hold_segment(q, frame_segments_next(&q->segments, q->segment));
	return true;
}

/* A valid checksum is no news for a user that knows of none. */
static void strip(struct network_frame *f, unsigned offloads)
{
	if (!(offloads & NETWORK_CHECKSUM))
		f->header = (struct virtio_net_hdr){ 0 };
}

int network_peek(struct network_queue *q, struct network_frame *f)
{
	unsigned offloads = __atomic_load_n(&q->port->offloads, __ATOMIC_RELAXED);

	while (!q->holds) {
		if (!peek_next(q, f))
			return 0;
		if (unlikely(frame_header_check(&f->header, f->length))) {
			counter_add(&q->numbers.come_dropped, 1);
			consume_next(q);
		} else if (likely(!(frame_header_needs(&f->header) & ~offloads))) {
			strip(f, offloads);
			q->next_bytes = f->length;
			return 1;
		} else {
			hold(q, f);
		}
	}
	*f = q->held;
	q->next_bytes = f->length;
	return 1;
}

static void consume_held(struct network_queue *q)
{
	size_t length = q->segmenting ? frame_segments_next(&q->segments, q->segment) : 0;

	if (length) {
		hold_segment(q, length);
		return;
	}
	q->holds = q->segmenting = false;
	consume_next(q);
}

void network_consume(struct network_queue *q)
{
	counter_add(&q->numbers.come_frames, 1);
	counter_add(&q->numbers.come_bytes, q->next_bytes);
	if (unlikely(q->holds))
		consume_held(q);
	else
		consume_next(q);
}

/* ---- life ---- */

static void layers_close(struct network_queue *q, unsigned count)
{
	while (count--)
		if (q->layers[count].provider->queue_close)
			q->layers[count].provider->queue_close(&q->layers[count]);
}

static int layers_open(struct network_queue *q, char *states, struct error *e)
{
	struct network_port *p = q->port;

	for (unsigned i = 0; i < p->layer_count; i++) {
		struct network_layer *l = &p->layers[i];
		int status;

		q->layers[i] = (struct network_layer_queue){ .provider = l->provider,
							     .queue = q,
							     .layer = l,
							     .state = states + l->queue_offset };
		status = l->provider->queue_open ? l->provider->queue_open(&q->layers[i], e) : 0;
		if (status) {
			layers_close(q, i);
			return status;
		}
	}
	return 0;
}

struct network_queue *network_queue_open(struct network_port *p, unsigned index, struct reactor *r,
					 void (*ready)(void *arg), void *arg, struct error *e)
{
	size_t own = align_up(sizeof(struct network_queue) +
				      p->layer_count * sizeof(struct network_layer_queue),
			      NETWORK_STATE_ALIGNMENT);
	struct network_queue *q = calloc(1, own + p->queue_size);

	assert(index < p->limits.queues && reactor_is_home(r));
	if (!q) {
		error_set(e, -ENOMEM, "port %s: queue %u: out of memory", p->name, index);
		return NULL;
	}
	q->port = p;
	q->reactor = r;
	q->index = index;
	q->ready = ready;
	q->arg = arg;
	q->top = &q->layers[p->layer_count - 1];
	q->group = (struct counter_group){ .room = "network",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &q->numbers };
	snprintf(q->group.name, sizeof(q->group.name), "%s/%u", p->name, index);
	if (layers_open(q, (char *)q + own, e)) {
		error_wrap(e, "port %s: queue %u", p->name, index);
		free(q);
		return NULL;
	}
	if (inbox_of(q))
		frame_inbox_open(inbox_of(q), q->top);
	counter_group_add(&q->group);
	return q;
}

void network_queue_close(struct network_queue *q)
{
	if (inbox_of(q))
		frame_inbox_close(inbox_of(q));
	free(q->steering);
	layers_close(q, q->port->layer_count);
	counter_group_remove(&q->group);
	pages_free(q->whole, NETWORK_FRAME_MAX);
	pages_free(q->piece, NETWORK_FRAME_MAX);
	pages_free(q->segment, NETWORK_FRAME_MAX);
	free(q);
}
