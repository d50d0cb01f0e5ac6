/* function_server.h - PCI functions over vfio-user as the program assembles them: real sockets, a
 * control thread, two workers, and behind each function a disk or a port of a network. */
#ifndef TESTS_UNIT_FUNCTION_SERVER_H
#define TESTS_UNIT_FUNCTION_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "device/blk.h"
#include "device/net.h"
#include "host/host_transport.h"
#include "network/network_port.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "reactor/reactor_thread.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum { WORKERS = 2, FUNCTIONS_MAX = 16, QUEUE_SIZE = 64 };

/* A disk or a network device: the other's are NULL. */
struct bed_function {
	char path[64];
	struct storage *storage;
	struct blk *blk;
	struct network_port *port;
	struct net *net;
	struct host_endpoint *endpoint;
	struct reactor_task closed;
};

struct bed {
	struct reactor *control;
	struct reactor_thread *workers[WORKERS];
	struct reactor *reactors[WORKERS];
	struct bed_function functions[FUNCTIONS_MAX];
	unsigned count, open;
	struct reactor_task close;
	pthread_t thread;
};

static void *bed_run(void *arg)
{
	struct bed *b = arg;

	reactor_run(b->control);
	return NULL;
}

static void bed_close_all(void *arg)
{
	struct bed *b = arg;

	for (unsigned i = 0; i < b->count; i++)
		vfio_user_transport.close(b->functions[i].endpoint, &b->functions[i].closed);
}

static void bed_closed(void *arg)
{
	struct bed *b = arg;

	if (!--b->open)
		reactor_stop(b->control);
}

/* Features that the disks of the beds opened from now on do not offer. */
static uint64_t bed_masked;
static unsigned bed_masked_from; /* only the functions from this one on */

static inline struct virtio_device_options bed_device_options(struct bed *b, const char *name)
{
	return (struct virtio_device_options){ .name = name,
					       .queue_size = QUEUE_SIZE,
					       .packed = true,
					       .in_order = true,
					       .control = b->control,
					       .workers = b->reactors,
					       .worker_count = WORKERS };
}

/* The device gets a socket. */
static inline void bed_serve(struct bed *b, unsigned index, struct virtio_device *device,
			     unsigned vectors, bool doorbell_page)
{
	struct bed_function *f = &b->functions[index];
	const struct pci_identity identity = { .card_serial = 0x0242ac1100020001,
					       .index = index,
					       .count = b->count };
	struct host_address address = {
		.path = f->path,
		.fd = -1,
		.pci = &identity,
		.doorbell_page = doorbell_page,
		.vectors = vectors,
	};
	struct error e = { 0 };

	snprintf(f->path, sizeof(f->path), "/tmp/outboard-function-%d-%u.sock", getpid(), index);
	f->endpoint = vfio_user_transport.open(&address, device, &e);
	if (!f->endpoint)
		fail_msg("%s", e.text);
	f->closed = (struct reactor_task){ .fn = bed_closed, .arg = b };
}

static inline void bed_open_disk(struct bed *b, unsigned index, unsigned queues, const char *disk,
				 bool doorbell_page)
{
	struct bed_function *f = &b->functions[index];
	struct virtio_device_options d = bed_device_options(b, "vda");
	struct blk_options o = { .serial = "bed" };
	struct error e = { 0 };

	d.queues = queues;
	d.masked = index >= bed_masked_from ? bed_masked : 0;
	f->storage = o.storage = storage_open("vda", disk, false, b->control, &e);
	if (!f->storage)
		fail_msg("%s", e.text);
	f->blk = blk_create(&o, &d, &e);
	if (!f->blk)
		fail_msg("%s", e.text);
	bed_serve(b, index, blk_device(f->blk), queues + 1, doorbell_page);
}

/* Pairs of queues and, if the driver wants it, the control queue.  name: also the port's. */
static inline void bed_open_nic(struct bed *b, unsigned index, const char *name,
				const uint8_t mac[6], unsigned pairs, const char *port)
{
	struct bed_function *f = &b->functions[index];
	struct virtio_device_options d = bed_device_options(b, name);
	struct net_options o = { .pairs = pairs };
	struct error e = { 0 };

	for (unsigned i = 0; i < sizeof(o.mac); i++)
		o.mac[i] = mac[i];
	f->port = o.port = network_port_open(name, port, pairs, b->control, &e);
	if (!f->port)
		fail_msg("%s", e.text);
	f->net = net_create(&o, &d, &e);
	if (!f->net)
		fail_msg("%s", e.text);
	bed_serve(b, index, net_device(f->net), 2 * pairs + 2, false);
}

/* Functions are opened between these two. */
static inline void bed_prepare(struct bed *b, unsigned functions)
{
	const struct reactor_options control = { .name = "control" };
	const struct reactor_options worker = { .name = "worker", .poll_ns_max = 20000 };
	struct error e = { 0 };

	*b = (struct bed){ .count = functions, .open = functions };
	b->close = (struct reactor_task){ .fn = bed_close_all, .arg = b };
	b->control = reactor_create(&control, &e);
	for (unsigned i = 0; i < WORKERS; i++) {
		b->workers[i] = reactor_thread_start(&worker, &e);
		b->reactors[i] = reactor_thread_reactor(b->workers[i]);
	}
}

static inline void bed_start(struct bed *b)
{
	assert_int_equal(pthread_create(&b->thread, NULL, bed_run, b), 0);
}

/* Disks, all of them. */
static inline void bed_open(struct bed *b, unsigned functions, unsigned queues, const char *disk,
			    bool doorbell_page)
{
	bed_prepare(b, functions);
	for (unsigned i = 0; i < functions; i++)
		bed_open_disk(b, i, queues, disk, doorbell_page);
	bed_start(b);
}

/* The control reactor stands still after this one, and is to be freed by the next. */
static inline void bed_stop(struct bed *b)
{
	reactor_post(b->control, &b->close);
	pthread_join(b->thread, NULL);
}

static inline void bed_free(struct bed *b)
{
	for (unsigned i = 0; i < b->count; i++) {
		blk_free(b->functions[i].blk);
		storage_close(b->functions[i].storage);
		net_free(b->functions[i].net);
		network_port_close(b->functions[i].port);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		reactor_thread_stop(b->workers[i]);
	reactor_free(b->control);
}

static inline void bed_close(struct bed *b)
{
	bed_stop(b);
	bed_free(b);
}

#endif
