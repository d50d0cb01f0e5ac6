/* packet.c - a raw interface of this host: what the wire behind it carries, and nothing else.
 *
 * By AF_XDP or by AF_PACKET sockets; each has its file.  Here: which, and the interface itself.
 */
#include <errno.h>
#include <string.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "network/link_watch.h"
#include "network/network_list.h"
#include "network/packet_interface.h"
#include "network/packet_socket.h"
#include "network/packet_xdp.h"

struct packet_state {
	struct packet_interface interface;
	int promiscuous;                /* owned: a descriptor that asks for it; -1: none */
	struct link_watch *link;        /* owned */
	struct packet_sockets *sockets; /* owned */
	struct packet_xdp *xdp;         /* owned; NULL: by sockets */
};

struct packet_queue {
	struct packet_socket *socket; /* owned */
	struct packet_xdp_queue *xdp; /* owned; NULL: by the socket */
};

/* ---- frames ---- */

static int packet_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		       const struct iovec *iov, unsigned n, size_t bytes)
{
	struct packet_queue *p = network_queue_state(q);

	if (p->xdp)
		return packet_xdp_send(p->xdp, iov, n, bytes);
	return packet_socket_send(p->socket, header, iov, n, bytes);
}

static void packet_flush(struct network_layer_queue *q)
{
	struct packet_queue *p = network_queue_state(q);

	if (p->xdp)
		packet_xdp_flush(p->xdp);
	else
		packet_socket_flush(p->socket);
}

static int packet_peek(struct network_layer_queue *q, struct network_frame *f)
{
	struct packet_queue *p = network_queue_state(q);

	return p->xdp ? packet_xdp_peek(p->xdp, f) : packet_socket_peek(p->socket, f);
}

static void packet_consume(struct network_layer_queue *q)
{
	struct packet_queue *p = network_queue_state(q);

	if (p->xdp)
		packet_xdp_consume(p->xdp);
	else
		packet_socket_consume(p->socket);
}

/* ---- queues ---- */

static int packet_queue_open(struct network_layer_queue *q, struct error *e)
{
	struct packet_state *s = network_queue_layer_state(q);
	struct packet_queue *p = network_queue_state(q);

	if (s->xdp)
		return packet_xdp_start(&p->xdp, s->xdp, q, e);
	return packet_socket_start(&p->socket, s->sockets, q, e);
}

static void packet_queue_close(struct network_layer_queue *q)
{
	struct packet_queue *p = network_queue_state(q);

	if (p->xdp)
		packet_xdp_stop(p->xdp);
	else
		packet_socket_stop(p->socket);
}

static void packet_set_active(struct network_layer *l, unsigned active)
{
	struct packet_state *s = network_layer_state(l);

	if (s->xdp)
		packet_xdp_set_active(s->xdp, active);
	else
		packet_sockets_set_active(s->sockets, active);
}

/* ---- life ---- */

static void set_link(struct network_layer *l, bool up)
{
	struct packet_state *s = network_layer_state(l);

	if (s->xdp)
		packet_xdp_set_link(s->xdp, up);
	network_layer_set_link(l, up);
}

