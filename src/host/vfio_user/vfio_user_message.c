/* vfio_user_message.c - checks of vfio-user messages.
 *
 * A table says how many bytes each command has at least and at most; then a check of its own looks
 * at the fields.  No handler runs on a message that has not passed both. */
#include "host/vfio_user/vfio_user_message.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>

#include "base/bytes.h"
#include "base/error.h"

int vfio_user_header_check(const struct vfio_user_header *h, struct error *e)
{
	unsigned type = h->flags & VFIO_USER_FLAG_TYPE;

	if (h->size < VFIO_USER_HEADER_SIZE || h->size > VFIO_USER_MESSAGE_MAX)
		return error_set(e, -EPROTO, "a message of %" PRIu32 " bytes", h->size);
	if (type > VFIO_USER_FLAG_REPLY)
		return error_set(e, -EPROTO, "a message of type %u", type);
	return 0;
}

/* ---- fields ---- */

typedef int check_fn(const struct vfio_user_message *m, uint32_t transfer_max, struct error *e);

static int check_argsz(uint32_t argsz, size_t least, struct error *e)
{
	return argsz < least ? error_set(e, -EINVAL, "argsz %" PRIu32 " is below %zu", argsz, least)
			     : 0;
}

static int check_range(uint64_t address, uint64_t size, struct error *e)
{
	if (!size || address > UINT64_MAX - size)
		return error_set(e, -EINVAL,
				 "range 0x%" PRIx64 " + 0x%" PRIx64 " is empty or wraps", address,
				 size);
	if ((address | size) % VFIO_USER_PAGE)
		return error_set(e, -EINVAL, "range 0x%" PRIx64 " + 0x%" PRIx64 " cuts a page",
				 address, size);
	return 0;
}

static int check_dma_map(const struct vfio_user_message *m, uint32_t transfer_max, struct error *e)
{
	const struct vfio_user_dma_map *map = m->payload;
	const uint32_t access = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

	if (!(map->flags & access) || map->flags & ~access)
		return error_set(e, -EINVAL, "flags 0x%" PRIx32, map->flags);
	if (m->fd_count > 1)
		return error_set(e, -EINVAL, "%u file descriptors", m->fd_count);
	if (check_argsz(map->argsz, sizeof(*map), e))
		return e->code;
	return check_range(map->address, map->size, e);
}

static int check_dma_unmap(const struct vfio_user_message *m, uint32_t transfer_max,
			   struct error *e)
{
	const struct vfio_user_dma_unmap *unmap = m->payload;

	if (unmap->flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP)
		return error_set(e, -EOPNOTSUPP, "there is no bitmap of dirty pages");
	if (unmap->flags & ~VFIO_DMA_UNMAP_FLAG_ALL)
		return error_set(e, -EINVAL, "flags 0x%" PRIx32, unmap->flags);
	if (vfio_user_payload_size(m) != sizeof(*unmap))
		return error_set(e, -EINVAL, "a payload of %zu bytes", vfio_user_payload_size(m));
	if (check_argsz(unmap->argsz, sizeof(*unmap), e))
		return e->code;
	if (!unmap->flags)
		return check_range(unmap->address, unmap->size, e);
	if (unmap->address || unmap->size)
		return error_set(e, -EINVAL, "a range, and everything");
	return 0;
}

static int check_device_info(const struct vfio_user_message *m, uint32_t transfer_max,
			     struct error *e)
{
	const struct vfio_user_device_info *info = m->payload;

	return check_argsz(info->argsz, sizeof(*info), e);
}

static int check_region_info(const struct vfio_user_message *m, uint32_t transfer_max,
			     struct error *e)
{
	const struct vfio_user_region_info *info = m->payload;

	return check_argsz(info->argsz, sizeof(*info), e);
}

static int check_indexed(const struct vfio_user_message *m, uint32_t transfer_max, struct error *e)
{
	const struct vfio_user_indexed *info = m->payload;

	return check_argsz(info->argsz, sizeof(*info), e);
}

static bool is_one_of(uint32_t flags, uint32_t mask)
{
	return is_power_of_two(flags & mask);
}

