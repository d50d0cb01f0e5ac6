/* nbd_plain.c - the transmission phase on a bare socket.
 *
 * Out: the headers and payloads of all requests of a turn leave in one sendmsg, payload straight
 * from the guest's memory.  In: one recvmsg takes what is there.  If the header of a read's reply
 * has been seen, the rest of its payload goes straight to its destination; whatever follows lands
 * in a buffer, is taken apart there, and payload that came with it is copied out.  For small reads
 * the copy, in cache, costs a fraction of the system call that it saves; for large ones the gulp
 * is kept small, so that nearly nothing of them is copied.
 *
 * Nothing that the server sends is trusted: a reply must name a slot in use, in its present
 * generation, whose request has wholly been sent.  Anything else is a protocol error.  Payload
 * goes nowhere but to the request so named, and ends where that does.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/iov.h"
#include "reactor/reactor.h"
#include "storage/nbd_connection.h"
#include "storage/nbd_handshake.h"
#include "storage/nbd_reply.h"
#include "storage/nbd_transport.h"
#include "storage/storage.h"

enum {
	SLOTS = 1024,             /* requests that may be on their way */
	GATHER_MAX = 512,         /* iovecs of one sendmsg */
	SCATTER_MAX = 128,        /* iovecs of one recvmsg */
	BUFFER_SIZE = 256 * 1024, /* bytes */
	GULP_LARGE = 4096,        /* bytes taken into the buffer while large payloads come */
	LARGE = 32 * 1024,        /* bytes: from here on a payload is large */
	READS_PER_WAKE = 4,       /* then the others of this reactor have their turn */
};

struct slot {
	struct nbd_request *request; /* NULL: free */
	uint32_t generation;
	uint16_t next_free;
	bool sent;
};

struct nbd_plain {
	int fd; /* owned */
	struct reactor_watch watch;
	struct nbd_export export;
	uint64_t sent;               /* bytes of c->unsent, header and payload */
	struct nbd_request *current; /* whose payload is being received, or NULL */
	uint64_t received;           /* bytes of it */
	size_t fill;                 /* bytes in buffer: less than a header between two reads */
	size_t gulp;                 /* bytes to ask for */
	uint16_t first_free;         /* slot, or SLOTS */
	struct slot slots[SLOTS];
	unsigned char buffer[BUFFER_SIZE];
};

/* ---- slots ---- */

static bool slot_take(struct nbd_plain *p, struct nbd_request *request)
{
	struct slot *s = &p->slots[p->first_free];

	if (p->first_free == SLOTS)
		return false;
	request->slot = p->first_free;
	p->first_free = s->next_free;
	s->request = request;
	s->sent = false;
	nbd_request_encode(request->header, request->io,
			   (uint64_t)s->generation << 32 | request->slot);
	return true;
}

static void slot_return(struct nbd_plain *p, struct nbd_request *request)
{
	struct slot *s = &p->slots[request->slot];

	s->request = NULL;
	s->generation++;
	s->next_free = p->first_free;
	p->first_free = (uint16_t)request->slot;
	request->slot = NBD_NO_SLOT;
}

static struct nbd_request *slot_find(struct nbd_plain *p, uint64_t cookie)
{
	uint32_t index = (uint32_t)cookie;
	struct slot *s = &p->slots[index % SLOTS];

	if (index >= SLOTS || s->generation != cookie >> 32 || !s->request || !s->sent)
		return NULL;
	return s->request;
}

/* ---- out ---- */

static uint64_t wire_length(const struct nbd_request *request)
{
	const struct storage_io *io = request->io;

	return NBD_REQUEST_SIZE + (io->operation == STORAGE_WRITE ? io->length : 0);
}

/* Describes request from byte `from` on.  *count grows; false when not all of it fitted. */
static bool gather_request(const struct nbd_request *request, uint64_t from, struct iovec *iov,
			   unsigned *count, size_t *bytes)
{
	const struct storage_io *io = request->io;
	uint64_t wanted = wire_length(request) - from, covered = 0;
	uint64_t header = from < NBD_REQUEST_SIZE ? NBD_REQUEST_SIZE - from : 0;

	if (header) {
		iov[*count].iov_base = (unsigned char *)request->header + from;
		iov[(*count)++].iov_len = header;
	}
	if (wanted > header)
		*count += iov_slice(io->iov, io->iov_count, from + header - NBD_REQUEST_SIZE,
				    wanted - header, iov + *count, GATHER_MAX - *count, &covered);
	*bytes += header + covered;
	return header + covered == wanted;
}