static void link_changed(void *arg)
{
	struct network_layer *l = arg;
	const struct packet_state *s = network_layer_state(l);

	if (link_watch_gone(s->link))
		log_warning("port %s: interface %s is gone", network_layer_name(l),
			    s->interface.name);
	set_link(l, link_watch_up(s->link));
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
		set_link(l, false);
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

/* ---- which way ---- */

enum mode { MODE_AUTO, MODE_XDP, MODE_PACKET };
enum zero_copy { ZERO_COPY_AUTO, ZERO_COPY_ON, ZERO_COPY_OFF };

/* The index of an option's value among words; absent: the first. */
static int choose(const struct uri *uri, const char *name, const char *const words[3],
		  struct error *e)
{
	const char *value = uri_value(uri, name);

	for (int i = 0; i < 3; i++)
		if (!value || !strcmp(value, words[i]))
			return i;
	return error_set(e, -EINVAL, "option \"%s\": \"%s\" is not %s, %s or %s", name, value,
			 words[0], words[1], words[2]);
}

/* In front of the kernel's network, where the driver has no XDP, AF_XDP is no faster than a
 * socket, so nobody gets that who did not ask. */
static int open_xdp(struct packet_state *s, unsigned queues, enum mode mode,
		    enum zero_copy zero_copy, struct network_limits *limits, struct error *e)
{
	struct packet_channel_options o = { .zero_copy = zero_copy == ZERO_COPY_ON,
					    .copy = zero_copy == ZERO_COPY_OFF };
	int status = packet_xdp_open(&s->xdp, &s->interface, queues, &o, limits, e);

	if (status != -EOPNOTSUPP || mode == MODE_AUTO || o.zero_copy)
		return status;
	o.generic = true;
	return packet_xdp_open(&s->xdp, &s->interface, queues, &o, limits, e);
}

/* Why AF_XDP would not show all of the frames on this wire, or NULL: it has no word for a checksum
 * that is still to be computed, nor for a tag that the card has taken out. */
static const char *hidden_from_xdp(const struct packet_interface *i)
{
	if (!strcmp(i->driver, "veth") || !strcmp(i->driver, "tun"))
		return "frames that come may lack their checksums (ethtool -K tx off at the other "
		       "end)";
	if (i->takes_tags_out)
		return "VLAN tags are taken out of frames that come (ethtool -K rxvlan off)";
	return NULL;
}

static int try_xdp(struct network_layer *l, unsigned queues, enum zero_copy zero_copy,
		   struct network_limits *limits)
{
	struct packet_state *s = network_layer_state(l);
	const char *hidden = hidden_from_xdp(&s->interface);
	struct error why = { 0 };
	int status;

	if (hidden)
		status = error_set(&why, -EOPNOTSUPP, "%s", hidden);
	else
		status = open_xdp(s, queues, MODE_AUTO, zero_copy, limits, &why);
	if (status)
		log_info("port %s: %s: by AF_PACKET, not AF_XDP: %s", network_layer_name(l),
			 s->interface.name, why.text);
	return status;
}

static int insist_on_xdp(struct network_layer *l, unsigned queues, enum zero_copy zero_copy,
			 struct network_limits *limits, struct error *e)
{
	struct packet_state *s = network_layer_state(l);
	const char *hidden = hidden_from_xdp(&s->interface);

	if (hidden)
		log_warning("port %s: %s: by AF_XDP: %s", network_layer_name(l), s->interface.name,
			    hidden);
	return open_xdp(s, queues, MODE_XDP, zero_copy, limits, e);
}

static int open_way(struct network_layer *l, const struct uri *uri, unsigned queues,
		    struct network_limits *limits, struct error *e)
{
	static const char *const modes[] = { "auto", "xdp", "packet" };
	static const char *const switches[] = { "auto", "on", "off" };
	struct packet_state *s = network_layer_state(l);
	int mode = choose(uri, "mode", modes, e);
	int zero_copy = mode < 0 ? mode : choose(uri, "zero-copy", switches, e);

	if (zero_copy < 0)
		return zero_copy;
	if (mode == MODE_PACKET && zero_copy == ZERO_COPY_ON)
		return error_set(e, -EINVAL, "option \"zero-copy\": on needs mode=xdp");
	if (mode == MODE_XDP || zero_copy == ZERO_COPY_ON)
		return insist_on_xdp(l, queues, zero_copy, limits, e);
	if (mode == MODE_AUTO && !try_xdp(l, queues, zero_copy, limits))
		return 0;
	return packet_sockets_open(&s->sockets, &s->interface, queues, limits, e);
}

static int open_all(struct network_layer *l, const struct network_request *request,
		    struct network_limits *limits, struct error *e)
{
	struct packet_state *s = network_layer_state(l);
	unsigned queues = 1;
	int status = count_queues(request, &queues, e);

	status = status ? status : packet_interface_find(&s->interface, request->uri->path, e);
	status = status ? status : open_promiscuous(s, request->uri, e);
	status = status ? status : open_way(l, request->uri, queues, limits, e);
	return status ? status : watch_link(l, e);
}

static void packet_close(struct network_layer *l)
{
	struct packet_state *s = network_layer_state(l);

	link_watch_close(s->link);
	packet_sockets_close(s->sockets);
	packet_xdp_close(s->xdp);
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
	.about.help =
		"mode=auto|xdp|packet   by AF_XDP or AF_PACKET; auto unless given: AF_XDP if\n"
		"                    the driver has it\n"
		"zero-copy=auto|on|off   AF_XDP without copies; auto unless given\n"
		"promiscuous=on|off  all frames on the wire come, not only those for the\n"
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
