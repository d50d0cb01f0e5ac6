/* tap.c - a TAP interface of this host: one descriptor per queue.
 *
 * The kernel takes and gives frames with the same header as the guest, so checksums and
 * segmentation that the one leaves undone the other does, or leaves undone too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "base/pages.h"
#include "network/link_watch.h"
#include "network/network_list.h"
#include "reactor/reactor.h"

/* Younger than some kernels' headers: linux/if_tun.h of 6.2. */
enum { TAP_F_USO4 = 0x20, TAP_F_USO6 = 0x40 };

enum {
	HEADER = sizeof(struct virtio_net_hdr),
	BUFFER = HEADER + NETWORK_FRAME_MAX,
	DRAINED_MAX = 4096,  /* frames: more than any queue holds; others may go on coming */
	SEGMENTS_MAX = 1023, /* of a frame: writev(2) takes one more, the header */
};

struct tap_state {
	char name[IFNAMSIZ];
	int fds[NETWORK_QUEUES_MAX]; /* owned; -1: none */
	unsigned queues;
	struct link_watch *link; /* owned */
	bool several;            /* the interface has several queues */
	bool knows_uso;
};

struct tap_queue {
	int fd; /* borrowed from the state */
	struct network_layer_queue *queue;
	struct reactor_watch watch;
	uint8_t *buffer; /* owned: header, frame */
	uint32_t length; /* bytes of the frame in it; 0: none */
	bool readable;   /* perhaps */
	bool watching;   /* for more */
};

/* ---- frames ---- */

static int tap_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes)
{
	struct iovec whole[SEGMENTS_MAX + 1];
	struct tap_queue *t = network_queue_state(q);

	if (unlikely(n > SEGMENTS_MAX))
		return -EMSGSIZE;
	whole[0] = (struct iovec){ (void *)header, HEADER };
	memcpy(whole + 1, iov, n * sizeof(*iov));
	/* EIO: the interface is down, and what is sent into it lost, as from any other */
	return unlikely(writev(t->fd, whole, n + 1) < 0) ? -errno : 0;
}

static void watch_for(struct tap_queue *t, bool on)
{
	if (t->watching != on && !reactor_watch_change(&t->watch, on ? POLLIN : 0))
		t->watching = on;
}

static bool read_frame(struct tap_queue *t)
{
	ssize_t n = read(t->fd, t->buffer, BUFFER);

	if (n >= HEADER + NETWORK_HEADER) {
		t->length = n - HEADER;
		return true;
	}
	if (n >= 0) /* a runt */
		network_queue_count_drop(t->queue);
	else if (errno != EINTR) /* nothing there, or the interface is gone */
		t->readable = false;
	return false;
}

static int tap_peek(struct network_layer_queue *q, struct network_frame *f)
{
	struct tap_queue *t = network_queue_state(q);

	while (!t->length) {
		if (!t->readable) {
			watch_for(t, true);
			return 0;
		}
		read_frame(t);
	}
	memcpy(&f->header, t->buffer, HEADER);
	f->bytes = t->buffer + HEADER;
	f->length = t->length;
	return 1;
}

static void tap_consume(struct network_layer_queue *q)
{
	struct tap_queue *t = network_queue_state(q);

	t->length = 0;
}

/* Found ready again while it is known already: nobody takes the frames.  No more of these. */
static void readable(void *arg)
{
	struct tap_queue *t = arg;

	if (t->readable) {
		watch_for(t, false);
		return;
	}
	t->readable = true;
	network_queue_ready(t->queue);
}

/* ---- queues ---- */

static int tap_queue_open(struct network_layer_queue *q, struct error *e)
{
	const struct tap_state *s = network_queue_layer_state(q);
	struct tap_queue *t = network_queue_state(q);
	int err;

	t->fd = s->fds[network_queue_index(q)];
	t->queue = q;
	t->readable = true;
	t->watching = true;
	t->buffer = pages_allocate(BUFFER);
	if (!t->buffer)
		return error_set(e, -ENOMEM, "out of memory");
	t->watch =
		(struct reactor_watch){ .fd = t->fd, .events = POLLIN, .fn = readable, .arg = t };
	err = reactor_watch_add(network_queue_reactor(q), &t->watch);
	if (!err)
		return 0;
	pages_free(t->buffer, BUFFER);
	return error_set(e, err, "the descriptor cannot be watched: %s", strerror(-err));
}

/* What came for a guest that was here before is not for the next one. */
static void drain(struct tap_queue *t)
{
	unsigned count = t->length > 0;

	for (; count < DRAINED_MAX && read(t->fd, t->buffer, BUFFER) > 0; count++)
		;
	network_queue_count_lost(t->queue, count);
}

