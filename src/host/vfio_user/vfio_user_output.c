/* vfio_user_output.c - messages into a non-blocking Unix stream socket. */
#include "host/vfio_user/vfio_user_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/iov.h"
#include "host/vfio_user/vfio_user_dma.h"

enum { PARTS = 128 }; /* of one system call */

struct vfio_user_reply {
	struct vfio_user_reply *next;
	int *fds; /* owned, behind the bytes */
	unsigned fd_count;
	size_t size, sent; /* bytes */
	char bytes[];
};

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(VFIO_USER_REPLY_FDS_MAX * sizeof(int))];
};

static void reply_free(struct vfio_user_reply *r)
{
	for (unsigned i = 0; i < r->fd_count; i++)
		fd_close(&r->fds[i]);
	free(r);
}

static int copy_fds(struct vfio_user_reply *r, const int *fds, unsigned count)
{
	while (r->fd_count < count) {
		int fd = fcntl(fds[r->fd_count], F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return -errno;
		r->fds[r->fd_count++] = fd;
	}
	return 0;
}

int vfio_user_output_put(struct vfio_user_output *out, const struct vfio_user_header *h,
			 const struct iovec *parts, unsigned count, const int *fds,
			 unsigned fd_count)
{
	size_t body = iov_length(parts, count), size = VFIO_USER_HEADER_SIZE + body;
	size_t room = align_up(size, sizeof(int));
	struct vfio_user_reply *r = malloc(sizeof(*r) + room + fd_count * sizeof(int));
	struct vfio_user_header whole = *h;
	int err;

	if (!r)
		return -ENOMEM;
	*r = (struct vfio_user_reply){ .size = size };
	r->fds = (int *)(void *)(r->bytes + room);
	err = copy_fds(r, fds, fd_count);
	if (err) {
		reply_free(r);
		return err;
	}
	whole.size = size;
	memcpy(r->bytes, &whole, sizeof(whole));
	iov_copy_from(parts, count, 0, r->bytes + sizeof(whole), body);
	if (out->first)
		out->last->next = r;
	else
		out->first = r;
	out->last = r;
	out->bytes += size;
	return 0;
}

static ssize_t send_message(int fd, const struct msghdr *h)
{
	ssize_t n;

	do {
		n = sendmsg(fd, h, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void attach_fds(struct msghdr *h, union control *control, const struct vfio_user_reply *r)
{
	struct cmsghdr *c = &control->header;
	size_t bytes = r->fd_count * sizeof(int);

	memset(control, 0, sizeof(*control));
	h->msg_control = control;
	h->msg_controllen = CMSG_SPACE(bytes);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(c), r->fds, bytes);
}

/* Descriptors go with the first byte; each reply is a send of its own, so that they are its. */
static int send_reply(struct vfio_user_output *out, int fd)
{
	struct vfio_user_reply *r = out->first;
	struct iovec iov = { r->bytes + r->sent, r->size - r->sent };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	union control control;
	ssize_t n;

	if (!r->sent && r->fd_count)
		attach_fds(&h, &control, r);
	n = send_message(fd, &h);
	if (n < 0)
		return (int)n;
	r->sent += n;
	out->sent += n;
	if (r->sent < r->size)
		return 0;
	out->first = r->next;
	out->bytes -= r->size;
	reply_free(r);
	return 0;
}

static int send_dma(struct vfio_user_output *out, int fd)
{
	struct vfio_user_dma *d = out->dma;
	struct iovec iov[PARTS];
	struct msghdr h = { .msg_iov = iov, .msg_iovlen = vfio_user_dma_gather(d, iov, PARTS) };
	ssize_t n = send_message(fd, &h);

	if (n < 0)
		return (int)n;
	out->sent += n;
	vfio_user_dma_sent(d, n);
	return 0;
}

int vfio_user_output_flush(struct vfio_user_output *out, int fd)
{
	int err = 0;

	while (!err) {
		if (out->first && !(out->dma && vfio_user_dma_is_cut(out->dma)))
			err = send_reply(out, fd);
		else if (out->dma && vfio_user_dma_has_output(out->dma))
			err = send_dma(out, fd);
		else
			return 0;
	}
	return err;
}

void vfio_user_output_clear(struct vfio_user_output *out)
{
	while (out->first) {
		struct vfio_user_reply *r = out->first;

		out->first = r->next;
		reply_free(r);
	}
	out->bytes = 0;
}
