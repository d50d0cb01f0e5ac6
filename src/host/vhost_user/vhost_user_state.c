/* vhost_user_state.c - the device's internal state on its way through a descriptor. */
#include "host/vhost_user/vhost_user_state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_request.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

/* The reply of SET_DEVICE_STATE_FD: an error code in the lower byte, then "I have no descriptor of
 * my own to offer, use yours". */
enum { STATE_FAILED = 1, STATE_NO_FD = 1 << 8 };

enum { ROOM = 65536 };

static void check_is_due(struct vhost_user_connection *c);

/* ---- moving bytes ---- */

static void end(struct vhost_user_connection *c, int status)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;

	if (t->watching)
		reactor_watch_remove(&t->watch);
	t->watching = false;
	fd_close(&t->watch.fd);
	t->status = status;
	if (t->waited_for)
		check_is_due(c);
}

static void write_some(struct vhost_user_connection *c)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;
	ssize_t n = write(t->watch.fd, t->bytes + t->done, t->length - t->done);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	t->done += n > 0 ? n : 0;
	if (n <= 0)
		end(c, n ? -errno : -EIO);
	else if (t->done == t->length)
		end(c, 0);
}

static bool make_room(struct vhost_user_state_transfer *t)
{
	size_t room = t->done ? 2 * t->done : ROOM;
	char *bytes;

	if (t->length < t->done)
		return true;
	bytes = room > STREAM_MAX ? NULL : realloc(t->bytes, room);
	if (!bytes)
		return false;
	t->bytes = bytes;
	t->done = room;
	return true;
}

static void read_some(struct vhost_user_connection *c)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;
	ssize_t n;

	if (!make_room(t)) {
		end(c, -EFBIG);
		return;
	}
	n = read(t->watch.fd, t->bytes + t->length, t->done - t->length);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	t->length += n > 0 ? n : 0;
	if (n <= 0)
		end(c, n ? -errno : 0);
}

static void ready(void *arg)
{
	struct vhost_user_connection *c = arg;

	if (c->state_transfer.kind == VHOST_USER_TRANSFER_SAVE)
		write_some(c);
	else
		read_some(c);
}

void vhost_user_state_prepare(struct vhost_user_connection *c)
{
	c->state_transfer.watch = (struct reactor_watch){ .fd = -1, .fn = ready, .arg = c };
}

void vhost_user_state_close(struct vhost_user_connection *c)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;

	t->waited_for = false;
	end(c, -ECANCELED);
	free(t->bytes);
	t->bytes = NULL;
	t->length = t->done = 0;
	t->kind = VHOST_USER_TRANSFER_NONE;
}

/* ---- SET_DEVICE_STATE_FD ---- */

static int save(struct vhost_user_connection *c, struct error *e)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;
	struct stream_writer w;
	int err;

	stream_writer_begin(&w);
	virtio_device_save_internal(c->device, &w);
	err = stream_writer_end(&w, e);
	t->bytes = w.bytes;
	t->length = w.length;
	return err;
}

static int check_transfer(const struct vhost_user_connection *c, const struct vhost_user_message *m,
			  struct error *e)
{
	const struct vhost_user_device_state *s = &m->payload.device_state;

	if (s->direction > 1 || s->phase)
		return error_set(e, -EINVAL, "direction %" PRIu32 " in phase %" PRIu32,
				 s->direction, s->phase);
	for (unsigned i = 0; i < c->ring_count; i++)
		if (virtio_queue_is_started(c->device, i))
			return error_set(e, -EBUSY, "queue %u is started", i);
	return 0;
}

static int begin(struct vhost_user_connection *c, struct vhost_user_message *m, struct error *e)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;
	bool saves = !m->payload.device_state.direction;
	int err = check_transfer(c, m, e);

	if (err)
		return err;
	vhost_user_state_close(c);
	t->kind = saves ? VHOST_USER_TRANSFER_SAVE : VHOST_USER_TRANSFER_LOAD;
	err = saves ? save(c, e) : 0;
	if (err)
		return err;
	t->watch.fd = fd_take(&m->fds[0]);
	t->watch.events = saves ? POLLOUT : POLLIN;
	if (fcntl(t->watch.fd, F_SETFL, fcntl(t->watch.fd, F_GETFL) | O_NONBLOCK))
		return error_set(e, -errno, "descriptor: %s", strerror(errno));
	err = reactor_watch_add(c->control, &t->watch);
	t->watching = !err;
	return err ? error_set(e, err, "the descriptor cannot be watched") : 0;
}

int vhost_user_set_device_state_fd(struct vhost_user_connection *c, struct vhost_user_message *m,
				   struct error *e)
{
	int err = begin(c, m, e);

	if (err) {
		vhost_user_connection_warn(c, "SET_DEVICE_STATE_FD: %s", e->text);
		vhost_user_state_close(c);
	}
	vhost_user_message_close(m); /* the reply has none */
	vhost_user_message_put_number(m, STATE_NO_FD | (err ? STATE_FAILED : 0));
	return 0;
}

/* ---- CHECK_DEVICE_STATE ---- */

static int outcome(struct vhost_user_connection *c, struct error *e)
{
	struct vhost_user_state_transfer *t = &c->state_transfer;

	if (t->kind == VHOST_USER_TRANSFER_NONE)
		return error_set(e, -EINVAL, "no state was transferred");
	if (t->status)
		return error_set(e, t->status, "the transfer failed: %s", strerror(-t->status));
	if (t->kind == VHOST_USER_TRANSFER_LOAD)
		return virtio_device_load(c->device, t->bytes, t->length, e);
	return 0;
}

static void put_outcome(struct vhost_user_connection *c, struct vhost_user_message *m)
{
	struct error e = { 0 };
	int err = outcome(c, &e);

	if (err)
		vhost_user_connection_warn(c, "CHECK_DEVICE_STATE: %s", e.text);
	vhost_user_state_close(c);
	vhost_user_message_put_number(m, err ? STATE_FAILED : 0);
}

static void check_is_due(struct vhost_user_connection *c)
{
	c->state_transfer.waited_for = false;
	put_outcome(c, &c->socket.message);
	vhost_user_connection_finish(c, 0, NULL);
}

/* Who has seen the end of what we wrote may ask before we have. */
int vhost_user_check_device_state(struct vhost_user_connection *c, struct vhost_user_message *m,
				  struct error *e)
{
	if (c->state_transfer.watching) {
		c->state_transfer.waited_for = true;
		return VHOST_USER_LATER;
	}
	put_outcome(c, m);
	return 0;
}