static unsigned gather(struct nbd_connection *c, struct nbd_plain *p, struct iovec *iov,
		       size_t *bytes)
{
	uint64_t from = p->sent;
	unsigned count = 0;

	*bytes = 0;
	for (struct nbd_request *r = c->unsent; r && count < GATHER_MAX - 1; r = r->next) {
		if (c->holding && !from)
			break;
		if (r->slot == NBD_NO_SLOT && !slot_take(p, r))
			break;
		if (!gather_request(r, from, iov, &count, bytes))
			break;
		from = 0;
	}
	return count;
}

static void advance(struct nbd_connection *c, struct nbd_plain *p, size_t sent)
{
	while (sent) {
		uint64_t left = wire_length(c->unsent) - p->sent;

		if (sent < left) {
			p->sent += sent;
			return;
		}
		sent -= left;
		p->sent = 0;
		p->slots[c->unsent->slot].sent = true;
		c->unsent = c->unsent->next;
	}
}

static int watch_events(struct nbd_plain *p, short events)
{
	return p->watch.events == events ? 0 : reactor_watch_change(&p->watch, events);
}

/* The guest took the memory away that a request points to: only that request is to blame, but
 * what the stream holds of it cannot be completed. */
static int blame(struct nbd_connection *c, struct nbd_plain *p, struct nbd_request *request)
{
	if (!request)
		return -EFAULT;
	slot_return(p, request);
	nbd_connection_finish(c, request, -EFAULT);
	return -EFAULT;
}

