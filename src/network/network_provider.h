/* network_provider.h - how to be a port, or a filter in front of one.  The face for implementers;
 * start from network/null.c and network/loss.c, and enter the table in network/network_list.c.
 *
 * A port is a stack of layers: filters, then one provider.  Each layer has a state of its own per
 * port and per queue, of the sizes its table states, zeroed and aligned to 16 bytes; both are
 * allocated and freed by the funnel.
 */
#ifndef NETWORK_NETWORK_PROVIDER_H
#define NETWORK_NETWORK_PROVIDER_H

#include "base/uri.h"
#include "base/uri_scheme.h"
#include "network/network_port.h"

struct network_layer;		/* one element of one port's stack */
struct network_layer_queue;	/* the same, of one queue */

struct network_request {	/* what is asked for at open; valid during open() */
	const struct uri *uri;
	const char *scheme;	/* the provider's name that was used */
	unsigned queues;	/* at most so many will be opened */
};

struct network_provider {
	struct uri_scheme about;
	size_t state_size, queue_size;	/* bytes */

	/* Control thread.  Provider: fill in *limits, which says 1 queue and nothing else.  Filter:
	 * *limits is the layer's below; change what differs.  On error close() is not called. */
	int (*open)(struct network_layer *l, const struct network_request *request,
		    struct network_limits *limits, struct error *e);
	void (*close)(struct network_layer *l);

	/* The queue's reactor.  May be NULL: nothing to do. */
	int (*queue_open)(struct network_layer_queue *q, struct error *e);
	void (*queue_close)(struct network_layer_queue *q);

	/* As network_send() and so on.  The header was checked (network_header_check()), and asks
	 * for nothing that limits.offloads does not have.  flush may be NULL; so may all three of
	 * a filter's: the layer below is asked. */
	int (*send)(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes);
	void (*flush)(struct network_layer_queue *q);
	int (*peek)(struct network_layer_queue *q, struct network_frame *f);
	void (*consume)(struct network_layer_queue *q);

	/* Any thread; may be NULL. */
	void (*set_offloads)(struct network_layer *l, unsigned offloads);
	void (*set_active)(struct network_layer *l, unsigned active);
};

void *network_layer_state(struct network_layer *l);
const char *network_layer_name(const struct network_layer *l);		/* "net0" */
struct reactor *network_layer_control(const struct network_layer *l);
/* Control thread: the carrier came or went.  There is one unless a layer says otherwise. */
void network_layer_set_link(struct network_layer *l, bool up);

void *network_queue_state(struct network_layer_queue *q);
void *network_queue_layer_state(struct network_layer_queue *q);		/* of its layer */
struct network_layer *network_queue_layer(struct network_layer_queue *q);
struct reactor *network_queue_reactor(const struct network_layer_queue *q);
unsigned network_queue_index(const struct network_layer_queue *q);
/* A frame may have come, or peek may answer otherwise than it did.  The queue's reactor. */
void network_queue_ready(struct network_layer_queue *q);
/* Frames that were waiting are lost because the queue is closed.  The queue's reactor. */
void network_queue_count_lost(struct network_layer_queue *q, unsigned count);
/* Frames came while a queue was closed, and are lost.  Any thread. */
void network_layer_count_lost(struct network_layer *l, uint64_t count);
/* A frame that came was lost, or one that was taken to be sent: counted.  The queue's reactor. */
void network_queue_count_drop(struct network_layer_queue *q);
void network_queue_count_send_drop(struct network_layer_queue *q);

/* For filters: the same, one layer further down. */
int network_forward(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes);
void network_forward_flush(struct network_layer_queue *q);
int network_peek_below(struct network_layer_queue *q, struct network_frame *f);
void network_consume_below(struct network_layer_queue *q);

#endif
