/* vhost_user_ring.c - rings, and the requests about them. */
#include "host/vhost_user/vhost_user_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_request.h"
#include "virtio/virtio_device.h"

enum { DESCRIPTOR_BYTES = 16, AVAILABLE_BYTES = 2, USED_BYTES = 8, RING_HEAD_BYTES = 4 };

/* A packed ring's base: the available index with its wrap counter, and so the used one above. */
enum { USED_SHIFT = 16 };

/* Of a packed ring, the driver's and the device's event suppression: virtio 1.3, 2.8.10. */
enum { EVENT_BYTES = 4 };

/* The ring of an index from outside, or NULL with *e. */
static struct vhost_user_ring *ring_at(struct vhost_user_connection *c, uint32_t index,
				       struct error *e)
{
	if (index < c->ring_count)
		return &c->rings[index];
	error_set(e, -EINVAL, "queue %" PRIu32 ": the device has %u", index, c->ring_count);
	return NULL;
}

static struct vhost_user_ring *stopped_ring_at(struct vhost_user_connection *c, uint32_t index,
					       struct error *e)
{
	struct vhost_user_ring *ring = ring_at(c, index, e);

	if (!ring || !virtio_queue_is_started(c->device, index))
		return ring;
	error_set(e, -EBUSY, "queue %" PRIu32 " is started", index);
	return NULL;
}

void vhost_user_ring_enable_all(struct vhost_user_connection *c, bool on)
{
	for (unsigned i = 0; i < c->ring_count; i++)
		virtio_queue_enable(c->device, i, on);
}

void vhost_user_ring_forget_all(struct vhost_user_connection *c)
{
	memset(c->rings, 0, c->ring_count * sizeof(c->rings[0]));
}

void vhost_user_ring_reset_all(struct vhost_user_connection *c)
{
	for (unsigned i = 0; i < c->ring_count; i++)
		c->rings[i] = (struct vhost_user_ring){ .stood = c->rings[i].stood,
							.has_stood = c->rings[i].has_stood };
}

/* Where a stopped ring stands, as the front-end's messages have it. */
static uint32_t base_of(const struct vhost_user_connection *c, unsigned index)
{
	struct virtio_queue_position p;

	virtio_queue_position(c->device, index, &p);
	if (!virtio_device_is_packed(c->device))
		return p.available_index;
	return p.available_index | (uint32_t)p.used_index << USED_SHIFT;
}

static void stop_next(struct vhost_user_connection *c);

static void note_and_stop_next(struct vhost_user_connection *c)
{
	c->rings[c->cursor].stood = base_of(c, c->cursor);
	c->rings[c->cursor].has_stood = true;
	stop_next(c);
}

static void stop_next(struct vhost_user_connection *c)
{
	while (c->cursor < c->ring_count && !virtio_queue_is_started(c->device, c->cursor))
		c->cursor++;
	if (c->cursor < c->ring_count)
		virtio_queue_stop(c->device, c->cursor,
				  vhost_user_connection_change(c, note_and_stop_next));
	else
		c->all_stopped(c);
}

void vhost_user_ring_stop_all(struct vhost_user_connection *c, vhost_user_step *after)
{
	c->all_stopped = after;
	c->cursor = 0;
	stop_next(c);
}

/* ---- starting ---- */

static int translate_part(const struct vhost_user_connection *c, const char *what, uint64_t user,
			  uint64_t length, uint64_t *guest, struct error *e)
{
	if (vhost_user_memory_find(&c->memory, user, length, guest))
		return 0;
	return error_set(e, -EFAULT, "%s at user address 0x%" PRIx64 " is in no memory region",
			 what, user);
}

/* Ring addresses are the front-end's own; the device knows the driver's. */
static int translate(const struct vhost_user_connection *c, unsigned index,
		     const struct vhost_user_ring *ring, struct virtio_queue_setup *s,
		     struct error *e)
{
	bool packed = virtio_device_is_packed(c->device);
	uint64_t available = (uint64_t)ring->size * AVAILABLE_BYTES + RING_HEAD_BYTES;
	uint64_t used = (uint64_t)ring->size * USED_BYTES + RING_HEAD_BYTES;
	int err = translate_part(c, "descriptor table", ring->address.descriptor,
				 (uint64_t)ring->size * DESCRIPTOR_BYTES, &s->descriptor_iova, e);

	if (!err)
		err = translate_part(c, packed ? "driver area" : "available ring",
				     ring->address.available, packed ? EVENT_BYTES : available,
				     &s->driver_iova, e);
	if (!err)
		err = translate_part(c, packed ? "device area" : "used ring", ring->address.used,
				     packed ? EVENT_BYTES : used, &s->device_iova, e);
	return err ? error_wrap(e, "queue %u", index) : 0;
}

/* NULL: in-flight tracking is off for this queue.  QEMU sizes the buffer by its own queue-size, yet
 * lets a guest choose a larger ring: SeaBIOS takes 256 descriptors of QEMU 10 where 128 are
 * offered. Such a ring is served all the same; what it has in flight when we crash is lost. */
