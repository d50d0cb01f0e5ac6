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
	counter_add(&q->device->migration->parked, o->left);
}

/* From where it stopped. */
static void send_start(struct virtio_queue *q)
{
	q->setup.available_index = q->position.available_index;
	q->setup.used_index = q->position.used_index;
	q->is_quiesced = false;
	q->start_status = NULL;
	q->orders[CHANGE_LIFE].resumed_ns = q->device->migration->began_ns;
	virtio_change_send(q, ORDER_START);
}

static void send_starts(struct virtio_device *d)
{
	d->resume_status = 0;
	for (unsigned i = 0; i < d->queue_count; i++)
		if (d->queues[i].is_quiesced && !d->queues[i].is_started)
			send_start(&d->queues[i]);
}

static void count_quiesce(struct virtio_device *d)
{
	struct virtio_migration *m = d->migration;

	counter_add(d->quiesce->status ? &m->quiesces_refused : &m->quiesces, 1);
	counter_add(&m->quiesce_ns, reactor_clock(d->control) - m->began_ns);
}

/* One queue alone: there is nothing to take back. */
static bool queue_finish(struct virtio_device *d)
{
	for (unsigned i = 0; i < d->queue_count; i++)
		d->queues[i].is_quiesced = false;
	count_quiesce(d);
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
	count_quiesce(d);
	d->quiesce = NULL;
	return true;
}

static void send_quiesce(struct virtio_queue *q, const struct virtio_quiesce *how)
{
	q->orders[CHANGE_LIFE].how = how;
	virtio_change_send(q, ORDER_QUIESCE);
}

static void begin_quiesce(struct virtio_device *d, struct virtio_quiesce *how)
{
	how->status = 0;
	d->quiesce = how;
	d->migration->began_ns = reactor_clock(d->control);
}

void virtio_queue_quiesce(struct virtio_device *d, unsigned index, struct virtio_quiesce *how,
			  struct reactor_task *done)
{
	assert(index < d->queue_count);
	begin_quiesce(d, how);
	virtio_change_begin(d, CHANGE_LIFE, done, queue_finish);
	if (d->queues[index].is_started)
		send_quiesce(&d->queues[index], how);
	virtio_change_sent(d, CHANGE_LIFE);
}

void virtio_device_quiesce(struct virtio_device *d, struct virtio_quiesce *how,
			   struct reactor_task *done)
{
	begin_quiesce(d, how);
	virtio_change_begin(d, CHANGE_LIFE, done, device_finish);
	for (unsigned i = 0; i < d->queue_count; i++)
		if (d->queues[i].is_started)
			send_quiesce(&d->queues[i], how);
	virtio_change_sent(d, CHANGE_LIFE);
}

static bool resume_finish(struct virtio_device *d)
{
	*d->resumed = d->resume_status;
	counter_add(&d->migration->resumes, 1);
	counter_add(&d->migration->resume_ns, reactor_clock(d->control) - d->migration->began_ns);
	return true;
}

void virtio_device_resume(struct virtio_device *d, int *status, struct reactor_task *done)
{
	d->resumed = status;
	d->migration->began_ns = reactor_clock(d->control);
	virtio_change_begin(d, CHANGE_LIFE, done, resume_finish);
	send_starts(d);
	virtio_change_sent(d, CHANGE_LIFE);
}
