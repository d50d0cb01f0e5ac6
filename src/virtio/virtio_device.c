/* virtio_device.c - a virtio device as a host transport drives it: the control side. */
#include "virtio/virtio_device.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "link/memory_map.h"
#include "virtio/virtio_features.h"
#include "virtio/virtio_state.h"

/* VIRTIO_F_ANY_LAYOUT is for legacy drivers: we never assume where a header ends (2.7.4.1). */
enum {
	RING_FEATURES_LOW = 1u << VIRTIO_RING_F_INDIRECT_DESC | 1u << VIRTIO_RING_F_EVENT_IDX |
			    1u << VIRTIO_F_ANY_LAYOUT
};

/* ---- create, free, look ---- */

static void config_task_run(void *arg)
{
	struct virtio_device *d = arg;

	if (d->config_changed)
		d->config_changed(d->config_changed_arg);
}

/* Queues that belong together live together. */
static struct reactor *worker_of(const struct virtio_device_options *o,
				 const struct virtio_device_type *type, unsigned index)
{
	return o->workers[index / maximum_u64(type->queues_per_set, 1) % o->worker_count];
}

static int queues_open(struct virtio_device *d, const struct virtio_device_options *o,
		       struct error *e)
{
	for (unsigned i = 0; i < o->queues; i++) {
		int err = virtio_queue_open(d, i, worker_of(o, d->type, i), e);

		if (err)
			return err;
		d->queue_count++;
	}
	return 0;
}

struct virtio_device *virtio_device_create(const struct virtio_device_type *type, void *state,
					   const struct virtio_device_options *o, struct error *e)
{
	struct virtio_device *d = calloc(1, sizeof(*d) + o->queues * sizeof(d->queues[0]));

	assert(o->queues && o->worker_count);
	if (!d) {
		error_set(e, -ENOMEM, "device: out of memory");
		return NULL;
	}
	d->type = type;
	d->state = state;
	d->control = o->control;
	d->queue_size = o->queue_size;
	d->link_model = o->link_model;
	d->drain_ns = o->drain_ns ? o->drain_ns : VIRTIO_DRAIN_NS_DEFAULT;
	d->masked = o->masked;
	d->ring_features = RING_FEATURES_LOW | (uint64_t)o->packed << VIRTIO_F_RING_PACKED |
			   (uint64_t)o->in_order << VIRTIO_F_IN_ORDER;
	d->config_task = (struct reactor_task){ .fn = config_task_run, .arg = d };
	snprintf(d->name, sizeof(d->name), "%s", o->name);
	if (virtio_migration_open(d)) {
		error_set(e, -ENOMEM, "device: out of memory");
		free(d);
		return NULL;
	}
	if (queues_open(d, o, e)) {
		virtio_device_free(d);
		return NULL;
	}
	return d;
}

void virtio_device_free(struct virtio_device *d)
{
	if (!d)
		return;
	assert(!d->changes[CHANGE_LIFE].done && !d->changes[CHANGE_MEMORY].done);
	for (unsigned i = 0; i < d->queue_count; i++)
		virtio_queue_close(&d->queues[i]);
	memory_map_release(d->map);
	virtio_migration_close(d);
	free(d);
}

void *virtio_device_state(const struct virtio_device *d)
{
	return d->state;
}

const char *virtio_device_name(const struct virtio_device *d)
{
	return d->name;
}

uint32_t virtio_device_id(const struct virtio_device *d)
{
	return d->type->device_id;
}

uint32_t virtio_device_pci_class(const struct virtio_device *d)
{
	return d->type->pci_class;
}

unsigned virtio_device_queue_count(const struct virtio_device *d)
{
	return d->queue_count;
}

unsigned virtio_device_set_count(const struct virtio_device *d)
{
	return d->queue_count / maximum_u64(d->type->queues_per_set, 1);
}

bool virtio_device_has_network(const struct virtio_device *d)
{
	return d->type->announce;
}

void virtio_device_announce(struct virtio_device *d, const uint8_t *mac)
{
	d->type->announce(d, mac);
}

int virtio_device_set_mtu(struct virtio_device *d, uint64_t mtu, struct error *e)
{
	return d->type->set_mtu(d, mtu, e);
}

uint16_t virtio_device_queue_size_max(const struct virtio_device *d)
{
	return d->queue_size;
}

size_t virtio_device_config_size(const struct virtio_device *d)
{
	return d->type->config_size;
}

struct reactor *virtio_device_queue_reactor(const struct virtio_device *d, unsigned index)
{
	assert(index < d->queue_count);
	return d->queues[index].reactor;
}

struct reactor *virtio_device_control(const struct virtio_device *d)
{
	return d->control;
}

uint64_t virtio_device_drain_ns(const struct virtio_device *d)
{
	return d->drain_ns;
}

/* ---- features, status, configuration space ---- */

