/* user.c - the guest's own network, by NAT through this process's sockets: libslirp.
 *
 * The library belongs to one thread, which waits for its sockets and timers with poll(2): it has no
 * other way to say what it waits for.  Frames come and go through rings, so no reactor ever waits
 * for it.  At rest the thread sleeps.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "network/frame_inbox.h"
#include "network/network_list.h"
#include "network/user_stack.h"

enum { MTU_PRESET = 1500, MTU_LARGEST = 65521 /* libslirp's */ };

struct user_state {
	struct user_stack *stack;                        /* owned */
	struct frame_inbox *inboxes[NETWORK_QUEUES_MAX]; /* owned: one per queue */
	unsigned queues;
	unsigned active; /* atomic */
};

/* ---- frames ---- */

/* From the stack's thread.  A conversation keeps to one queue: by its ports and addresses, which
 * lie here in a frame of IPv4 without options, or by whatever lies there. */
static unsigned queue_for(const struct user_state *u, const uint8_t *frame, size_t n)
{
	unsigned active = __atomic_load_n(&u->active, __ATOMIC_RELAXED);
	uint32_t mix;

	if (active < 2 || n < 38)
		return 0;
	mix = load_be32(frame + 26) ^ load_be32(frame + 30) ^ load_be32(frame + 34);
	return (mix * 0x9e3779b1u >> 16) % active;
}

static void come(void *arg, const uint8_t *frame, size_t n)
{
	static const struct virtio_net_hdr nothing_undone;
	struct user_state *u = arg;
	struct iovec iov = { (void *)frame, n };

	/* No room: lost, as on any network. */
	frame_inbox_put(u->inboxes[queue_for(u, frame, n)], &nothing_undone, &iov, 1, n);
}

static int user_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		     const struct iovec *iov, unsigned n, size_t bytes)
{
	struct user_state *u = network_queue_layer_state(q);

	return user_stack_send(u->stack, iov, n, bytes);
}

static int user_peek(struct network_layer_queue *q, struct network_frame *f)
{
	struct user_state *u = network_queue_layer_state(q);

	return frame_inbox_peek(u->inboxes[network_queue_index(q)], f);
}

static void user_consume(struct network_layer_queue *q)
{
	struct user_state *u = network_queue_layer_state(q);

	frame_inbox_consume(u->inboxes[network_queue_index(q)]);
}

static int user_queue_open(struct network_layer_queue *q, struct error *e)
{
	struct user_state *u = network_queue_layer_state(q);

	frame_inbox_open(u->inboxes[network_queue_index(q)], q);
	return 0;
}

static void user_queue_close(struct network_layer_queue *q)
{
	struct user_state *u = network_queue_layer_state(q);

	frame_inbox_close(u->inboxes[network_queue_index(q)]);
}

static void user_set_active(struct network_layer *l, unsigned active)
{
	struct user_state *u = network_layer_state(l);

	__atomic_store_n(&u->active, minimum_u64(active, u->queues), __ATOMIC_RELAXED);
}

/* ---- options ---- */

/* "10.0.2.0/24": room for the gateway, the name server and at least one guest. */
static int parse_net(const struct uri *uri, struct user_stack_options *o, struct error *e)
{
	const char *text = uri_value(uri, "net");
	char address[INET_ADDRSTRLEN] = "";
	unsigned bits, used = 0;

	if (!text)
		text = "10.0.2.0/24";
	if (sscanf(text, "%15[0-9.]/%u%n", address, &bits, &used) != 2 || text[used] || bits < 8 ||
	    bits > 27 || inet_pton(AF_INET, address, &o->net) != 1)
		return error_set(
			e, -EINVAL,
			"option \"net\": \"%.40s\" is no IPv4 network such as 10.0.2.0/24, "
			"from /8 to /27",
			text);
	o->mask.s_addr = htonl(~0u << (32 - bits));
	if (o->net.s_addr & ~o->mask.s_addr)
		return error_set(e, -EINVAL,
				 "option \"net\": \"%.40s\" has bits set behind its /%u", text,
				 bits);
	return 0;
}

/* A decimal port number up to one of `ends`; NULL: there is none. */
static const char *parse_port(const char *text, const char *ends, uint16_t *port)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || !number || number > 65535 ||
	    (*end && !strchr(ends, *end)))
		return NULL;
	*port = number;
	return end;
}

/* "tcp:2222:22" or "udp:127.0.0.1:5353:53". */
static int parse_forward(const char *text, struct user_stack_forward *f)
{
	char address[INET_ADDRSTRLEN];
	int used = 0;

	if (!strncmp(text, "udp:", 4))
		f->udp = true;
	else if (strncmp(text, "tcp:", 4))
		return -EINVAL;
	text += 4;
	f->address.s_addr = htonl(INADDR_LOOPBACK);
	if (sscanf(text, "%15[0-9.]:%n", address, &used) == 1 && used && strchr(address, '.')) {
		if (inet_pton(AF_INET, address, &f->address) != 1)
			return -EINVAL;
		text += used;
	}
	text = parse_port(text, ":", &f->port);
	if (!text || *text != ':' || !(text = parse_port(text + 1, "", &f->guest_port)))
		return -EINVAL;
	return 0;
}

