/* virtio_quiesce.c - all queues stopped within a bound, and started again where they stood. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "virtio/virtio_state.h"

static void refuse(struct virtio_quiesce *how, const struct virtio_queue *q, unsigned waiting)
{
	if (how->status)
		return;
	how->status = -ETIMEDOUT;
	snprintf(how->reason, sizeof(how->reason),
		 "queue %u: the storage still has %u requests after %" PRIu64
		 " ms, which may not be sent again elsewhere",
		 q->index, waiting, how->patience_ns / 1000000);
}

void virtio_quiesce_is_back(struct virtio_queue *q, const struct virtio_order *o)
{
	if (o->waiting) {
		refuse(q->device->quiesce, q, o->waiting);
		return;
	}
	q->is_started = false;
	q->is_quiesced = true;
}

/* From where it stopped. */
static void send_start(struct virtio_queue *q)
{
	q->setup.available_index = q->position.available_index;
	q->setup.used_index = q->position.used_index;
	q->is_quiesced = false;
	q->start_status = NULL;
	virtio_change_send(q, ORDER_START);
}

static void send_starts(struct virtio_device *d)
{
	d->resume_status = 0;
	for (unsigned i = 0; i < d->queue_count; i++)
		if (d->queues[i].is_quiesced && !d->queues[i].is_started)
			send_start(&d->queues[i]);
}

/* One queue alone: there is nothing to take back. */
static bool queue_finish(struct virtio_device *d)
{
	for (unsigned i = 0; i < d->queue_count; i++)
		d->queues[i].is_quiesced = false;
	d->quiesce = NULL;
	return true;
}

/* If one could not be stopped, none is: the others are started again first. */
static bool device_finish(struct virtio_device *d)
{
	if (d->quiesce->status)
		send_starts(d);
	if (d->changes[CHANGE_LIFE].waiting)
		return false;
	d->quiesce = NULL;
	return true;
}

static void send_quiesce(struct virtio_queue *q, const struct virtio_quiesce *how)
{
	q->orders[CHANGE_LIFE].how = how;
	virtio_change_send(q, ORDER_QUIESCE);
}

void virtio_queue_quiesce(struct virtio_device *d, unsigned index, struct virtio_quiesce *how,
			  struct reactor_task *done)
{
	assert(index < d->queue_count);
	how->status = 0;
	d->quiesce = how;
	virtio_change_begin(d, CHANGE_LIFE, done, queue_finish);
	if (d->queues[index].is_started)
		send_quiesce(&d->queues[index], how);
	virtio_change_sent(d, CHANGE_LIFE);
}

void virtio_device_quiesce(struct virtio_device *d, struct virtio_quiesce *how,
			   struct reactor_task *done)
{
	how->status = 0;
	d->quiesce = how;
	virtio_change_begin(d, CHANGE_LIFE, done, device_finish);
	for (unsigned i = 0; i < d->queue_count; i++)
		if (d->queues[i].is_started)
			send_quiesce(&d->queues[i], how);
	virtio_change_sent(d, CHANGE_LIFE);
}

static bool resume_finish(struct virtio_device *d)
{
	*d->resumed = d->resume_status;
	return true;
}

void virtio_device_resume(struct virtio_device *d, int *status, struct reactor_task *done)
{
	d->resumed = status;
	virtio_change_begin(d, CHANGE_LIFE, done, resume_finish);
	send_starts(d);
	virtio_change_sent(d, CHANGE_LIFE);
}
