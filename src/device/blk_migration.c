/* blk_migration.c - what a disk's state consists of beside its queues. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "device/blk_state.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

const char *const blk_records[] = { "blk", "blk.mode", NULL };

void blk_save_identity(const struct virtio_device *d, struct stream_writer *w)
{
	const struct blk *b = virtio_device_state(d);

	stream_begin(w, "blk", 0);
	stream_u64(w, storage_size(b->storage));
	stream_u32(w, le32toh(b->config.blk_size));
	stream_u8(w, b->read_only);
	stream_bytes(w, b->serial, sizeof(b->serial));
	stream_end(w);
}

void blk_save(const struct virtio_device *d, struct stream_writer *w)
{
	const struct blk *b = virtio_device_state(d);

	stream_begin(w, "blk.mode", 0);
	stream_u8(w, b->write_back);
	stream_end(w);
}

/* A guest that finds another disk behind its driver loses data. */
static int load_identity(const struct blk *b, struct stream_reader *r, struct error *e)
{
	uint64_t size = stream_get_u64(r);
	uint32_t block = stream_get_u32(r);
	bool read_only = stream_get_u8(r);
	char serial[sizeof(b->serial)];

	stream_get_bytes(r, serial, sizeof(serial));
	if (size != storage_size(b->storage))
		return error_set(e, -EINVAL,
				 "the disk has %" PRIu64 " bytes here, %" PRIu64 " there",
				 storage_size(b->storage), size);
	if (block != le32toh(b->config.blk_size))
		return error_set(e, -EINVAL,
				 "the disk's blocks have %" PRIu32 " bytes here, %" PRIu32
				 " there: --block-size",
				 le32toh(b->config.blk_size), block);
	if (read_only != b->read_only)
		return error_set(e, -EINVAL, "the disk is %s here, %s there: --read-only",
				 b->read_only ? "read-only" : "writable",
				 read_only ? "read-only" : "writable");
	if (memcmp(serial, b->serial, sizeof(serial)))
		return error_set(e, -EINVAL,
				 "the disk's serial is \"%.*s\" here, \"%.*s\" there: --serial",
				 (int)sizeof(serial), b->serial,
				 (int)strnlen(serial, sizeof(serial)), serial);
	return 0;
}

static int load_mode(struct blk *b, struct stream_reader *r, bool apply, struct error *e)
{
	uint8_t write_back = stream_get_u8(r);

	if (write_back > 1)
		return error_set(e, -EINVAL, "state: cache mode %u", write_back);
	if (!apply)
		return 0;
	b->config.wce = write_back;
	__atomic_store_n(&b->write_back, write_back, __ATOMIC_RELAXED);
	return 0;
}

int blk_load(struct virtio_device *d, const char *name, struct stream_reader *r, bool apply,
	     struct error *e)
{
	struct blk *b = virtio_device_state(d);
	int err;

	if (!strcmp(name, "blk"))
		err = load_identity(b, r, e);
	else if (!strcmp(name, "blk.mode"))
		err = load_mode(b, r, apply, e);
	else
		return 0;
	return err ? err : 1;
}
