/* vhost_user_inflight.c - the buffer in which queues note what is in flight. */
#include "host/vhost_user/vhost_user_inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_request.h"
#include "virtio/virtio_device.h"

enum { CACHE_LINE = 64, QUEUE_SIZE_MAX = 32768 };

void *vhost_user_inflight_region(const struct vhost_user_inflight *f, unsigned index)
{
	if (index >= f->queue_count)
		return NULL;
	return (char *)guarded_mapping_start(&f->mapping) + index * f->stride;
}

void vhost_user_inflight_close(struct vhost_user_inflight *f)
{
	guarded_mapping_close(&f->mapping);
	f->queue_count = 0;
}

/* ---- requests ---- */

/* Queues on different cores write to neighbouring regions: no cache line is shared. */
static size_t region_stride(const struct vhost_user_connection *c, uint16_t queue_size)
{
	bool packed = virtio_device_is_packed(c->device);

	return align_up(virtio_queue_inflight_size(queue_size, packed), CACHE_LINE);
}

static int check_shape(const struct vhost_user_connection *c,
		       const struct vhost_user_inflight_area *a, struct error *e)
{
	if (!a->queue_count || a->queue_count > c->ring_count)
		return error_set(e, -EINVAL, "%u queues, the device has %u", a->queue_count,
				 c->ring_count);
	if (!a->queue_size || a->queue_size > QUEUE_SIZE_MAX)
		return error_set(e, -EINVAL, "queues of %u descriptors", a->queue_size);
	return 0;
}

/* Sealed, so that nobody can shrink it under us, ourselves included. */
static int create_buffer(uint64_t size, struct error *e)
{
	int fd = memfd_create("outboard-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && !ftruncate(fd, (off_t)size) &&
	    !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return fd;
	error_set(e, -errno, "a buffer of %" PRIu64 " bytes: %s", size, strerror(errno));
	if (fd >= 0)
		close(fd);
	return e->code;
}

/* The specification has no error reply: a size of zero says that there is no buffer. */
static int answer_none(struct vhost_user_connection *c, struct vhost_user_message *m,
		       const struct error *why)
{
	vhost_user_connection_warn(c, "GET_INFLIGHT_FD: %s", why->text);
	m->payload.inflight.mmap_size = 0;
	m->payload.inflight.mmap_offset = 0;
	return 0;
}

int vhost_user_get_inflight_fd(struct vhost_user_connection *c, struct vhost_user_message *m,
			       struct error *e)
{
	struct vhost_user_inflight_area *a = &m->payload.inflight;
	uint64_t size;
	int fd;

	if (check_shape(c, a, e))
		return answer_none(c, m, e);
	size = (uint64_t)region_stride(c, a->queue_size) * a->queue_count;
	fd = create_buffer(size, e);
	if (fd < 0)
		return answer_none(c, m, e);
	a->mmap_size = size;
	a->mmap_offset = 0;
	m->fds[0] = fd;
	m->fd_count = 1;
	return 0;
}

static int check_buffer(const struct vhost_user_connection *c,
			const struct vhost_user_inflight_area *a, struct error *e)
{
	int err = check_shape(c, a, e);

	if (err)
		return err;
	if (a->mmap_size < (uint64_t)region_stride(c, a->queue_size) * a->queue_count)
		return error_set(e, -EINVAL,
				 "%" PRIu64 " bytes are too few for %u queues of %u descriptors",
				 a->mmap_size, a->queue_count, a->queue_size);
	if (a->mmap_offset % 64)
		return error_set(e, -EINVAL, "offset %" PRIu64 " is no multiple of 64",
				 a->mmap_offset);
	for (unsigned i = 0; i < c->ring_count; i++)
		if (virtio_queue_is_started(c->device, i))
			return error_set(e, -EBUSY, "queue %u is started", i);
	return 0;
}

int vhost_user_set_inflight_fd(struct vhost_user_connection *c, struct vhost_user_message *m,
			       struct error *e)
{
	const struct vhost_user_inflight_area *a = &m->payload.inflight;
	int err = check_buffer(c, a, e);

	if (err)
		return err;
	vhost_user_inflight_close(&c->inflight);
	err = guarded_mapping_open(&c->inflight.mapping, m->fds[0], a->mmap_offset, a->mmap_size,
				   PROT_READ | PROT_WRITE, e);
	if (err)
		return err;
	c->inflight.queue_count = a->queue_count;
	c->inflight.queue_size = a->queue_size;
	c->inflight.stride = region_stride(c, a->queue_size);
	return 0;
}
