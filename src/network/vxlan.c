/* vxlan.c - a segment of an overlay network: RFC 7348 over UDP, without privileges.
 *
 * The way out: vxlan_sender.  Frames go to the peer behind which their receiver was last seen, or
 * else to all that were configured.  The way in: vxlan_receiver, which hears for all ports of the
 * process at the same UDP port (vxlan_endpoint), learns, and puts frames into the queues' inboxes.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/counter.h"
#include "base/error.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/pages.h"
#include "network/frame_inbox.h"
#include "network/frame_offload.h"
#include "network/mac_table.h"
#include "network/network_list.h"
#include "network/vxlan_endpoint.h"
#include "network/vxlan_header.h"
#include "network/vxlan_neighbours.h"
#include "network/vxlan_peers.h"
#include "network/vxlan_port.h"
#include "network/vxlan_receiver.h"
#include "network/vxlan_sender.h"
#include "network/vxlan_socket.h"
#include "reactor/reactor.h"

enum { SECOND_NS = 1000 * 1000 * 1000 };

struct vxlan_numbers {
	struct vxlan_sender_numbers sent;
	struct vxlan_receiver_numbers come;
	uint64_t answered; /* for a neighbour, without asking it */
};

struct vxlan_queue {
	struct vxlan_port *port;
	struct frame_inbox *inbox; /* borrowed */
	struct vxlan_sender *sender;
	struct vxlan_receiver *receiver;
	uint8_t *whole; /* owned: NETWORK_FRAME_MAX bytes; a frame to be cut; NULL until needed */
	struct vxlan_numbers numbers;
	struct counter_group group;
};

static const struct counter_field fields[] = {
	{ "sent_datagrams", offsetof(struct vxlan_numbers, sent.datagrams) },
	{ "sent_calls", offsetof(struct vxlan_numbers, sent.calls) },
	{ "sent_too_large", offsetof(struct vxlan_numbers, sent.too_large) },
	{ "sent_unreachable", offsetof(struct vxlan_numbers, sent.unreachable) },
	{ "sent_no_room", offsetof(struct vxlan_numbers, sent.no_room) },
	{ "come_datagrams", offsetof(struct vxlan_numbers, come.datagrams) },
	{ "come_calls", offsetof(struct vxlan_numbers, come.calls) },
	{ "come_malformed", offsetof(struct vxlan_numbers, come.malformed) },
	{ "come_unknown_vni", offsetof(struct vxlan_numbers, come.unknown_vni) },
	{ "come_no_room", offsetof(struct vxlan_numbers, come.no_room) },
	{ "come_unlearned", offsetof(struct vxlan_numbers, come.unlearned) },
	{ "answered", offsetof(struct vxlan_numbers, answered) },
};

/* ---- frames ---- */

static uint32_t now_of(const struct network_layer_queue *q)
{
	return reactor_now(network_queue_reactor(q)) / SECOND_NS;
}

struct target {
	const struct vxlan_address *to;
	unsigned count;
	uint32_t flow;
	struct vxlan_address one;
};

/* Where a frame goes: one peer, or all (RFC 7348, 4.2). */
static void find_target(struct vxlan_port *port, const uint8_t *frame, size_t n, uint32_t now,
			struct target *t)
{
	uint16_t number = mac_table_find(port->macs, frame, now);

	t->flow = vxlan_flow_hash(frame, n);
	if (number != MAC_TABLE_NONE && vxlan_peers_find(port->peers, number, &t->one)) {
		t->to = &t->one;
		t->count = 1;
		return;
	}
	t->to = port->options.peers;
	t->count = port->options.peer_count;
}

/* True: the guest has its answer, or there was no room for it; it will ask again. */
static bool suppress(struct network_layer_queue *q, const uint8_t *frame, size_t n)
{
	static const struct virtio_net_hdr nothing_undone;
	struct vxlan_queue *v = network_queue_state(q);
	uint8_t bytes[VXLAN_ANSWER_BYTES];
	struct iovec iov = { bytes, 0 };

	if (likely(!v->port->neighbours))
		return false;
	iov.iov_len = vxlan_neighbours_ask(v->port->neighbours, frame, n, now_of(q), bytes);
	if (!iov.iov_len)
		return false;
	frame_inbox_put(v->inbox, &nothing_undone, &iov, 1, iov.iov_len);
	counter_add(&v->numbers.answered, 1);
	return true;
}

