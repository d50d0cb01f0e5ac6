/* frame_queue.h - copies of frames that wait, in order, within a bound.  One thread. */
#ifndef NETWORK_FRAME_QUEUE_H
#define NETWORK_FRAME_QUEUE_H

#include <stdbool.h>

#include "network/network_port.h"

struct frame_copy;

struct frame_queue {		/* zeroed: empty, and has room for nothing */
	struct frame_copy *head, *tail;	/* owned */
	size_t bytes, bytes_max;	/* of memory */
};

bool frame_queue_has_room(const struct frame_queue *q, size_t bytes);
/* 0, or -ENOBUFS: no room.  due_ns is kept with it. */
int frame_queue_put(struct frame_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes, uint64_t due_ns);
/* The first: 1, or 0: none.  due_ns may be NULL. */
int frame_queue_peek(const struct frame_queue *q, struct network_frame *f, uint64_t *due_ns);
void frame_queue_consume(struct frame_queue *q);	/* it is not empty */
void frame_queue_clear(struct frame_queue *q);

#endif
