/* limit.c - at most so many packets and bytes per second, each way.
 *
 * The buckets are the port's, shared by its queues; frames that have to wait do so in their queue,
 * within a bound.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/token_bucket.h"
#include "network/frame_pacer.h"
#include "network/network_list.h"

/* Of memory, per queue and direction. */
static const uint64_t queue_preset = 1 << 20, queue_least = 128 << 10, queue_most = 1 << 30;

struct limit_state {
	struct token_bucket packets[2], bytes[2]; /* by enum frame_way */
	uint64_t bytes_max;
};

typedef int option_reader(const struct uri *u, const char *name, uint64_t *to, struct error *e);

static int buckets_open(struct token_bucket b[2], const struct uri *u, option_reader *read,
			const char *name, const char *burst_name, struct error *e)
{
	uint64_t rate = 0, burst;
	int status = read(u, name, &rate, e);

	if (status)
		return status;
	if (uri_value(u, name) && !rate)
		return error_set(e, -EINVAL, "option \"%s\": nothing could ever pass", name);
	if (!rate && uri_value(u, burst_name))
		return error_set(e, -EINVAL, "option \"%s\" needs \"%s\"", burst_name, name);
	burst = rate / 10;
	status = read(u, burst_name, &burst, e);
	for (unsigned i = 0; i < 2; i++)
		token_bucket_set(&b[i], rate, burst);
	return status;
}

static int limit_open(struct network_layer *l, const struct network_request *request,
		      struct network_limits *limits, struct error *e)
{
	struct limit_state *s = network_layer_state(l);
	const struct uri *u = request->uri;
	int status = buckets_open(s->packets, u, uri_number, "pps", "pps-burst", e);

	s->bytes_max = queue_preset;
	status = status ? status : buckets_open(s->bytes, u, uri_size, "bps", "bps-burst", e);
	status = status ? status : uri_size(u, "limit-queue", &s->bytes_max, e);
	if (!status && !s->packets[0].rate && !s->bytes[0].rate)
		return error_set(e, -EINVAL, "limit needs the option \"pps\", \"bps\" or both");
	if (!status && (s->bytes_max < queue_least || s->bytes_max > queue_most))
		return error_set(e, -EINVAL, "option \"limit-queue\": not from 128K to 1G");
	return status;
}

static void limit_close(struct network_layer *l)
{
}

/* A frame that is still to be cut counts as all of its pieces. */
static uint64_t packets_of(const struct virtio_net_hdr *header, size_t bytes)
{
	return header->gso_size ? (bytes + header->gso_size - 1) / header->gso_size : 1;
}

static uint64_t due(struct network_layer_queue *q, enum frame_way way,
		    const struct virtio_net_hdr *header, size_t bytes)
{
	struct limit_state *s = network_queue_layer_state(q);
	uint64_t now_ns = reactor_now(network_queue_reactor(q));

	return maximum_u64(token_bucket_take(&s->packets[way], packets_of(header, bytes), now_ns),
			   token_bucket_take(&s->bytes[way], bytes, now_ns));
}

static int limit_queue_open(struct network_layer_queue *q, struct error *e)
{
	const struct limit_state *s = network_queue_layer_state(q);

	frame_pacer_open(network_queue_state(q), q, s->bytes_max, due);
	return 0;
}

static void limit_queue_close(struct network_layer_queue *q)
{
	frame_pacer_close(network_queue_state(q));
}

static int limit_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	return frame_pacer_send(network_queue_state(q), header, iov, n, bytes);
}

static int limit_peek(struct network_layer_queue *q, struct network_frame *f)
{
	return frame_pacer_peek(network_queue_state(q), f);
}

static void limit_consume(struct network_layer_queue *q)
{
	frame_pacer_consume(network_queue_state(q));
}

const struct network_provider network_limit = {
	.about.scheme = "limit",
	.about.summary = "lets at most so many packets and bytes per second pass, each way",
	.about.help =
		"pps=NUMBER          packets per second, over all queues\n"
		"bps=BYTES           bytes per second\n"
		"pps-burst=NUMBER    that may pass at once after a rest; a tenth of a second's\n"
		"bps-burst=BYTES     the same in bytes\n"
		"limit-queue=BYTES   that may wait, per queue and direction, what is beyond\n"
		"                    is dropped; 1M unless given\n",
	.about.is_filter = true,
	.state_size = sizeof(struct limit_state),
	.queue_size = sizeof(struct frame_pacer),
	.open = limit_open,
	.close = limit_close,
	.queue_open = limit_queue_open,
	.queue_close = limit_queue_close,
	.send = limit_send,
	.peek = limit_peek,
	.consume = limit_consume,
};
