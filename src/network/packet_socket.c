/* packet_socket.c - the port packet: by AF_PACKET sockets, one per queue (packet(7)).
 *
 * The kernel takes and gives each frame with a struct virtio_net_hdr (PACKET_VNET_HDR), so what a
 * guest left undone it does, or leaves to the card.  Small frames are copied when they are sent,
 * and leave together at the flush, large ones leave at once, after those before them.
 *
 * A socket that is not started has a filter that lets frames pass into a buffer without room for
 * them: the kernel counts those that the guest has missed.
 */
#include "network/packet_socket.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/pages.h"
#include "network/packet_fanout.h"
#include "reactor/reactor.h"

enum {
	HEADER = sizeof(struct virtio_net_hdr),
	TAG = 4,               /* bytes: IEEE 802.1Q, 9.3 */
	ADDRESSES = 12,        /* bytes, before the tag */
	COME_BATCH = 32,       /* frames asked for at once */
	COME_ROOM = 17 << 12,  /* bytes: a frame, with room for a tag before it; whole pages */
	SEND_BATCH = 64,       /* frames that wait for the flush */
	SEND_ROOM = 2048,      /* bytes of such a frame, with its header */
	PIECES = 64,           /* of a frame that leaves without being copied */
	KERNEL_ROOM = 4 << 20, /* bytes: the socket's buffers, each way */
	STALE_MAX = 1 << 16,   /* frames that may be left in a socket at its start */
	COME_BYTES = COME_BATCH * COME_ROOM,
	SEND_BYTES = SEND_BATCH * SEND_ROOM,
};

struct come_numbers {
	uint64_t sent_lost, come_refused, come_truncated;
};

static const struct counter_field fields[] = {
	{ "sent_lost", offsetof(struct come_numbers, sent_lost) },
	{ "come_refused", offsetof(struct come_numbers, come_refused) },
	{ "come_truncated", offsetof(struct come_numbers, come_truncated) },
};

union control {
	struct cmsghdr first;
	char bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
};

/* Of one frame that may come. */
struct come_slot {
	struct virtio_net_hdr header;
	struct iovec iov[2]; /* header, frame */
	union control control;
};

struct packet_socket {
	int fd; /* borrowed from the port */
	struct network_layer_queue *queue;
	struct reactor_watch watch;
	bool readable; /* perhaps */
	bool watching; /* for more */

	unsigned come_next, come_count; /* in the batch */
	struct mmsghdr come[COME_BATCH];
	struct come_slot slots[COME_BATCH];
	uint8_t *come_bytes; /* owned: COME_BYTES */
	struct network_frame frame;
	bool holds; /* frame is the next one */

	unsigned send_count;
	struct mmsghdr send[SEND_BATCH];
	struct iovec send_iov[SEND_BATCH];
	uint8_t *send_bytes; /* owned: SEND_BYTES, then one large frame that comes in pieces */

	struct come_numbers numbers;
	struct counter_group group;
};

struct packet_sockets {
	unsigned count;
	int fds[NETWORK_QUEUES_MAX]; /* owned */
};

/* ---- sending ---- */

/* Whether what follows would be refused for the same reason: there is no room, or no network. */
static bool refuses_all(int err)
{
	return err == EAGAIN || err == ENOBUFS || err == ENETDOWN || err == ENXIO;
}

void packet_socket_flush(struct packet_socket *s)
{
	unsigned done = 0;

	while (done < s->send_count) {
		int n = sendmmsg(s->fd, s->send + done, s->send_count - done, MSG_DONTWAIT);
		unsigned lost = 0;

		if (n <= 0)
			lost = n < 0 && refuses_all(errno) ? s->send_count - done : 1;
		counter_add(&s->numbers.sent_lost, lost);
		done += n > 0 ? (unsigned)n : lost;
	}
	s->send_count = 0;
}

static int send_later(struct packet_socket *s, const struct virtio_net_hdr *header,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	unsigned i = s->send_count;
	uint8_t *at = s->send_bytes + (size_t)i * SEND_ROOM;

	memcpy(at, header, HEADER);
	if (iov_copy_from(iov, n, 0, at + HEADER, bytes) != bytes)
		return -EINVAL;
	s->send_iov[i].iov_len = HEADER + bytes;
	if (++s->send_count == SEND_BATCH)
		packet_socket_flush(s);
	return 0;
}

