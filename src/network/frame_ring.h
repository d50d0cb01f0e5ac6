/* frame_ring.h - frames on their way from any thread to one.
 *
 * Bounded in frames and bytes; what does not fit is refused.  Who puts never waits, and takes no
 * lock: room is reserved by one compare-and-swap, then filled, then published.
 */
#ifndef NETWORK_FRAME_RING_H
#define NETWORK_FRAME_RING_H

#include <stdbool.h>

#include "network/network_port.h"

enum { FRAME_RING_SLOTS = 4096, FRAME_RING_BYTES = 1 << 20 };

struct frame_ring;

/* wake(arg) is called by a putting thread, after the taking one has seen the ring empty, once.
 * NULL: out of memory.  Of the ring's memory only what is used is resident. */
struct frame_ring *frame_ring_create(void (*wake)(void *arg), void *arg);
void frame_ring_free(struct frame_ring *r);	/* nobody uses it; NULL is ignored */

/* Any thread.  0, or -ENOBUFS: full, or closed. */
int frame_ring_put(struct frame_ring *r, const struct virtio_net_hdr *header,
		   const struct iovec *iov, unsigned n, size_t bytes);

/* Any thread, a moment ago. */
bool frame_ring_is_open(const struct frame_ring *r);

/* The taking thread, all below.  A ring is closed at first.  Both forget what is in it (open: what
 * a thread was about to put when it closed), and return how many frames that were. */
unsigned frame_ring_open(struct frame_ring *r);
unsigned frame_ring_close(struct frame_ring *r);
int frame_ring_peek(struct frame_ring *r, struct network_frame *f);	/* 1, or 0: empty */
void frame_ring_consume(struct frame_ring *r);

#endif
