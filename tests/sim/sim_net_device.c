/* sim_net_device.c - the device: reactors, port, queues, and what becomes of them. */
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "device/net.h"
#include "link/memory_map.h"
#include "network/network_port.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "sim_net.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

struct queue *control_queue(struct sim *s)
{
	if (!model_accepted(&s->model, VIRTIO_NET_F_CTRL_VQ))
		return NULL;
	return &s->queues[2 * s->model.pairs];
}

void set_flag(void *arg)
{
	*(bool *)arg = true;
}

void wait_for(struct sim *s, const bool *flag, const char *what)
{
	for (unsigned i = 0; !*flag; i++) {
		if (i == WAIT_STEPS)
			fail(s, "%s", what);
		reactor_world_step(s->world);
	}
	reactor_world_enter(s->world, s->control);
}

void come_to_rest(struct sim *s)
{
	for (unsigned i = 0; reactor_world_step(s->world); i++)
		if (i == WAIT_STEPS)
			fail(s, "the reactors do not come to rest");
	reactor_world_enter(s->world, s->control);
}

static void config_changed(void *arg)
{
	struct sim *s = arg;

	if (!(virtio_device_status(s->device) & VIRTIO_CONFIG_S_NEEDS_RESET))
		return;
	if (!s->may_break)
		fail(s, "a queue broke without a reason");
	s->needs_reset = true;
}

/* ---- queues ---- */

static void give_eventfds(struct sim *s, unsigned index)
{
	virtio_queue_give_kick(s->device, index, dup(s->queues[index].kick));
	virtio_queue_give_interrupt(s->device, index, dup(s->queues[index].call));
}

static void queue_start(struct sim *s, unsigned index, uint16_t available, uint16_t used)
{
	struct queue *q = &s->queues[index];
	const struct virtio_queue_setup setup = { RING,
						  available,
						  used,
						  q->ring.descriptor_iova,
						  q->ring.driver_iova,
						  q->ring.device_iova };
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };
	struct error e = { 0 };
	int status = 0;

	give_eventfds(s, index);
	virtio_queue_enable(s->device, index, true);
	if (virtio_queue_configure(s->device, index, &setup, &e))
		fail(s, "%s", e.text);
	virtio_queue_start(s->device, index, &status, &task);
	wait_for(s, &over, "a queue does not start");
	if (status)
		fail(s, "a queue was refused");
	q->started = true;
}

static void queue_begin(struct sim *s, unsigned index)
{
	uint16_t first = virtio_queue_first_index(s->device);
	struct queue *q = &s->queues[index];

	guest_queue_restart(&q->ring, 0);
	for (unsigned i = 0; i < BUFFERS; i++)
		q->buffers[i].busy = false;
	queue_start(s, index, first, first);
}

static void queue_stop(struct sim *s, unsigned index)
{
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };

	virtio_queue_stop(s->device, index, &task);
	wait_for(s, &over, "a queue does not stop");
	eventfd_write(s->queues[index].call, 1); /* look at all that came back */
	collect(s);
}

void queue_reset(struct sim *s, unsigned index)
{
	queue_stop(s, index);
	if (&s->queues[index] == control_queue(s))
		control_forget(s);
	queue_begin(s, index);
}

void queue_rest(struct sim *s, unsigned index)
{
	struct virtio_queue_position at;

	queue_stop(s, index);
	virtio_queue_position(s->device, index, &at);
	queue_start(s, index, at.available_index, at.used_index);
	eventfd_write(s->queues[index].kick, 1);
}

/* ---- the driver begins ---- */

/* Some of those that are offered; not those that the rings were laid out for. */
static uint64_t choose_features(struct sim *s)
{
	static const uint8_t optional[] = {
		VIRTIO_NET_F_CSUM,
		VIRTIO_NET_F_GUEST_CSUM,
		VIRTIO_NET_F_MQ,
		VIRTIO_NET_F_CTRL_VQ,
		VIRTIO_NET_F_CTRL_RX,
		VIRTIO_NET_F_CTRL_RX_EXTRA,
		VIRTIO_NET_F_CTRL_VLAN,
		VIRTIO_NET_F_CTRL_MAC_ADDR,
		VIRTIO_NET_F_HOST_TSO4,
		VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_F_HASH_REPORT,
		VIRTIO_NET_F_RSS,
		VIRTIO_NET_F_GUEST_ANNOUNCE,
		VIRTIO_NET_F_GUEST_TSO4,
		52,
		53,
		56,
	};
	uint64_t features = virtio_device_features(s->device);

	for (unsigned i = 0; i < sizeof(optional); i++)
		if (!pick(s, 8))
			features &= ~(1ull << optional[i]);
	if (!s->mergeable)
		features &= ~(1ull << VIRTIO_NET_F_MRG_RXBUF);
	if (!s->event_index)
		features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
	return features;
}

void driver_start(struct sim *s)
{
	uint64_t features = choose_features(s);
	struct error e = { 0 };

	if (virtio_device_accept(s->device, features, &e))
		fail(s, "%s", e.text);
	model_reset(&s->model, features, s->pairs);
	control_forget(s);
	frames_mark(s, &s->model);
	for (unsigned i = 0; i < 2 * s->model.pairs; i++)
		queue_begin(s, i);
	if (control_queue(s))
		queue_begin(s, 2 * s->model.pairs);
}

static void reset_and_wait(struct sim *s)
{
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };

	virtio_device_reset(s->device, &task);
	wait_for(s, &over, "a reset does not end");
}

void device_reset(struct sim *s)
{
	reset_and_wait(s);
	s->needs_reset = s->may_break = false;
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		s->queues[i].started = false;
	control_forget(s);
}

/* ---- what it says of itself ---- */

