/* stream_bed.h - a PCI disk, or a network card, in a virtual world, whose state is saved and
 * loaded: what the recorded streams and the fuzzer of streams share.  Its shape never changes, or
 * what was recorded would not fit any more: queues of up to 16 descriptors, a vector for each and
 * one more.  The disk has two queues and 64 KiB; the card two pairs, a control queue, and RSS. */
#ifndef TESTS_UNIT_STREAM_BED_H
#define TESTS_UNIT_STREAM_BED_H

#include <assert.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "device/blk.h"
#include "device/net.h"
#include "driver/guest_memory.h"
#include "link/memory_map.h"
#include "network/network_port.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/migrate.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_pci.h"

enum {
	STREAM_BED_QUEUES = 2,
	STREAM_BED_PAIRS = 2,
	STREAM_BED_RING = 16,
	STREAM_BED_MEMORY = 64 << 10,
	STREAM_BED_STEPS = 100000, /* of the world, at most, until something is done */
	STREAM_BED_BAR = 4,	   /* where the function has the common structure, at 0 */
};

struct stream_bed {
	struct reactor_world *world;
	struct reactor *reactor;
	unsigned queues;
	struct storage *storage; /* of a disk */
	struct blk *blk;
	struct network_port *port; /* of a card */
	struct net *net;
	struct virtio_pci *pci;
	struct pci_function *function;
	struct migrate *migrate;
	struct guest_memory memory;
	struct memory_map *map;
	bool done;
};

static void stream_bed_done(void *arg)
{
	((struct stream_bed *)arg)->done = true;
}

/* The task for what is begun next; stream_bed_wait() runs the world until it has run. */
static inline struct reactor_task stream_bed_task(struct stream_bed *b)
{
	b->done = false;
	return (struct reactor_task){ .fn = stream_bed_done, .arg = b };
}

static inline void stream_bed_wait(struct stream_bed *b)
{
	for (unsigned i = 0; i < STREAM_BED_STEPS && !b->done; i++)
		reactor_world_step(b->world);
	assert(b->done);
}

static inline void stream_bed_give_memory(struct stream_bed *b)
{
	struct memory_region region = { .length = STREAM_BED_MEMORY,
					.access = MEMORY_READ | MEMORY_WRITE };
	struct memory_map *empty = memory_map_create(NULL);
	struct reactor_task task = stream_bed_task(b);

	guest_memory_open(&b->memory, 0, STREAM_BED_MEMORY);
	region.fd = b->memory.fd;
	b->map = memory_map_add(empty, &region, NULL);
	memory_map_release(empty);
	if (!b->map)
		abort();
	pci_function_set_memory(b->function, b->map, &task);
	stream_bed_wait(b);
}

static inline struct virtio_device_options stream_bed_begin(struct stream_bed *b, unsigned queues)
{
	*b = (struct stream_bed){ .world = reactor_world_create(1), .queues = queues };
	b->reactor = reactor_virtual_create(b->world, "stream");
	reactor_world_enter(b->world, b->reactor);
	return (struct virtio_device_options){ .name = "stream",
					       .queues = queues,
					       .queue_size = STREAM_BED_RING,
					       .packed = true,
					       .control = b->reactor,
					       .workers = &b->reactor,
					       .worker_count = 1 };
}

/* device: NULL after an error. */
static inline void stream_bed_plug(struct stream_bed *b, struct virtio_device *device)
{
	const struct pci_identity identity = { .card_serial = 1, .count = 1 };
	const struct virtio_pci_options pci = { .identity = &identity, .vectors = b->queues + 1 };
	struct error e = { 0 };

	b->pci = device ? virtio_pci_create(device, &pci, &e) : NULL;
	if (!b->pci)
		abort();
	b->function = virtio_pci_function(b->pci);
	b->migrate = virtio_pci_migrate(b->pci);
	stream_bed_give_memory(b);
}

static inline void stream_bed_open(struct stream_bed *b)
{
	struct virtio_device_options o = stream_bed_begin(b, STREAM_BED_QUEUES);
	struct blk_options blk = { .serial = "stream" };
	struct error e = { 0 };

	b->storage = storage_open("stream", "memory:?size=64K", false, b->reactor, &e);
	blk.storage = b->storage;
	b->blk = blk_create(&blk, &o, &e);
	stream_bed_plug(b, b->blk ? blk_device(b->blk) : NULL);
}

