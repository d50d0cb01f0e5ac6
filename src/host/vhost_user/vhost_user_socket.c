/* vhost_user_socket.c - whole messages over a non-blocking Unix stream socket. */
#include "host/vhost_user/vhost_user_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"

#define HEADER_SIZE sizeof(struct vhost_user_header)

/* Room for as many descriptors as a message may have: the kernel closes what does not fit, and
 * says so (MSG_CTRUNC). */
union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(VHOST_USER_FDS_MAX * sizeof(int))];
};

/* The descriptors are ours from the moment recvmsg() returned, so all are stored or closed. */
static int keep_fds(struct vhost_user_message *m, const struct cmsghdr *c)
{
	unsigned count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int err = 0;

	for (unsigned i = 0; i < count; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
		if (m->fd_count < VHOST_USER_FDS_MAX) {
			m->fds[m->fd_count++] = fd;
			continue;
		}
		close(fd);
		err = -EPROTO;
	}
	return err;
}

static int take_control(struct vhost_user_message *m, struct msghdr *h, struct error *e)
{
	int err = h->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && keep_fds(m, c))
			err = -EPROTO;
	if (err)
		return error_set(
			e, err,
			"more than %u file descriptors with one message, or no room for them",
			(unsigned)VHOST_USER_FDS_MAX);
	return 0;
}

/* Reads up to `wanted` bytes.  Returns how many, 0 at the end of the stream, or -errno. */
static ssize_t receive_part(struct vhost_user_socket *s, void *to, size_t wanted, struct error *e)
{
	union control control;
	struct iovec iov = { to, wanted };
	struct msghdr h = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	do {
		n = recvmsg(s->fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_set(e, -errno, "receive: %s", strerror(errno));
	return take_control(&s->message, &h, e) ? -EPROTO : n;
}

/* Where byte s->moved goes, and how many more belong to the same part of the message. */
static void *part_of(struct vhost_user_socket *s, size_t *left)
{
	struct vhost_user_message *m = &s->message;

	if (s->moved < HEADER_SIZE) {
		*left = HEADER_SIZE - s->moved;
		return (char *)&m->header + s->moved;
	}
	*left = m->header.size - (s->moved - HEADER_SIZE);
	return m->payload.bytes + (s->moved - HEADER_SIZE);
}

static int end_of_stream(const struct vhost_user_socket *s, struct error *e)
{
	if (!s->moved)
		return VHOST_USER_GONE;
	return error_set(e, -EPROTO, "the front-end closed in the middle of a message");
}

int vhost_user_socket_receive(struct vhost_user_socket *s, struct error *e)
{
	for (;;) {
		size_t left;
		void *to = part_of(s, &left);
		ssize_t n = receive_part(s, to, left, e);

		if (n == -EAGAIN)
			return VHOST_USER_MORE;
		if (n == -ECONNRESET && !s->moved)
			return VHOST_USER_GONE; /* it left without reading our last answer */
		if (n <= 0)
			return n ? (int)n : end_of_stream(s, e);
		s->moved += n;
		if (s->moved == HEADER_SIZE && vhost_user_header_check(&s->message.header, e))
			return e->code;
		if (s->moved >= HEADER_SIZE && s->moved == HEADER_SIZE + s->message.header.size)
			return VHOST_USER_WHOLE;
	}
}

void vhost_user_socket_answer(struct vhost_user_socket *s)
{
	s->moved = 0;
}

static void attach_fds(struct msghdr *h, union control *control, const struct vhost_user_message *m)
{
	struct cmsghdr *c = &control->header;
	size_t bytes = m->fd_count * sizeof(m->fds[0]);

	memset(control, 0, sizeof(*control));
	h->msg_control = control;
	h->msg_controllen = CMSG_SPACE(bytes);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(c), m->fds, bytes);
}

/* Descriptors go with the first byte. */
static ssize_t send_part(struct vhost_user_socket *s, void *from, size_t left)
{
	union control control;
	struct iovec iov[] = { { from, left },
			       { s->message.payload.bytes, s->message.header.size } };
	struct msghdr h = { .msg_iov = iov, .msg_iovlen = s->moved < HEADER_SIZE ? 2 : 1 };
	ssize_t n;

	if (!s->moved && s->message.fd_count)
		attach_fds(&h, &control, &s->message);
	do {
		n = sendmsg(s->fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int vhost_user_socket_send(struct vhost_user_socket *s)
{
	while (s->moved < HEADER_SIZE + s->message.header.size) {
		size_t left;
		void *from = part_of(s, &left);
		ssize_t n = send_part(s, from, left);

		if (n < 0)
			return (int)n;
		s->moved += n;
	}
	vhost_user_socket_next(s);
	return 0;
}

void vhost_user_socket_next(struct vhost_user_socket *s)
{
	vhost_user_message_close(&s->message);
	memset(&s->message.header, 0, sizeof(s->message.header));
	memset(&s->message.payload, 0, sizeof(s->message.payload));
	s->moved = 0;
}

void vhost_user_socket_close(struct vhost_user_socket *s)
{
	vhost_user_socket_next(s);
	fd_close(&s->fd);
}
