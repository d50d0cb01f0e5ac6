/* delay.c - every frame waits before it goes on. */
#include <errno.h>

#include "base/error.h"
#include "network/frame_pacer.h"
#include "network/network_list.h"

/* Of memory, per queue and direction. */
static const uint64_t queue_preset = 4 << 20, queue_least = 128 << 10, queue_most = 1 << 30;

struct delay_state {
	uint64_t wait_ns[2], jitter_ns;
	uint64_t bytes_max;
};

/* "ms=5" and "time=5ms" say the same. */
static int common_wait(const struct uri *u, uint64_t *wait_ns, struct error *e)
{
	uint64_t ms = 0;
	int status = uri_number(u, "ms", &ms, e);

	if (status)
		return status;
	if (uri_value(u, "ms") && uri_value(u, "time"))
		return error_set(e, -EINVAL, "options \"ms\" and \"time\" exclude each other");
	if (__builtin_mul_overflow(ms, 1000 * 1000, wait_ns))
		return error_set(e, -EINVAL, "option \"ms\": too large");
	return uri_duration(u, "time", wait_ns, e);
}

static int check(const struct delay_state *d, struct error *e)
{
	const uint64_t day_ns = 86400ull * 1000 * 1000 * 1000;

	if (d->wait_ns[0] > day_ns || d->wait_ns[1] > day_ns || d->jitter_ns > day_ns)
		return error_set(e, -EINVAL, "delay: more than a day");
	if (d->bytes_max < queue_least || d->bytes_max > queue_most)
		return error_set(e, -EINVAL, "option \"delay-queue\": not from 128K to 1G");
	return 0;
}

static int delay_open(struct network_layer *l, const struct network_request *request,
		      struct network_limits *limits, struct error *e)
{
	struct delay_state *d = network_layer_state(l);
	const struct uri *u = request->uri;
	int status = common_wait(u, &d->wait_ns[FRAME_SEND], e);

	d->wait_ns[FRAME_COME] = d->wait_ns[FRAME_SEND];
	d->bytes_max = queue_preset;
	status = status ? status : uri_duration(u, "delay-send", &d->wait_ns[FRAME_SEND], e);
	status = status ? status : uri_duration(u, "delay-come", &d->wait_ns[FRAME_COME], e);
	status = status ? status : uri_duration(u, "jitter", &d->jitter_ns, e);
	status = status ? status : uri_size(u, "delay-queue", &d->bytes_max, e);
	return status ? status : check(d, e);
}

static void delay_close(struct network_layer *l)
{
}

static uint64_t due(struct network_layer_queue *q, enum frame_way way,
		    const struct virtio_net_hdr *header, size_t bytes)
{
	const struct delay_state *d = network_queue_layer_state(q);
	struct reactor *r = network_queue_reactor(q);
	uint64_t wait = d->wait_ns[way];

	if (d->jitter_ns)
		wait += reactor_random(r) % d->jitter_ns;
	return reactor_now(r) + wait;
}

static int delay_queue_open(struct network_layer_queue *q, struct error *e)
{
	const struct delay_state *d = network_queue_layer_state(q);

	frame_pacer_open(network_queue_state(q), q, d->bytes_max, due);
	return 0;
}

static void delay_queue_close(struct network_layer_queue *q)
{
	frame_pacer_close(network_queue_state(q));
}

static int delay_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	return frame_pacer_send(network_queue_state(q), header, iov, n, bytes);
}

static int delay_peek(struct network_layer_queue *q, struct network_frame *f)
{
	return frame_pacer_peek(network_queue_state(q), f);
}

static void delay_consume(struct network_layer_queue *q)
{
	frame_pacer_consume(network_queue_state(q));
}

const struct network_provider network_delay = {
	.about.scheme = "delay",
	.about.summary = "lets every frame wait before it goes on; they stay in order",
	.about.help = "ms=NUMBER           milliseconds, in both directions\n"
		      "time=DURATION       the same with a unit: 500us, 5ms, 2s\n"
		      "delay-send=DURATION for frames from the guest, instead\n"
		      "delay-come=DURATION for frames to the guest, instead\n"
		      "jitter=DURATION     adds a random time below this to each\n"
		      "delay-queue=BYTES   that may wait, per queue and direction, what is beyond\n"
		      "                    is dropped; 4M unless given\n",
	.about.is_filter = true,
	.state_size = sizeof(struct delay_state),
	.queue_size = sizeof(struct frame_pacer),
	.open = delay_open,
	.close = delay_close,
	.queue_open = delay_queue_open,
	.queue_close = delay_queue_close,
	.send = delay_send,
	.peek = delay_peek,
	.consume = delay_consume,
};
