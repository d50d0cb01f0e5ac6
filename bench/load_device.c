/* load_device.c - how the load reaches a block device. */
#include "load_device.h"

#include <errno.h>
#include <linux/virtio_blk.h>

#include "base/error.h"
#include "driver/guest_memory.h"

/* ---- vhost-user ---- */

static int vhost_open(struct load_device *d, const struct load_options *o, uint64_t wanted,
		      struct error *e)
{
	uint64_t capacity = 0;
	int err = vhost_user_client_connect(&d->vhost, o->socket, e);

	if (!err)
		err = vhost_user_client_set_features(&d->vhost, wanted, e);
	if (!err)
		err = vhost_user_client_read_config(&d->vhost, 0, &capacity, sizeof(capacity), e);
	if (!err)
		err = vhost_user_client_share(&d->vhost, &d->memory, 1, e);
	d->features = d->vhost.features;
	d->queue_max = d->vhost.queue_max;
	d->sectors = le64toh(capacity);
	return err;
}

static int vhost_start_queue(struct load_device *d, unsigned index, const struct guest_queue *q,
			     struct error *e)
{
	return vhost_user_client_start_queue(&d->vhost, index, q, 0, e);
}

static int vhost_ready(struct load_device *d, struct error *e)
{
	return 0;
}

static int vhost_stop_queue(struct load_device *d, unsigned index, uint16_t base, struct error *e)
{
	uint16_t where;
	int err = vhost_user_client_stop_queue(&d->vhost, index, &where, e);

	if (!err && where != base)
		err = error_set(e, -EPROTO, "queue %u stopped at %u, not at %u", index, where,
				base);
	return err;
}

static void vhost_kick(struct load_device *d, unsigned index)
{
	vhost_user_client_kick(&d->vhost, index);
}

static int vhost_interrupt(const struct load_device *d, unsigned index)
{
	return d->vhost.call[index];
}

static int vhost_socket(const struct load_device *d)
{
	return -1;
}

static int vhost_serve(struct load_device *d)
{
	return 0;
}

static struct load_transactions vhost_transactions(struct load_device *d)
{
	return (struct load_transactions){ 0 };
}

static void vhost_close(struct load_device *d)
{
	vhost_user_client_close(&d->vhost);
}

static const struct load_transport vhost_transport = {
	.open = vhost_open,
	.start_queue = vhost_start_queue,
	.ready = vhost_ready,
	.stop_queue = vhost_stop_queue,
	.kick = vhost_kick,
	.interrupt = vhost_interrupt,
	.socket = vhost_socket,
	.serve = vhost_serve,
	.transactions = vhost_transactions,
	.close = vhost_close,
};

/* ---- vfio-user ---- */

static int vfio_open(struct load_device *d, const struct load_options *o, uint64_t wanted,
		     struct error *e)
{
	uint64_t capacity = 0;
	int err = vfio_user_client_connect(&d->vfio, o->socket, e);

	if (!err)
		err = vfio_user_client_map(&d->vfio, d->memory, !o->unshared, e);
	if (!err)
		err = guest_pci_probe(&d->pci, e);
	if (!err)
		err = guest_pci_enable_vectors(&d->pci, e);
	if (!err)
		err = guest_pci_negotiate(&d->pci, wanted, e);
	if (!err)
		err = guest_pci_read_config(&d->pci, 0, &capacity, sizeof(capacity), e);
	d->features = d->pci.features;
	d->queue_max = d->pci.queue_max;
	d->sectors = le64toh(capacity);
	return err;
}

static int vfio_start_queue(struct load_device *d, unsigned index, const struct guest_queue *q,
			    struct error *e)
{
	return guest_pci_start_queue(&d->pci, index, q, e);
}

static int vfio_ready(struct load_device *d, struct error *e)
{
	return guest_pci_set_driver_ok(&d->pci, e);
}

/* All of them at once; how far the device was, nobody can ask. */
static int vfio_stop_queue(struct load_device *d, unsigned index, uint16_t base, struct error *e)
{
	return index ? 0 : guest_pci_reset(&d->pci, e);
}

static void vfio_kick(struct load_device *d, unsigned index)
{
	guest_pci_notify(&d->pci, index);
}

static int vfio_interrupt(const struct load_device *d, unsigned index)
{
	return guest_pci_irq(&d->pci, index);
}

static int vfio_socket(const struct load_device *d)
{
	return d->is_served ? d->vfio.channel.main.fd : -1;
}

static int vfio_serve(struct load_device *d)
{
	return d->is_served ? vfio_client_channel_serve(&d->vfio.channel, 0) : 0;
}

static struct load_transactions vfio_transactions(struct load_device *d)
{
	struct vfio_client_counters c = vfio_client_channel_counters(&d->vfio.channel);

	return (struct load_transactions){ c.reads, c.writes, c.read_bytes + c.write_bytes };
}

static void vfio_close(struct load_device *d)
{
	guest_pci_close(&d->pci);
	vfio_user_client_disconnect(&d->vfio);
}

static const struct load_transport vfio_transport = {
	.open = vfio_open,
	.start_queue = vfio_start_queue,
	.ready = vfio_ready,
	.stop_queue = vfio_stop_queue,
	.kick = vfio_kick,
	.interrupt = vfio_interrupt,
	.socket = vfio_socket,
	.serve = vfio_serve,
	.transactions = vfio_transactions,
	.close = vfio_close,
};

void load_device_init(struct load_device *d, const struct load_options *o,
		      const struct guest_memory *m)
{
	d->transport = o->vfio ? &vfio_transport : &vhost_transport;
	d->memory = m;
	d->is_served = o->vfio && o->unshared;
	vhost_user_client_init(&d->vhost);
	vfio_user_client_init(&d->vfio);
	guest_pci_init(&d->pci, &d->vfio);
}
