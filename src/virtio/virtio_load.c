/* virtio_load.c - a device's state, read: all of it checked, then all of it applied. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "virtio/virtio_records.h"

struct queue_record {
	uint32_t index, flags;
	uint16_t size, available_index, used_index;
	uint64_t descriptor_iova, driver_iova, device_iova;
	uint16_t left_count;
};

/* ---- what the device is ---- */

static int load_device(struct virtio_loading *l, struct stream_reader *r, struct error *e)
{
	const struct virtio_device *d = l->device;
	uint32_t id = stream_get_u32(r), queues = stream_get_u32(r);
	uint16_t size = stream_get_u16(r);

	l->has_device = true;
	if (id != d->type->device_id)
		return error_set(e, -EINVAL,
				 "the state is of a device of type %" PRIu32
				 ", this one is of type %" PRIu32,
				 id, d->type->device_id);
	if (queues != d->queue_count)
		return error_set(e, -EINVAL,
				 "the state is of %" PRIu32 " queues, this device has %u", queues,
				 d->queue_count);
	if (size > d->queue_size)
		return error_set(e, -EINVAL,
				 "the state is of queues of up to %u descriptors, "
				 "this device's have up to %u",
				 size, d->queue_size);
	return 0;
}

static int load_features(struct virtio_loading *l, struct stream_reader *r, struct error *e)
{
	l->features = stream_get_u64(r);
	l->has_features = true;
	if (l->apply)
		return virtio_device_accept(l->device, l->features, e);
	return virtio_device_check_features(l->device, l->features, e);
}

static int load_status(struct virtio_loading *l, struct stream_reader *r, struct error *e)
{
	uint8_t status = stream_get_u8(r);

	if (l->apply)
		l->device->status = status;
	return 0;
}

/* ---- queues ---- */

static void read_queue(struct stream_reader *r, struct queue_record *q)
{
	q->index = stream_get_u32(r);
	q->flags = stream_get_u32(r);
	q->size = stream_get_u16(r);
	q->available_index = stream_get_u16(r);
	q->used_index = stream_get_u16(r);
	q->descriptor_iova = stream_get_u64(r);
	q->driver_iova = stream_get_u64(r);
	q->device_iova = stream_get_u64(r);
	q->left_count = stream_get_u16(r);
}

static bool is_packed(const struct virtio_loading *l)
{
	return l->features >> VIRTIO_F_RING_PACKED & 1;
}

/* virtio 1.3, 4.1.5.2: bit 15 is the wrap counter, the rest a descriptor. */
static bool position_is_good(const struct virtio_loading *l, const struct queue_record *q)
{
	const uint16_t mask = 0x7fff;

	if (is_packed(l))
		return (q->available_index & mask) < q->size && (q->used_index & mask) < q->size &&
		       !q->left_count;
	return (uint16_t)(q->available_index - q->used_index) == q->left_count;
}

static int check_queue(const struct virtio_loading *l, const struct queue_record *q,
		       struct error *e)
{
	if (!l->has_device || !l->has_features)
		return error_set(e, -EINVAL, "state: a queue before the device and its features");
	if (q->index >= l->device->queue_count)
		return error_set(e, -EINVAL, "state: queue %" PRIu32 ": the device has %u",
				 q->index, l->device->queue_count);
	if (l->queues_seen[q->index / 64] >> q->index % 64 & 1)
		return error_set(e, -EINVAL, "state: queue %" PRIu32 " twice", q->index);
	if (!q->size || q->size > l->device->queue_size ||
	    !(is_packed(l) || is_power_of_two(q->size)))
		return error_set(e, -EINVAL, "state: queue %" PRIu32 ": %u descriptors", q->index,
				 q->size);
	if (q->left_count > q->size || !position_is_good(l, q))
		return error_set(e, -EINVAL,
				 "state: queue %" PRIu32
				 ": impossible positions 0x%x and 0x%x with "
				 "%u requests left behind",
				 q->index, q->available_index, q->used_index, q->left_count);
	return 0;
}

/* Each a descriptor of the ring, none of them twice. */
static int read_left(struct stream_reader *r, const struct queue_record *q, uint16_t *left,
		     struct error *e)
{
	for (unsigned i = 0; i < q->left_count; i++) {
		left[i] = stream_get_u16(r);
		if (left[i] >= q->size)
			return error_set(e, -EINVAL,
					 "state: queue %" PRIu32
					 ": a request at descriptor %u of %u",
					 q->index, left[i], q->size);
		for (unsigned j = 0; j < i; j++)
			if (left[j] == left[i])
				return error_set(e, -EINVAL,
						 "state: queue %" PRIu32 ": request %u twice",
						 q->index, left[i]);
	}
	return 0;
}

/* left moves to the queue. */
static void apply_queue(struct virtio_queue *q, const struct queue_record *from, uint16_t *left)
{
	q->setup = (struct virtio_queue_setup){ .size = from->size,
						.available_index = from->available_index,
						.used_index = from->used_index,
						.descriptor_iova = from->descriptor_iova,
						.driver_iova = from->driver_iova,
						.device_iova = from->device_iova };
	q->position = (struct virtio_queue_position){ .available_index = from->available_index,
						      .used_index = from->used_index };
	q->is_quiesced = (from->flags & (QUEUE_RUNS | QUEUE_BROKEN)) == QUEUE_RUNS;
	q->left_count = from->left_count;
	free(q->left);
	q->left = left;
	virtio_queue_enable(q->device, q->index, from->flags & QUEUE_ENABLED);
}

