/* vhost_user.c - the vhost-user back-end: a socket, a device, one front-end at a time. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "host/host_entrance.h"
#include "host/host_journal.h"
#include "host/host_transport.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "reactor/reactor.h"
#include "virtio/virtio_device.h"

struct host_endpoint {
	struct virtio_device *device; /* borrowed */
	struct reactor *control;      /* borrowed */
	struct vhost_user_connection connection;
	struct host_entrance entrance;
	struct host_journal journal;
	uint64_t served; /* numbers.requests when the connection was opened */
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

static int client_arrived(void *owner, int fd)
{
	struct host_endpoint *ep = owner;

	ep->served = ep->numbers.requests;
	return vhost_user_connection_open(&ep->connection, fd);
}

/* ---- the end of a connection, and of the endpoint ---- */

static void endpoint_free(struct host_endpoint *ep)
{
	if (ep->connection.rings)
		vhost_user_connection_destroy(&ep->connection);
	host_entrance_close(&ep->entrance);
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
	host_entrance_again(&ep->entrance, ep->numbers.requests != ep->served);
}

static void vhost_user_close(struct host_endpoint *ep, struct reactor_task *done)
{
	ep->closing = true;
	ep->closed = done;
	virtio_device_set_listener(ep->device, NULL, NULL);
	host_entrance_close(&ep->entrance);
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
	ep->journal = (struct host_journal){ .device = virtio_device_name(d),
					     .transport = "vhost-user",
					     .control = ep->control };
	ep->entrance = (struct host_entrance){
		.control = ep->control,
		.journal = &ep->journal,
		.arrived = client_arrived,
		.owner = ep,
		.listener.fd = -1,
		.inherited = -1,
	};
	ep->finish = (struct reactor_task){ .fn = finish_close, .arg = ep };
	ep->connection = (struct vhost_user_connection){
		.device = d,
		.control = ep->control,
		.numbers = &ep->numbers,
		.journal = &ep->journal,
		.ended = connection_ended,
		.owner = ep,
	};
	if (!vhost_user_connection_prepare(&ep->connection))
		return ep;
	error_set(e, -ENOMEM, "out of memory");
	endpoint_free(ep);
	return NULL;
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

	if (virtio_device_queue_count(d) > VHOST_USER_RINGS_MAX) {
		error_set(e, -EINVAL, "%u queues, vhost-user can have %u",
			  virtio_device_queue_count(d), (unsigned)VHOST_USER_RINGS_MAX);
		goto fail;
	}
	ep = endpoint_create(d, e);
	if (!ep || host_entrance_open(&ep->entrance, address, e))
		goto fail;
	endpoint_register(ep);
	host_entrance_begin(&ep->entrance);
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
