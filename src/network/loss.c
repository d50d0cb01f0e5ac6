/* loss.c - frames get lost by chance. */
#include <errno.h>

#include "base/error.h"
#include "network/network_list.h"
#include "reactor/reactor.h"

enum { LOST_IN_A_TURN = 64 /* where all is lost, a stream without an end must not hold us */ };

struct loss_state {
	uint32_t send, come; /* of URI_CERTAIN */
};

struct loss_queue {
	bool spared; /* the next frame has had its chance */
	struct reactor_timer again;
};

static int loss_open(struct network_layer *l, const struct network_request *request,
		     struct network_limits *limits, struct error *e)
{
	struct loss_state *s = network_layer_state(l);
	const struct uri *u = request->uri;
	uint32_t both = 0;
	int status = uri_percent(u, "loss", &both, e);

	s->send = s->come = both;
	status = status ? status : uri_percent(u, "loss-send", &s->send, e);
	status = status ? status : uri_percent(u, "loss-come", &s->come, e);
	if (!status && !uri_value(u, "loss") && !uri_value(u, "loss-send") &&
	    !uri_value(u, "loss-come"))
		return error_set(e, -EINVAL,
				 "loss needs the option \"loss\", \"loss-send\" or \"loss-come\"");
	return status;
}

static void loss_close(struct network_layer *l)
{
}

static void look_again(void *arg)
{
	network_queue_ready(arg);
}

static int loss_queue_open(struct network_layer_queue *q, struct error *e)
{
	struct loss_queue *lq = network_queue_state(q);

	lq->again = (struct reactor_timer){ .fn = look_again, .arg = q };
	return 0;
}

static void loss_queue_close(struct network_layer_queue *q)
{
	reactor_timer_cancel(&((struct loss_queue *)network_queue_state(q))->again);
}

static bool by_chance(struct network_layer_queue *q, uint32_t rate)
{
	return rate && reactor_random(network_queue_reactor(q)) % URI_CERTAIN < rate;
}

static int loss_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		     const struct iovec *iov, unsigned n, size_t bytes)
{
	const struct loss_state *s = network_queue_layer_state(q);

	if (!by_chance(q, s->send))
		return network_forward(q, header, iov, n, bytes);
	network_queue_count_send_drop(q);
	return 0;
}

static int loss_peek(struct network_layer_queue *q, struct network_frame *f)
{
	const struct loss_state *s = network_queue_layer_state(q);
	struct loss_queue *lq = network_queue_state(q);

	for (unsigned i = 0; i < LOST_IN_A_TURN; i++) {
		if (!network_peek_below(q, f))
			return 0;
		lq->spared = lq->spared || !by_chance(q, s->come);
		if (lq->spared)
			return 1;
		network_consume_below(q);
		network_queue_count_drop(q);
	}
	reactor_timer_set(network_queue_reactor(q), &lq->again, 0);
	return 0;
}

static void loss_consume(struct network_layer_queue *q)
{
	struct loss_queue *lq = network_queue_state(q);

	lq->spared = false;
	network_consume_below(q);
}

const struct network_provider network_loss = {
	.about.scheme = "loss",
	.about.summary = "lets frames get lost by chance",
	.about.help = "loss=PERCENT        of the frames, in both directions\n"
		      "loss-send=PERCENT   of those from the guest, instead\n"
		      "loss-come=PERCENT   of those to the guest, instead\n",
	.about.is_filter = true,
	.state_size = sizeof(struct loss_state),
	.queue_size = sizeof(struct loss_queue),
	.open = loss_open,
	.close = loss_close,
	.queue_open = loss_queue_open,
	.queue_close = loss_queue_close,
	.send = loss_send,
	.peek = loss_peek,
	.consume = loss_consume,
};