/* An eventfd for each vector, or none at all. */
static int check_irq_data(const struct vfio_user_message *m, const struct vfio_user_irq_set *set,
			  struct error *e)
{
	size_t bools = set->flags & VFIO_IRQ_SET_DATA_BOOL ? set->count : 0;

	if (vfio_user_payload_size(m) - sizeof(*set) != bools)
		return error_set(e, -EINVAL, "%" PRIu32 " booleans in %zu bytes", set->count,
				 vfio_user_payload_size(m) - sizeof(*set));
	if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD && m->fd_count && m->fd_count != set->count)
		return error_set(e, -EINVAL, "%u file descriptors for %" PRIu32 " vectors",
				 m->fd_count, set->count);
	return check_argsz(set->argsz, sizeof(*set) + bools, e);
}

static int check_set_irqs(const struct vfio_user_message *m, uint32_t transfer_max, struct error *e)
{
	const struct vfio_user_irq_set *set = m->payload;
	const uint32_t data = VFIO_IRQ_SET_DATA_TYPE_MASK, action = VFIO_IRQ_SET_ACTION_TYPE_MASK;

	if (set->flags & ~(data | action) || !is_one_of(set->flags, data) ||
	    !is_one_of(set->flags, action))
		return error_set(e, -EINVAL, "flags 0x%" PRIx32, set->flags);
	if (!set->count && (set->start || !(set->flags & VFIO_IRQ_SET_DATA_NONE)))
		return error_set(e, -EINVAL, "no vectors");
	if (set->start > UINT32_MAX - set->count)
		return error_set(e, -EINVAL, "vectors %" PRIu32 " + %" PRIu32 " wrap", set->start,
				 set->count);
	return check_irq_data(m, set, e);
}

static int check_access(const struct vfio_user_region_access *access, uint32_t transfer_max,
			struct error *e)
{
	if (access->count > transfer_max)
		return error_set(e, -EINVAL, "%" PRIu32 " bytes, at most %" PRIu32, access->count,
				 transfer_max);
	return 0;
}

static int check_region_read(const struct vfio_user_message *m, uint32_t transfer_max,
			     struct error *e)
{
	return check_access(m->payload, transfer_max, e);
}

static int check_region_write(const struct vfio_user_message *m, uint32_t transfer_max,
			      struct error *e)
{
	const struct vfio_user_region_access *access = m->payload;
	size_t came = vfio_user_payload_size(m) - sizeof(*access);

	if (access->count != came)
		return error_set(e, -EINVAL, "%zu bytes of data instead of %" PRIu32, came,
				 access->count);
	return check_access(access, transfer_max, e);
}

static int check_write_multi(const struct vfio_user_message *m, uint32_t transfer_max,
			     struct error *e)
{
	const uint8_t *payload = m->payload;
	const struct vfio_user_write_one *one = (const void *)(payload + sizeof(uint64_t));
	size_t bytes = vfio_user_payload_size(m) - sizeof(uint64_t);
	uint64_t count;

	memcpy(&count, payload, sizeof(count));
	if (bytes % sizeof(*one) || count != bytes / sizeof(*one))
		return error_set(e, -EINVAL, "%" PRIu64 " writes in %zu bytes", count, bytes);
	for (uint64_t i = 0; i < count; i++)
		if (one[i].count > sizeof(one[i].data))
			return error_set(e, -EINVAL, "write %" PRIu64 " has %" PRIu32 " bytes", i,
					 one[i].count);
	return 0;
}

static int check_ranges(const struct vfio_user_message *m, struct error *e)
{
	const struct vfio_user_log_start *s = m->payload;
	size_t bytes = vfio_user_payload_size(m) - sizeof(*s);

	if (s->range_count > VFIO_USER_LOG_RANGES_MAX ||
	    bytes != s->range_count * sizeof(s->ranges[0]))
		return error_set(e, -EINVAL, "%" PRIu32 " ranges in %zu bytes", s->range_count,
				 bytes);
	for (uint32_t i = 0; i < s->range_count; i++)
		if (!s->ranges[i].length ||
		    s->ranges[i].iova > UINT64_MAX - (s->ranges[i].length - 1))
			return error_set(e, -EINVAL, "range 0x%" PRIx64 " + 0x%" PRIx64 " wraps",
					 s->ranges[i].iova, s->ranges[i].length);
	return 0;
}

