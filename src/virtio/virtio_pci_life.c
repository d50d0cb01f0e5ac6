/* virtio_pci_life.c - making the device follow the registers. */
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "virtio/virtio_features.h"
#include "virtio/virtio_pci_state.h"

/* virtio 1.3, 6: matters of the transport, which the device does not know of. */
static const uint64_t transport_features = 1ull << VIRTIO_F_ACCESS_PLATFORM |
					   1ull << VIRTIO_F_NOTIFICATION_DATA |
					   1ull << VIRTIO_F_NOTIF_CONFIG_DATA |
					   1ull << VIRTIO_F_RING_RESET;

uint64_t virtio_pci_offered(const struct virtio_pci *v)
{
	return virtio_device_features(v->device) |
	       virtio_device_unmasked(v->device, transport_features);
}

/* ---- status ---- */

/* virtio 1.3, 2.1.2: reads as zero only when the reset is done. */
uint8_t virtio_pci_status(const struct virtio_pci *v)
{
	if (v->reset_wanted)
		return v->status ? v->status : v->status_before_reset;
	return v->status | (virtio_device_status(v->device) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

/* virtio 1.3, 2.2.2: features that we cannot work with are refused by not keeping FEATURES_OK. */
static bool features_are_good(struct virtio_pci *v)
{
	uint64_t unknown = v->driver_features & ~virtio_pci_offered(v);
	struct error e;

	if (unknown && log_limit_take(&v->refusals, 20)) {
		virtio_features_refuse(virtio_device_id(v->device), unknown, &e);
		log_warning("%s: %s", virtio_device_name(v->device), e.text);
	}
	return !unknown && v->driver_features & 1ull << VIRTIO_F_VERSION_1;
}

static void queue_to_default(struct virtio_pci *v, struct virtio_pci_queue *q)
{
	q->size = virtio_device_queue_size_max(v->device);
	q->vector = VIRTIO_MSI_NO_VECTOR;
	q->descriptor_iova = q->driver_iova = q->device_iova = 0;
	q->wanted = q->failed = false;
}

void virtio_pci_reset_registers(struct virtio_pci *v)
{
	if (!v->reset_wanted)
		v->status_before_reset = v->status;
	v->device_feature_select = v->driver_feature_select = 0;
	v->driver_features = 0;
	v->config_vector = VIRTIO_MSI_NO_VECTOR;
	v->queue_select = 0;
	v->status = 0;
	virtio_pci_take_isr(v);
	for (unsigned i = 0; i < v->queue_count; i++)
		queue_to_default(v, &v->queues[i]);
	v->reset_wanted = true;
}

/* FEATURES_OK stays until a reset (virtio 1.3, 2.1.1: a driver clears no bit). */
void virtio_pci_set_status(struct virtio_pci *v, uint8_t status)
{
	uint8_t settled = v->status & VIRTIO_CONFIG_S_FEATURES_OK;

	if (!status)
		virtio_pci_reset_registers(v);
	else if (!settled && status & VIRTIO_CONFIG_S_FEATURES_OK && !features_are_good(v))
		v->status = status & ~(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
	else
		v->status = (status | settled) & ~VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio_pci_follow(v);
}

void virtio_pci_reset_queue(struct virtio_pci *v, struct virtio_pci_queue *q)
{
	queue_to_default(v, q);
	q->resetting = true;
	virtio_pci_follow(v);
}

/* ---- queues ---- */

int virtio_pci_kick(struct virtio_pci_queue *q)
{
	if (q->kick < 0)
		q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return q->kick;
}

static unsigned index_of(const struct virtio_pci *v, const struct virtio_pci_queue *q)
{
	return q - v->queues;
}

static void queue_failed(struct virtio_pci *v, struct virtio_pci_queue *q, const char *why)
{
	q->failed = true;
	log_error("%s: queue %u: %s; the driver has to reset the device",
		  virtio_device_name(v->device), index_of(v, q), why);
	virtio_device_set_status(v->device, v->status | VIRTIO_CONFIG_S_NEEDS_RESET);
	virtio_pci_config_interrupt(v);
}

static void start_is_done(void *arg)
{
	struct virtio_pci *v = arg;

	v->changing = false;
	for (unsigned i = 0; i < v->queue_count; i++) {
		struct virtio_pci_queue *q = &v->queues[i];

		if (q->start_status && q->wanted)
			queue_failed(v, q, "could not be started");
		q->start_status = 0;
	}
	virtio_pci_follow(v);
}

static void change_is_done(void *arg)
{
	struct virtio_pci *v = arg;

	v->changing = false;
	virtio_pci_follow(v);
}

static struct reactor_task *change_begin(struct virtio_pci *v, reactor_fn *done)
{
	v->changing = true;
	v->changed = (struct reactor_task){ .fn = done, .arg = v };
	return &v->changed;
}

/* With a page of doorbells the worker looks there; else it is told by the eventfd. */
int virtio_pci_connect_kick(struct virtio_pci *v, struct virtio_pci_queue *q)
{
	int fd;

	virtio_queue_set_doorbell(v->device, index_of(v, q),
				  v->doorbells ? &v->doorbells[index_of(v, q)] : NULL);
	if (v->doorbells)
		return 0;
	fd = fcntl(virtio_pci_kick(q), F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	virtio_queue_give_kick(v->device, index_of(v, q), fd);
	return 0;
}

static void queue_start(struct virtio_pci *v, struct virtio_pci_queue *q)
{
	uint16_t first = virtio_queue_first_index(v->device);
	struct virtio_queue_setup setup = { .size = q->size,
					    .available_index = first,
					    .used_index = first,
					    .descriptor_iova = q->descriptor_iova,
					    .driver_iova = q->driver_iova,
					    .device_iova = q->device_iova };
	struct error e = { 0 };

	if (virtio_queue_configure(v->device, index_of(v, q), &setup, &e)) {
		queue_failed(v, q, e.text);
		return;
	}
	if (virtio_pci_connect_kick(v, q)) {
		queue_failed(v, q, "no descriptor is left for its notifications");
		return;
	}
	q->way = WAY_NONE;
	virtio_queue_start(v->device, index_of(v, q), &q->start_status,
			   change_begin(v, start_is_done));
}

/* One that a driver enables before FEATURES_OK waits for that: what its worker does depends on what
 * was agreed on (virtio 1.3, 3.1.1). */
static void queue_follow(struct virtio_pci *v, struct virtio_pci_queue *q)
{
	bool started = virtio_queue_is_started(v->device, index_of(v, q));
	bool agreed = v->status & VIRTIO_CONFIG_S_FEATURES_OK;

	if (started && (!q->wanted || q->resetting))
		virtio_queue_stop(v->device, index_of(v, q), change_begin(v, change_is_done));
	else if (q->resetting)
		q->resetting = false;
	else if (!started && agreed && q->wanted && !q->failed)
		queue_start(v, q);
}

/* ---- the device ---- */

static void reset_is_done(void *arg)
{
	struct virtio_pci *v = arg;
	struct reactor_task *done = v->reset_done;

	v->changing = false;
	v->reset_wanted = false;
	v->reset_done = NULL;
	for (unsigned i = 0; i < v->queue_count; i++)
		v->queues[i].resetting = false;
	if (done)
		reactor_defer(v->function.control, done);
	virtio_pci_follow(v);
}

static void reset_begin(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->queue_count; i++) {
		virtio_queue_enable(v->device, i, false);
		v->queues[i].way = WAY_NONE;
	}
	virtio_device_reset(v->device, change_begin(v, reset_is_done));
}

static bool any_queue_started(const struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->queue_count; i++)
		if (virtio_queue_is_started(v->device, i))
			return true;
	return false;
}

/* Workers read the features, which therefore stay as they are from the first start on. */
static void follow_features(struct virtio_pci *v)
{
	if (v->status & VIRTIO_CONFIG_S_FEATURES_OK && !any_queue_started(v))
		virtio_device_accept(v->device, v->driver_features & ~transport_features, NULL);
}

/* What the device is told at once.  It takes requests when the driver says it is ready (virtio 1.3,
 * 3.1.1) and while it may address memory. */
static void follow_status(struct virtio_pci *v)
{
	bool ready = v->status & VIRTIO_CONFIG_S_DRIVER_OK && v->may_address;

	follow_features(v);
	virtio_device_set_status(v->device, v->status);
	for (unsigned i = 0; i < v->queue_count; i++)
		virtio_queue_enable(v->device, i, ready);
}

void virtio_pci_follow(struct virtio_pci *v)
{
	if (!v->changing && v->reset_wanted)
		reset_begin(v);
	if (!v->changing && v->log != v->log_wanted)
		virtio_pci_change_log(v);
	if (v->changing || v->frozen)
		return;
	follow_status(v);
	for (unsigned i = 0; i < v->queue_count && !v->changing; i++)
		queue_follow(v, &v->queues[i]);
	virtio_pci_route(v);
	if (v->freeze && !v->changing)
		virtio_pci_freeze_now(v);
}
