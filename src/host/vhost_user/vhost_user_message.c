/* vhost_user_message.c - what vhost-user messages may hold. */
#include "host/vhost_user/vhost_user_message.h"

#include <errno.h>
#include <inttypes.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"

#define RING_FILE_NO_FD      (UINT64_C(1) << 8)
#define RING_FILE_KNOWN_BITS UINT64_C(0x1ff)
#define VRING_ADDRESS_LOG    1u

_Static_assert(sizeof(union vhost_user_payload) == VHOST_USER_PAYLOAD_MAX, "payload");
_Static_assert(sizeof(struct vhost_user_header) == 12, "header");
_Static_assert(sizeof(struct vhost_user_vring_address) == 40, "vring address");
_Static_assert(sizeof(struct vhost_user_single_region) == 40, "region");

int vhost_user_header_check(const struct vhost_user_header *h, struct error *e)
{
	if ((h->flags & VHOST_USER_FLAG_VERSION_MASK) != VHOST_USER_VERSION)
		return error_set(e, -EPROTO, "request %" PRIu32 ": version %" PRIu32 " is not 1",
				 h->request, h->flags & VHOST_USER_FLAG_VERSION_MASK);
	if (h->flags & VHOST_USER_FLAG_REPLY)
		return error_set(e, -EPROTO, "request %" PRIu32 ": is marked as a reply",
				 h->request);
	if (h->size > VHOST_USER_PAYLOAD_MAX)
		return error_set(e, -EPROTO,
				 "request %" PRIu32 ": a payload of %" PRIu32
				 " bytes is more than any message has",
				 h->request, h->size);
	return 0;
}

int vhost_user_shape_check(const struct vhost_user_shape *s, const struct vhost_user_message *m,
			   struct error *e)
{
	uint32_t size = m->header.size;

	if (size < s->size_min || size > s->size_max)
		return error_set(e, -EPROTO, "a payload of %" PRIu32 " bytes, expected %u to %u",
				 size, s->size_min, s->size_max);
	if (m->fd_count < s->fds_min || m->fd_count > s->fds_max)
		return error_set(e, -EPROTO, "%u file descriptors, expected %u to %u", m->fd_count,
				 s->fds_min, s->fds_max);
	return s->check ? s->check(m, e) : 0;
}

int vhost_user_check_ring_file(const struct vhost_user_message *m, struct error *e)
{
	unsigned expected = m->payload.u64 & RING_FILE_NO_FD ? 0 : 1;

	if (m->payload.u64 & ~RING_FILE_KNOWN_BITS)
		return error_set(e, -EPROTO, "unknown bits in 0x%" PRIx64, m->payload.u64);
	if (m->fd_count != expected)
		return error_set(e, -EPROTO, "%u file descriptors where the payload says %u",
				 m->fd_count, expected);
	return 0;
}

static int check_region(const struct vhost_user_region *r, struct error *e)
{
	if (!r->size)
		return error_set(e, -EPROTO, "is empty");
	if (r->guest_address > UINT64_MAX - r->size)
		return error_set(e, -EPROTO, "guest address 0x%" PRIx64 " + 0x%" PRIx64 " wraps",
				 r->guest_address, r->size);
	if (r->user_address > UINT64_MAX - r->size)
		return error_set(e, -EPROTO, "user address 0x%" PRIx64 " + 0x%" PRIx64 " wraps",
				 r->user_address, r->size);
	if (!range_fits(r->mmap_offset, r->size, INT64_MAX))
		return error_set(e, -EPROTO, "file offset 0x%" PRIx64 " + 0x%" PRIx64 " wraps",
				 r->mmap_offset, r->size);
	return 0;
}

int vhost_user_check_table(const struct vhost_user_message *m, struct error *e)
{
	const struct vhost_user_memory_table *table = &m->payload.table;
	const size_t head = offsetof(struct vhost_user_memory_table, regions);

	if (table->count > VHOST_USER_TABLE_MAX)
		return error_set(e, -EPROTO, "%" PRIu32 " regions, at most %u", table->count,
				 (unsigned)VHOST_USER_TABLE_MAX);
	if (m->header.size != head + table->count * sizeof(table->regions[0]))
		return error_set(e, -EPROTO,
				 "a payload of %" PRIu32 " bytes for %" PRIu32 " regions",
				 m->header.size, table->count);
	if (m->fd_count != table->count)
		return error_set(e, -EPROTO, "%u file descriptors for %" PRIu32 " regions",
				 m->fd_count, table->count);
	for (unsigned i = 0; i < table->count; i++)
		if (check_region(&table->regions[i], e))
			return error_wrap(e, "region %u", i);
	return 0;
}

int vhost_user_check_single_region(const struct vhost_user_message *m, struct error *e)
{
	return check_region(&m->payload.single.region, e) ? error_wrap(e, "region") : 0;
}

/* The size in the payload may be less than what came with it (some front-ends always send the
 * largest configuration), never more. */
int vhost_user_check_config(const struct vhost_user_message *m, struct error *e)
{
	const struct vhost_user_config *config = &m->payload.config;
	uint32_t came = m->header.size - VHOST_USER_CONFIG_HEADER_SIZE;

	if (config->size > came)
		return error_set(e, -EPROTO, "%" PRIu32 " bytes of configuration in %" PRIu32,
				 config->size, came);
	if (!range_fits(config->offset, config->size, VHOST_USER_CONFIG_MAX))
		return error_set(e, -EPROTO,
				 "configuration bytes %" PRIu32 " + %" PRIu32 " are outside of %u",
				 config->offset, config->size, (unsigned)VHOST_USER_CONFIG_MAX);
	return 0;
}

int vhost_user_check_ring_address(const struct vhost_user_message *m, struct error *e)
{
	if (m->payload.address.flags & ~VRING_ADDRESS_LOG)
		return error_set(e, -EPROTO, "unknown flags 0x%" PRIx32, m->payload.address.flags);
	return 0;
}

int vhost_user_check_enable(const struct vhost_user_message *m, struct error *e)
{
	if (m->payload.state.num > 1)
		return error_set(e, -EPROTO, "%" PRIu32 " is neither 0 nor 1",
				 m->payload.state.num);
	return 0;
}

int vhost_user_check_status(const struct vhost_user_message *m, struct error *e)
{
	if (m->payload.u64 > UINT8_MAX)
		return error_set(e, -EPROTO, "status 0x%" PRIx64 " has more than eight bits",
				 m->payload.u64);
	return 0;
}

void vhost_user_message_close(struct vhost_user_message *m)
{
	for (unsigned i = 0; i < m->fd_count; i++)
		fd_close(&m->fds[i]);
	m->fd_count = 0;
}
