/* test_costs.c - Broken if this fails: a request on the null disk allocates, locks, or enters the
 * kernel (mapped link, depth 32, a driver that polls: as a loaded queue is served).
 *
 * Calls that our own code makes to malloc, pthread_mutex_lock and so on go through the linker's
 * --wrap to counters here; entries into the kernel are counted by the reactor.  With an argument it
 * serves so many thousand requests in simulated time: that is for callgrind (costs-callgrind). */
#include <assert.h>
#include <linux/virtio_config.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/counter.h"
#include "base/error.h"
#include "device/blk.h"
#include "driver/guest_blk.h"
#include "driver/guest_memory.h"
#include "link/memory_map.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum { DEPTH = 32, QUEUE_SIZE = 128, BLOCK = 4096, WARM = 10000, REQUESTS = 200000 };

/* ---- what is counted ---- */

static unsigned long allocations, locks, transfers;

#define WRAP(type, name, count, parameters, arguments) \
	type __real_##name parameters;                 \
	type __wrap_##name parameters;                 \
	type __wrap_##name parameters                  \
	{                                              \
		count++;                               \
		return __real_##name arguments;        \
	}

WRAP(void *, malloc, allocations, (size_t n), (n))
WRAP(void *, calloc, allocations, (size_t count, size_t n), (count, n))
WRAP(void *, realloc, allocations, (void *at, size_t n), (at, n))
WRAP(void *, aligned_alloc, allocations, (size_t alignment, size_t n), (alignment, n))
WRAP(int, pthread_mutex_lock, locks, (pthread_mutex_t * lock), (lock))
WRAP(ssize_t, read, transfers, (int fd, void *to, size_t n), (fd, to, n))
WRAP(int, eventfd_write, transfers, (int fd, eventfd_t n), (fd, n))
WRAP(ssize_t, write, transfers, (int fd, const void *from, size_t n), (fd, from, n))

static unsigned long kernel_entries(void)
{
	unsigned long sum = transfers, value;
	char line[200], *text = NULL;
	size_t size;
	FILE *memory = open_memstream(&text, &size);

	counter_print_all(memory);
	rewind(memory);
	fclose(memory);
	for (char *at = text; at && sscanf(at, "%199[^\n]", line) == 1; at++) {
		if (sscanf(line, "reactor costs kernel_entries %lu", &value) == 1)
			sum += value;
		at = strchr(at, '\n');
		if (!at)
			break;
	}
	free(text);
	return sum;
}

/* ---- the bed: device and driver on one reactor ---- */

struct bed {
	struct reactor_world *world; /* NULL: real time */
	struct reactor *reactor;
	struct storage *storage;
	struct blk *blk;
	struct guest_memory memory;
	struct guest_queue queue;
	struct guest_blk driver;
	struct reactor_poller poller;
	unsigned long sent, completed, wanted;
	bool acknowledged;
	int kick; /* owned by the device */
};

static void send_request(struct bed *b, struct guest_blk_slot *s)
{
	bool added = guest_blk_add(&b->driver, s, VIRTIO_BLK_T_IN, b->sent++ % 1000 * 8, BLOCK);

	assert(added);
}

static bool drive(void *arg)
{
	struct bed *b = arg;
	struct guest_blk_slot *s;
	unsigned found = 0;

	while (guest_blk_take(&b->driver, &s) == 1) {
		assert(s->record->status == VIRTIO_BLK_S_OK);
		send_request(b, s);
		found++;
	}
	if (guest_queue_publish(&b->queue)) /* the device rests */
		eventfd_write(b->kick, 1);
	b->completed += found;
	if (b->completed >= b->wanted)
		reactor_stop(b->reactor);
	return found;
}

static bool stay(void *arg)
{
	return false;
}

static void acknowledge(void *arg)
{
	struct bed *b = arg;

	b->acknowledged = true;
	reactor_stop(b->reactor);
}

static void wait_for(struct bed *b)
{
	while (!b->acknowledged)
		reactor_run(b->reactor);
	b->acknowledged = false;
}

static void serve(struct bed *b, unsigned long requests)
{
	b->wanted = b->completed + requests;
	while (b->completed < b->wanted)
		reactor_run(b->reactor);
}

