/* vxlan_sender.c - one queue's way out: frames become datagrams, a turn's datagrams few calls. */
#include "network/vxlan_sender.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "base/pages.h"
#include "network/network_port.h"
#include "network/vxlan_header.h"
#include "network/vxlan_options.h"
#include "network/vxlan_socket.h"

/* Younger than some C libraries' headers: linux/udp.h of 4.18. */
enum { OPTION_UDP_SEGMENT = 103 };

enum {
	BATCH = 256 << 10, /* bytes of datagrams until a flush */
	BUFFER = BATCH + VXLAN_HEADER + NETWORK_FRAME_MAX,
	RUNS = 256,
	RUN_BYTES = 64000,  /* of one call's payload, which an outer IP packet has to hold */
	RUN_DATAGRAMS = 64, /* UDP_MAX_SEGMENTS of linux/udp.h before 6.9 */
	CALL_RUNS = 64,
};

/* Datagrams of one size, but for the last, that lie one behind the other. */
struct run {
	size_t offset; /* in the buffer */
	uint32_t length;
	uint32_t size; /* bytes of each datagram */
	unsigned count;
	unsigned socket;
	struct vxlan_address to;
};

struct vxlan_sender {
	const char *name;                     /* borrowed */
	const struct vxlan_options *options;  /* borrowed */
	struct vxlan_sender_numbers *numbers; /* borrowed */
	uint32_t seed;
	int sockets[VXLAN_SENDER_SOCKETS]; /* owned; -1: not open */
	bool cuts;                         /* the kernel */
	struct log_limit large_log, other_log;
	uint8_t *buffer; /* owned */
	size_t used;
	unsigned run_count;
	struct run runs[RUNS];
};

/* What sendmmsg(2) wants for some runs of one socket. */
struct call {
	unsigned count;
	const struct run *runs[CALL_RUNS];
	struct mmsghdr messages[CALL_RUNS];
	struct iovec iovs[CALL_RUNS];
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} controls[CALL_RUNS];
};

struct vxlan_sender *vxlan_sender_create(const char *name, const struct vxlan_options *o,
					 uint32_t seed, struct vxlan_sender_numbers *numbers)
{
	struct vxlan_sender *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->name = name;
	s->options = o;
	s->numbers = numbers;
	s->seed = seed;
	/* the kernel cuts only what it may put checksums into: udp(7), UDP_SEGMENT */
	s->cuts = o->checksum;
	for (unsigned i = 0; i < VXLAN_SENDER_SOCKETS; i++)
		s->sockets[i] = -1;
	s->buffer = pages_allocate(BUFFER);
	if (s->buffer)
		return s;
	free(s);
	return NULL;
}

void vxlan_sender_free(struct vxlan_sender *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < VXLAN_SENDER_SOCKETS; i++)
		fd_close(&s->sockets[i]);
	pages_free(s->buffer, BUFFER);
	free(s);
}

/* ---- what goes wrong ---- */

static void log_too_large(struct vxlan_sender *s, const struct run *r)
{
	bool v4 = r->to.any.sa_family == AF_INET;
	unsigned overhead = v4 ? VXLAN_OVERHEAD_IPV4 : VXLAN_OVERHEAD_IPV6;
	unsigned frame = r->size - VXLAN_HEADER, needs = frame - NETWORK_HEADER + overhead;
	uint32_t mtu = vxlan_socket_mtu(s->options, &r->to);
	char text[VXLAN_ADDRESS_TEXT];

	log_warning("port %s: lost a frame of %u bytes: its outer packet has %u, the way to %s "
		    "takes %u; an MTU of %d would pass (logged once)",
		    s->name, frame, needs, vxlan_address_print(&r->to, text), mtu,
		    (int)mtu - (int)overhead);
}

static void count_failure(struct vxlan_sender *s, const struct run *r, int err)
{
	char text[VXLAN_ADDRESS_TEXT];

	if (err == EMSGSIZE) {
		counter_add(&s->numbers->too_large, r->count);
		if (log_limit_take(&s->large_log, 1))
			log_too_large(s, r);
	} else if (err == EAGAIN || err == ENOBUFS) {
		counter_add(&s->numbers->no_room, r->count);
	} else {
		counter_add(&s->numbers->unreachable, r->count);
		if (log_limit_take(&s->other_log, 1))
			log_warning("port %s: lost a frame to %s: %s (logged once)", s->name,
				    vxlan_address_print(&r->to, text), strerror(err));
	}
}

/* ---- sockets ---- */

static bool socket_open(struct vxlan_sender *s, unsigned i)
{
	struct error e = { 0 };

	if (likely(s->sockets[i] >= 0))
		return true;
	s->sockets[i] = vxlan_socket_send(s->options, s->seed + i * 1021u, &e);
	if (s->sockets[i] >= 0)
		return true;
	s->sockets[i] = -1;
	if (log_limit_take(&s->other_log, 1))
		log_warning("port %s: nothing can be sent: %s", s->name, e.text);
	return false;
}

/* ---- calls ---- */