void device_announce(struct sim *s)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };

	if (s->command_count) /* which may be the answer to the last time */
		return;
	virtio_device_announce(s->device, mac);
	if (virtio_device_accepted(s->device) >> VIRTIO_NET_F_GUEST_ANNOUNCE & 1)
		s->model.announcing = true;
	else
		s->rarp_wanted = true;
}

void device_check_config(struct sim *s)
{
	unsigned wanted = VIRTIO_NET_S_LINK_UP;
	struct virtio_net_config config;

	if (s->model.announcing)
		wanted |= VIRTIO_NET_S_ANNOUNCE;
	if (virtio_device_config_read(s->device, 0, &config, sizeof(config)))
		fail(s, "the configuration cannot be read");
	if (le16toh(config.status) != wanted)
		fail(s, "status %x, not %x", le16toh(config.status), wanted);
	for (unsigned i = 0; i < 6; i++)
		if (config.mac[i] != (uint8_t)(s->model.own >> (40 - 8 * i)))
			fail(s, "another address than was set");
	/* a frame that is being delayed is lost with its queue */
	if (s->rarp_wanted && s->uri[0] == 's' && !s->may_break)
		fail(s, "the guest's move was not announced");
}

/* ---- life ---- */

static void open_reactors(struct sim *s)
{
	s->world = reactor_world_create(s->seed);
	s->control = reactor_virtual_create(s->world, "control");
	for (unsigned i = 0; i < 2; i++)
		s->workers[i] = reactor_virtual_create(s->world, "worker");
	reactor_world_enter(s->world, s->control);
}

static void create(struct sim *s)
{
	const struct net_options options = {
		.port = s->port, .mac = { 2, 0, 0, 0, 0, 1 }, .hashes = s->hashes, .pairs = s->pairs
	};
	const struct virtio_device_options device_options = {
		.name = "sim",
		.queue_size = RING,
		.packed = s->packed,
		.in_order = s->in_order,
		.control = s->control,
		.workers = s->workers,
		.worker_count = s->worker_count,
	};
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };
	struct error e = { 0 };

	s->net = net_create(&options, &device_options, &e);
	if (!s->net)
		fail(s, "%s", e.text);
	s->device = net_device(s->net);
	virtio_device_set_listener(s->device, config_changed, s);
	virtio_device_set_memory(s->device, s->map, &task);
	wait_for(s, &over, "memory is not taken");
}

void device_open(struct sim *s)
{
	s->worker_count = 2;
	open_reactors(s);
	memory_open(s);
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		s->queues[i].kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		s->queues[i].call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
	far_open(s);
	create(s);
}

static void close_reactors(struct sim *s)
{
	reactor_free(s->control);
	for (unsigned i = 0; i < 2; i++)
		reactor_free(s->workers[i]);
	reactor_world_free(s->world);
}

/* All that is the device's own. */
static void end_device(struct sim *s)
{
	reset_and_wait(s);
	come_to_rest(s);
	net_free(s->net);
	network_port_close(s->port);
	memory_map_release(s->map);
	come_to_rest(s);
}

/* ---- a state goes to another device ---- */

static void load_foreign(struct sim *s)
{
	struct stream_writer w;
	struct error e = { 0 };

	stream_writer_begin(&w);
	stream_begin(&w, "device", 0);
	stream_u32(&w, VIRTIO_ID_BLOCK);
	stream_u32(&w, 2 * s->pairs + 1);
	stream_u16(&w, RING);
	stream_end(&w);
	if (stream_writer_end(&w, &e))
		fail(s, "%s", e.text);
	if (!virtio_device_load(s->device, w.bytes, w.length, &e))
		fail(s, "a disk's state was loaded");
	stream_writer_free(&w);
}

/* Streams that are not the right one change nothing. */
static void load_wrong_ones(struct sim *s, const char *bytes, size_t n)
{
	char *copy = malloc(n);
	struct error e = { 0 };

	if (!copy)
		abort();
	memcpy(copy, bytes, n);
	copy[pick(s, n)] ^= 1 << pick(s, 8);
	if (!virtio_device_load(s->device, copy, n, &e))
		fail(s, "a corrupted state was loaded");
	if (!virtio_device_load(s->device, bytes, pick(s, n), &e))
		fail(s, "a truncated state was loaded");
	free(copy);
	load_foreign(s);
}

void device_resume(struct sim *s)
{
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };
	int status = 0;

	virtio_device_resume(s->device, &status, &task);
	wait_for(s, &over, "a device does not go on");
	if (status && !s->needs_reset)
		fail(s, "resume: %d", status);
}

void device_receive(struct sim *s, const char *bytes, size_t n)
{
	struct error e = { 0 };

	end_device(s);
	s->remote = !pick(s, 4);
	s->worker_count = 1 + pick(s, 2);
	memory_map_open(s);
	s->port = network_port_open("sim", s->uri, s->pairs, s->control, &e);
	if (!s->port)
		fail(s, "%s", e.text);
	create(s);
	load_wrong_ones(s, bytes, n);
	if (virtio_device_load(s->device, bytes, n, &e))
		fail(s, "load: %s", e.text);
	for (unsigned i = 0; i < QUEUES_MAX; i++)
		if (s->queues[i].started)
			give_eventfds(s, i);
	device_resume(s);
	s->rarp_wanted = false; /* what the other had not sent yet, it does not send */
}

/* ---- the end ---- */

void device_close(struct sim *s)
{
	device_reset(s);
	network_queue_close(s->far);
	end_device(s);
	network_port_close(s->far_port);
	come_to_rest(s);
	close_reactors(s);
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		close(s->queues[i].kick);
		close(s->queues[i].call);
	}
	memory_close(s);
}