uint64_t virtio_device_features(const struct virtio_device *d)
{
	uint64_t features = d->type->features(d) | d->ring_features | 1ull << VIRTIO_F_VERSION_1;

	return virtio_features_close(d->type->device_id, virtio_device_unmasked(d, features));
}

uint64_t virtio_device_unmasked(const struct virtio_device *d, uint64_t features)
{
	return features & ~d->masked;
}

int virtio_device_check_features(const struct virtio_device *d, uint64_t features, struct error *e)
{
	uint64_t unknown = features & ~virtio_device_features(d);

	if (unknown)
		return virtio_features_refuse(d->type->device_id, unknown, e);
	return 0;
}

int virtio_device_accept(struct virtio_device *d, uint64_t features, struct error *e)
{
	int err = virtio_device_check_features(d, features, e);

	if (!err)
		d->accepted = features;
	return err;
}

uint64_t virtio_device_accepted(const struct virtio_device *d)
{
	return d->accepted;
}

uint8_t virtio_device_status(const struct virtio_device *d)
{
	return d->status;
}

void virtio_device_set_status(struct virtio_device *d, uint8_t status)
{
	d->status = status | (d->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

int virtio_device_config_read(struct virtio_device *d, size_t offset, void *to, size_t n)
{
	if (!range_fits(offset, n, d->type->config_size))
		return -EINVAL;
	d->type->config_read(d, offset, to, n);
	return 0;
}

int virtio_device_config_write(struct virtio_device *d, size_t offset, const void *from, size_t n)
{
	if (!range_fits(offset, n, d->type->config_size))
		return -EINVAL;
	return d->type->config_write(d, offset, from, n);
}

void virtio_device_set_listener(struct virtio_device *d, void (*config_changed)(void *arg),
				void *arg)
{
	d->config_changed = config_changed;
	d->config_changed_arg = arg;
}

void virtio_device_config_changed(struct virtio_device *d)
{
	reactor_defer(d->control, &d->config_task);
}

void virtio_queue_broke(void *arg)
{
	struct virtio_queue *q = arg;
	struct virtio_device *d = q->device;

	if (log_limit_take(&d->log_limit, 20))
		log_warning("%s: queue %u: %s; the queue stops until the driver resets the device",
			    d->name, q->index, q->reason);
	d->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio_device_config_changed(d);
}

/* ---- queues: settings ---- */

static struct virtio_queue *queue_of(const struct virtio_device *d, unsigned index)
{
	assert(index < d->queue_count);
	return (struct virtio_queue *)&d->queues[index];
}

bool virtio_device_is_packed(const struct virtio_device *d)
{
	return d->accepted & (1ull << VIRTIO_F_RING_PACKED);
}

uint16_t virtio_queue_first_index(const struct virtio_device *d)
{
	return virtio_device_is_packed(d) ? 1u << 15 : 0;
}

int virtio_queue_configure(struct virtio_device *d, unsigned index,
			   const struct virtio_queue_setup *s, struct error *e)
{
	struct virtio_queue *q = queue_of(d, index);

	assert(!q->is_started);
	if (!s->size || s->size > d->queue_size ||
	    !(virtio_device_is_packed(d) || is_power_of_two(s->size)))
		return error_set(e, -EINVAL, "queue %u: size %u is not a power of two up to %u",
				 index, s->size, d->queue_size);
	q->setup = *s;
	if (!virtio_device_is_packed(d))
		q->setup.used_index = s->available_index;
	q->position.available_index = s->available_index;
	q->position.used_index = q->setup.used_index;
	return 0;
}

void virtio_queue_position(const struct virtio_device *d, unsigned index,
			   struct virtio_queue_position *p)
{
	*p = queue_of(d, index)->position;
}

bool virtio_queue_is_started(const struct virtio_device *d, unsigned index)
{
	return queue_of(d, index)->is_started;
}

size_t virtio_queue_inflight_size(uint16_t queue_size, bool packed)
{
	return virtqueue_inflight_size(queue_size, packed);
}

void virtio_queue_set_inflight(struct virtio_device *d, unsigned index, void *region, size_t bytes)
{
	struct virtio_queue *q = queue_of(d, index);

	assert(!q->is_started);
	q->inflight = region;
	q->inflight_bytes = bytes;
}

/* ---- changes that every queue acknowledges ---- */

static void change_end(struct virtio_device *d, enum change_kind kind)
{
	struct virtio_change *change = &d->changes[kind];
	struct reactor_task *done = change->done;

	if (change->finish && !change->finish(d))
		return;
	*change = (struct virtio_change){ .done = NULL };
	reactor_defer(d->control, done);
}

void virtio_change_begin(struct virtio_device *d, enum change_kind kind, struct reactor_task *done,
			 bool (*finish)(struct virtio_device *d))
{
	assert(!d->changes[kind].done); /* one at a time: the caller waits for done */
	d->changes[kind] = (struct virtio_change){ .done = done, .finish = finish };
}

static enum change_kind change_of(enum order_kind kind)
{
	return kind == ORDER_MEMORY ? CHANGE_MEMORY : CHANGE_LIFE;
}

void virtio_change_send(struct virtio_queue *q, enum order_kind kind)
{
	q->device->changes[change_of(kind)].waiting++;
	virtio_queue_send(q, &q->orders[change_of(kind)], kind);
}

void virtio_change_sent(struct virtio_device *d, enum change_kind kind)
{
	if (!d->changes[kind].waiting)
		change_end(d, kind);
}

static void change_send_all(struct virtio_device *d, enum order_kind kind, bool only_started)
{
	for (unsigned i = 0; i < d->queue_count; i++)
		if (d->queues[i].is_started || !only_started)
			virtio_change_send(&d->queues[i], kind);
	virtio_change_sent(d, change_of(kind));
}

static void start_is_back(struct virtio_queue *q, const struct virtio_order *o)
{
	q->is_started = !o->status;
	if (q->start_status)
		*q->start_status = o->status;
	else if (o->status && !q->device->resume_status)
		q->device->resume_status = o->status;
}

void virtio_order_back(void *arg)
{
	struct virtio_order *o = arg;
	struct virtio_device *d = o->queue->device;

	if (o->kind == ORDER_START)
		start_is_back(o->queue, o);
	else if (o->kind == ORDER_STOP || o->kind == ORDER_RESET)
		o->queue->is_started = false;
	else if (o->kind == ORDER_QUIESCE)
		virtio_quiesce_is_back(o->queue, o);
	if (!--d->changes[change_of(o->kind)].waiting)
		change_end(d, change_of(o->kind));
}

void virtio_queue_start(struct virtio_device *d, unsigned index, int *status,
			struct reactor_task *done)
{
	struct virtio_queue *q = queue_of(d, index);

	assert(!q->is_started);
	q->start_status = status;
	virtio_change_begin(d, CHANGE_LIFE, done, NULL);
	q->orders[CHANGE_LIFE].resumed_ns = 0;
	virtio_change_send(q, ORDER_START);
}

void virtio_queue_stop(struct virtio_device *d, unsigned index, struct reactor_task *done)
{
	struct virtio_queue *q = queue_of(d, index);

	virtio_change_begin(d, CHANGE_LIFE, done, NULL);
	if (q->is_started)
		virtio_change_send(q, ORDER_STOP);
	else
		change_end(d, CHANGE_LIFE);
}

static bool reset_finish(struct virtio_device *d)
{
	d->accepted = 0;
	d->status = 0;
	for (unsigned i = 0; i < d->queue_count; i++) {
		d->queues[i].setup = (struct virtio_queue_setup){ 0 };
		d->queues[i].position = (struct virtio_queue_position){ 0 };
		d->queues[i].inflight = NULL;
		d->queues[i].inflight_bytes = 0;
		d->queues[i].left_count = 0;
		d->queues[i].is_quiesced = false;
	}
	if (d->type->reset)
		d->type->reset(d);
	return true;
}

/* To all queues: behind the order in the mailbox nothing older is left. */
void virtio_device_reset(struct virtio_device *d, struct reactor_task *done)
{
	virtio_change_begin(d, CHANGE_LIFE, done, reset_finish);
	change_send_all(d, ORDER_RESET, false);
}

static bool memory_finish(struct virtio_device *d)
{
	memory_map_release(d->old_map);
	d->old_map = NULL;
	return true;
}

/* What the queues see of it.  Without memory for the model's map they see nothing, and break. */
static struct memory_map *adopt_map(struct virtio_device *d, struct memory_map *m)
{
	struct error e = { 0 };
	struct memory_map *modelled;

	if (!m || !d->link_model)
		return m ? memory_map_hold(m) : NULL;
	modelled = memory_map_with_model(m, d->link_model, &e);
	if (!modelled)
		log_error("%s: %s", d->name, e.text);
	return modelled;
}

/* To all queues: one whose start is under way may have been sent the old map.  Orders arrive as
 * they were sent, so behind this one nobody takes it up any more. */
void virtio_device_set_memory(struct virtio_device *d, struct memory_map *m,
			      struct reactor_task *done)
{
	virtio_change_begin(d, CHANGE_MEMORY, done, memory_finish);
	d->old_map = d->map;
	d->map = adopt_map(d, m);
	change_send_all(d, ORDER_MEMORY, false);
}

void virtio_device_set_dirty_log(struct virtio_device *d, struct dirty_log *log,
				 struct reactor_task *done)
{
	virtio_change_begin(d, CHANGE_LIFE, done, NULL);
	d->log = log;
	counter_add(&d->migration->logs, log != NULL);
	change_send_all(d, ORDER_LOG, true);
}
