/* vhost_user.c - the vhost-user back-end: a socket, a device, one front-end at a time.
 *
 * A server listens, serves the client that it accepts until that leaves, and accepts the next.
 * A client (address.connect) connects, again and again with growing pauses, whenever it is not
 * connected.  An inherited socket that is connected already is served once.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/log.h"
#include "host/host_transport.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_listener.h"
#include "reactor/reactor.h"
#include "virtio/virtio_device.h"

#define NS_PER_MS      UINT64_C(1000000)
#define PAUSE_FIRST_NS (100 * NS_PER_MS)
#define PAUSE_LAST_NS  (5000 * NS_PER_MS)

struct host_endpoint {
	struct virtio_device *device; /* borrowed */
	struct reactor *control;      /* borrowed */
	struct vhost_user_connection connection;
	struct vhost_user_listener listener; /* closed in client mode */
	struct reactor_watch watch;          /* of the listener, while nobody is connected */
	char *connect_path;                  /* owned; NULL: not in client mode */
	struct reactor_timer pause;          /* before the next attempt to connect or accept */
	uint64_t pause_ns;                   /* the next one's length */
	bool outage_told;                    /* why there is nobody to connect to, once */
	uint64_t served;                     /* numbers.requests when the connection was opened */
	struct vhost_user_numbers numbers;
	struct counter_group group;
	bool closing;
	struct reactor_task finish;
	struct reactor_task *closed; /* the caller's, of close() */
};

/* clang-format off */
#define NUMBER(field) { #field, offsetof(struct vhost_user_numbers, field) }
/* clang-format on */

static const struct counter_field number_fields[] = {
	NUMBER(connections),         NUMBER(disconnects),     NUMBER(requests),
	NUMBER(requests_refused),    NUMBER(protocol_errors), NUMBER(timeouts),
	NUMBER(config_changes_sent),
};

/* ---- waiting for a front-end ---- */

static void pause_before_next(struct host_endpoint *ep)
{
	uint64_t at = reactor_now(ep->control) + ep->pause_ns;

	ep->pause_ns = minimum_u64(ep->pause_ns * 2, PAUSE_LAST_NS);
	if (reactor_timer_set(ep->control, &ep->pause, at))
		log_error("%s: vhost-user: out of memory: no connection will be made any more",
			  virtio_device_name(ep->device));
}

static void serve(struct host_endpoint *ep, int fd)
{
	int err = vhost_user_connection_open(&ep->connection, fd);

	ep->served = ep->numbers.requests;
	ep->outage_told = false;
	if (!err)
		return;
	vhost_user_connection_warn(&ep->connection, "connection dropped: %s", strerror(-err));
	pause_before_next(ep);
}

static void client_arrived(void *arg)
{
	struct host_endpoint *ep = arg;
	int fd = vhost_user_listener_accept(&ep->listener);

	if (fd == -EAGAIN || fd == -ECONNABORTED || fd == -EINTR)
		return;
	reactor_watch_remove(&ep->watch); /* others wait in the backlog until this one has left */
	if (fd >= 0) {
		serve(ep, fd);
		return;
	}
	vhost_user_connection_warn(&ep->connection, "accept: %s", strerror(-fd));
	pause_before_next(ep); /* out of descriptors, probably: that passes */
}

static void listen_again(struct host_endpoint *ep)
{
	int err = reactor_watch_add(ep->control, &ep->watch);

	if (!err)
		return;
	vhost_user_connection_warn(&ep->connection, "listen: %s", strerror(-err));
	pause_before_next(ep);
}

static void try_to_connect(struct host_endpoint *ep)
{
	struct error e = { 0 };
	int fd = vhost_user_connect(ep->connect_path, &e);

	if (fd >= 0) {
		serve(ep, fd);
		return;
	}
	if (!ep->outage_told)
		vhost_user_connection_warn(&ep->connection, "%s; trying again", e.text);
	ep->outage_told = true;
	pause_before_next(ep);
}

static void wait_for_front_end(void *arg)
{
	struct host_endpoint *ep = arg;

	if (ep->connect_path)
		try_to_connect(ep);
	else if (ep->listener.fd >= 0)
		listen_again(ep);
	else
		log_info("%s: vhost-user: the inherited connection has ended",
			 virtio_device_name(ep->device));
}

/* ---- the end of a connection, and of the endpoint ---- */

static void endpoint_free(struct host_endpoint *ep)
{
	if (ep->connection.rings)
		vhost_user_connection_destroy(&ep->connection);
	vhost_user_listener_close(&ep->listener);
	free(ep->connect_path);
	free(ep);
}

static void finish_close(void *arg)
{
	struct host_endpoint *ep = arg;
	struct reactor *control = ep->control;
	struct reactor_task *closed = ep->closed;

	counter_group_remove(&ep->group);
	endpoint_free(ep);
	if (closed)
		reactor_post(control, closed);
}

