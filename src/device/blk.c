/* blk.c - a virtio block device (virtio 1.3, 5.2): features, configuration space, life. */
#include "device/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/pages.h"
#include "device/blk_state.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_device_type.h"

static const char *const kind_names[BLK_KINDS] = { "read",         "write",  "flush", "discard",
						   "write_zeroes", "get_id", "other" };

static const struct counter_field fields[] = {
	{ "reads", offsetof(struct blk_numbers, requests[BLK_READ]) },
	{ "writes", offsetof(struct blk_numbers, requests[BLK_WRITE]) },
	{ "flushes", offsetof(struct blk_numbers, requests[BLK_FLUSH]) },
	{ "discards", offsetof(struct blk_numbers, requests[BLK_DISCARD]) },
	{ "write_zeroes", offsetof(struct blk_numbers, requests[BLK_WRITE_ZEROES]) },
	{ "get_ids", offsetof(struct blk_numbers, requests[BLK_GET_ID]) },
	{ "refused", offsetof(struct blk_numbers, requests[BLK_OTHER]) },
	{ "bytes_read", offsetof(struct blk_numbers, bytes_read) },
	{ "bytes_written", offsetof(struct blk_numbers, bytes_written) },
	{ "bytes_discarded", offsetof(struct blk_numbers, bytes_discarded) },
	{ "bytes_zeroed", offsetof(struct blk_numbers, bytes_zeroed) },
	{ "errors", offsetof(struct blk_numbers, errors) },
	{ "unsupported", offsetof(struct blk_numbers, unsupported) },
};

/* ---- what the driver sees ---- */

static uint64_t features(const struct virtio_device *d)
{
	const struct blk *b = virtio_device_state(d);
	const struct storage_limits *limits = storage_limits(b->storage);
	uint64_t bits = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
			1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
			1ull << VIRTIO_BLK_F_MQ;

	if (b->read_only)
		bits |= 1ull << VIRTIO_BLK_F_RO;
	if (limits->volatile_cache)
		bits |= 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;
	if (limits->can_discard && !b->read_only)
		bits |= 1ull << VIRTIO_BLK_F_DISCARD;
	if (limits->can_write_zeroes && !b->read_only)
		bits |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	return bits;
}

static void config_read(const struct virtio_device *d, size_t offset, void *to, size_t n)
{
	const struct blk *b = virtio_device_state(d);

	memcpy(to, (const char *)&b->config + offset, n);
}

/* virtio 1.3, 5.2.4: writeback is the only field that a driver may write. */
static int config_write(struct virtio_device *d, size_t offset, const void *from, size_t n)
{
	struct blk *b = virtio_device_state(d);
	uint8_t value;

	if (offset != offsetof(struct virtio_blk_config, wce) || n != 1 ||
	    !(virtio_device_features(d) & 1ull << VIRTIO_BLK_F_CONFIG_WCE))
		return -EINVAL;
	memcpy(&value, from, 1);
	if (value > 1)
		return -EINVAL;
	b->config.wce = value;
	__atomic_store_n(&b->write_back, value, __ATOMIC_RELAXED);
	return 0;
}

static uint16_t header_size(const struct virtio_device *d, unsigned queue)
{
	return BLK_HEADER_SIZE;
}

static const struct virtio_device_type blk_type = {
	.name = "blk",
	.device_id = 2,
	.pci_class = 0x010000, /* mass storage, SCSI: what guests' tools show for virtio disks */
	.config_size = sizeof(struct virtio_blk_config),
	.header_size = header_size,
	.has_status = true,
	.features = features,
	.config_read = config_read,
	.config_write = config_write,
	.save_identity = blk_save_identity,
	.save = blk_save,
	.load = blk_load,
	.records = blk_records,
	.queue_start = blk_queue_start,
	.queue_work = blk_queue_work,
	.queue_stop = blk_queue_stop,
	.queue_withdraw = blk_queue_withdraw,
	.queue_again = blk_queue_again,
};

/* ---- life ---- */

static void set_capacity(struct blk *b)
{
	b->config.capacity = htole64(storage_size(b->storage) / 512);
}

static void resized(void *arg)
{
	struct blk *b = arg;

	set_capacity(b);
	virtio_device_config_changed(b->device);
}

/* The storage's preferred request size is shown as the physical block. */
static void set_topology(struct virtio_blk_config *c, const struct storage_limits *limits,
			 uint32_t block_size)
{
	uint32_t physical = maximum_u64(limits->preferred_size, block_size);

	c->blk_size = htole32(block_size);
	while ((block_size << c->physical_block_exp) < minimum_u64(physical, 1 << 16))
		c->physical_block_exp++;
	c->min_io_size = htole16(1u << c->physical_block_exp);
}

static void set_clear_limits(struct virtio_blk_config *c, const struct storage_limits *limits)
{
	uint32_t sectors = BLK_CLEAR_MAX / 512;

	if (limits->can_discard) {
		c->max_discard_sectors = htole32(sectors);
		c->max_discard_seg = htole32(BLK_RANGES_MAX);
		c->discard_sector_alignment =
			htole32(maximum_u64(limits->discard_alignment, limits->block_size) / 512);
	}
	if (limits->can_write_zeroes) {
		c->max_write_zeroes_sectors = htole32(sectors);
		c->max_write_zeroes_seg = htole32(BLK_RANGES_MAX);
		c->write_zeroes_may_unmap = limits->can_discard;
	}
}

