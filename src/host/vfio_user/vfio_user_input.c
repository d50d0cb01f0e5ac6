/* vfio_user_input.c - messages out of a non-blocking Unix stream socket. */
#include "host/vfio_user/vfio_user_input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"

enum {
	PARTS = 4,
	CALLS_PER_TURN = 64, /* other connections wait */
	BUFFER_KEPT = 4096,  /* bytes */
	NOWHERE = 16384,     /* bytes thrown away with one call */
};

/* The kernel closes what does not fit, and says so (MSG_CTRUNC). */
union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))];
};

/* ---- descriptors ---- */

/* They are ours from the moment recvmsg() returned, so all are stored or closed. */
static int keep_fds(struct vfio_user_head *to, const struct cmsghdr *c)
{
	unsigned count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int err = 0;

	for (unsigned i = 0; i < count; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
		if (to->fd_count < VFIO_USER_FDS_MAX) {
			to->fds[to->fd_count++] = fd;
			continue;
		}
		close(fd);
		err = -EPROTO;
	}
	return err;
}

static int take_control(struct vfio_user_head *to, struct msghdr *h, struct error *e)
{
	int err = h->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && keep_fds(to, c))
			err = -EPROTO;
	if (err)
		return error_set(
			e, err,
			"more than %d file descriptors with one message, or no room for them",
			(int)VFIO_USER_FDS_MAX);
	return 0;
}

static void close_fds(struct vfio_user_head *head)
{
	for (unsigned i = 0; i < head->fd_count; i++)
		fd_close(&head->fds[i]);
	head->fd_count = 0;
}

/* ---- where bytes go ---- */

static bool is_reply(const struct vfio_user_input *in)
{
	return in->head.header.flags & VFIO_USER_FLAG_REPLY;
}

static size_t body_size(const struct vfio_user_input *in)
{
	return in->head.header.size - VFIO_USER_HEADER_SIZE;
}

/* Of [0, size), the part after `skip` bytes; skip shrinks by what it has passed. */
static unsigned add_part(struct iovec *iov, void *base, size_t size, size_t *skip)
{
	size_t passed = minimum_u64(*skip, size);

	*skip -= passed;
	if (passed == size)
		return 0;
	*iov = (struct iovec){ (char *)base + passed, size - passed };
	return 1;
}

static unsigned describe_reply(struct vfio_user_input *in, char *nowhere, struct iovec *iov)
{
	struct vfio_user_sink *sink = &in->sink;
	size_t skip = in->moved, left;
	unsigned count = add_part(iov, &sink->fields, sink->fields_size, &skip);

	if (sink->data && vfio_user_dma_is_wanted(in->dma, sink)) {
		count += add_part(iov + count, sink->data, sink->data_size, &skip);
		return count + add_part(iov + count, sink->padding, sink->padding_size, &skip);
	}
	left = sink->data_size + sink->padding_size - skip;
	if (left)
		iov[count++] = (struct iovec){ nowhere, minimum_u64(left, NOWHERE) };
	return count;
}