static void call_add(struct vxlan_sender *s, struct call *c, const struct run *r)
{
	unsigned i = c->count++;
	struct msghdr *m = &c->messages[i].msg_hdr;

	c->runs[i] = r;
	c->iovs[i] = (struct iovec){ s->buffer + r->offset, r->length };
	*m = (struct msghdr){ .msg_name = (void *)&r->to,
			      .msg_namelen = vxlan_address_length(&r->to),
			      .msg_iov = &c->iovs[i],
			      .msg_iovlen = 1 };
	if (r->count == 1)
		return;
	m->msg_control = &c->controls[i];
	m->msg_controllen = sizeof(c->controls[i]);
	c->controls[i].header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(uint16_t)),
						  .cmsg_level = IPPROTO_UDP,
						  .cmsg_type = OPTION_UDP_SEGMENT };
	memcpy(CMSG_DATA(&c->controls[i].header), &(uint16_t){ r->size }, sizeof(uint16_t));
}

/* True if the kernel took all of them one by one: then it is the cutting that it cannot do. */
static bool send_one_by_one(struct vxlan_sender *s, const struct run *r)
{
	bool all = true;

	for (uint32_t at = 0; at < r->length; at += r->size) {
		struct run one = *r;

		one.count = 1;
		one.size = minimum_u64(r->size, r->length - at);
		counter_add(&s->numbers->calls, 1);
		if (sendto(s->sockets[r->socket], s->buffer + r->offset + at, one.size,
			   MSG_DONTWAIT, &r->to.any, vxlan_address_length(&r->to)) >= 0)
			continue;
		all = false;
		count_failure(s, &one, errno);
	}
	return all;
}

/* Which error the kernel has for what it cannot cut, and for what is too large cut, has changed
 * from version to version. */
static void run_failed(struct vxlan_sender *s, const struct run *r, int err)
{
	if (r->count == 1 || (err != EINVAL && err != EIO && err != EMSGSIZE))
		count_failure(s, r, err);
	else if (send_one_by_one(s, r) && s->cuts) {
		log_info("port %s: the kernel does not segment here: %s", s->name, strerror(err));
		s->cuts = false;
	}
}

/* Each turn sends a run or finds out that it cannot be sent. */
static void call_make(struct vxlan_sender *s, struct call *c, int fd)
{
	unsigned done = 0;

	while (done < c->count) {
		int n = sendmmsg(fd, c->messages + done, c->count - done, MSG_DONTWAIT);

		counter_add(&s->numbers->calls, 1);
		if (n <= 0)
			run_failed(s, c->runs[done], n ? errno : EIO);
		done += n > 0 ? n : 1;
	}
	c->count = 0;
}

static void flush_socket(struct vxlan_sender *s, struct call *c, unsigned socket)
{
	for (unsigned i = 0; i < s->run_count; i++) {
		if (s->runs[i].socket != socket)
			continue;
		call_add(s, c, &s->runs[i]);
		if (c->count == CALL_RUNS)
			call_make(s, c, s->sockets[socket]);
	}
	call_make(s, c, s->sockets[socket]);
}

void vxlan_sender_flush(struct vxlan_sender *s)
{
	unsigned sockets = 0;
	struct call c;

	c.count = 0;
	for (unsigned i = 0; i < s->run_count; i++)
		sockets |= 1u << s->runs[i].socket;
	for (; sockets; sockets &= sockets - 1)
		flush_socket(s, &c, __builtin_ctz(sockets));
	s->run_count = 0;
	s->used = 0;
}

/* ---- datagrams ---- */

uint8_t *vxlan_sender_room(struct vxlan_sender *s)
{
	if (s->used > BATCH || s->run_count > RUNS - VXLAN_PEERS_STATIC)
		vxlan_sender_flush(s);
	return s->buffer + s->used + VXLAN_HEADER;
}

static bool same_address(const struct vxlan_address *a, const struct vxlan_address *b)
{
	return vxlan_address_same_host(a, b) && vxlan_address_port(a) == vxlan_address_port(b);
}

/* To the end of the last run, if the kernel can tell them apart again there. */
static bool extend(struct vxlan_sender *s, uint32_t size, unsigned socket,
		   const struct vxlan_address *to)
{
	struct run *r = &s->runs[s->run_count ? s->run_count - 1 : 0];

	if (!s->run_count || !s->cuts || r->socket != socket || r->offset + r->length != s->used ||
	    r->length % r->size || size > r->size || r->length + size > RUN_BYTES ||
	    r->count == RUN_DATAGRAMS || !same_address(&r->to, to))
		return false;
	r->length += size;
	r->count++;
	return true;
}

static void begin_run(struct vxlan_sender *s, uint32_t size, unsigned socket,
		      const struct vxlan_address *to)
{
	s->runs[s->run_count++] = (struct run){ .offset = s->used,
						.length = size,
						.size = size,
						.count = 1,
						.socket = socket,
						.to = *to };
}

void vxlan_sender_put(struct vxlan_sender *s, size_t bytes, uint32_t flow,
		      const struct vxlan_address *to, unsigned count)
{
	unsigned socket = flow % VXLAN_SENDER_SOCKETS;
	uint32_t size = VXLAN_HEADER + bytes;

	if (unlikely(!socket_open(s, socket))) {
		counter_add(&s->numbers->unreachable, count);
		return;
	}
	vxlan_header_store(s->buffer + s->used, s->options->vni);
	counter_add(&s->numbers->datagrams, count);
	if (count != 1 || !extend(s, size, socket, to))
		for (unsigned i = 0; i < count; i++)
			begin_run(s, size, socket, &to[i]);
	s->used += size;
}