static inline void stream_bed_open_net(struct stream_bed *b)
{
	struct virtio_device_options o = stream_bed_begin(b, 2 * STREAM_BED_PAIRS + 1);
	struct net_options net = { .mac = { 2, 0, 0, 0, 0, 1 },
				   .hashes = true,
				   .pairs = STREAM_BED_PAIRS };
	struct error e = { 0 };

	b->port = network_port_open("stream", "switch:stream", STREAM_BED_PAIRS, b->reactor, &e);
	if (!b->port)
		abort();
	net.port = b->port;
	b->net = net_create(&net, &o, &e);
	stream_bed_plug(b, b->net ? net_device(b->net) : NULL);
}

static inline void stream_bed_reset(struct stream_bed *b)
{
	struct reactor_task task = stream_bed_task(b);

	pci_function_reset(b->function, &task);
	stream_bed_wait(b);
}

static inline void stream_bed_close(struct stream_bed *b)
{
	struct reactor_task task;

	stream_bed_reset(b);
	task = stream_bed_task(b);
	pci_function_set_memory(b->function, NULL, &task);
	stream_bed_wait(b);
	virtio_pci_free(b->pci);
	blk_free(b->blk);
	storage_close(b->storage);
	net_free(b->net);
	network_port_close(b->port);
	for (unsigned i = 0; i < STREAM_BED_STEPS && reactor_world_step(b->world); i++)
		;
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	memory_map_release(b->map);
	guest_memory_close(&b->memory);
}

/* ---- migration ---- */

/* 0, or -errno with *e. */
static inline int stream_bed_go(struct stream_bed *b, enum migrate_state next, struct error *e)
{
	struct reactor_task task = stream_bed_task(b);
	int err = migrate_set_state(b->migrate, next, &task, e);

	if (err)
		return err;
	stream_bed_wait(b);
	return migrate_result(b->migrate, e);
}

/* A stopped function takes a state, in pieces, and runs.  0, or -errno with *e. */
static inline int stream_bed_load(struct stream_bed *b, const uint8_t *bytes, size_t n,
				  size_t piece, struct error *e)
{
	int err = stream_bed_go(b, MIGRATE_RESUMING, e);

	for (size_t at = 0; !err && at < n; at += piece) {
		ssize_t done = migrate_write(b->migrate, bytes + at,
					     minimum_u64(piece, n - at), e);

		err = done < 0 ? (int)done : 0;
	}
	return err ? err : stream_bed_go(b, MIGRATE_STOP, e);
}

/* ---- a driver ---- */

static inline void stream_bed_set(struct stream_bed *b, uint64_t offset, uint32_t value, uint32_t n)
{
	uint32_t little = htole32(value);

	if (pci_region_write(b->function, PCI_REGION_BAR0 + STREAM_BED_BAR, offset, &little, n))
		abort();
}

static inline void stream_bed_start_queue(struct stream_bed *b, unsigned index)
{
	uint32_t at = 0x1000 * (index + 1);

	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_SIZE, STREAM_BED_RING, 2);
	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_MSIX, index + 1, 2);
	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_DESCLO, at, 4);
	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_AVAILLO, at + 0x400, 4);
	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_USEDLO, at + 0x800, 4);
	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

/* features: beside VERSION_1. */
static inline void stream_bed_drive(struct stream_bed *b, uint64_t features)
{
	const uint16_t command = htole16(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	const uint8_t ready = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			      VIRTIO_CONFIG_S_FEATURES_OK;

	if (pci_region_write(b->function, PCI_REGION_CONFIG, PCI_COMMAND, &command, 2))
		abort();
	stream_bed_set(b, VIRTIO_PCI_COMMON_STATUS, 3, 1);
	stream_bed_set(b, VIRTIO_PCI_COMMON_GF, (uint32_t)features, 4);
	stream_bed_set(b, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	stream_bed_set(b, VIRTIO_PCI_COMMON_GF, 1 | features >> 32, 4);
	stream_bed_set(b, VIRTIO_PCI_COMMON_STATUS, ready, 1);
	for (unsigned i = 0; i < b->queues; i++)
		stream_bed_start_queue(b, i);
	stream_bed_set(b, VIRTIO_PCI_COMMON_STATUS, ready | VIRTIO_CONFIG_S_DRIVER_OK, 1);
	for (unsigned i = 0; i < STREAM_BED_STEPS && reactor_world_step(b->world); i++)
		;
}

#endif
