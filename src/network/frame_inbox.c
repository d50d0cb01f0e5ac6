/* frame_inbox.c - a frame ring whose taking thread is a port's queue. */
#include "network/frame_inbox.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "reactor/reactor.h"

/* Freed by the last of those who hold it: its port, and a wake on its way. */
struct frame_inbox {
	struct frame_ring *ring;     /* owned */
	struct network_layer *layer; /* borrowed until the release; NULL: counts nothing */
	_Atomic unsigned holders;
	_Atomic bool posted;
	struct reactor *_Atomic reactor;   /* of the last open */
	struct network_layer_queue *queue; /* from open to close */
	struct reactor_task task;
};

static void inbox_drop(struct frame_inbox *i)
{
	if (atomic_fetch_sub(&i->holders, 1) > 1)
		return;
	frame_ring_free(i->ring);
	free(i);
}

static void woken(void *arg)
{
	struct frame_inbox *i = arg;

	atomic_store(&i->posted, false);
	if (i->queue)
		network_queue_ready(i->queue);
	inbox_drop(i);
}

/* From a putting thread.  The task may still be on its way for a queue that was closed since. */
static void wake(void *arg)
{
	struct frame_inbox *i = arg;

	if (atomic_exchange(&i->posted, true))
		return;
	atomic_fetch_add(&i->holders, 1);
	reactor_post(atomic_load(&i->reactor), &i->task);
}

struct frame_inbox *frame_inbox_create(struct network_layer *l)
{
	struct frame_inbox *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->task = (struct reactor_task){ .fn = woken, .arg = i };
	i->layer = l;
	atomic_init(&i->holders, 1);
	i->ring = frame_ring_create(wake, i);
	if (i->ring)
		return i;
	free(i);
	return NULL;
}

void frame_inbox_release(struct frame_inbox *i)
{
	if (i)
		inbox_drop(i);
}

int frame_inbox_put(struct frame_inbox *i, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes)
{
	int status = frame_ring_put(i->ring, header, iov, n, bytes);

	if (unlikely(status) && i->layer && !frame_ring_is_open(i->ring))
		network_layer_count_lost(i->layer, 1);
	return status;
}

void frame_inbox_open(struct frame_inbox *i, struct network_layer_queue *q)
{
	i->queue = q;
	atomic_store(&i->reactor, network_queue_reactor(q));
	network_queue_count_lost(q, frame_ring_open(i->ring));
}

void frame_inbox_close(struct frame_inbox *i)
{
	network_queue_count_lost(i->queue, frame_ring_close(i->ring));
	i->queue = NULL;
}

int frame_inbox_peek(struct frame_inbox *i, struct network_frame *f)
{
	return frame_ring_peek(i->ring, f);
}

void frame_inbox_consume(struct frame_inbox *i)
{
	frame_ring_consume(i->ring);
}