static int plain_send(struct nbd_connection *c)
{
	struct nbd_plain *p = c->transport_state;
	struct iovec iov[GATHER_MAX];
	struct msghdr m = { .msg_iov = iov };
	size_t bytes;

	while ((m.msg_iovlen = gather(c, p, iov, &bytes))) {
		ssize_t n = sendmsg(p->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		counter_add(&c->counters.sends, 1);
		if (n < 0 && errno == EAGAIN)
			return watch_events(p, POLLIN | POLLOUT);
		if (n < 0 && errno == EFAULT)
			return blame(c, p, c->unsent);
		if (n < 0)
			return -errno;
		counter_add(&c->counters.sent_bytes, (uint64_t)n);
		advance(c, p, (size_t)n);
		if ((size_t)n < bytes)
			return watch_events(p, POLLIN | POLLOUT);
	}
	return watch_events(p, POLLIN);
}

/* ---- in ---- */

static void finish_current(struct nbd_connection *c, struct nbd_plain *p)
{
	struct nbd_request *request = p->current;

	p->gulp = request->io->length >= LARGE ? GULP_LARGE : BUFFER_SIZE;
	p->current = NULL;
	slot_return(p, request);
	nbd_connection_finish(c, request, 0);
}

/* Bytes of the current payload went to their destination. */
static void receive_payload(struct nbd_connection *c, struct nbd_plain *p, uint64_t bytes)
{
	p->received += bytes;
	if (p->received == p->current->io->length)
		finish_current(c, p);
}

static int take_reply(struct nbd_connection *c, struct nbd_plain *p, const struct nbd_reply *reply)
{
	struct nbd_request *request = slot_find(p, reply->cookie);

	if (!request)
		return -EPROTO;
	if (reply->error == NBD_ERROR_SHUTDOWN)
		return -ESHUTDOWN;
	nbd_connection_replied(c);
	if (request->io->operation == STORAGE_READ && !reply->error) {
		p->current = request;
		p->received = 0;
		return 0;
	}
	slot_return(p, request);
	nbd_connection_finish(c, request, reply->error ? nbd_reply_errno(reply->error) : 0);
	return 0;
}

/* Takes the buffer apart; what is left at its front is less than a header.  0 or -errno. */
static int consume(struct nbd_connection *c, struct nbd_plain *p)
{
	struct nbd_reply reply;
	size_t at = 0;

	while (at < p->fill) {
		int n;

		if (p->current) {
			const struct storage_io *io = p->current->io;
			size_t part = minimum_u64(p->fill - at, io->length - p->received);

			iov_copy_to(io->iov, io->iov_count, p->received, p->buffer + at, part);
			at += part;
			receive_payload(c, p, part);
			continue;
		}
		n = nbd_reply_parse(p->buffer + at, p->fill - at, &reply);
		if (n == 0)
			break;
		n = n < 0 ? n : take_reply(c, p, &reply);
		if (n < 0)
			return n;
		at += NBD_REPLY_SIZE;
	}
	p->fill -= at;
	memmove(p->buffer, p->buffer + at, p->fill);
	return 0;
}

/* The rest of the current payload, as far as it fits, then the buffer. */
static unsigned scatter(struct nbd_plain *p, struct iovec *iov, uint64_t *direct, size_t *asked)
{
	unsigned count = 0;
	uint64_t left = 0;

	*direct = 0;
	if (p->current) {
		const struct storage_io *io = p->current->io;

		left = io->length - p->received;
		count = iov_slice(io->iov, io->iov_count, p->received, left, iov, SCATTER_MAX - 1,
				  direct);
	}
	*asked = *direct;
	if (*direct == left) {
		iov[count].iov_base = p->buffer + p->fill;
		iov[count++].iov_len = p->gulp - p->fill;
		*asked += p->gulp - p->fill;
	}
	return count;
}

/* One recvmsg.  1: there may be more, 0: not now, -errno: the connection is lost. */
static int receive(struct nbd_connection *c, struct nbd_plain *p)
{
	struct iovec iov[SCATTER_MAX];
	struct msghdr m = { .msg_iov = iov };
	uint64_t direct, placed;
	size_t asked;
	ssize_t n;
	int status;

	m.msg_iovlen = scatter(p, iov, &direct, &asked);
	n = recvmsg(p->fd, &m, MSG_DONTWAIT);
	counter_add(&c->counters.receives, 1);
	if (n == 0)
		return -ECONNRESET;
	if (n < 0 && errno == EFAULT)
		return blame(c, p, p->current);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	counter_add(&c->counters.received_bytes, (uint64_t)n);
	placed = minimum_u64(direct, (uint64_t)n);
	p->fill += (size_t)n - placed;
	if (placed)
		receive_payload(c, p, placed);
	status = consume(c, p);
	return status ? status : (size_t)n == asked;
}

static const char *reason(int status)
{
	switch (status) {
	case -EPROTO:
		return "the server broke the protocol";
	case -ECONNRESET:
		return "the server closed it";
	case -ESHUTDOWN:
		return "the server is shutting down";
	default:
		return strerror(-status);
	}
}

static void socket_ready(void *arg)
{
	struct nbd_connection *c = arg;
	struct nbd_plain *p = c->transport_state;
	int status = 1;

	for (int i = 0; i < READS_PER_WAKE && status > 0; i++)
		status = receive(c, p);
	if (status >= 0 && (p->watch.events & POLLOUT))
		status = plain_send(c);
	if (status < 0)
		nbd_connection_lost(c, status, reason(status));
	else if (c->holding || !(p->watch.events & POLLOUT))
		nbd_connection_progress(c);
}

/* ---- life ---- */

static int plain_attach(struct nbd_connection *c)
{
	struct nbd_plain *p = c->transport_state;

	p->watch = (struct reactor_watch){
		.fd = p->fd, .events = POLLIN, .fn = socket_ready, .arg = c
	};
	return reactor_watch_add(c->reactor, &p->watch);
}

static void plain_detach(struct nbd_connection *c)
{
	struct nbd_plain *p = c->transport_state;

	reactor_watch_remove(&p->watch);
}

static int plain_open(struct nbd_connection *c, struct nbd_session *session)
{
	struct nbd_plain *p = malloc(sizeof(*p));
	int status;

	if (!p)
		return -ENOMEM;
	memset(p, 0, offsetof(struct nbd_plain, buffer));
	p->fd = session->fd;
	p->export = session->export;
	p->gulp = BUFFER_SIZE;
	for (unsigned i = 0; i < SLOTS; i++)
		p->slots[i].next_free = (uint16_t)(i + 1);
	c->transport_state = p;
	status = plain_attach(c);
	if (status) {
		free(p);
		return status;
	}
	session->fd = -1;
	return 0;
}

static int plain_is_within_request(const struct nbd_connection *c)
{
	const struct nbd_plain *p = c->transport_state;

	return p->sent > 0;
}

static void plain_forget(struct nbd_connection *c, struct nbd_request *request)
{
	slot_return(c->transport_state, request);
}

static void plain_close(struct nbd_connection *c, struct nbd_session *session)
{
	struct nbd_plain *p = c->transport_state;

	plain_detach(c);
	*session = (struct nbd_session){ .fd = p->fd, .export = p->export };
	free(p);
}

const struct nbd_transport nbd_plain = {
	.open = plain_open,
	.send = plain_send,
	.is_within_request = plain_is_within_request,
	.forget = plain_forget,
	.detach = plain_detach,
	.attach = plain_attach,
	.close = plain_close,
};