static int send_now(struct packet_socket *s, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes)
{
	struct iovec whole[1 + PIECES] = { { (void *)header, HEADER } };
	struct msghdr m = { .msg_iov = whole, .msg_iovlen = n + 1 };

	if (n > PIECES) {
		uint8_t *copy = s->send_bytes + SEND_BYTES;

		if (iov_copy_from(iov, n, 0, copy, bytes) != bytes)
			return -EINVAL;
		whole[1] = (struct iovec){ copy, bytes };
		m.msg_iovlen = 2;
	} else {
		memcpy(whole + 1, iov, n * sizeof(*iov));
	}
	return sendmsg(s->fd, &m, MSG_DONTWAIT) < 0 ? -errno : 0;
}

int packet_socket_send(struct packet_socket *s, const struct virtio_net_hdr *header,
		       const struct iovec *iov, unsigned n, size_t bytes)
{
	if (likely(bytes <= SEND_ROOM - HEADER))
		return send_later(s, header, iov, n, bytes);
	packet_socket_flush(s);
	return send_now(s, header, iov, n, bytes);
}

/* ---- receiving ---- */

static void watch_for(struct packet_socket *s, bool on)
{
	if (s->watching != on && !reactor_watch_change(&s->watch, on ? POLLIN : 0))
		s->watching = on;
}

static void drop(struct packet_socket *s, uint64_t *counter)
{
	counter_add(counter, 1);
	network_queue_count_drop(s->queue);
}

/* Asks for a batch. */
static void receive(struct packet_socket *s)
{
	int n;

	for (unsigned i = 0; i < COME_BATCH; i++) {
		s->come[i].msg_hdr.msg_controllen = sizeof(s->slots[i].control);
		s->come[i].msg_hdr.msg_flags = 0;
	}
	n = recvmmsg(s->fd, s->come, COME_BATCH, MSG_DONTWAIT, NULL);
	s->come_next = 0;
	s->come_count = n > 0 ? n : 0;
	/* Fewer than asked for: no more are there, or what is in the way wakes us again. */
	s->readable = n == COME_BATCH;
	if (n < 0 && errno == EINVAL) /* segments of a kind that the header has no name for */
		drop(s, &s->numbers.come_refused);
}

static bool find_tag(struct msghdr *m, struct tpacket_auxdata *about)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(m);

	if (!c || c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA ||
	    c->cmsg_len < CMSG_LEN(sizeof(*about)))
		return false;
	memcpy(about, CMSG_DATA(c), sizeof(*about));
	return about->tp_status & TP_STATUS_VLAN_VALID;
}

/* The kernel, or the card, has taken it out of the frame, and the header's offsets count without
 * it. */
static void put_tag_back(struct network_frame *f, const struct tpacket_auxdata *about)
{
	bool named = about->tp_status & TP_STATUS_VLAN_TPID_VALID;
	struct virtio_net_hdr *h = &f->header;

	f->bytes -= TAG;
	f->length += TAG;
	memmove(f->bytes, f->bytes + TAG, ADDRESSES);
	store_be16(f->bytes + ADDRESSES, named ? about->tp_vlan_tpid : ETH_P_8021Q);
	store_be16(f->bytes + ADDRESSES + 2, about->tp_vlan_tci);
	if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		h->csum_start = htole16(le16toh(h->csum_start) + TAG);
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		h->hdr_len = htole16(le16toh(h->hdr_len) + TAG);
}

/* The next frame of the batch; false: it was none. */
static bool take(struct packet_socket *s)
{
	struct mmsghdr *m = &s->come[s->come_next];
	struct come_slot *slot = &s->slots[s->come_next++];
	struct tpacket_auxdata about;

	if (m->msg_len < HEADER + NETWORK_HEADER || (m->msg_hdr.msg_flags & MSG_TRUNC)) {
		drop(s, &s->numbers.come_truncated);
		return false;
	}
	s->frame.header = slot->header;
	s->frame.bytes = slot->iov[1].iov_base;
	s->frame.length = m->msg_len - HEADER;
	if (find_tag(&m->msg_hdr, &about))
		put_tag_back(&s->frame, &about);
	return true;
}

int packet_socket_peek(struct packet_socket *s, struct network_frame *f)
{
	while (!s->holds) {
		if (s->come_next < s->come_count) {
			s->holds = take(s);
		} else if (!s->readable) {
			watch_for(s, true);
			return 0;
		} else {
			receive(s);
		}
	}
	*f = s->frame;
	return 1;
}

void packet_socket_consume(struct packet_socket *s)
{
	s->holds = false;
}