static int parse_forwards(const struct uri *uri, struct user_stack_options *o, struct error *e)
{
	const char *text = uri_value(uri, "forward");
	char one[64];

	for (; text && *text; text += strspn(text, ",")) {
		size_t n = strcspn(text, ",");

		if (o->forward_count == USER_STACK_FORWARDS)
			return error_set(e, -EINVAL, "option \"forward\": more than %d",
					 USER_STACK_FORWARDS);
		snprintf(one, sizeof(one), "%.*s", (int)minimum_u64(n, sizeof(one) - 1), text);
		if (parse_forward(one, &o->forwards[o->forward_count++]))
			return error_set(e, -EINVAL,
					 "option \"forward\": \"%s\" is not as tcp:2222:22 or "
					 "udp:127.0.0.1:5353:53",
					 one);
		text += n;
	}
	return 0;
}

static int parse_options(const struct uri *uri, struct user_stack_options *o, struct error *e)
{
	uint64_t mtu = MTU_PRESET;
	int status = parse_net(uri, o, e);

	status = status ? status : parse_forwards(uri, o, e);
	status = status ? status : uri_switch(uri, "ipv6", &o->ipv6, e);
	status = status ? status : uri_switch(uri, "restrict", &o->restricted, e);
	status = status ? status : uri_switch(uri, "loopback", &o->loopback, e);
	status = status ? status : uri_number(uri, "mtu", &mtu, e);
	if (!status && (mtu < 576 || mtu > MTU_LARGEST))
		return error_set(e, -EINVAL, "option \"mtu\": not from 576 to %d", MTU_LARGEST);
	o->hostname = uri_value(uri, "hostname");
	o->mtu = mtu;
	return status;
}

/* ---- life ---- */

static void inboxes_release(struct user_state *u)
{
	for (unsigned i = 0; i < u->queues; i++)
		frame_inbox_release(u->inboxes[i]);
}

static int inboxes_create(struct network_layer *l, unsigned queues, struct error *e)
{
	struct user_state *u = network_layer_state(l);

	for (; u->queues < queues; u->queues++) {
		u->inboxes[u->queues] = frame_inbox_create(l);
		if (u->inboxes[u->queues])
			continue;
		inboxes_release(u);
		return error_set(e, -ENOMEM, "out of memory");
	}
	return 0;
}

static int user_open(struct network_layer *l, const struct network_request *request,
		     struct network_limits *limits, struct error *e)
{
	struct user_state *u = network_layer_state(l);
	struct user_stack_options options = { .name = network_layer_name(l),
					      .ipv6 = true,
					      .loopback = true,
					      .come = come,
					      .arg = u };
	int status = parse_options(request->uri, &options, e);

	if (!status && *request->uri->path)
		status = error_set(e, -EINVAL, "\"%.40s\": user: has no place", request->uri->path);
	status = status ? status : inboxes_create(l, request->queues, e);
	if (status)
		return status;
	u->active = 1;
	u->stack = user_stack_start(&options, e);
	if (!u->stack)
		inboxes_release(u);
	limits->queues = request->queues;
	limits->mtu = options.mtu;
	return u->stack ? 0 : e->code;
}

static void user_close(struct network_layer *l)
{
	struct user_state *u = network_layer_state(l);

	user_stack_stop(u->stack);
	inboxes_release(u);
}

const struct network_provider network_user = {
	.about.scheme = "user",
	.about.summary = "NAT without privileges: DHCP, DNS and the host's network",
	.about.help =
		"forward=LIST        lets connections in: tcp:2222:22,udp:127.0.0.1:5353:53; "
		"host's "
		"address and port, guest's port\n"
		"net=NETWORK         10.0.2.0/24 unless given; the host is .2 there, the name "
		"server "
		".3, the guest .15\n"
		"ipv6=on|off         on unless given: fec0::/64\n"
		"loopback=on|off     on unless given: the guest reaches the host's 127.0.0.1 at "
		".2\n"
		"restrict=on|off     off unless given: the guest reaches nothing but forwards\n"
		"hostname=TEXT       the name that DHCP gives the guest\n"
		"mtu=BYTES           1500 unless given; up to 65521\n",
	.state_size = sizeof(struct user_state),
	.open = user_open,
	.close = user_close,
	.queue_open = user_queue_open,
	.queue_close = user_queue_close,
	.send = user_send,
	.peek = user_peek,
	.consume = user_consume,
	.set_active = user_set_active,
};