static void config_fill(struct blk *b, const struct blk_options *o,
			const struct virtio_device_options *device_options)
{
	const struct storage_limits *limits = storage_limits(b->storage);
	struct virtio_blk_config *c = &b->config;
	uint32_t block_size = o->block_size ? o->block_size : limits->block_size;
	uint32_t segments = device_options->queue_size > 2 ? device_options->queue_size - 2 : 1;

	set_capacity(b);
	c->size_max = htole32(BLK_SEGMENT_MAX);
	c->seg_max = htole32(minimum_u64(segments, BLK_SEGMENTS_MAX));
	c->wce = b->write_back = limits->volatile_cache;
	c->num_queues = htole16(device_options->queues);
	set_topology(c, limits, block_size);
	set_clear_limits(c, limits);
}

/* A driver that does not know these would send what must fail. */
static int check_mask(const struct blk_options *o, const struct virtio_device_options *d,
		      struct error *e)
{
	const struct storage_limits *limits = storage_limits(o->storage);
	uint32_t block_size = o->block_size ? o->block_size : limits->block_size;

	if ((o->read_only || limits->read_only) && d->masked & 1ull << VIRTIO_BLK_F_RO)
		return error_set(e, -EINVAL, "features: ro is needed: the disk is read-only");
	if (block_size > 512 && d->masked & 1ull << VIRTIO_BLK_F_BLK_SIZE)
		return error_set(e, -EINVAL, "features: blk_size is needed: blocks of %u bytes",
				 block_size);
	return 0;
}

static int check_options(const struct blk_options *o, const struct virtio_device_options *d,
			 struct error *e)
{
	uint32_t least = storage_limits(o->storage)->block_size;

	if (o->block_size &&
	    (!is_power_of_two(o->block_size) || o->block_size < 512 || o->block_size > 65536))
		return error_set(e, -EINVAL,
				 "block size %u is not a power of two from 512 to 65536",
				 o->block_size);
	if (o->block_size && o->block_size < least)
		return error_set(e, -EINVAL,
				 "block size %u is less than the %u that the disk needs",
				 o->block_size, least);
	if (o->serial && strlen(o->serial) > BLK_ID_SIZE)
		return error_set(e, -EINVAL, "serial \"%s\" is longer than %d bytes", o->serial,
				 BLK_ID_SIZE);
	if (!is_power_of_two(d->queue_size))
		return error_set(e, -EINVAL, "queue size %u is not a power of two", d->queue_size);
	return 0;
}

static void queues_lay_out(struct blk *b, const char *name)
{
	for (unsigned i = 0; i < b->queue_count; i++) {
		struct blk_queue *bq = &b->queues[i];

		bq->blk = b;
		bq->group = (struct counter_group){ .room = "blk",
						    .fields = fields,
						    .count = ARRAY_LENGTH(fields),
						    .values = &bq->numbers };
		snprintf(bq->group.name, sizeof(bq->group.name), "%s", name);
		counter_group_add(&bq->group);
	}
}

static size_t blk_bytes(unsigned queues)
{
	return sizeof(struct blk) + queues * sizeof(struct blk_queue);
}

struct blk *blk_create(const struct blk_options *o, const struct virtio_device_options *d,
		       struct error *e)
{
	struct blk *b;

	if (check_options(o, d, e) || check_mask(o, d, e))
		return NULL;
	/* most of it is histograms, of which most see no request */
	b = pages_allocate(blk_bytes(d->queues));
	if (!b) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	b->storage = o->storage;
	b->read_only = o->read_only || storage_limits(o->storage)->read_only;
	memcpy(b->serial, o->serial ? o->serial : d->name,
	       minimum_u64(strlen(o->serial ? o->serial : d->name), BLK_ID_SIZE));
	config_fill(b, o, d);
	b->device = virtio_device_create(&blk_type, b, d, e);
	if (!b->device) {
		pages_free(b, blk_bytes(d->queues));
		return NULL;
	}
	b->queue_count = d->queues;
	queues_lay_out(b, d->name);
	storage_set_resize_listener(b->storage, resized, b);
	return b;
}

void blk_free(struct blk *b)
{
	if (!b)
		return;
	storage_set_resize_listener(b->storage, NULL, NULL);
	for (unsigned i = 0; i < b->queue_count; i++)
		counter_group_remove(&b->queues[i].group);
	virtio_device_free(b->device);
	pages_free(b, blk_bytes(b->queue_count));
}

struct virtio_device *blk_device(struct blk *b)
{
	return b->device;
}

void blk_print_latencies(struct blk *b, FILE *to)
{
	for (unsigned kind = 0; kind < BLK_KINDS; kind++) {
		struct histogram sum = { 0 };

		for (unsigned i = 0; i < b->queue_count; i++)
			histogram_merge(&sum, &b->queues[i].latency[kind]);
		if (!histogram_count(&sum))
			continue;
		fprintf(to, "latency %s %s p50_ns=%llu p99_ns=%llu p99.9_ns=%llu max_ns=%llu\n",
			virtio_device_name(b->device), kind_names[kind],
			(unsigned long long)histogram_percentile(&sum, 500),
			(unsigned long long)histogram_percentile(&sum, 990),
			(unsigned long long)histogram_percentile(&sum, 999),
			(unsigned long long)histogram_percentile(&sum, 1000));
	}
}