static int send_whole(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	struct vxlan_queue *v = network_queue_state(q);
	uint8_t *frame = vxlan_sender_room(v->sender);
	struct target t;

	if (unlikely(iov_copy_from(iov, n, 0, frame, bytes) != bytes))
		return -EINVAL;
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		frame_finish_checksum(frame, bytes, header);
	if (suppress(q, frame, bytes))
		return 0;
	find_target(v->port, frame, bytes, now_of(q), &t);
	vxlan_sender_put(v->sender, bytes, t.flow, t.to, t.count);
	return 0;
}

/* Segments are of one size, and so go out in one piece. */
static int send_cut(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes)
{
	struct vxlan_queue *v = network_queue_state(q);
	struct frame_segments s;
	struct target t;
	size_t length;

	if (!v->whole)
		v->whole = pages_allocate(NETWORK_FRAME_MAX);
	if (unlikely(!v->whole))
		return -ENOMEM;
	if (unlikely(iov_copy_from(iov, n, 0, v->whole, bytes) != bytes ||
		     frame_segments_begin(&s, v->whole, bytes, header)))
		return -EINVAL;
	find_target(v->port, v->whole, bytes, now_of(q), &t);
	while ((length = frame_segments_next(&s, vxlan_sender_room(v->sender))) > 0)
		vxlan_sender_put(v->sender, length, t.flow, t.to, t.count);
	return 0;
}

static int vxlan_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	if (header->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return send_whole(q, header, iov, n, bytes);
	return send_cut(q, header, iov, n, bytes);
}

static void vxlan_flush(struct network_layer_queue *q)
{
	struct vxlan_queue *v = network_queue_state(q);

	vxlan_sender_flush(v->sender);
}

static int vxlan_peek(struct network_layer_queue *q, struct network_frame *f)
{
	struct vxlan_queue *v = network_queue_state(q);

	if (frame_inbox_peek(v->inbox, f))
		return 1;
	vxlan_receiver_go_on(v->receiver);
	return 0;
}

static void vxlan_consume(struct network_layer_queue *q)
{
	struct vxlan_queue *v = network_queue_state(q);

	frame_inbox_consume(v->inbox);
}

static void vxlan_set_active(struct network_layer *l, unsigned active)
{
	struct vxlan_port *port = network_layer_state(l);

	atomic_store(&port->active, minimum_u64(maximum_u64(active, 1), port->queues));
}

/* ---- queues ---- */

static void add_counters(struct network_layer_queue *q)
{
	struct vxlan_queue *v = network_queue_state(q);

	v->group = (struct counter_group){ .room = "vxlan",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &v->numbers };
	snprintf(v->group.name, sizeof(v->group.name), "%s/%u", v->port->name,
		 network_queue_index(q));
	counter_group_add(&v->group);
}

static int vxlan_queue_open(struct network_layer_queue *q, struct error *e)
{
	struct vxlan_port *port = network_queue_layer_state(q);
	struct vxlan_queue *v = network_queue_state(q);
	uint32_t seed = reactor_random(network_queue_reactor(q));

	v->port = port;
	v->inbox = port->inboxes[network_queue_index(q)];
	v->sender = vxlan_sender_create(port->name, &port->options, seed, &v->numbers.sent);
	if (!v->sender)
		return error_set(e, -ENOMEM, "out of memory");
	frame_inbox_open(v->inbox, q);
	v->receiver = vxlan_receiver_create(port, q, &v->numbers.come, e);
	if (!v->receiver) {
		frame_inbox_close(v->inbox);
		vxlan_sender_free(v->sender);
		return e->code;
	}
	add_counters(q);
	return 0;
}

static void vxlan_queue_close(struct network_layer_queue *q)
{
	struct vxlan_queue *v = network_queue_state(q);

	vxlan_sender_flush(v->sender);
	vxlan_receiver_free(v->receiver);
	frame_inbox_close(v->inbox);
	vxlan_sender_free(v->sender);
	pages_free(v->whole, NETWORK_FRAME_MAX);
	counter_group_remove(&v->group);
}

/* ---- the largest packet ---- */

