/* vhost_user_backend.c - our own requests to the front-end (vhost-user.rst, "Back-end
 * communication").
 *
 * There is one: "the configuration space has changed".  No reply is asked for, so nothing is ever
 * read from the channel, and what the front-end does not read in time is not sent again: its next
 * GET_CONFIG sees the newest configuration anyway.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_request.h"
#include "virtio/virtio_device.h"

/* vhost-user.rst, "Suspended device state": no message while every ring is stopped. */
static bool is_suspended(const struct vhost_user_connection *c)
{
	for (unsigned i = 0; i < c->ring_count; i++)
		if (virtio_queue_is_started(c->device, i))
			return false;
	return true;
}

static void send_config_change(struct vhost_user_connection *c)
{
	const struct vhost_user_header h = {
		.request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
		.flags = VHOST_USER_VERSION,
	};
	ssize_t n = send(c->backend_fd, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n == sizeof(h)) {
		counter_add(&c->numbers->config_changes_sent, 1);
		return;
	}
	vhost_user_connection_warn(c, "the back-end channel is of no use any more: %s",
				   n < 0 ? strerror(errno) : "not all was sent");
	fd_close(&c->backend_fd);
}

void vhost_user_backend_notify(struct vhost_user_connection *c)
{
	if (!c->config_changed || c->backend_fd < 0 || is_suspended(c) ||
	    !vhost_user_connection_has(c, VHOST_USER_PROTOCOL_F_CONFIG))
		return;
	c->config_changed = false;
	send_config_change(c);
}

int vhost_user_set_backend_req_fd(struct vhost_user_connection *c, struct vhost_user_message *m,
				  struct error *e)
{
	struct stat st;

	if (fstat(m->fds[0], &st) || !S_ISSOCK(st.st_mode))
		return error_set(e, -ENOTSOCK, "descriptor is not a socket");
	fd_close(&c->backend_fd);
	c->backend_fd = fd_take(&m->fds[0]);
	vhost_user_backend_notify(c);
	return 0;
}
