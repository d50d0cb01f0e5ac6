/* sim_device.c - the device side: reactors, storage, device; started, stopped, killed. */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "device/blk.h"
#include "link/memory_map.h"
#include "reactor/reactor_virtual.h"
#include "sim.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum { WAIT_STEPS = 200000, PACKED_WRAP = 1 << 15 };

/* ---- waiting for an acknowledgement ---- */

static void order_done(void *arg)
{
	((struct sim_order *)arg)->done = true;
}

struct reactor_task *sim_order_task(struct sim_order *o)
{
	*o = (struct sim_order){ .task = { .fn = order_done, .arg = o } };
	return &o->task;
}

void sim_order_wait(struct sim *s, const struct sim_order *o, bool quiet, const char *what)
{
	for (unsigned i = 0; !o->done; i++) {
		if (i == WAIT_STEPS)
			sim_fail(s, "%s: no acknowledgement", what);
		if (quiet)
			reactor_world_step(s->world);
		else
			sim_step(s);
	}
}

/* ---- queues ---- */

static int duplicate(struct sim *s, int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		sim_fail(s, "out of descriptors");
	return copy;
}

static void give_kick(struct sim *s, struct sim_queue *q, bool polled)
{
	q->given_kick = polled ? -1 : duplicate(s, q->kick);
	virtio_queue_give_kick(s->device, q->index, q->given_kick);
}

static void give_call(struct sim *s, struct sim_queue *q)
{
	q->given_call = duplicate(s, q->call);
	virtio_queue_give_interrupt(s->device, q->index, q->given_call);
}

void sim_device_replace_eventfds(struct sim *s, struct sim_queue *q)
{
	give_kick(s, q, s->plan.polled_kicks && sim_chance(s, 2));
	give_call(s, q);
}

static void track(struct sim *s, struct sim_queue *q)
{
	virtio_queue_set_inflight(s->device, q->index, s->plan.untracked ? NULL : q->inflight,
				  q->inflight_bytes);
}

void sim_queue_start(struct sim *s, struct sim_queue *q, uint16_t index)
{
	const struct virtio_queue_setup setup = {
		.size = q->ring.size,
		.available_index = q->ring.packed ? q->next_available : index,
		.used_index = q->ring.packed ? q->next_used : 0,
		.descriptor_iova = q->ring.descriptor_iova,
		.driver_iova = q->ring.driver_iova,
		.device_iova = q->ring.device_iova,
	};
	struct error e = { 0 };
	struct sim_order o;
	int status;

	if (virtio_queue_configure(s->device, q->index, &setup, &e))
		sim_fail(s, "configure: %s", e.text);
	track(s, q);
	virtio_queue_start(s->device, q->index, &status, sim_order_task(&o));
	sim_order_wait(s, &o, false, "start");
	if (status)
		sim_fail(s, "queue %u does not start: %d", q->index, status);
	q->stopped = false;
}

/* What the in-flight region lists: after a kill, a stop may come before all of it was taken up.
 * vhost-user.rst, "Inflight I/O tracking": 16 bytes, then 16 per descriptor, the flag first. */
static uint16_t listed_in_flight(const struct sim_queue *q)
{
	const uint8_t *bytes = q->inflight;
	uint16_t n = 0;

	for (unsigned i = 0; i < q->ring.size; i++)
		n += bytes[16 + 16 * i] == 1;
	return n;
}

/* The same for a packed ring: 32 bytes, then 32 per descriptor, in a chain's first the number of
 * its descriptors at 6.  Without tracking, none. */
static unsigned packed_in_flight(const struct sim_queue *q)
{
	const uint8_t *bytes = q->inflight;
	unsigned n = 0;

	for (unsigned i = 0; i < q->ring.size; i++)
		if (bytes[32 + 32 * i] == 1)
			n += load_le16(bytes + 32 + 32 * i + 6);
	return n;
}

static void packed_stopped(struct sim *s, struct sim_queue *q,
			   const struct virtio_queue_position *position)
{
	unsigned place = (position->used_index & ~PACKED_WRAP) + packed_in_flight(q);
	unsigned wrap = position->used_index & PACKED_WRAP;

	if (place >= q->ring.size) {
		place -= q->ring.size;
		wrap ^= PACKED_WRAP;
	}
	if (!s->needs_reset && position->available_index != (place | wrap))
		sim_fail(s, "queue %u stopped at 0x%x and 0x%x with %u in flight", q->index,
			 position->available_index, position->used_index, packed_in_flight(q));
	q->next_available = position->available_index;
	q->next_used = position->used_index;
}

