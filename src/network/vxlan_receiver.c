/* vxlan_receiver.c - one queue's ear: datagrams become frames in the inboxes of whom they are for.
 *
 * A datagram's bytes are in memory of ours before they are looked at.  Frames always go by way of
 * an inbox: one queue that takes none must not stop those of other ports that are heard on the same
 * socket.  Only where there are no others does a full inbox stop the listening: then the kernel
 * drops for less.
 */
#include "network/vxlan_receiver.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/pages.h"
#include "network/frame_inbox.h"
#include "network/mac_table.h"
#include "network/vxlan_endpoint.h"
#include "network/vxlan_header.h"
#include "network/vxlan_neighbours.h"
#include "network/vxlan_peers.h"
#include "network/vxlan_port.h"
#include "network/vxlan_socket.h"
#include "reactor/reactor.h"

/* Younger than some C libraries' headers: linux/udp.h of 5.0. */
enum { OPTION_UDP_GRO = 104 };

enum {
	MESSAGES = 16,
	MESSAGE_BYTES = 65536, /* more than UDP has, coalesced or not */
	CALLS = 4,             /* per turn */
	FORGOTTEN_MAX = 65536, /* datagrams at the end: others may go on coming */
	SECOND_NS = 1000 * 1000 * 1000,
	PAUSE_NS = 20 * 1000 * 1000, /* until a full inbox is tried again */
};

union control {
	struct cmsghdr header;
	uint8_t bytes[CMSG_SPACE(sizeof(int))];
};

struct ear {
	struct vxlan_receiver *receiver;
	struct reactor_watch watch; /* fd: owned; -1: none */
	bool group;
};

struct vxlan_receiver {
	struct vxlan_port *port;
	struct network_layer_queue *queue;
	struct vxlan_receiver_numbers *numbers; /* borrowed */
	struct vxlan_listener listener;
	struct ear own, group;
	bool full; /* in this turn a frame found no room in the queue's own inbox */
	bool paused;
	struct reactor_timer pause;
	uint8_t *bytes; /* owned: MESSAGES times MESSAGE_BYTES */
	struct mmsghdr messages[MESSAGES];
	struct iovec iovs[MESSAGES];
	struct vxlan_address sources[MESSAGES];
	union control controls[MESSAGES];
};

/* Where the datagrams of one message came from, as the port knows it that they are for. */
struct origin {
	const struct vxlan_address *address;
	const struct vxlan_port *port; /* NULL: not asked yet */
	uint16_t number;
};

/* ---- frames ---- */

static uint32_t now_of(const struct vxlan_receiver *r)
{
	return reactor_now(network_queue_reactor(r->queue)) / SECOND_NS;
}

static void learn(struct vxlan_receiver *r, struct vxlan_port *port, const uint8_t *frame,
		  struct origin *o)
{
	uint32_t now = now_of(r);

	if (o->port != port) {
		o->port = port;
		o->number = vxlan_peers_learn(port->peers, o->address, now);
	}
	if (o->number != VXLAN_PEER_NONE)
		mac_table_learn(port->macs, frame + 6, o->number, now);
	else
		counter_add(&r->numbers->unlearned, 1);
}

/* The kernel has chosen the socket by the flow, and so the queue. */
static struct frame_inbox *inbox_of(const struct vxlan_receiver *r, struct vxlan_port *port)
{
	unsigned active = atomic_load_explicit(&port->active, memory_order_relaxed);

	return port->inboxes[network_queue_index(r->queue) % active];
}

static void deliver(struct vxlan_receiver *r, struct vxlan_port *port, const uint8_t *frame,
		    size_t n)
{
	static const struct virtio_net_hdr nothing_undone;
	struct frame_inbox *inbox = inbox_of(r, port);
	struct iovec iov = { (void *)frame, n };

	if (likely(!frame_inbox_put(inbox, &nothing_undone, &iov, 1, n)))
		return;
	counter_add(&r->numbers->no_room, 1);
	network_queue_count_drop(r->queue);
	r->full |= inbox == r->port->inboxes[network_queue_index(r->queue)];
}

/* ---- datagrams ---- */

