/* frame_pacer.h - frames of one queue that wait until they are due: what delay and limit share. */
#ifndef NETWORK_FRAME_PACER_H
#define NETWORK_FRAME_PACER_H

#include "network/frame_queue.h"
#include "network/network_provider.h"
#include "reactor/reactor.h"

enum frame_way { FRAME_SEND, FRAME_COME };

struct frame_pacer_way {
	struct frame_queue frames;
	struct reactor_timer timer;
};

struct frame_pacer {			/* in a layer's queue state */
	struct network_layer_queue *queue;
	/* When a frame that is there now may go on, reactor_now()'s clock; asked once for each that
	 * there is room for. */
	uint64_t (*due)(struct network_layer_queue *q, enum frame_way way,
			const struct virtio_net_hdr *header, size_t bytes);
	struct frame_pacer_way ways[2];
};

/* bytes_max: of memory that each way's frames may take; those beyond are dropped and counted. */
void frame_pacer_open(struct frame_pacer *p, struct network_layer_queue *q, size_t bytes_max,
		      uint64_t (*due)(struct network_layer_queue *q, enum frame_way way,
				      const struct virtio_net_hdr *header, size_t bytes));
void frame_pacer_close(struct frame_pacer *p);		/* forgets those that wait */

/* As a layer's. */
int frame_pacer_send(struct frame_pacer *p, const struct virtio_net_hdr *header,
		     const struct iovec *iov, unsigned n, size_t bytes);
int frame_pacer_peek(struct frame_pacer *p, struct network_frame *f);
void frame_pacer_consume(struct frame_pacer *p);

#endif