/* The bitmap has to fit into one reply. */
static int check_report(const struct vfio_user_log_report *r, uint32_t transfer_max,
			struct error *e)
{
	uint64_t bytes;

	if (!is_power_of_two(r->page_size) || r->page_size < VFIO_USER_PAGE)
		return error_set(e, -EINVAL, "pages of %" PRIu64 " bytes", r->page_size);
	if (!r->length || r->iova > UINT64_MAX - (r->length - 1))
		return error_set(e, -EINVAL, "range 0x%" PRIx64 " + 0x%" PRIx64 " wraps", r->iova,
				 r->length);
	bytes = vfio_user_bitmap_bytes(r->length, r->page_size);
	if (bytes > transfer_max || bytes + sizeof(*r) > r->head.argsz)
		return error_set(e, -EINVAL,
				 "a bitmap of %" PRIu64 " bytes: at most %" PRIu32
				 ", argsz %" PRIu32,
				 bytes, transfer_max, r->head.argsz);
	return 0;
}

/* Of what is got, but for a report's bitmap. */
static size_t reply_bytes(unsigned feature)
{
	switch (feature) {
	case VFIO_USER_FEATURE_MIGRATION:
		return sizeof(struct vfio_user_migration);
	case VFIO_USER_FEATURE_STATE:
		return sizeof(struct vfio_user_mig_state);
	case VFIO_USER_FEATURE_DATA_SIZE:
		return sizeof(struct vfio_user_data_size);
	default:
		return sizeof(struct vfio_user_feature);
	}
}

/* What there is to say about a feature's data; what is no feature of ours is the handler's to
 * refuse. */
static int check_feature_data(const struct vfio_user_message *m, uint32_t transfer_max,
			      struct error *e)
{
	const struct vfio_user_feature *f = m->payload;
	bool set = f->flags & VFIO_DEVICE_FEATURE_SET;
	size_t size = vfio_user_payload_size(m), least = sizeof(*f);
	unsigned feature = f->flags & VFIO_DEVICE_FEATURE_MASK;

	if (feature == VFIO_USER_FEATURE_STATE && set)
		least = sizeof(struct vfio_user_mig_state);
	else if (feature == VFIO_USER_FEATURE_LOG_START && set)
		least = sizeof(struct vfio_user_log_start);
	else if (feature == VFIO_USER_FEATURE_LOG_REPORT && !set)
		least = sizeof(struct vfio_user_log_report);
	if (size < least)
		return error_set(e, -EINVAL, "feature %u with %zu bytes, not %zu", feature, size,
				 least);
	if (!set && check_argsz(f->argsz, reply_bytes(feature), e))
		return e->code;
	if (feature == VFIO_USER_FEATURE_LOG_START && set)
		return check_ranges(m, e);
	if (feature == VFIO_USER_FEATURE_LOG_REPORT && !set)
		return check_report(m->payload, transfer_max, e);
	return 0;
}

static int check_feature(const struct vfio_user_message *m, uint32_t transfer_max, struct error *e)
{
	const struct vfio_user_feature *f = m->payload;
	const uint32_t both = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET;
	const uint32_t methods = both | VFIO_DEVICE_FEATURE_PROBE;

	if (f->flags & ~(methods | VFIO_DEVICE_FEATURE_MASK) || !(f->flags & methods))
		return error_set(e, -EINVAL, "flags 0x%" PRIx32, f->flags);
	if (!(f->flags & VFIO_DEVICE_FEATURE_PROBE) && (f->flags & both) == both)
		return error_set(e, -EINVAL, "get and set at once");
	if (check_argsz(f->argsz, sizeof(*f), e))
		return e->code;
	return f->flags & VFIO_DEVICE_FEATURE_PROBE ? 0 : check_feature_data(m, transfer_max, e);
}

static int check_mig_read(const struct vfio_user_message *m, uint32_t transfer_max, struct error *e)
{
	const struct vfio_user_mig_data *d = m->payload;

	if (d->size > transfer_max || d->argsz < sizeof(*d) || d->argsz - sizeof(*d) < d->size)
		return error_set(e, -EINVAL, "%" PRIu32 " bytes of state, argsz %" PRIu32, d->size,
				 d->argsz);
	return 0;
}