static struct vxlan_port *port_for(const struct ear *from, const struct vxlan_port_list *list,
				   uint32_t vni)
{
	struct vxlan_port *own = from->receiver->port;

	if (likely(vni == own->options.vni))
		return own;
	/* each port that is in a group has a socket there, and gets a copy of its own */
	return from->group ? NULL : vxlan_port_list_find(list, vni);
}

static void take_datagram(struct ear *from, const struct vxlan_port_list *list,
			  const uint8_t *bytes, size_t n, struct origin *o)
{
	struct vxlan_receiver *r = from->receiver;
	struct vxlan_packet p;
	struct vxlan_port *port;

	counter_add(&r->numbers->datagrams, 1);
	if (unlikely(vxlan_header_parse(bytes, n, &p))) {
		counter_add(&r->numbers->malformed, 1);
		return;
	}
	port = port_for(from, list, p.vni);
	if (unlikely(!port)) {
		counter_add(&r->numbers->unknown_vni, 1);
		return;
	}
	if (port->options.learning)
		learn(r, port, p.frame, o);
	if (port->neighbours)
		vxlan_neighbours_hear(port->neighbours, p.frame, p.length, now_of(r));
	deliver(r, port, p.frame, p.length);
}

/* How long each of the datagrams is that the kernel has put together, but for the last. */
static size_t size_of(struct msghdr *m, size_t length)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	int size = 0;

	if (c && c->cmsg_level == IPPROTO_UDP && c->cmsg_type == OPTION_UDP_GRO)
		memcpy(&size, CMSG_DATA(c), sizeof(size));
	return size > 0 ? (size_t)size : length;
}

static void take_message(struct ear *from, const struct vxlan_port_list *list, unsigned i)
{
	struct vxlan_receiver *r = from->receiver;
	struct mmsghdr *m = &r->messages[i];
	size_t length = m->msg_len, size = size_of(&m->msg_hdr, length);
	struct origin o = { .address = &r->sources[i] };

	if (unlikely(!length || m->msg_hdr.msg_flags & MSG_TRUNC)) {
		counter_add(&r->numbers->malformed, 1);
		return;
	}
	for (size_t at = 0; at < length; at += size)
		take_datagram(from, list, (const uint8_t *)r->iovs[i].iov_base + at,
			      minimum_u64(size, length - at), &o);
}

/* ---- calls ---- */

static void message_prepare(struct vxlan_receiver *r, unsigned i)
{
	r->messages[i].msg_hdr = (struct msghdr){ .msg_name = &r->sources[i],
						  .msg_namelen = sizeof(r->sources[i]),
						  .msg_iov = &r->iovs[i],
						  .msg_iovlen = 1,
						  .msg_control = &r->controls[i],
						  .msg_controllen = sizeof(r->controls[i]) };
}

/* True if there may be more. */
static bool receive(struct ear *from)
{
	struct vxlan_receiver *r = from->receiver;
	const struct vxlan_port_list *list;
	int n;

	for (unsigned i = 0; i < MESSAGES; i++)
		message_prepare(r, i);
	n = recvmmsg(from->watch.fd, r->messages, MESSAGES, MSG_DONTWAIT, NULL);
	counter_add(&r->numbers->calls, 1);
	if (n <= 0)
		return false;
	list = vxlan_listener_enter(&r->listener);
	for (int i = 0; i < n; i++)
		take_message(from, list, i);
	r->full &= !vxlan_port_list_has_several(list);
	vxlan_listener_leave(&r->listener);
	return n == MESSAGES && !r->full;
}

static void ear_open(struct ear *ear, bool open)
{
	if (ear->watch.fd >= 0)
		reactor_watch_change(&ear->watch, open ? POLLIN : 0);
}

static void set_paused(struct vxlan_receiver *r, bool paused)
{
	r->paused = paused;
	ear_open(&r->own, !paused);
	ear_open(&r->group, !paused);
}

static void readable(void *arg)
{
	struct ear *from = arg;
	struct vxlan_receiver *r = from->receiver;
	struct reactor *reactor = network_queue_reactor(r->queue);

	r->full = false;
	for (unsigned i = 0; i < CALLS && receive(from); i++)
		;
	/* without the timer, a port that joins meanwhile would wait for this one's guest */
	if (r->full && !reactor_timer_set(reactor, &r->pause, reactor_now(reactor) + PAUSE_NS))
		set_paused(r, true);
}