static void connection_ended(void *owner)
{
	struct host_endpoint *ep = owner;

	if (ep->closing) {
		finish_close(ep);
		return;
	}
	/* Whoever hangs up on us before anything was said is not called back at once. */
	if (ep->numbers.requests != ep->served)
		ep->pause_ns = PAUSE_FIRST_NS;
	if (ep->connect_path)
		pause_before_next(ep);
	else
		wait_for_front_end(ep);
}

static void vhost_user_close(struct host_endpoint *ep, struct reactor_task *done)
{
	ep->closing = true;
	ep->closed = done;
	virtio_device_set_listener(ep->device, NULL, NULL);
	reactor_timer_cancel(&ep->pause);
	reactor_watch_remove(&ep->watch);
	vhost_user_listener_close(&ep->listener); /* nobody finds us any more */
	if (ep->connection.state == VHOST_USER_CLOSED)
		reactor_post(ep->control, &ep->finish);
	else
		vhost_user_connection_end(&ep->connection);
}

/* ---- opening ---- */

static void config_changed(void *arg)
{
	struct host_endpoint *ep = arg;

	ep->connection.config_changed = true;
	if (ep->connection.state != VHOST_USER_CLOSED && ep->connection.state != VHOST_USER_ENDING)
		vhost_user_backend_notify(&ep->connection);
}

static struct host_endpoint *endpoint_create(struct virtio_device *d, struct error *e)
{
	struct host_endpoint *ep = calloc(1, sizeof(*ep));

	if (!ep) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	ep->device = d;
	ep->control = virtio_device_control(d);
	ep->listener.fd = -1;
	ep->watch = (struct reactor_watch){
		.fd = -1, .events = POLLIN, .fn = client_arrived, .arg = ep
	};
	ep->pause = (struct reactor_timer){ .fn = wait_for_front_end, .arg = ep };
	ep->finish = (struct reactor_task){ .fn = finish_close, .arg = ep };
	ep->pause_ns = PAUSE_FIRST_NS;
	ep->connection = (struct vhost_user_connection){
		.device = d,
		.control = ep->control,
		.numbers = &ep->numbers,
		.ended = connection_ended,
		.owner = ep,
	};
	if (!vhost_user_connection_prepare(&ep->connection))
		return ep;
	error_set(e, -ENOMEM, "out of memory");
	endpoint_free(ep);
	return NULL;
}

/* Where the address leads: a listener, a path to connect to, or (*connected) a connection. */
static int endpoint_settle(struct host_endpoint *ep, const struct host_address *a, int *connected,
			   struct error *e)
{
	int err;

	*connected = -1;
	if (a->connect) {
		ep->connect_path = strdup(a->path);
		return ep->connect_path ? 0 : error_set(e, -ENOMEM, "out of memory");
	}
	if (a->path)
		return vhost_user_listener_open(&ep->listener, a->path, e);
	err = vhost_user_listener_adopt(&ep->listener, a->fd, e);
	if (err == 1)
		*connected = a->fd;
	return err < 0 ? err : 0;
}

static void endpoint_register(struct host_endpoint *ep)
{
	ep->group = (struct counter_group){
		.room = "vhost_user",
		.fields = number_fields,
		.count = ARRAY_LENGTH(number_fields),
		.values = &ep->numbers,
	};
	snprintf(ep->group.name, sizeof(ep->group.name), "%s", virtio_device_name(ep->device));
	counter_group_add(&ep->group);
	virtio_device_set_listener(ep->device, config_changed, ep);
}

static struct host_endpoint *vhost_user_open(const struct host_address *address,
					     struct virtio_device *d, struct error *e)
{
	struct host_endpoint *ep = NULL;
	int connected;

	if (virtio_device_queue_count(d) > VHOST_USER_RINGS_MAX) {
		error_set(e, -EINVAL, "%u queues, vhost-user can have %u",
			  virtio_device_queue_count(d), (unsigned)VHOST_USER_RINGS_MAX);
		goto fail;
	}
	ep = endpoint_create(d, e);
	if (!ep || endpoint_settle(ep, address, &connected, e))
		goto fail;
	ep->watch.fd = ep->listener.fd;
	endpoint_register(ep);
	if (connected >= 0)
		serve(ep, connected);
	else
		wait_for_front_end(ep);
	return ep;
fail:
	if (ep)
		endpoint_free(ep);
	error_wrap(e, "vhost-user");
	return NULL;
}

const struct host_transport vhost_user_transport = {
	.name = "vhost-user",
	.help = "a Unix socket for a vhost-user front-end, such as QEMU's vhost-user-blk-pci",
	.open = vhost_user_open,
	.close = vhost_user_close,
};
