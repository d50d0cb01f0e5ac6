/* vfio_user.c - the vfio-user server: a socket, a PCI function, one client at a time. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "host/host_entrance.h"
#include "host/host_journal.h"
#include "host/host_transport.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "virtio/migrate.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_pci.h"

struct host_endpoint {
	struct virtio_pci *virtio; /* owned */
	struct reactor *control;   /* borrowed */
	struct vfio_user_connection connection;
	struct host_entrance entrance;
	struct host_journal journal;
	uint64_t served; /* numbers.commands when the connection was opened */
	struct vfio_user_numbers numbers;
	struct counter_group group;
	bool closing;
	struct reactor_task finish;
	struct reactor_task *closed; /* the caller's, of close() */
};

/* clang-format off */
#define NUMBER(field) { #field, offsetof(struct vfio_user_numbers, field) }
#define DMA_NUMBER(field) { #field, offsetof(struct vfio_user_numbers, dma.field) }
/* clang-format on */

static const struct counter_field number_fields[] = {
	NUMBER(connections),      NUMBER(disconnects),
	NUMBER(commands),         NUMBER(commands_refused),
	NUMBER(protocol_errors),  NUMBER(timeouts),
	NUMBER(release_timeouts), NUMBER(maps),
	NUMBER(unmaps),           NUMBER(resets),
	DMA_NUMBER(dma_reads),    DMA_NUMBER(dma_read_bytes),
	DMA_NUMBER(dma_writes),   DMA_NUMBER(dma_write_bytes),
	DMA_NUMBER(dma_errors),   DMA_NUMBER(dma_batches),
};

static int client_arrived(void *owner, int fd)
{
	struct host_endpoint *ep = owner;

	ep->served = ep->numbers.commands;
	return vfio_user_connection_open(&ep->connection, fd);
}

/* ---- the end of a connection, and of the endpoint ---- */

static void endpoint_free(struct host_endpoint *ep)
{
	host_entrance_close(&ep->entrance);
	if (ep->virtio)
		virtio_pci_free(ep->virtio);
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

	if (ep->closing)
		reactor_post(ep->control, &ep->finish); /* the function is still busy telling us */
	else
		host_entrance_again(&ep->entrance, ep->numbers.commands != ep->served);
}

static void vfio_user_close(struct host_endpoint *ep, struct reactor_task *done)
{
	ep->closing = true;
	ep->closed = done;
	host_entrance_close(&ep->entrance); /* nobody finds us any more */
	if (ep->connection.state == VFIO_USER_CLOSED)
		reactor_post(ep->control, &ep->finish);
	else
		vfio_user_connection_end(&ep->connection);
}

/* ---- opening ---- */

static void endpoint_prepare(struct host_endpoint *ep, struct virtio_device *d)
{
	ep->control = virtio_device_control(d);
	ep->finish = (struct reactor_task){ .fn = finish_close, .arg = ep };
	ep->journal = (struct host_journal){ .device = virtio_device_name(d),
					     .transport = "vfio-user",
					     .control = ep->control };
	ep->entrance = (struct host_entrance){
		.control = ep->control,
		.journal = &ep->journal,
		.arrived = client_arrived,
		.owner = ep,
		.listener.fd = -1,
		.inherited = -1,
	};
	ep->connection = (struct vfio_user_connection){
		.control = ep->control,
		.numbers = &ep->numbers,
		.journal = &ep->journal,
		.ended = connection_ended,
		.owner = ep,
	};
	vfio_user_connection_prepare(&ep->connection);
}

static int create_function(struct host_endpoint *ep, const struct host_address *address,
			   struct virtio_device *d, struct error *e)
{
	const struct pci_identity alone = { .count = 1 };
	const struct virtio_pci_options options = {
		.identity = address->pci ? address->pci : &alone,
		.doorbell_page = address->doorbell_page,
		.vectors = address->vectors,
	};

	ep->virtio = virtio_pci_create(d, &options, e);
	if (!ep->virtio)
		return e->code;
	ep->connection.function = virtio_pci_function(ep->virtio);
	ep->connection.migrate = virtio_pci_migrate(ep->virtio);
	return 0;
}

static void endpoint_register(struct host_endpoint *ep, struct virtio_device *d)
{
	ep->group = (struct counter_group){
		.room = "vfio_user",
		.fields = number_fields,
		.count = ARRAY_LENGTH(number_fields),
		.values = &ep->numbers,
	};
	snprintf(ep->group.name, sizeof(ep->group.name), "%s", virtio_device_name(d));
	counter_group_add(&ep->group);
}

static struct host_endpoint *vfio_user_open(const struct host_address *address,
					    struct virtio_device *d, struct error *e)
{
	struct host_endpoint *ep = calloc(1, sizeof(*ep));

	if (!ep) {
		error_set(e, -ENOMEM, "vfio-user: out of memory");
		return NULL;
	}
	endpoint_prepare(ep, d);
	if (create_function(ep, address, d, e) || host_entrance_open(&ep->entrance, address, e)) {
		endpoint_free(ep);
		error_wrap(e, "vfio-user");
		return NULL;
	}
	endpoint_register(ep, d);
	host_entrance_begin(&ep->entrance);
	return ep;
}

const struct host_transport vfio_user_transport = {
	.name = "vfio-user",
	.help = "a Unix socket for a vfio-user client, such as QEMU's vfio-user-pci",
	.open = vfio_user_open,
	.close = vfio_user_close,
};
