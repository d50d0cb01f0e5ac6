/* link_watch.c - whether one of the kernel's network interfaces has a carrier, by rtnetlink(7).
 *
 * The socket gets notices of all interfaces.  When it has lost some, for want of room, it is read
 * empty, and the interface's state is asked for; the answer comes as one more notice.
 */
#include "network/link_watch.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "reactor/reactor.h"

enum {
	DATAGRAM = 32768, /* bytes: the most that the kernel puts into one */
	BATCH = 64,       /* datagrams read in one turn */
};

struct link_watch {
	int fd; /* owned */
	int interface;
	bool up, gone;
	bool lost; /* notices, since the state was last asked for */
	struct reactor_watch watch;
	void (*changed)(void *arg);
	void *arg;
};

struct question {
	struct nlmsghdr header;
	struct ifinfomsg about;
};

static int ask(const struct link_watch *w)
{
	struct question q = {
		.header.nlmsg_len = sizeof(q),
		.header.nlmsg_type = RTM_GETLINK,
		.header.nlmsg_flags = NLM_F_REQUEST,
		.about.ifi_family = AF_UNSPEC,
		.about.ifi_index = w->interface,
	};

	return send(w->fd, &q, sizeof(q), MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* ---- answers and notices ---- */

static int take_error(struct link_watch *w, const void *body, size_t length)
{
	struct nlmsgerr error;

	if (length < sizeof(error))
		return -EBADMSG;
	memcpy(&error, body, sizeof(error));
	w->gone |= error.error == -ENODEV;
	return error.error;
}

static int take_link(struct link_watch *w, unsigned type, const void *body, size_t length)
{
	const unsigned both = IFF_UP | IFF_LOWER_UP;
	struct ifinfomsg about;

	if (length < sizeof(about))
		return -EBADMSG;
	memcpy(&about, body, sizeof(about));
	/* A bridge also tells, as AF_BRIDGE, of what concerns it alone. */
	if (about.ifi_index != w->interface || about.ifi_family != AF_UNSPEC)
		return 0;
	w->gone |= type == RTM_DELLINK;
	w->up = (about.ifi_flags & both) == both;
	return 0;
}

static int take_message(struct link_watch *w, const struct nlmsghdr *h, const void *body)
{
	size_t length = h->nlmsg_len - sizeof(*h);

	if (h->nlmsg_type == NLMSG_ERROR)
		return take_error(w, body, length);
	if (h->nlmsg_type == RTM_NEWLINK || h->nlmsg_type == RTM_DELLINK)
		return take_link(w, h->nlmsg_type, body, length);
	return 0;
}

static int take_datagram(struct link_watch *w, const char *bytes, size_t length)
{
	struct nlmsghdr h;
	int status = 0;

	while (!status && length >= sizeof(h)) {
		size_t step;

		memcpy(&h, bytes, sizeof(h));
		if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > length)
			return -EBADMSG;
		status = take_message(w, &h, bytes + sizeof(h));
		step = minimum_u64(align_up(h.nlmsg_len, NLMSG_ALIGNTO), length);
		bytes += step;
		length -= step;
	}
	return status;
}

/* Only now there is room for the answer. */
static int receive_nothing(struct link_watch *w)
{
	if (!w->lost)
		return -EAGAIN;
	w->lost = false;
	return ask(w);
}

static int receive_failed(struct link_watch *w, int status)
{
	if (status == -EAGAIN)
		return receive_nothing(w);
	w->lost |= status == -ENOBUFS;
	return status == -ENOBUFS ? 0 : status;
}

/* 0, -EAGAIN: nothing more, or what went wrong. */
static int receive(struct link_watch *w)
{
	char bytes[DATAGRAM];
	struct sockaddr_nl from = { 0 };
	socklen_t size = sizeof(from);
	ssize_t length = recvfrom(w->fd, bytes, sizeof(bytes), MSG_DONTWAIT,
				  (struct sockaddr *)&from, &size);

	if (length < 0)
		return receive_failed(w, -errno);
	/* Other programs may send, too: the kernel is number 0. */
	return from.nl_pid ? 0 : take_datagram(w, bytes, length);
}

static void readable(void *arg)
{
	struct link_watch *w = arg;
	bool before = link_watch_up(w);
	int status = 0;

	for (unsigned i = 0; i < BATCH && !status; i++)
		status = receive(w);
	if (link_watch_up(w) != before)
		w->changed(w->arg);
}

/* ---- life ---- */

static int join(struct link_watch *w)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	w->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (w->fd < 0 || bind(w->fd, (struct sockaddr *)&address, sizeof(address)))
		return -errno;
	return 0;
}

/* The kernel answers before send(2) returns. */
static int find_out(struct link_watch *w)
{
	int status = ask(w);

	for (unsigned i = 0; i < BATCH && !status; i++)
		status = receive(w);
	return status == -EAGAIN ? 0 : status;
}

static int watch_start(struct link_watch *w, struct reactor *control, struct error *e)
{
	int status = join(w);

	status = status ? status : find_out(w);
	w->watch =
		(struct reactor_watch){ .fd = w->fd, .events = POLLIN, .fn = readable, .arg = w };
	status = status ? status : reactor_watch_add(control, &w->watch);
	if (status)
		return error_set(e, status, "rtnetlink: interface %d: %s", w->interface,
				 strerror(-status));
	return 0;
}

struct link_watch *link_watch_open(struct reactor *control, int interface,
				   void (*changed)(void *arg), void *arg, struct error *e)
{
	struct link_watch *w = calloc(1, sizeof(*w));

	if (!w) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	w->interface = interface;
	w->changed = changed;
	w->arg = arg;
	if (watch_start(w, control, e)) {
		fd_close(&w->fd);
		free(w);
		return NULL;
	}
	return w;
}

void link_watch_close(struct link_watch *w)
{
	if (!w)
		return;
	reactor_watch_remove(&w->watch);
	fd_close(&w->fd);
	free(w);
}

bool link_watch_up(const struct link_watch *w)
{
	return w->up && !w->gone;
}

bool link_watch_gone(const struct link_watch *w)
{
	return w->gone;
}