/* Found ready again while it is known already: nobody takes the frames.  No more of these. */
static void readable(void *arg)
{
	struct packet_socket *s = arg;

	if (s->readable) {
		watch_for(s, false);
		return;
	}
	s->readable = true;
	network_queue_ready(s->queue);
}

/* ---- start and stop of a queue ---- */

/* How much of a frame a socket lets in, bytes. */
enum gate { GATE_SHUT = 0, GATE_COUNTING = 1, GATE_OPEN = 1 << 30 };

/* What the kernel sends itself is no frame that came, either (Linux 4.20 and later have options
 * that spare it the way here). */
static int let_in(int fd, enum gate gate)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, gate),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { .len = ARRAY_LENGTH(code), .filter = code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

/* Returns how many frames that were; one that the header has no name for is one, too. */
static unsigned forget_stale(int fd)
{
	struct virtio_net_hdr h;
	unsigned count = 0;

	for (unsigned i = 0; i < STALE_MAX; i++) {
		if (recv(fd, &h, sizeof(h), MSG_DONTWAIT) >= 0 || errno == EINVAL)
			count++;
		else if (errno == EAGAIN)
			break;
	}
	return count;
}

static void set_room(int fd, int bytes)
{
	/* Beyond what the administrator allows everybody, where we may. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

/* Frames that the gate let pass since this was asked last, whether there was room for them or not
 * (packet(7), PACKET_STATISTICS). */
static unsigned count_passed(int fd)
{
	struct tpacket_stats stats = { 0 };
	socklen_t size = sizeof(stats);

	return getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) ? 0 : stats.tp_packets;
}

/* From here to the next start the kernel has room for nothing, and counts what it drops. */
static void begin_counting(int fd)
{
	count_passed(fd);
	set_room(fd, 0);
	let_in(fd, GATE_COUNTING);
}

static unsigned end_counting(int fd)
{
	let_in(fd, GATE_SHUT);
	forget_stale(fd);
	set_room(fd, KERNEL_ROOM);
	return count_passed(fd);
}

static void prepare_come(struct packet_socket *s)
{
	for (unsigned i = 0; i < COME_BATCH; i++) {
		struct come_slot *slot = &s->slots[i];
		uint8_t *room = s->come_bytes + (size_t)i * COME_ROOM;

		slot->iov[0] = (struct iovec){ &slot->header, HEADER };
		slot->iov[1] = (struct iovec){ room + TAG, COME_ROOM - TAG };
		s->come[i].msg_hdr = (struct msghdr){ .msg_iov = slot->iov,
						      .msg_iovlen = 2,
						      .msg_control = &slot->control };
	}
}

static void prepare_send(struct packet_socket *s)
{
	for (unsigned i = 0; i < SEND_BATCH; i++) {
		s->send_iov[i].iov_base = s->send_bytes + (size_t)i * SEND_ROOM;
		s->send[i].msg_hdr = (struct msghdr){ .msg_iov = &s->send_iov[i], .msg_iovlen = 1 };
	}
}

static void socket_free(struct packet_socket *s)
{
	pages_free(s->come_bytes, COME_BYTES);
	pages_free(s->send_bytes, SEND_BYTES + NETWORK_FRAME_MAX);
	free(s);
}

static struct packet_socket *socket_create(int fd, struct network_layer_queue *q)
{
	struct packet_socket *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->fd = fd;
	s->queue = q;
	s->readable = true;
	s->watching = true;
	s->come_bytes = pages_allocate(COME_BYTES);
	s->send_bytes = pages_allocate(SEND_BYTES + NETWORK_FRAME_MAX);
	if (!s->come_bytes || !s->send_bytes) {
		socket_free(s);
		return NULL;
	}
	prepare_come(s);
	prepare_send(s);
	return s;
}

static void count(struct packet_socket *s)
{
	s->group = (struct counter_group){ .room = "packet",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &s->numbers };
	snprintf(s->group.name, sizeof(s->group.name), "%s/%u",
		 network_layer_name(network_queue_layer(s->queue)), network_queue_index(s->queue));
	counter_group_add(&s->group);
}

int packet_socket_start(struct packet_socket **to, struct packet_sockets *p,
			struct network_layer_queue *q, struct error *e)
{
	struct packet_socket *s = socket_create(p->fds[network_queue_index(q)], q);
	int status;

	if (!s)
		return error_set(e, -ENOMEM, "out of memory");
	s->watch =
		(struct reactor_watch){ .fd = s->fd, .events = POLLIN, .fn = readable, .arg = s };
	network_layer_count_lost(network_queue_layer(q), end_counting(s->fd));
	status = let_in(s->fd, GATE_OPEN);
	status = status ? status : reactor_watch_add(network_queue_reactor(q), &s->watch);
	if (status) {
		socket_free(s);
		return error_set(e, status, "the socket cannot be watched: %s", strerror(-status));
	}
	count(s);
	*to = s;
	return 0;
}

void packet_socket_stop(struct packet_socket *s)
{
	packet_socket_flush(s);
	let_in(s->fd, GATE_SHUT);
	reactor_watch_remove(&s->watch);
	network_queue_count_lost(s->queue,
				 s->holds + s->come_count - s->come_next + forget_stale(s->fd));
	begin_counting(s->fd);
	counter_group_remove(&s->group);
	socket_free(s);
}

/* ---- all sockets of a port ---- */

static int set_options(int fd, struct error *e)
{
	const int on = 1, room = KERNEL_ROOM;

	set_room(fd, room);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on));
	if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)))
		return error_set(e, -errno, "PACKET_VNET_HDR: %s", strerror(errno));
	if (setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)))
		return error_set(e, -errno, "PACKET_AUXDATA: %s", strerror(errno));
	return 0;
}