static void *inflight_region(struct vhost_user_connection *c, unsigned index, unsigned size)
{
	void *region = vhost_user_inflight_region(&c->inflight, index);
	size_t bytes = virtio_queue_inflight_size(size, virtio_device_is_packed(c->device));

	if (!region || (size <= c->inflight.queue_size && bytes <= c->inflight.stride))
		return region;
	vhost_user_connection_warn(c,
				   "queue %u: %u descriptors, but the in-flight buffer has "
				   "room for %u: not used",
				   index, size, c->inflight.queue_size);
	return NULL;
}

static int configure(struct vhost_user_connection *c, unsigned index, struct error *e)
{
	const struct vhost_user_ring *ring = &c->rings[index];
	struct virtio_queue_setup s = { .size = ring->size,
					.available_index = ring->base & UINT16_MAX,
					.used_index = ring->base >> USED_SHIFT };
	void *region = inflight_region(c, index, ring->size);
	int err = translate(c, index, ring, &s, e);

	if (!err)
		err = virtio_queue_configure(c->device, index, &s, e);
	if (!err)
		virtio_queue_set_inflight(c->device, index, region,
					  region ? c->inflight.stride : 0);
	return err;
}

static void ring_is_started(struct vhost_user_connection *c)
{
	struct error e = { 0 };

	if (c->change_status) {
		c->rings[c->cursor].has_kick = false;
		error_set(&e, c->change_status, "queue %u: start: %s", c->cursor,
			  strerror(-c->change_status));
	} else {
		vhost_user_backend_notify(c);
	}
	vhost_user_connection_finish(c, c->change_status, &e);
}

/* 0 when there is nothing to start yet. */
static int start_when_ready(struct vhost_user_connection *c, unsigned index, struct error *e)
{
	struct vhost_user_ring *ring = &c->rings[index];
	int err;

	if (!ring->size || !ring->has_address || !ring->has_kick ||
	    virtio_queue_is_started(c->device, index))
		return 0;
	err = configure(c, index, e);
	if (err) {
		ring->has_kick = false;
		return err;
	}
	c->cursor = index;
	virtio_queue_start(c->device, index, &c->change_status,
			   vhost_user_connection_change(c, ring_is_started));
	return VHOST_USER_LATER;
}

/* ---- requests ---- */

int vhost_user_set_vring_num(struct vhost_user_connection *c, struct vhost_user_message *m,
			     struct error *e)
{
	const struct vhost_user_vring_state *s = &m->payload.state;
	struct vhost_user_ring *ring = stopped_ring_at(c, s->index, e);

	if (!ring)
		return e->code;
	if (!s->num || s->num > virtio_device_queue_size_max(c->device))
		return error_set(e, -EINVAL,
				 "queue %" PRIu32 ": %" PRIu32 " descriptors, at most %u", s->index,
				 s->num, virtio_device_queue_size_max(c->device));
	ring->size = s->num;
	return start_when_ready(c, s->index, e);
}

static bool same_address(const struct vhost_user_vring_address *a,
			 const struct vhost_user_vring_address *b)
{
	return a->descriptor == b->descriptor && a->available == b->available && a->used == b->used;
}

/* A front-end that starts to migrate repeats the addresses of a running ring with a flag for the
 * log.  Used rings are marked in the log whenever there is one, so the flag changes nothing. */
int vhost_user_set_vring_addr(struct vhost_user_connection *c, struct vhost_user_message *m,
			      struct error *e)
{
	const struct vhost_user_vring_address *a = &m->payload.address;
	struct vhost_user_ring *ring = ring_at(c, a->index, e);
	struct virtio_queue_setup unused;
	struct vhost_user_ring probe;

	if (!ring)
		return e->code;
	if (virtio_queue_is_started(c->device, a->index) && !same_address(a, &ring->address))
		return error_set(e, -EBUSY, "queue %" PRIu32 " is started elsewhere", a->index);
	probe = *ring;
	probe.address = *a;
	/* Where the memory is known already, a wrong address is refused here rather than later. */
	if (c->memory.count && translate(c, a->index, &probe, &unused, e))
		return e->code;
	ring->address = *a;
	ring->has_address = true;
	return start_when_ready(c, a->index, e);
}

int vhost_user_set_vring_base(struct vhost_user_connection *c, struct vhost_user_message *m,
			      struct error *e)
{
	const struct vhost_user_vring_state *s = &m->payload.state;
	struct vhost_user_ring *ring = stopped_ring_at(c, s->index, e);

	if (!ring)
		return e->code;
	if (s->num > UINT16_MAX && !virtio_device_is_packed(c->device))
		return error_set(e, -EINVAL,
				 "queue %" PRIu32 ": index %" PRIu32
				 " of a split ring has more than 16 bits",
				 s->index, s->num);
	ring->base = s->num;
	ring->has_stood = false;
	return 0;
}