void sim_queue_stop(struct sim *s, struct sim_queue *q)
{
	uint16_t in_flight;
	struct virtio_queue_position position;
	struct sim_order o;

	virtio_queue_stop(s->device, q->index, sim_order_task(&o));
	sim_order_wait(s, &o, false, "stop");
	virtio_queue_position(s->device, q->index, &position);
	q->stopped = true;
	if (q->ring.packed) {
		packed_stopped(s, q, &position);
		return;
	}
	in_flight = position.available_index - position.used_index;
	if (!s->needs_reset &&
	    (position.used_index != le16toh(q->ring.used->idx) || in_flight != listed_in_flight(q)))
		sim_fail(s, "queue %u stopped at %u and %u, its used index is %u", q->index,
			 position.available_index, position.used_index, le16toh(q->ring.used->idx));
}

static void start_queues(struct sim *s)
{
	for (unsigned i = 0; i < s->plan.queues; i++) {
		struct sim_queue *q = &s->queues[i];

		give_kick(s, q, s->plan.polled_kicks);
		give_call(s, q);
		virtio_queue_enable(s->device, i, true);
		sim_queue_start(s, q, sim_queue_used_index(q));
	}
}

/* ---- life ---- */

static void config_changed(void *arg)
{
	struct sim *s = arg;

	if (!(virtio_device_status(s->device) & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	if (!s->plan.link_failures)
		sim_fail(s, "a queue broke without a reason");
	s->needs_reset = true;
}

static void create_reactors(struct sim *s)
{
	s->world = reactor_world_create(sim_pick(s, UINT64_MAX));
	s->control = reactor_virtual_create(s->world, "control");
	for (unsigned i = 0; i < s->plan.workers; i++)
		s->workers[i] = reactor_virtual_create(s->world, "worker");
	reactor_world_enter(s->world, s->control);
}

static void open_storage(struct sim *s)
{
	char uri[2 * URI_MAX];
	struct error e = { 0 };

	if (s->plan.persistent)
		snprintf(uri, sizeof(uri), "%sfile:/proc/self/fd/%d?lock=off&direct=off%s",
			 s->plan.filters, s->disk.fd, s->plan.options);
	else
		snprintf(uri, sizeof(uri), "%smemory:?size=%llu&block-size=%u%s", s->plan.filters,
			 (unsigned long long)s->disk.count * SECTOR, s->plan.block,
			 s->plan.options);
	s->storage = storage_open("sim", uri, false, s->control, &e);
	if (!s->storage)
		sim_fail(s, "%s: %s", uri, e.text);
}

static void create_device(struct sim *s)
{
	const struct blk_options options = { .storage = s->storage, .serial = "simulated" };
	const struct virtio_device_options device_options = {
		.name = "sim",
		.queues = s->plan.queues,
		.queue_size = s->plan.queue_size,
		.packed = s->plan.packed,
		.in_order = s->plan.in_order,
		.control = s->control,
		.workers = s->workers,
		.worker_count = s->plan.workers,
	};
	struct error e = { 0 };

	s->blk = blk_create(&options, &device_options, &e);
	if (!s->blk)
		sim_fail(s, "device: %s", e.text);
	s->device = blk_device(s->blk);
	virtio_device_set_listener(s->device, config_changed, s);
}

static void accept_features(struct sim *s)
{
	uint64_t features = virtio_device_features(s->device);
	struct error e = { 0 };

	if (!s->plan.event_index)
		features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
	if (!s->plan.indirect)
		features &= ~(1ull << VIRTIO_RING_F_INDIRECT_DESC);
	if (s->seed % 3 == 0) /* knows nothing of caches: writes go through */
		features &= ~(1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE);
	if (virtio_device_accept(s->device, features, &e))
		sim_fail(s, "features: %s", e.text);
}

static void set_memory(struct sim *s, bool quiet)
{
	struct memory_map *map = sim_memory_map(s);
	struct sim_order o;

	virtio_device_set_memory(s->device, map, sim_order_task(&o));
	sim_order_wait(s, &o, quiet, "memory");
	memory_map_release(s->map);
	s->map = map;
}

static void open_device(struct sim *s)
{
	create_reactors(s);
	open_storage(s);
	create_device(s);
}

void sim_device_start(struct sim *s)
{
	open_device(s);
	accept_features(s);
	set_memory(s, true);
	start_queues(s);
	sim_trace(s, "the device has started");
}

/* Streams that are not the right one change nothing. */
static void load_wrong_ones(struct sim *s, const char *bytes, size_t n)
{
	char *copy = malloc(n);
	struct error e = { 0 };

	memcpy(copy, bytes, n);
	copy[sim_pick(s, n)] ^= 1 << sim_pick(s, 8);
	if (!virtio_device_load(s->device, copy, n, &e))
		sim_fail(s, "a corrupted state was loaded");
	if (!virtio_device_load(s->device, bytes, sim_pick(s, n), &e))
		sim_fail(s, "a truncated state was loaded");
	free(copy);
}

void sim_device_receive(struct sim *s, const char *bytes, size_t n)
{
	struct error e = { 0 };
	struct sim_order o;
	int status;

	open_device(s);
	set_memory(s, true);
	load_wrong_ones(s, bytes, n);
	if (virtio_device_load(s->device, bytes, n, &e))
		sim_fail(s, "load: %s", e.text);
	for (unsigned i = 0; i < s->plan.queues; i++) {
		give_kick(s, &s->queues[i], s->plan.polled_kicks);
		give_call(s, &s->queues[i]);
		track(s, &s->queues[i]);
	}
	virtio_device_resume(s->device, &status, sim_order_task(&o));
	sim_order_wait(s, &o, sim_chance(s, 2), "resume");
	if (status)
		sim_fail(s, "resume: %d", status);
	sim_trace(s, "the device goes on elsewhere");
}

static void reset_and_wait(struct sim *s)
{
	struct sim_order o;

	virtio_device_reset(s->device, sim_order_task(&o));
	sim_order_wait(s, &o, true, "reset");
	for (unsigned i = 0; i < s->plan.queues; i++)
		s->queues[i].given_kick = s->queues[i].given_call = -1;
	s->needs_reset = false;
}

static void come_to_rest(struct sim *s)
{
	for (unsigned i = 0; reactor_world_step(s->world); i++)
		if (i == WAIT_STEPS)
			sim_fail(s, "the reactors do not come to rest");
}

void sim_device_end(struct sim *s)
{
	sim_trap_disarm(s);
	reset_and_wait(s);
	come_to_rest(s);
	blk_free(s->blk);
	storage_close(s->storage);
	memory_map_release(s->map);
	s->map = NULL;
	come_to_rest(s);
	reactor_free(s->control);
	for (unsigned i = 0; i < s->plan.workers; i++)
		reactor_free(s->workers[i]);
	reactor_world_free(s->world);
	sim_trace(s, "the device has ended");
}

/* What the device owned is gone for good: forgotten here, returned when this process ends. */
void sim_device_abandon(struct sim *s)
{
	sim_trap_disarm(s);
	sim_remote_kill(s);
	for (unsigned i = 0; i < s->plan.queues; i++) {
		fd_close(&s->queues[i].given_kick);
		fd_close(&s->queues[i].given_call);
		s->queues[i].stopped = false;
	}
	s->map = NULL;
	s->needs_reset = false;
	s->idle_steps = 0;
	reactor_world_enter(s->world, NULL);
	sim_trace(s, "the device was killed");
}

/* ---- changes ---- */

void sim_device_reset(struct sim *s)
{
	sim_trap_disarm(s);
	reset_and_wait(s);
	sim_driver_forget(s);
	accept_features(s);
	start_queues(s);
	sim_trace(s, "the device was reset");
}

void sim_device_change_memory(struct sim *s)
{
	sim_trap_disarm(s);
	set_memory(s, false);
}

void sim_device_resize(struct sim *s, uint64_t sectors)
{
	uint64_t capacity = 0;

	if (ftruncate(s->disk.fd, (off_t)(sectors * SECTOR)))
		sim_fail(s, "ftruncate failed");
	storage_refresh(s->storage);
	for (unsigned i = 0; capacity != sectors; i++) {
		if (i == WAIT_STEPS)
			sim_fail(s, "a resize does not arrive");
		sim_step(s);
		virtio_device_config_read(s->device, 0, &capacity, sizeof(capacity));
		capacity = le64toh(capacity);
	}
	s->disk.count = sectors;
}