static int check_mig_write(const struct vfio_user_message *m, uint32_t transfer_max,
			   struct error *e)
{
	const struct vfio_user_mig_data *d = m->payload;
	size_t came = vfio_user_payload_size(m) - sizeof(*d);

	if (d->size != came || d->size > transfer_max)
		return error_set(e, -EINVAL, "%zu bytes of state instead of %" PRIu32, came,
				 d->size);
	return 0;
}

/* ---- the table ---- */

struct shape {
	const char *name;
	uint32_t size_min, size_max; /* bytes of payload */
	check_fn *check;             /* may be NULL: nothing more to check */
};

#define EXACTLY(type)  sizeof(struct type), sizeof(struct type)
#define AT_LEAST(type) sizeof(struct type), UINT32_MAX

static const struct shape shapes[VFIO_USER_COMMAND_END] = {
	[VFIO_USER_VERSION] = { "VERSION", AT_LEAST(vfio_user_version), NULL },
	[VFIO_USER_DMA_MAP] = { "DMA_MAP", EXACTLY(vfio_user_dma_map), check_dma_map },
	[VFIO_USER_DMA_UNMAP] = { "DMA_UNMAP", AT_LEAST(vfio_user_dma_unmap), check_dma_unmap },
	[VFIO_USER_DEVICE_GET_INFO] = { "DEVICE_GET_INFO", EXACTLY(vfio_user_device_info),
					check_device_info },
	[VFIO_USER_DEVICE_GET_REGION_INFO] = { "DEVICE_GET_REGION_INFO",
					       EXACTLY(vfio_user_region_info), check_region_info },
	[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = { "DEVICE_GET_REGION_IO_FDS",
						 EXACTLY(vfio_user_indexed), check_indexed },
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = { "DEVICE_GET_IRQ_INFO", EXACTLY(vfio_user_indexed),
					    check_indexed },
	[VFIO_USER_DEVICE_SET_IRQS] = { "DEVICE_SET_IRQS", AT_LEAST(vfio_user_irq_set),
					check_set_irqs },
	[VFIO_USER_REGION_READ] = { "REGION_READ", EXACTLY(vfio_user_region_access),
				    check_region_read },
	[VFIO_USER_REGION_WRITE] = { "REGION_WRITE", AT_LEAST(vfio_user_region_access),
				     check_region_write },
	[VFIO_USER_DEVICE_RESET] = { "DEVICE_RESET", 0, 0, NULL },
	[VFIO_USER_REGION_WRITE_MULTI] = { "REGION_WRITE_MULTI", sizeof(uint64_t), UINT32_MAX,
					   check_write_multi },
	[VFIO_USER_DEVICE_FEATURE] = { "DEVICE_FEATURE", AT_LEAST(vfio_user_feature),
				       check_feature },
	[VFIO_USER_MIG_DATA_READ] = { "MIG_DATA_READ", EXACTLY(vfio_user_mig_data),
				      check_mig_read },
	[VFIO_USER_MIG_DATA_WRITE] = { "MIG_DATA_WRITE", AT_LEAST(vfio_user_mig_data),
				       check_mig_write },
};

static const struct shape *find_shape(uint16_t command)
{
	return command < VFIO_USER_COMMAND_END && shapes[command].name ? &shapes[command] : NULL;
}

const char *vfio_user_command_name(uint16_t command)
{
	const struct shape *s = find_shape(command);

	return s ? s->name : NULL;
}

int vfio_user_command_check(const struct vfio_user_message *m, uint32_t transfer_max,
			    struct error *e)
{
	const struct shape *s = find_shape(m->header.command);
	size_t size = vfio_user_payload_size(m);

	if (!s)
		return error_set(e, -EOPNOTSUPP, "command %u is unknown", m->header.command);
	if (size < s->size_min || size > s->size_max)
		return error_set(e, -EINVAL, "a payload of %zu bytes", size);
	return s->check ? s->check(m, transfer_max, e) : 0;
}