/* The front-end takes the ring back: nothing is in flight any more, and only another kick
 * descriptor starts it again. */
static void ring_is_stopped(struct vhost_user_connection *c)
{
	struct vhost_user_ring *ring = &c->rings[c->cursor];

	virtio_queue_give_kick(c->device, c->cursor, -1);
	ring->base = base_of(c, c->cursor);
	ring->has_kick = false;
	c->socket.message.payload.state.num = ring->base;
	vhost_user_connection_finish(c, 0, NULL);
}

static void stop_ring(struct vhost_user_connection *c);

/* There is no word for "not now": who asks has stopped the guest, and takes a lost connection for a
 * ring that is done.  A request that the storage may still execute must not be sent again from
 * elsewhere, so all that can be done is to wait, and to say for what. */
static void ring_has_an_answer(struct vhost_user_connection *c)
{
	if (!c->quiesce.status) {
		ring_is_stopped(c);
		return;
	}
	vhost_user_connection_warn(c, "GET_VRING_BASE: %s; waiting", c->quiesce.reason);
	stop_ring(c);
}

/* What has not left us goes back into the ring, or stays in the in-flight region where the
 * front-end takes that along. */
static void stop_ring(struct vhost_user_connection *c)
{
	c->quiesce = (struct virtio_quiesce){
		.patience_ns = virtio_device_drain_ns(c->device),
		.park = vhost_user_connection_has(c,
						  VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT) &&
			vhost_user_inflight_region(&c->inflight, c->cursor),
	};
	virtio_queue_quiesce(c->device, c->cursor, &c->quiesce,
			     vhost_user_connection_change(c, ring_has_an_answer));
}

int vhost_user_get_vring_base(struct vhost_user_connection *c, struct vhost_user_message *m,
			      struct error *e)
{
	uint32_t index = m->payload.state.index;
	struct vhost_user_ring *ring = ring_at(c, index, e);

	if (!ring)
		return e->code;
	if (!virtio_queue_is_started(c->device, index)) {
		ring->has_kick = false;
		m->payload.state.num = ring->has_stood ? ring->stood : ring->base;
		return 0;
	}
	c->cursor = index;
	stop_ring(c);
	return VHOST_USER_LATER;
}

/* A notification descriptor is an eventfd or a pipe.  Anything that is always ready (a file, a
 * device) would keep a worker busy, and one that blocks would stop it. */
static int check_event_fd(const int *fd, struct error *e)
{
	struct stat st;

	if (*fd < 0)
		return 0;
	if (fstat(*fd, &st))
		return error_set(e, -errno, "descriptor: %s", strerror(errno));
	if ((st.st_mode & S_IFMT) && !S_ISFIFO(st.st_mode))
		return error_set(e, -EINVAL, "descriptor is neither an eventfd nor a pipe");
	if (fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK))
		return error_set(e, -errno, "descriptor: %s", strerror(errno));
	return 0;
}

/* Takes the descriptor of SET_VRING_KICK, CALL or ERR out of the message: -1 when it has none. */
static struct vhost_user_ring *take_ring_file(struct vhost_user_connection *c,
					      struct vhost_user_message *m, int *fd,
					      struct error *e)
{
	unsigned index = vhost_user_ring_file_index(m);
	struct vhost_user_ring *ring = ring_at(c, index, e);

	*fd = -1;
	if (!ring || !m->fd_count)
		return ring;
	if (check_event_fd(&m->fds[0], e)) {
		error_wrap(e, "queue %u", index);
		return NULL;
	}
	*fd = fd_take(&m->fds[0]);
	return ring;
}

int vhost_user_set_vring_kick(struct vhost_user_connection *c, struct vhost_user_message *m,
			      struct error *e)
{
	unsigned index = vhost_user_ring_file_index(m);
	int fd;
	struct vhost_user_ring *ring = take_ring_file(c, m, &fd, e);

	if (!ring)
		return e->code;
	virtio_queue_give_kick(c->device, index, fd);
	ring->has_kick = true;
	return start_when_ready(c, index, e);
}

int vhost_user_set_vring_call(struct vhost_user_connection *c, struct vhost_user_message *m,
			      struct error *e)
{
	int fd;

	if (!take_ring_file(c, m, &fd, e))
		return e->code;
	virtio_queue_give_interrupt(c->device, vhost_user_ring_file_index(m), fd);
	return 0;
}

int vhost_user_set_vring_err(struct vhost_user_connection *c, struct vhost_user_message *m,
			     struct error *e)
{
	int fd;

	if (!take_ring_file(c, m, &fd, e))
		return e->code;
	virtio_queue_give_error(c->device, vhost_user_ring_file_index(m), fd);
	return 0;
}

int vhost_user_set_vring_enable(struct vhost_user_connection *c, struct vhost_user_message *m,
				struct error *e)
{
	const struct vhost_user_vring_state *s = &m->payload.state;

	if (!ring_at(c, s->index, e))
		return e->code;
	virtio_queue_enable(c->device, s->index, s->num);
	return 0;
}