static void tap_queue_close(struct network_layer_queue *q)
{
	struct tap_queue *t = network_queue_state(q);

	reactor_watch_remove(&t->watch);
	drain(t);
	pages_free(t->buffer, BUFFER);
}

/* ---- settings ---- */

static unsigned tun_flags(const struct tap_state *s, unsigned offloads)
{
	unsigned flags = 0;

	/* the kernel takes the others only together with checksums */
	if (!(offloads & NETWORK_CHECKSUM))
		return 0;
	flags |= TUN_F_CSUM;
	flags |= offloads & NETWORK_TSO4 ? TUN_F_TSO4 : 0;
	flags |= offloads & NETWORK_TSO6 ? TUN_F_TSO6 : 0;
	flags |= offloads & NETWORK_ECN && flags & (TUN_F_TSO4 | TUN_F_TSO6) ? TUN_F_TSO_ECN : 0;
	flags |= offloads & NETWORK_UFO ? TUN_F_UFO : 0;
	if (s->knows_uso &&
	    (offloads & (NETWORK_USO4 | NETWORK_USO6)) == (NETWORK_USO4 | NETWORK_USO6))
		flags |= TAP_F_USO4 | TAP_F_USO6;
	return flags;
}

static void tap_set_offloads(struct network_layer *l, unsigned offloads)
{
	struct tap_state *s = network_layer_state(l);

	if (ioctl(s->fds[0], TUNSETOFFLOAD, tun_flags(s, offloads)))
		log_warning("port %s: offloads 0x%x: %s", network_layer_name(l), offloads,
			    strerror(errno));
}

/* The kernel spreads frames over the queues that are attached. */
static void tap_set_active(struct network_layer *l, unsigned active)
{
	struct tap_state *s = network_layer_state(l);

	for (unsigned i = 1; s->several && i < s->queues; i++) {
		struct ifreq r = { .ifr_flags = i < active ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE };

		/* EINVAL: it is so already */
		if (ioctl(s->fds[i], TUNSETQUEUE, &r) && errno != EINVAL)
			log_warning("port %s: queue %u: %s", network_layer_name(l), i,
				    strerror(errno));
	}
}

/* ---- life ---- */

static int set_header(int fd, struct error *e)
{
	int size = HEADER, little = 1;

	if (ioctl(fd, TUNSETVNETHDRSZ, &size) || ioctl(fd, TUNSETVNETLE, &little))
		return error_set(e, -errno, "header of frames: %s", strerror(errno));
	return 0;
}

static int attach(struct tap_state *s, struct error *e)
{
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return error_set(e, -errno, "/dev/net/tun: %s", strerror(errno));
	s->fds[s->queues] = fd;
	memcpy(r.ifr_name, s->name, sizeof(r.ifr_name));
	if (s->several)
		r.ifr_flags |= IFF_MULTI_QUEUE;
	if (!ioctl(fd, TUNSETIFF, &r)) {
		s->queues++;
		return set_header(fd, e);
	}
	fd_close(&s->fds[s->queues]);
	if (errno == EPERM)
		return error_set(e, -EPERM,
				 "%s: needs CAP_NET_ADMIN, or an interface that was made for this "
				 "user (ip tuntap add dev %s mode tap user NAME)",
				 s->name, s->name);
	if (errno == EBUSY)
		return error_set(e, -EBUSY, "%s: in use by another process", s->name);
	return error_set(e, -errno, "%s: %s", s->name, strerror(errno));
}

/* An interface that exists has one queue or several, whatever we ask for. */
static int attach_first(struct tap_state *s, unsigned queues, struct error *e)
{
	int status;

	s->several = queues > 1;
	status = attach(s, e);
	if (status != -EINVAL)
		return status;
	if (s->several)
		return error_wrap(e, "made without multi_queue, but %u are wanted", queues);
	s->several = true;
	return attach(s, e);
}

static int attach_all(struct tap_state *s, unsigned queues, struct error *e)
{
	int status = attach_first(s, queues, e);

	while (!status && s->queues < queues)
		status = attach(s, e);
	return status;
}

/* A descriptor that a manager has opened and attached for us. */
static int adopt(struct tap_state *s, uint64_t fd, unsigned queues, struct error *e)
{
	struct ifreq r;

	if (fd > INT32_MAX || ioctl(fd, TUNGETIFF, &r))
		return error_set(e, -EINVAL,
				 "option \"fd\": %llu is no descriptor of a TAP "
				 "interface",
				 (unsigned long long)fd);
	if (!(r.ifr_flags & IFF_TAP) || !(r.ifr_flags & IFF_VNET_HDR))
		return error_set(e, -EINVAL, "option \"fd\": %s is not TAP with IFF_VNET_HDR",
				 r.ifr_name);
	if (queues > 1)
		return error_set(e, -EINVAL, "option \"fd\": is one queue, %u are wanted", queues);
	memcpy(s->name, r.ifr_name, sizeof(s->name));
	s->fds[s->queues++] = fd;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return set_header(fd, e);
}