static int socket_bind(int fd, const struct packet_interface *i, struct error *e)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_protocol = htobe16(ETH_P_ALL),
				  .sll_ifindex = i->index };

	if (bind(fd, (struct sockaddr *)&to, sizeof(to)))
		return error_set(e, -errno, "bind: %s", strerror(errno));
	return 0;
}

static int socket_open(int *fd, const struct packet_interface *i, struct error *e)
{
	int status;

	status = packet_interface_socket(fd, e);
	if (status)
		return status;
	status = let_in(*fd, GATE_SHUT);
	if (status)
		return error_set(e, status, "socket filter: %s", strerror(-status));
	status = set_options(*fd, e);
	return status ? status : socket_bind(*fd, i, e);
}

static int join_all(struct packet_sockets *p, struct error *e)
{
	int group = -1, status = 0;

	for (unsigned i = 0; i < p->count && !status; i++)
		status = packet_fanout_join(p->fds[i], &group);
	status = status ? status : packet_fanout_spread(p->fds[0], 1);
	if (status)
		return error_set(e, status, "PACKET_FANOUT: %s", strerror(-status));
	return 0;
}

/* Linux 6.2 and later take UDP segments (virtio 1.3, 5.1.6.2) from a packet socket; there is no
 * way to ask for that but to send some. */
static bool kernel_knows_uso(void)
{
	struct utsname about;
	unsigned major = 0, minor = 0;

	if (uname(&about) || sscanf(about.release, "%u.%u", &major, &minor) != 2)
		return false;
	return major > 6 || (major == 6 && minor >= 2);
}

static void describe(const struct packet_sockets *p, const struct packet_interface *i,
		     struct network_limits *limits)
{
	limits->queues = p->count;
	limits->mtu = i->mtu;
	limits->offloads = NETWORK_ALL;
	if (!kernel_knows_uso())
		limits->offloads &= ~(NETWORK_USO4 | NETWORK_USO6);
}

static int open_all(struct packet_sockets *p, const struct packet_interface *i, unsigned queues,
		    struct error *e)
{
	int status = 0;

	while (!status && p->count < queues)
		status = socket_open(&p->fds[p->count++], i, e);
	return status || queues == 1 ? status : join_all(p, e);
}

int packet_sockets_open(struct packet_sockets **to, const struct packet_interface *i,
			unsigned queues, struct network_limits *limits, struct error *e)
{
	struct packet_sockets *p = calloc(1, sizeof(*p));
	int status;

	if (!p)
		return error_set(e, -ENOMEM, "out of memory");
	status = open_all(p, i, queues, e);
	if (status) {
		packet_sockets_close(p);
		return status;
	}
	for (unsigned k = 0; k < p->count; k++)
		begin_counting(p->fds[k]);
	describe(p, i, limits);
	*to = p;
	return 0;
}

void packet_sockets_close(struct packet_sockets *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < p->count; i++)
		fd_close(&p->fds[i]);
	free(p);
}

void packet_sockets_set_active(struct packet_sockets *p, unsigned active)
{
	int status = p->count > 1 ? packet_fanout_spread(p->fds[0], active) : 0;

	if (status)
		log_warning("frames cannot be spread over %u queues: %s", active,
			    strerror(-status));
}
