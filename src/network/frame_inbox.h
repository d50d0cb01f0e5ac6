/* frame_inbox.h - a frame ring whose taking thread is a port's queue: it is woken by ready(). */
#ifndef NETWORK_FRAME_INBOX_H
#define NETWORK_FRAME_INBOX_H

#include "network/frame_ring.h"
#include "network/network_provider.h"

struct frame_inbox;

/* Control thread.  One per queue, made with the port and released with it: those who put may know
 * of it for as long.  l: counts what is put while the queue is closed; NULL: nobody does.  NULL:
 * out of memory. */
struct frame_inbox *frame_inbox_create(struct network_layer *l);
void frame_inbox_release(struct frame_inbox *i);	/* closed; NULL is ignored */

/* Any thread, until the release: as frame_ring_put(). */
int frame_inbox_put(struct frame_inbox *i, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes);

/* The queue's reactor.  Closed, it takes nothing; what is in it then is lost, and counted. */
void frame_inbox_open(struct frame_inbox *i, struct network_layer_queue *q);
void frame_inbox_close(struct frame_inbox *i);
int frame_inbox_peek(struct frame_inbox *i, struct network_frame *f);
void frame_inbox_consume(struct frame_inbox *i);

#endif
