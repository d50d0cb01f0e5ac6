/* instance.c - one device: its disk or port, the virtio device in front of it, and the socket. */
#include "control/instance.h"

#include "base/error.h"
#include "base/log.h"
#include "control/settings.h"
#include "device/blk.h"
#include "device/net.h"
#include "host/host_transport.h"
#include "link/link_model.h"
#include "network/network_port.h"
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
	struct storage *storage;                /* owned; NULL: a network device */
	struct network_port *port;              /* owned; NULL: a disk */
	struct link_model *link_model;          /* owned; NULL: none; outlives the device */
	struct blk *blk;                        /* owned; NULL until served, as is the next */
	struct net *net;                        /* owned */
	struct virtio_device *device;           /* of one of these */
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
	if (settings_is_type(s, "net"))
		i->port = network_port_open(s->name, s->port, s->queues, i->control, e);
	else
		i->storage = storage_open(s->name, s->disk, s->read_only, i->control, e);
	return i->storage || i->port ? 0 : e->code;
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

static int create_blk(struct instance *i, const struct virtio_device_options *device_options,
		      struct error *e)
{
	const struct device_settings *s = i->settings;
	struct blk_options options = {
		.storage = i->storage,
		.serial = s->serial,
		.block_size = s->block_size,
		.read_only = s->read_only,
	};

	i->blk = blk_create(&options, device_options, e);
	if (!i->blk)
		return e->code;
	i->device = blk_device(i->blk);
	return 0;
}

static int create_net(struct instance *i, const struct virtio_device_options *device_options,
		      struct error *e)
{
	const struct device_settings *s = i->settings;
	struct net_options options = {
		.port = i->port, .mtu = s->mtu, .pairs = s->queues, .hashes = s->rss
	};

	settings_mac(s, options.mac);
	i->net = net_create(&options, device_options, e);
	if (!i->net)
		return e->code;
	i->device = net_device(i->net);
	return 0;
}

static int create_device(struct instance *i, struct reactor **workers, unsigned count,
			 struct error *e)
{
	const struct device_settings *s = i->settings;
	struct virtio_device_options options = {
		.name = s->name,
		.queues = s->queues,
		.queue_size = s->queue_size,
		.drain_ns = s->drain_ms * UINT64_C(1000000),
		.control = i->control,
		.workers = workers,
		.packed = !strcmp(s->packed, "on"),
		.in_order = !strcmp(s->in_order, "on"),
		.worker_count = count,
		.link_model = i->link_model,
	};

	int err = settings_masked_features(s, &options.masked, e);

	if (err)
		return err;
	return i->port ? create_net(i, &options, e) : create_blk(i, &options, e);
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

/* "1.5 GiB", or "52:54:00:12:34:56". */
static void print_what(const struct instance *i, char *to, size_t room)
{
	uint8_t mac[6];

	if (i->storage) {
		print_size(storage_size(i->storage), to, room);
		return;
	}
	settings_mac(i->settings, mac);
	snprintf(to, room, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
		 mac[5]);
}

static void log_ready(const struct instance *i)
{
	const struct device_settings *s = i->settings;
	char what[32];

	print_what(i, what, sizeof(what));
	if (s->vfio_user)
		log_info("%s: %s, serving vfio-user on %s", s->name, what, s->vfio_user);
	else if (s->socket_path)
		log_info("%s: %s, %s vhost-user on %s", s->name, what,
			 s->connect ? "connecting" : "serving", s->socket_path);
	else
		log_info("%s: %s, serving vhost-user on fd %lld", s->name, what, (long long)s->fd);
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
					.vectors = s->vectors };

	if (create_device(i, workers, count, e))
		return error_wrap(e, "device %s", s->name);
	if (s->vectors < 0)
		address.vectors = virtio_device_queue_count(i->device) + 1;
	i->transport = s->vfio_user ? &vfio_user_transport : &vhost_user_transport;
	i->endpoint = i->transport->open(&address, i->device, e);
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
	net_free(i->net);
	link_model_free(i->link_model);
	storage_close(i->storage);
	network_port_close(i->port);
	free(i);
}

const char *instance_name(const struct instance *i)
{
	return i->settings->name;
}

void instance_refresh(struct instance *i)
{
	if (i->storage)
		storage_refresh(i->storage);
}

void instance_print_latencies(struct instance *i, FILE *to)
{
	if (i->blk)
		blk_print_latencies(i->blk, to);
}
