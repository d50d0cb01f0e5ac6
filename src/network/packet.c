/* packet.c - a raw interface of this host: what the wire behind it carries, and nothing else. */
#include <errno.h>
#include <string.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "network/link_watch.h"
#include "network/network_list.h"
#include "network/packet_interface.h"
#include "network/packet_socket.h"

struct packet_state {
	struct packet_interface interface;
	int promiscuous;                /* owned: a descriptor that asks for it; -1: none */
	struct link_watch *link;        /* owned */
	struct packet_sockets *sockets; /* owned */
};

struct packet_queue {
	struct packet_socket *socket; /* owned */
};

/* ---- frames ---- */

static int packet_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		       const struct iovec *iov, unsigned n, size_t bytes)
{
	struct packet_queue *p = network_queue_state(q);

	return packet_socket_send(p->socket, header, iov, n, bytes);
}

static void packet_flush(struct network_layer_queue *q)
{
	struct packet_queue *p = network_queue_state(q);

	packet_socket_flush(p->socket);
}

static int packet_peek(struct network_layer_queue *q, struct network_frame *f)
{
	struct packet_queue *p = network_queue_state(q);

	return packet_socket_peek(p->socket, f);
}

static void packet_consume(struct network_layer_queue *q)
{
	struct packet_queue *p = network_queue_state(q);

	packet_socket_consume(p->socket);
}

/* ---- queues ---- */

static int packet_queue_open(struct network_layer_queue *q, struct error *e)
{
	struct packet_state *s = network_queue_layer_state(q);
	struct packet_queue *p = network_queue_state(q);

	return packet_socket_start(&p->socket, s->sockets, q, e);
}

static void packet_queue_close(struct network_layer_queue *q)
{
	struct packet_queue *p = network_queue_state(q);

	packet_socket_stop(p->socket);
}

static void packet_set_active(struct network_layer *l, unsigned active)
{
	struct packet_state *s = network_layer_state(l);

	packet_sockets_set_active(s->sockets, active);
}

/* ---- life ---- */

static void link_changed(void *arg)
{
	struct network_layer *l = arg;
	const struct packet_state *s = network_layer_state(l);

	if (link_watch_gone(s->link))
		log_warning("port %s: interface %s is gone", network_layer_name(l),
			    s->interface.name);
	network_layer_set_link(l, link_watch_up(s->link));
}

static int watch_link(struct network_layer *l, struct error *e)
{
	struct packet_state *s = network_layer_state(l);
	struct error why = { 0 };

	s->link = link_watch_open(network_layer_control(l), s->interface.index, link_changed, l,
				  &why);
	if (!s->link)
		return error_set(e, why.code, "%s", why.text);
	if (!link_watch_up(s->link))
		network_layer_set_link(l, false);
	return 0;
}

static int open_promiscuous(struct packet_state *s, const struct uri *uri, struct error *e)
{
	bool wanted = true;
	int status = uri_switch(uri, "promiscuous", &wanted, e);

	if (status || !wanted)
		return status;
	return packet_interface_promiscuous(&s->interface, &s->promiscuous, e);
}

static int count_queues(const struct network_request *request, unsigned *queues, struct error *e)
{
	uint64_t most = NETWORK_QUEUES_MAX;
	int status = uri_number(request->uri, "queues", &most, e);

	if (!status && (most < 1 || most > NETWORK_QUEUES_MAX))
		return error_set(e, -EINVAL, "option \"queues\": not from 1 to %d",
				 NETWORK_QUEUES_MAX);
	*queues = request->queues < most ? request->queues : most;
	return status;
}

static int open_all(struct network_layer *l, const struct network_request *request,
		    struct network_limits *limits, struct error *e)
{
	struct packet_state *s = network_layer_state(l);
	unsigned queues = 1;
	int status = count_queues(request, &queues, e);

	status = status ? status : packet_interface_find(&s->interface, request->uri->path, e);
	status = status ? status : open_promiscuous(s, request->uri, e);
	if (!status)
		status = packet_sockets_open(&s->sockets, &s->interface, queues, limits, e);
	return status ? status : watch_link(l, e);
}

static void packet_close(struct network_layer *l)
{
	struct packet_state *s = network_layer_state(l);

	link_watch_close(s->link);
	packet_sockets_close(s->sockets);
	fd_close(&s->promiscuous);
}

static int packet_open(struct network_layer *l, const struct network_request *request,
		       struct network_limits *limits, struct error *e)
{
	struct packet_state *s = network_layer_state(l);
	int status;

	s->promiscuous = -1;
	status = open_all(l, request, limits, e);
	if (status)
		packet_close(l);
	return status;
}

const struct network_provider network_packet = {
	.about.scheme = "packet",
	.about.summary = "a raw interface of this host: packet:IFNAME",
	.about.help = "promiscuous=on|off  all frames on the wire come, not only those for the\n"
		      "                    interface's own address; on unless given\n"
		      "queues=NUMBER       at most so many queues\n",
	.state_size = sizeof(struct packet_state),
	.queue_size = sizeof(struct packet_queue),
	.open = packet_open,
	.close = packet_close,
	.queue_open = packet_queue_open,
	.queue_close = packet_queue_close,
	.send = packet_send,
	.flush = packet_flush,
	.peek = packet_peek,
	.consume = packet_consume,
	.set_active = packet_set_active,
};