static void open_device(struct bed *b, bool simulated)
{
	const struct reactor_options options = { .name = "costs", .poll_ns_max = 1000000 };
	struct error e = { 0 };
	struct blk_options blk = { 0 };
	struct virtio_device_options device = {
		.name = "costs", .queues = 1, .queue_size = QUEUE_SIZE, .worker_count = 1
	};

	b->world = simulated ? reactor_world_create(1) : NULL;
	b->reactor = simulated ? reactor_virtual_create(b->world, "costs")
			       : reactor_create(&options, &e);
	assert(b->reactor);
	b->storage = storage_open("costs", "null:?size=1G", false, b->reactor, &e);
	assert(b->storage);
	blk.storage = b->storage;
	device.control = b->reactor;
	device.workers = &b->reactor;
	b->blk = blk_create(&blk, &device, &e);
	assert(b->blk);
}

static void share_memory(struct bed *b, struct reactor_task *done)
{
	struct memory_map *empty = memory_map_create(NULL), *map;
	const struct memory_region region = { b->memory.iova, b->memory.size, b->memory.fd, 0,
					      MEMORY_READ | MEMORY_WRITE };

	map = memory_map_add(empty, &region, NULL);
	memory_map_release(empty);
	virtio_device_set_memory(blk_device(b->blk), map, done);
	wait_for(b);
	memory_map_release(map);
}

static void start_queue(struct bed *b, struct reactor_task *done)
{
	const struct virtio_queue_setup setup = { .size = QUEUE_SIZE,
						  .descriptor_iova = b->queue.descriptor_iova,
						  .driver_iova = b->queue.driver_iova,
						  .device_iova = b->queue.device_iova };
	struct virtio_device *d = blk_device(b->blk);
	struct error e = { 0 };
	int status = -1;

	virtio_queue_configure(d, 0, &setup, &e);
	b->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	virtio_queue_give_kick(d, 0, b->kick);
	virtio_queue_give_interrupt(d, 0, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	virtio_queue_enable(d, 0, true);
	virtio_queue_start(d, 0, &status, done);
	wait_for(b);
	assert(!status);
}

static void bed_open(struct bed *b, bool simulated)
{
	struct reactor_task done = { .fn = acknowledge, .arg = b };
	struct error e = { 0 };

	*b = (struct bed){ 0 };
	open_device(b, simulated);
	guest_memory_open(&b->memory, 0x100000, 1 << 20);
	guest_queue_open(&b->queue, &b->memory, QUEUE_SIZE, true);
	guest_blk_open(&b->driver, &b->queue, &b->memory, DEPTH, BLOCK, false);
	guest_queue_mute(&b->queue);
	if (virtio_device_accept(blk_device(b->blk),
				 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX,
				 &e)) {
		fprintf(stderr, "%s\n", e.text);
		exit(1);
	}
	share_memory(b, &done);
	start_queue(b, &done);
	for (unsigned i = 0; i < DEPTH; i++)
		send_request(b, &b->driver.slots[i]);
	b->poller = (struct reactor_poller){ .poll = drive, .rest = stay, .arg = b };
	reactor_poller_add(b->reactor, &b->poller);
}

static void bed_close(struct bed *b)
{
	struct reactor_task done = { .fn = acknowledge, .arg = b };

	reactor_poller_remove(&b->poller);
	virtio_device_reset(blk_device(b->blk), &done);
	wait_for(b);
	blk_free(b->blk);
	storage_close(b->storage);
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	guest_blk_close(&b->driver);
	guest_queue_close(&b->queue);
	guest_memory_close(&b->memory);
}

static int check(struct bed *b)
{
	unsigned long entries, allocated, locked;

	serve(b, WARM);
	entries = kernel_entries();
	allocations = locks = 0;
	serve(b, REQUESTS);
	allocated = allocations; /* counting the rest allocates */
	locked = locks;
	entries = kernel_entries() - entries;
	printf("%d requests: %lu allocations, %lu locks, %.4f entries into the kernel each\n",
	       REQUESTS, allocated, locked, (double)entries / REQUESTS);
	return allocated || locked || entries >= REQUESTS / 10;
}

int main(int argc, char **argv)
{
	struct bed b;
	int result = 0;

	bed_open(&b, argc > 1);
	if (argc > 1)
		serve(&b, strtoul(argv[1], NULL, 10) * 1000);
	else
		result = check(&b);
	bed_close(&b);
	return result;
}
