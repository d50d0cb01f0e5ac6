/* virtio_save.c - a device's state, written. */
#include <assert.h>

#include "virtio/virtio_records.h"

void virtio_save_identity(const struct virtio_device *d, struct stream_writer *w)
{
	stream_begin(w, "device", 0);
	stream_u32(w, d->type->device_id);
	stream_u32(w, d->queue_count);
	stream_u16(w, d->queue_size);
	stream_end(w);
	stream_begin(w, "features", 0);
	stream_u64(w, d->accepted);
	stream_end(w);
	d->type->save_identity(d, w);
}

static void save_status(const struct virtio_device *d, struct stream_writer *w)
{
	stream_begin(w, "status", 0);
	stream_u8(w, d->status);
	stream_end(w);
}

static unsigned flags_of(const struct virtio_queue *q)
{
	return (q->is_quiesced ? QUEUE_RUNS : 0) | (q->broken_told ? QUEUE_BROKEN : 0) |
	       (atomic_load(&q->enabled_box) ? QUEUE_ENABLED : 0);
}

static void save_queue(const struct virtio_queue *q, struct stream_writer *w)
{
	unsigned left = q->is_quiesced ? q->left_count : 0;

	stream_begin(w, "queue", 0);
	stream_u32(w, q->index);
	stream_u32(w, flags_of(q));
	stream_u16(w, q->setup.size);
	stream_u16(w, q->position.available_index);
	stream_u16(w, q->position.used_index);
	stream_u64(w, q->setup.descriptor_iova);
	stream_u64(w, q->setup.driver_iova);
	stream_u64(w, q->setup.device_iova);
	stream_u16(w, left);
	for (unsigned i = 0; i < left; i++)
		stream_u16(w, q->left[i]);
	stream_end(w);
}

static void count(const struct virtio_device *d, uint64_t began_ns, size_t bytes)
{
	counter_add(&d->migration->saves, 1);
	counter_add(&d->migration->save_ns, reactor_clock(d->control) - began_ns);
	counter_add(&d->migration->state_bytes, bytes);
}

void virtio_device_save(const struct virtio_device *d, struct stream_writer *w)
{
	uint64_t began_ns = reactor_clock(d->control);
	size_t before = w->length;

	virtio_save_identity(d, w);
	save_status(d, w);
	for (unsigned i = 0; i < d->queue_count; i++) {
		assert(!d->queues[i].is_started);
		if (d->queues[i].setup.size)
			save_queue(&d->queues[i], w);
	}
	d->type->save(d, w);
	count(d, began_ns, w->length - before);
}

void virtio_device_save_internal(const struct virtio_device *d, struct stream_writer *w)
{
	uint64_t began_ns = reactor_clock(d->control);
	size_t before = w->length;

	virtio_save_identity(d, w);
	d->type->save(d, w);
	count(d, began_ns, w->length - before);
}
