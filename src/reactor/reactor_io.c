/* reactor_io.c - file operations where the kernel has no asynchronous ones. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "reactor/reactor_loop.h"

static ssize_t perform(const struct reactor_io *io)
{
	switch (io->operation) {
	case REACTOR_IO_READ:
		return preadv(io->fd, io->iov, (int)io->iov_count, (off_t)io->offset);
	case REACTOR_IO_WRITE:
		return pwritev(io->fd, io->iov, (int)io->iov_count, (off_t)io->offset);
	case REACTOR_IO_DATASYNC:
		return fdatasync(io->fd);
	case REACTOR_IO_FALLOCATE:
		return fallocate(io->fd, io->mode, (off_t)io->offset, (off_t)io->length);
	}
	errno = EINVAL;
	return -1;
}

int reactor_io_perform(const struct reactor_io *io)
{
	ssize_t n;

	do
		n = perform(io);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)n;
}

void reactor_io_complete(struct reactor *r, struct reactor_io *io, int result)
{
	counter_add(&r->counts.io, 1);
	r->worked = true;
	r->io_pending--;
	io->result = result;
	io->done(io);
}