static size_t length_of(const struct iovec *iov, unsigned count)
{
	size_t sum = 0;

	for (unsigned i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* The rest of the message at hand, and if that is all of it, of the next header. */
static unsigned describe(struct vfio_user_input *in, char *nowhere, struct iovec *iov, size_t *body)
{
	size_t skip = in->head.moved;
	unsigned count = 0;

	*body = 0;
	if (!in->routed)
		return add_part(iov, &in->head.header, VFIO_USER_HEADER_SIZE, &skip);
	skip = in->moved;
	if (is_reply(in))
		count = describe_reply(in, nowhere, iov);
	else
		count = add_part(iov, in->buffer, body_size(in), &skip);
	*body = length_of(iov, count);
	if (in->moved + *body < body_size(in))
		return count;
	skip = in->ahead.moved;
	return count + add_part(iov + count, &in->ahead.header, VFIO_USER_HEADER_SIZE, &skip);
}

/* ---- receiving ---- */

static ssize_t receive_into(int fd, struct msghdr *h, struct error *e)
{
	ssize_t n;

	do {
		n = recvmsg(fd, h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? error_set(e, -errno, "receive: %s", strerror(errno)) : n;
}

static void count_bytes(struct vfio_user_input *in, size_t body, size_t n)
{
	if (!in->routed) {
		in->head.moved += n;
		return;
	}
	in->moved += minimum_u64(n, body);
	if (n > body)
		in->ahead.moved += n - body;
}

/* Bytes received; *full: as many as were asked for.  0: the end of the stream.  Or -errno. */
static ssize_t receive_part(struct vfio_user_input *in, int fd, bool *full, struct error *e)
{
	union control control;
	struct iovec iov[PARTS];
	char nowhere[NOWHERE]; /* written, never read */
	size_t body;
	struct msghdr h = {
		.msg_iov = iov,
		.msg_iovlen = describe(in, nowhere, iov, &body),
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = receive_into(fd, &h, e);
	bool of_next = in->routed && n > (ssize_t)body;

	if (n < 0)
		return n;
	count_bytes(in, body, n);
	*full = (size_t)n == length_of(iov, h.msg_iovlen);
	return take_control(of_next ? &in->ahead : &in->head, &h, e) ? -EPROTO : n;
}

/* ---- messages ---- */

static int make_room(struct vfio_user_input *in, size_t bytes, struct error *e)
{
	void *bigger;

	if (bytes <= in->capacity)
		return 0;
	bigger = realloc(in->buffer, bytes);
	if (!bigger)
		return error_set(e, -ENOMEM, "no memory for a message of %zu bytes", bytes);
	in->buffer = bigger;
	in->capacity = bytes;
	return 0;
}

/* The header is there: where the rest goes. */
static int route(struct vfio_user_input *in, struct error *e)
{
	const struct vfio_user_header *h = &in->head.header;
	int err = vfio_user_header_check(h, e);

	if (err)
		return err;
	in->routed = true;
	if (is_reply(in))
		return vfio_user_dma_reply_begin(in->dma, h, &in->sink, e);
	return make_room(in, body_size(in), e);
}

static bool is_whole(const struct vfio_user_input *in)
{
	return in->routed && in->moved == body_size(in);
}

/* Everything that can be done without receiving: 1 when a command is there, 0 if more bytes are
 * needed, or -errno. */
static int settle(struct vfio_user_input *in, struct error *e)
{
	for (;;) {
		int err = 0;

		if (!in->routed && in->head.moved == VFIO_USER_HEADER_SIZE)
			err = route(in, e);
		if (err || !is_whole(in))
			return err;
		if (!is_reply(in))
			return 1;
		err = vfio_user_dma_reply_end(in->dma, &in->head.header, &in->sink, e);
		if (err)
			return err;
		vfio_user_input_next(in);
	}
}

static int end_of_stream(const struct vfio_user_input *in, struct error *e)
{
	if (!vfio_user_input_is_cut(in))
		return VFIO_USER_GONE;
	return error_set(e, -EPROTO, "the client closed in the middle of a message");
}

static int problem(const struct vfio_user_input *in, ssize_t n, struct error *e)
{
	if (n == -EAGAIN)
		return VFIO_USER_MORE;
	if (n == -ECONNRESET && !vfio_user_input_is_cut(in))
		return VFIO_USER_GONE; /* it left without reading our last words */
	return n ? (int)n : end_of_stream(in, e);
}

int vfio_user_input_receive(struct vfio_user_input *in, int fd, struct error *e)
{
	bool full = true;
	int settled = settle(in, e);

	for (unsigned i = 0; !settled && full && i < CALLS_PER_TURN; i++) {
		ssize_t n = receive_part(in, fd, &full, e);

		if (n <= 0)
			return problem(in, n, e);
		settled = settle(in, e);
	}
	return settled < 0 ? settled : settled ? VFIO_USER_WHOLE : VFIO_USER_MORE;
}

bool vfio_user_input_is_cut(const struct vfio_user_input *in)
{
	return in->head.moved;
}

struct vfio_user_message vfio_user_input_message(struct vfio_user_input *in)
{
	return (struct vfio_user_message){
		.header = in->head.header,
		.payload = in->buffer,
		.fds = in->head.fds,
		.fd_count = in->head.fd_count,
	};
}

void vfio_user_input_next(struct vfio_user_input *in)
{
	close_fds(&in->head);
	in->head = in->ahead;
	in->ahead = (struct vfio_user_head){ 0 };
	in->moved = 0;
	in->routed = false;
	if (in->capacity > BUFFER_KEPT) {
		free(in->buffer);
		in->buffer = NULL;
		in->capacity = 0;
	}
}

void vfio_user_input_clear(struct vfio_user_input *in)
{
	close_fds(&in->head);
	close_fds(&in->ahead);
	free(in->buffer);
	*in = (struct vfio_user_input){ .dma = in->dma };
}
