/* instance.c - one device: its disk, the virtio device in front of it, and the socket. */
#include "control/instance.h"

#include "base/error.h"
#include "base/log.h"
#include "control/settings.h"
#include "device/blk.h"
#include "host/host_transport.h"
#include "link/link_model.h"
#include "reactor/reactor.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct instance {
	const struct device_settings *settings; /* borrowed */
	struct reactor *control;                /* borrowed */
	struct storage *storage;                /* owned */
	struct link_model *link_model;          /* owned; NULL: none; outlives blk */
	struct blk *blk;                        /* owned; NULL until served */
	const struct host_transport *transport; /* of the endpoint */
	struct host_endpoint *endpoint;         /* owned; NULL until served and after the stop */
};

/* Said before a disk is opened: a wrong number would otherwise be found after a long wait. */
static int check_descriptor(const struct device_settings *s, struct error *e)
{
	int type;
	socklen_t size = sizeof(type);

	if (s->fd < 0 || !getsockopt(s->fd, SOL_SOCKET, SO_TYPE, &type, &size))
		return 0;
	return error_set(e, -errno, "device %s: fd %lld: %s", s->name, (long long)s->fd,
			 strerror(errno));
}

static int create_link_model(struct instance *i, struct error *e)
{
	const struct device_settings *s = i->settings;
	struct link_model_settings model;

	if (!s->link_model)
		return 0;
	if (!link_model_parse(s->link_model, &model, e))
		i->link_model = link_model_create(&model, e);
	return i->link_model ? 0 : error_wrap(e, "device %s", s->name);
}

static int open_parts(struct instance *i, struct error *e)
{
	const struct device_settings *s = i->settings;
	int err = check_descriptor(s, e);

	err = err ? err : create_link_model(i, e);
	if (err)
		return err;
	i->storage = storage_open(s->name, s->disk, s->read_only, i->control, e);
	return i->storage ? 0 : e->code;
}

struct instance *instance_open(const struct device_settings *settings, struct reactor *control,
			       struct error *e)
{
	struct instance *i = calloc(1, sizeof(*i));

	if (!i) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	i->settings = settings;
	i->control = control;
	if (!open_parts(i, e))
		return i;
	instance_free(i);
	return NULL;
}

static struct blk *create_blk(struct instance *i, struct reactor **workers, unsigned count,
			      struct error *e)
{
	const struct device_settings *s = i->settings;
	struct blk_options options = {
		.storage = i->storage,
		.serial = s->serial,
		.block_size = s->block_size,
		.read_only = s->read_only,
	};
	struct virtio_device_options device_options = {
		.name = s->name,
		.queues = s->queues,
		.queue_size = s->queue_size,
		.control = i->control,
		.workers = workers,
		.packed = !strcmp(s->packed, "on"),
		.in_order = !strcmp(s->in_order, "on"),
		.worker_count = count,
		.link_model = i->link_model,
	};

	return blk_create(&options, &device_options, e);
}

/* "1.5 GiB" */
static void print_size(uint64_t size, char *to, size_t room)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	double value = size;

	for (; value >= 1024; value /= 1024)
		unit++;
	snprintf(to, room, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

static void log_ready(const struct instance *i)
{
	const struct device_settings *s = i->settings;
	char size[32];

	print_size(storage_size(i->storage), size, sizeof(size));
	if (s->vfio_user)
		log_info("%s: %s, serving vfio-user on %s", s->name, size, s->vfio_user);
	else if (s->socket_path)
		log_info("%s: %s, %s vhost-user on %s", s->name, size,
			 s->connect ? "connecting" : "serving", s->socket_path);
	else
		log_info("%s: %s, serving vhost-user on fd %lld", s->name, size, (long long)s->fd);
}

int instance_serve(struct instance *i, struct reactor **workers, unsigned count,
		   const struct pci_identity *identity, struct error *e)
{
	const struct device_settings *s = i->settings;
	struct host_address address = { .path = s->vfio_user ? s->vfio_user : s->socket_path,
					.fd = s->fd,
					.connect = s->connect,
					.pci = identity,
					.doorbell_page = s->doorbell_page,
					.vectors = s->vectors < 0 ? s->queues + 1 : s->vectors };

	i->blk = create_blk(i, workers, count, e);
	if (!i->blk)
		return error_wrap(e, "device %s", s->name);
	i->transport = s->vfio_user ? &vfio_user_transport : &vhost_user_transport;
	i->endpoint = i->transport->open(&address, blk_device(i->blk), e);
	if (!i->endpoint)
		return error_wrap(e, "device %s", s->name);
	log_ready(i);
	return 0;
}

void instance_stop(struct instance *i, struct reactor_task *done)
{
	struct host_endpoint *endpoint = i->endpoint;

	i->endpoint = NULL;
	if (endpoint)
		i->transport->close(endpoint, done);
	else
		reactor_defer(i->control, done);
}

void instance_free(struct instance *i)
{
	if (!i)
		return;
	blk_free(i->blk);
	link_model_free(i->link_model);
	storage_close(i->storage);
	free(i);
}

const char *instance_name(const struct instance *i)
{
	return i->settings->name;
}

void instance_refresh(struct instance *i)
{
	storage_refresh(i->storage);
}

void instance_print_latencies(struct instance *i, FILE *to)
{
	if (i->blk)
		blk_print_latencies(i->blk, to);
}
