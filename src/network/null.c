/* null.c - forgets what is sent; may send an endless stream itself.  The smallest port. */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "network/network_list.h"

struct null_state {
	uint64_t frame; /* bytes of the frames that come; 0: none come */
};

struct null_queue {
	uint8_t *bytes; /* owned; NULL: no frame comes */
	uint32_t length;
};

static int null_open(struct network_layer *l, const struct network_request *request,
		     struct network_limits *limits, struct error *e)
{
	struct null_state *n = network_layer_state(l);
	int status = uri_size(request->uri, "frame", &n->frame, e);

	limits->queues = NETWORK_QUEUES_MAX;
	limits->offloads = NETWORK_ALL;
	if (!status && n->frame && (n->frame < NETWORK_HEADER || n->frame > NETWORK_FRAME_MAX))
		return error_set(e, -EINVAL, "option \"frame\": not from %d to %d bytes",
				 NETWORK_HEADER, NETWORK_FRAME_MAX);
	return status;
}

static void null_close(struct network_layer *l)
{
}

/* A broadcast of the type for local experiments (IEEE 802, 9.2.3). */
static int null_queue_open(struct network_layer_queue *q, struct error *e)
{
	static const uint8_t header[NETWORK_HEADER] = { 255, 255, 255, 255, 255, 255,  2,
							0,   0,   0,   0,   1,   0x88, 0xb5 };
	const struct null_state *n = network_queue_layer_state(q);
	struct null_queue *nq = network_queue_state(q);

	if (!n->frame)
		return 0;
	nq->length = n->frame;
	nq->bytes = calloc(1, n->frame);
	if (!nq->bytes)
		return error_set(e, -ENOMEM, "out of memory");
	memcpy(nq->bytes, header, sizeof(header));
	return 0;
}

static void null_queue_close(struct network_layer_queue *q)
{
	struct null_queue *nq = network_queue_state(q);

	free(nq->bytes);
}

static int null_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		     const struct iovec *iov, unsigned n, size_t bytes)
{
	return 0;
}

static int null_peek(struct network_layer_queue *q, struct network_frame *f)
{
	const struct null_queue *nq = network_queue_state(q);

	*f = (struct network_frame){ .bytes = nq->bytes, .length = nq->length };
	return nq->bytes != NULL;
}

static void null_consume(struct network_layer_queue *q)
{
}

const struct network_provider network_null = {
	.about.scheme = "null",
	.about.summary = "forgets what is sent; nothing comes, or an endless stream",
	.about.help = "frame=BYTES         frames of this size come as fast as they are taken\n",
	.state_size = sizeof(struct null_state),
	.queue_size = sizeof(struct null_queue),
	.open = null_open,
	.close = null_close,
	.queue_open = null_queue_open,
	.queue_close = null_queue_close,
	.send = null_send,
	.peek = null_peek,
	.consume = null_consume,
};