/* What the way to all peers allows; 0: some way is not there yet. */
static uint32_t underlay_mtu(const struct vxlan_options *o)
{
	uint32_t mtu = UINT16_MAX;

	for (unsigned i = 0; i < o->peer_count && mtu; i++)
		mtu = minimum_u64(mtu, vxlan_socket_mtu(o, &o->peers[i]));
	return mtu;
}

/* Frames that a guest believes in and the underlay drops are the classic failure of overlays. */
static int find_mtu(const struct vxlan_port *port, uint32_t *mtu, struct error *e)
{
	const struct vxlan_options *o = &port->options;
	bool v4 = o->local.any.sa_family == AF_INET;
	uint32_t overhead = v4 ? VXLAN_OVERHEAD_IPV4 : VXLAN_OVERHEAD_IPV6;
	uint32_t underlay = underlay_mtu(o);

	if (!underlay) {
		*mtu = o->mtu ? o->mtu : 1500 - overhead;
		log_warning("port %s: no way to every peer yet: an MTU of %u is a guess",
			    port->name, *mtu);
		return 0;
	}
	if (underlay < overhead + NETWORK_MTU_MIN)
		return error_set(e, -EMSGSIZE, "the way to the peers takes packets of %u bytes",
				 underlay);
	if (o->mtu > underlay - overhead)
		return error_set(e, -EMSGSIZE,
				 "option \"mtu\": %u and %u bytes around it, but the way to the "
				 "peers takes %u",
				 o->mtu, overhead, underlay);
	*mtu = o->mtu ? o->mtu : underlay - overhead;
	return 0;
}

/* ---- life ---- */

static void port_clear(struct vxlan_port *port)
{
	for (unsigned i = 0; i < port->queues; i++)
		frame_inbox_release(port->inboxes[i]);
	vxlan_neighbours_free(port->neighbours);
	vxlan_peers_free(port->peers);
	mac_table_free(port->macs);
}

static int port_fill(struct network_layer *l, unsigned queues, struct error *e)
{
	struct vxlan_port *port = network_layer_state(l);
	const struct vxlan_options *o = &port->options;

	if (getrandom(&port->key, sizeof(port->key), 0) < 0)
		return error_set(e, -errno, "getrandom: %s", strerror(errno));
	port->macs = mac_table_create(o->ageing, port->key);
	port->peers = vxlan_peers_create(o, port->macs, port->key);
	if (o->suppress)
		port->neighbours = vxlan_neighbours_create(o->ageing, port->key);
	if (!port->macs || !port->peers || (o->suppress && !port->neighbours))
		return error_set(e, -ENOMEM, "out of memory");
	for (; port->queues < queues; port->queues++) {
		port->inboxes[port->queues] = frame_inbox_create(l);
		if (!port->inboxes[port->queues])
			return error_set(e, -ENOMEM, "out of memory");
	}
	return 0;
}

static void vxlan_close(struct network_layer *l)
{
	struct vxlan_port *port = network_layer_state(l);

	vxlan_endpoint_leave(port);
	port_clear(port);
}

static int vxlan_open(struct network_layer *l, const struct network_request *request,
		      struct network_limits *limits, struct error *e)
{
	struct vxlan_port *port = network_layer_state(l);
	int status = vxlan_options_parse(&port->options, request->uri, e);

	port->name = network_layer_name(l);
	atomic_init(&port->active, 1);
	status = status ? status : port_fill(l, request->queues, e);
	status = status ? status : vxlan_endpoint_join(port, e);
	if (status) {
		port_clear(port);
		return status;
	}
	status = find_mtu(port, &limits->mtu, e);
	if (status) {
		vxlan_close(l);
		return status;
	}
	limits->queues = request->queues;
	limits->offloads = NETWORK_ALL;
	return 0;
}

const struct network_provider network_vxlan = {
	.about.scheme = "vxlan",
	.about.summary = "a segment of an overlay network: "
			 "vxlan://PEER[:PORT][,PEER...]?vni=NUMBER; one peer may be a group",
	.about.help = vxlan_options_help,
	.state_size = sizeof(struct vxlan_port),
	.queue_size = sizeof(struct vxlan_queue),
	.open = vxlan_open,
	.close = vxlan_close,
	.queue_open = vxlan_queue_open,
	.queue_close = vxlan_queue_close,
	.send = vxlan_send,
	.flush = vxlan_flush,
	.peek = vxlan_peek,
	.consume = vxlan_consume,
	.set_active = vxlan_set_active,
};