static int set_up(const struct tap_state *s, int control, struct error *e)
{
	struct ifreq r = { 0 };

	memcpy(r.ifr_name, s->name, sizeof(r.ifr_name));
	if (ioctl(control, SIOCGIFFLAGS, &r))
		return error_set(e, -errno, "%s: %s", s->name, strerror(errno));
	if (r.ifr_flags & IFF_UP)
		return 0;
	r.ifr_flags |= IFF_UP;
	if (!ioctl(control, SIOCSIFFLAGS, &r))
		return 0;
	/* whoever made it for us may mean to set it up later */
	log_warning("%s: cannot be set up: %s", s->name, strerror(errno));
	return 0;
}

static int look_at(struct tap_state *s, const struct network_request *request,
		   struct network_limits *limits, struct error *e)
{
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), status;
	struct ifreq r = { 0 };
	bool up = true;

	if (control < 0)
		return error_set(e, -errno, "socket: %s", strerror(errno));
	status = uri_switch(request->uri, "up", &up, e);
	if (!status && up)
		status = set_up(s, control, e);
	memcpy(r.ifr_name, s->name, sizeof(r.ifr_name));
	if (!status && !ioctl(control, SIOCGIFMTU, &r) && r.ifr_mtu > 1500)
		limits->mtu = r.ifr_mtu;
	close(control);
	return status;
}

/* Moved to another namespace, as managers do, an interface is out of sight, not down. */
static void link_changed(void *arg)
{
	struct network_layer *l = arg;
	const struct tap_state *s = network_layer_state(l);

	network_layer_set_link(l, link_watch_up(s->link) || link_watch_gone(s->link));
}

static int watch_link(struct network_layer *l, struct error *e)
{
	struct tap_state *s = network_layer_state(l);
	int interface = if_nametoindex(s->name);

	/* an inherited descriptor's may be elsewhere from the start */
	if (!interface)
		return 0;
	s->link = link_watch_open(network_layer_control(l), interface, link_changed, l, e);
	if (!s->link)
		return e->code;
	link_changed(l);
	return 0;
}

static int open_fds(struct tap_state *s, const struct network_request *request, struct error *e)
{
	const char *name = request->uri->path;
	uint64_t fd = UINT64_MAX;
	int status = uri_number(request->uri, "fd", &fd, e);

	if (status)
		return status;
	if (fd != UINT64_MAX && *name)
		return error_set(e, -EINVAL, "either a name or option \"fd\", not both");
	if (fd != UINT64_MAX)
		return adopt(s, fd, request->queues, e);
	if (!*name || strlen(name) >= sizeof(s->name))
		return error_set(e, -EINVAL,
				 "an interface's name has 1 to %zu characters: "
				 "\"tap:NAME\"",
				 sizeof(s->name) - 1);
	memcpy(s->name, name, strlen(name));
	return attach_all(s, request->queues, e);
}

static void tap_close(struct network_layer *l)
{
	struct tap_state *s = network_layer_state(l);

	link_watch_close(s->link);
	for (unsigned i = 0; i < s->queues; i++)
		fd_close(&s->fds[i]);
}

static int tap_open(struct network_layer *l, const struct network_request *request,
		    struct network_limits *limits, struct error *e)
{
	struct tap_state *s = network_layer_state(l);
	int status = open_fds(s, request, e);

	if (!status)
		status = look_at(s, request, limits, e);
	if (!status)
		status = watch_link(l, e);
	if (status) {
		tap_close(l);
		return status;
	}
	s->knows_uso = !ioctl(s->fds[0], TUNSETOFFLOAD, TUN_F_CSUM | TAP_F_USO4 | TAP_F_USO6);
	ioctl(s->fds[0], TUNSETOFFLOAD, 0);
	limits->queues = request->queues;
	limits->offloads = NETWORK_ALL;
	if (!s->knows_uso)
		limits->offloads &= ~(NETWORK_USO4 | NETWORK_USO6);
	return 0;
}

const struct network_provider network_tap = {
	.about.scheme = "tap",
	.about.summary = "a TAP interface of this host, made if it does not exist: tap:NAME",
	.about.help = "fd=NUMBER           an inherited descriptor of one, instead of a name\n"
		      "up=on|off           sets the interface up; on unless given\n",
	.state_size = sizeof(struct tap_state),
	.queue_size = sizeof(struct tap_queue),
	.open = tap_open,
	.close = tap_close,
	.queue_open = tap_queue_open,
	.queue_close = tap_queue_close,
	.send = tap_send,
	.peek = tap_peek,
	.consume = tap_consume,
	.set_offloads = tap_set_offloads,
	.set_active = tap_set_active,
};