static int load_queue(struct virtio_loading *l, struct stream_reader *r, struct error *e)
{
	struct queue_record record;
	uint16_t *left;
	int err;

	read_queue(r, &record);
	err = check_queue(l, &record, e);
	if (err)
		return err;
	left = calloc(record.size, sizeof(*left));
	if (!left)
		return error_set(e, -ENOMEM, "state: out of memory");
	err = read_left(r, &record, left, e);
	l->queues_seen[record.index / 64] |= UINT64_C(1) << record.index % 64;
	if (!err && l->apply)
		apply_queue(&l->device->queues[record.index], &record, left);
	else
		free(left);
	return err;
}

/* ---- all records ---- */

static const struct {
	const char *name;
	int (*load)(struct virtio_loading *l, struct stream_reader *r, struct error *e);
} own_records[] = {
	{ "device", load_device },
	{ "features", load_features },
	{ "status", load_status },
	{ "queue", load_queue },
};

static int load_record(struct virtio_loading *l, const char *name, struct stream_reader *r,
		       struct error *e)
{
	int answer;

	for (unsigned i = 0; i < ARRAY_LENGTH(own_records); i++)
		if (!strcmp(name, own_records[i].name))
			return own_records[i].load(l, r, e) ? e->code : 1;
	answer = l->device->type->load(l->device, name, r, l->apply, e);
	if (!answer && l->other)
		answer = l->other(l, name, r, e);
	return answer;
}

static void note_needed(struct virtio_loading *l, const char *name)
{
	const char *const *lists[] = { l->device->type->records, l->needed };

	for (unsigned list = 0, bit = 0; list < ARRAY_LENGTH(lists); list++)
		for (unsigned i = 0; lists[list] && lists[list][i]; i++, bit++)
			if (!strcmp(lists[list][i], name))
				l->needed_seen |= UINT64_C(1) << bit;
}

static int check_needed(const struct virtio_loading *l, struct error *e)
{
	const char *const *lists[] = { l->device->type->records, l->needed };

	if (l->preview)
		return 0;
	if (!l->has_device || !l->has_features)
		return error_set(e, -EINVAL, "state: record %s is missing",
				 l->has_device ? "features" : "device");
	for (unsigned list = 0, bit = 0; list < ARRAY_LENGTH(lists); list++)
		for (unsigned i = 0; lists[list] && lists[list][i]; i++, bit++)
			if (!(l->needed_seen >> bit & 1))
				return error_set(e, -EINVAL, "state: record %s is missing",
						 lists[list][i]);
	return 0;
}

static int load_all(struct virtio_loading *l, struct stream_reader *r, struct error *e)
{
	const char *name;
	unsigned flags;

	while (stream_next(r, &name, &flags)) {
		int answer = load_record(l, name, r, e);

		if (answer < 0)
			return answer;
		if (!answer && !(flags & STREAM_OPTIONAL))
			return error_set(
				e, -EINVAL,
				"state: record %s is unknown here: a newer Outboard wrote it",
				name);
		if (answer && stream_check(r, e))
			return e->code;
		note_needed(l, name);
	}
	return check_needed(l, e);
}

static int run_once(struct virtio_loading *l, struct stream_reader *r, bool apply, struct error *e)
{
	stream_reader_rewind(r);
	l->apply = apply;
	l->has_device = l->has_features = false;
	l->features = l->needed_seen = 0;
	memset(l->queues_seen, 0, align_up(l->device->queue_count, 64) / 8);
	return load_all(l, r, e);
}

static int run(struct virtio_loading *l, const void *bytes, size_t n, struct error *e)
{
	struct stream_reader r;
	int err = stream_reader_open(&r, bytes, n, e);

	if (err)
		return err;
	l->queues_seen = calloc(l->device->queue_count / 64 + 1, sizeof(*l->queues_seen));
	if (!l->queues_seen)
		return error_set(e, -ENOMEM, "state: out of memory");
	err = run_once(l, &r, false, e);
	if (!err && !l->preview)
		err = run_once(l, &r, true, e);
	free(l->queues_seen);
	return err;
}

int virtio_loading_run(struct virtio_loading *l, const void *bytes, size_t n, struct error *e)
{
	struct virtio_migration *m = l->device->migration;
	uint64_t began_ns = reactor_clock(l->device->control);
	int err = run(l, bytes, n, e);

	if (!err && l->preview)
		return 0;
	counter_add(err ? &m->loads_refused : &m->loads, 1);
	counter_add(&m->load_ns, reactor_clock(l->device->control) - began_ns);
	return err;
}

int virtio_device_load(struct virtio_device *d, const void *bytes, size_t n, struct error *e)
{
	struct virtio_loading l = { .device = d };

	return virtio_loading_run(&l, bytes, n, e);
}