static void pause_ends(void *arg)
{
	set_paused(arg, false);
}

void vxlan_receiver_go_on(struct vxlan_receiver *r)
{
	if (likely(!r->paused))
		return;
	reactor_timer_cancel(&r->pause);
	set_paused(r, false);
}

/* ---- life ---- */

static int ear_watch(struct ear *ear, int fd, struct error *e)
{
	int status;

	if (fd < 0)
		return fd;
	ear->watch =
		(struct reactor_watch){ .fd = fd, .events = POLLIN, .fn = readable, .arg = ear };
	status = reactor_watch_add(network_queue_reactor(ear->receiver->queue), &ear->watch);
	if (!status)
		return 0;
	fd_close(&ear->watch.fd);
	return error_set(e, status, "a socket cannot be watched: %s", strerror(-status));
}

static void ear_close(struct ear *ear)
{
	if (ear->watch.fd >= 0)
		reactor_watch_remove(&ear->watch);
	fd_close(&ear->watch.fd);
}

static struct vxlan_receiver *allocate(struct vxlan_port *port, struct network_layer_queue *q,
				       struct vxlan_receiver_numbers *numbers)
{
	struct vxlan_receiver *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->port = port;
	r->queue = q;
	r->numbers = numbers;
	r->own = (struct ear){ .receiver = r, .watch.fd = -1 };
	r->group = (struct ear){ .receiver = r, .watch.fd = -1, .group = true };
	r->pause = (struct reactor_timer){ .fn = pause_ends, .arg = r };
	r->bytes = pages_allocate(MESSAGES * MESSAGE_BYTES);
	if (!r->bytes) {
		free(r);
		return NULL;
	}
	for (unsigned i = 0; i < MESSAGES; i++)
		r->iovs[i] = (struct iovec){ r->bytes + i * MESSAGE_BYTES, MESSAGE_BYTES };
	return r;
}

static int listen_to_group(struct vxlan_receiver *r, struct error *e)
{
	const struct vxlan_options *o = &r->port->options;

	if (o->group < 0 || network_queue_index(r->queue))
		return 0;
	return ear_watch(&r->group, vxlan_socket_join(o, e), e);
}

static int listen_to_all(struct vxlan_receiver *r, struct error *e)
{
	int status = vxlan_listener_begin(&r->listener, r->port, e);

	if (status < 0)
		return status;
	status = ear_watch(&r->own, status, e);
	status = status ? status : listen_to_group(r, e);
	if (!status)
		return 0;
	ear_close(&r->own);
	vxlan_listener_end(&r->listener);
	return status;
}

struct vxlan_receiver *vxlan_receiver_create(struct vxlan_port *port, struct network_layer_queue *q,
					     struct vxlan_receiver_numbers *numbers,
					     struct error *e)
{
	struct vxlan_receiver *r = allocate(port, q, numbers);

	if (!r) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	if (!listen_to_all(r, e))
		return r;
	pages_free(r->bytes, MESSAGES * MESSAGE_BYTES);
	free(r);
	return NULL;
}

/* What the kernel has for us: datagrams, or runs of them that it has put together. */
static void forget_waiting(struct vxlan_receiver *r, const struct ear *ear)
{
	unsigned count = 0;
	char byte;

	if (ear->watch.fd < 0)
		return;
	for (; count < FORGOTTEN_MAX; count++)
		if (recv(ear->watch.fd, &byte, sizeof(byte), MSG_DONTWAIT) < 0)
			break;
	network_queue_count_lost(r->queue, count);
}

void vxlan_receiver_free(struct vxlan_receiver *r)
{
	reactor_timer_cancel(&r->pause);
	forget_waiting(r, &r->group);
	forget_waiting(r, &r->own);
	ear_close(&r->group);
	ear_close(&r->own);
	vxlan_listener_end(&r->listener);
	pages_free(r->bytes, MESSAGES * MESSAGE_BYTES);
	free(r);
}
