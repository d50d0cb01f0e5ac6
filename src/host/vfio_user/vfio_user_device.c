/* vfio_user_device.c - what the function looks like, and access to its regions. */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_command.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "pci/pci_function.h"

enum { AREAS_MAX = 16, DOORBELLS_MAX = 1024 };

static int reply(struct vfio_user_connection *c, const struct vfio_user_message *m,
		 const struct iovec *parts, unsigned count)
{
	vfio_user_connection_reply(c, &m->header, parts, count, NULL, 0);
	return VFIO_USER_REPLIED;
}

static int check_region(uint32_t index, struct error *e)
{
	return index < PCI_REGIONS ? 0 : error_set(e, -EINVAL, "no region %" PRIu32, index);
}

int vfio_user_get_info(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	struct vfio_user_device_info info = {
		.argsz = sizeof(info),
		.flags = VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI,
		.num_regions = PCI_REGIONS,
		.num_irqs = PCI_IRQS,
	};

	return reply(c, m, &(struct iovec){ &info, sizeof(info) }, 1);
}

/* ---- GET_REGION_INFO ---- */

union sparse { /* the capability, with room for its areas behind it */
	struct vfio_region_info_cap_sparse_mmap cap;
	unsigned char bytes[sizeof(struct vfio_region_info_cap_sparse_mmap) +
			    AREAS_MAX * sizeof(struct vfio_region_sparse_mmap_area)];
};

/* The areas of a region that one descriptor reaches, which is all that a reply can offer: an area's
 * place in the file is its place in the region plus the region's offset. */
static size_t find_areas(const struct pci_function *f, enum pci_region region, union sparse *s,
			 struct pci_area *first)
{
	struct pci_area area;

	s->cap = (struct vfio_region_info_cap_sparse_mmap){
		.header = { .id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1 },
	};
	for (unsigned i = 0; pci_region_area(f, region, i, &area); i++) {
		if (!i)
			*first = area;
		if (area.fd != first->fd || s->cap.nr_areas == AREAS_MAX ||
		    area.fd_offset - area.offset != first->fd_offset - first->offset)
			continue;
		s->cap.areas[s->cap.nr_areas++] =
			(struct vfio_region_sparse_mmap_area){ area.offset, area.size };
	}
	if (!s->cap.nr_areas)
		return 0;
	return sizeof(s->cap) + s->cap.nr_areas * sizeof(s->cap.areas[0]);
}

int vfio_user_get_region_info(struct vfio_user_connection *c, struct vfio_user_message *m,
			      struct error *e)
{
	const struct vfio_user_region_info *asked = m->payload;
	struct vfio_user_region_info info = { .argsz = sizeof(info), .index = asked->index };
	struct iovec parts[2] = { { &info, sizeof(info) } };
	struct pci_area area = { .fd = -1 };
	union sparse sparse;
	bool mappable;

	if (check_region(asked->index, e))
		return e->code;
	info.size = pci_region_size(c->function, asked->index);
	if (info.size)
		info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	parts[1] = (struct iovec){ &sparse, find_areas(c->function, asked->index, &sparse, &area) };
	mappable = parts[1].iov_len && c->terms.client_fds;
	if (!mappable)
		return reply(c, m, parts, 1);
	info.flags |= VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
	info.offset = area.fd_offset - area.offset;
	info.argsz += parts[1].iov_len;
	/* What is too long for the client is left out: argsz tells it how much there is.  It is
	 * told the place all the same, without which QEMU 11.1 takes the flag as wrong. */
	info.cap_offset = sizeof(info);
	vfio_user_connection_reply(c, &m->header, parts, asked->argsz >= info.argsz ? 2 : 1,
				   &area.fd, 1);
	return VFIO_USER_REPLIED;
}

/* ---- GET_REGION_IO_FDS ---- */

struct io_fds {
	struct vfio_user_io_fd *regions; /* owned */
	uint32_t count;
	int fds[VFIO_USER_REPLY_FDS_MAX]; /* borrowed */
	unsigned fd_count, fd_max;
};

/* The index of fd among those that go with the reply, or -1: no more may. */
static int index_of(struct io_fds *to, int fd)
{
	for (unsigned i = 0; i < to->fd_count; i++)
		if (to->fds[i] == fd)
			return i;
	if (to->fd_count == to->fd_max)
		return -1;
	to->fds[to->fd_count] = fd;
	return to->fd_count++;
}

static void collect(const struct pci_function *f, enum pci_region region, struct io_fds *to)
{
	struct pci_doorbell bell;

	for (unsigned i = 0; to->count < DOORBELLS_MAX && pci_region_doorbell(f, region, i, &bell);
	     i++) {
		int index = index_of(to, bell.fd);

		if (index >= 0)
			to->regions[to->count++] = (struct vfio_user_io_fd){ .offset = bell.offset,
									     .size = bell.size,
									     .fd_index = index };
	}
}

static unsigned count_doorbells(const struct pci_function *f, enum pci_region region)
{
	struct pci_doorbell bell;
	unsigned count = 0;

	while (count < DOORBELLS_MAX && pci_region_doorbell(f, region, count, &bell))
		count++;
	return count;
}

int vfio_user_get_region_io_fds(struct vfio_user_connection *c, struct vfio_user_message *m,
				struct error *e)
{
	const struct vfio_user_indexed *asked = m->payload;
	struct vfio_user_indexed info = { .index = asked->index };
	struct io_fds found = { .fd_max = minimum_u64(c->terms.client_fds,
						      VFIO_USER_REPLY_FDS_MAX) };
	struct iovec parts[2] = { { &info, sizeof(info) } };
	unsigned room;
	bool fits;

	if (asked->flags || asked->count)
		return error_set(e, -EINVAL, "flags or count are not zero");
	if (check_region(asked->index, e))
		return e->code;
	room = count_doorbells(c->function, asked->index);
	found.regions = calloc(room + 1, sizeof(found.regions[0]));
	if (!found.regions)
		return error_set(e, -ENOMEM, "out of memory");
	collect(c->function, asked->index, &found);
	parts[1] = (struct iovec){ found.regions, found.count * sizeof(found.regions[0]) };
	info.count = found.count;
	info.argsz = sizeof(info) + parts[1].iov_len;
	fits = asked->argsz >= info.argsz;
	vfio_user_connection_reply(c, &m->header, parts, fits ? 2 : 1, found.fds,
				   fits ? found.fd_count : 0);
	free(found.regions);
	return VFIO_USER_REPLIED;
}

/* ---- access ---- */

static int check_range(const struct vfio_user_connection *c, uint32_t region, uint64_t offset,
		       uint32_t count, struct error *e)
{
	if (check_region(region, e))
		return e->code;
	if (!range_fits(offset, count, pci_region_size(c->function, region)))
		return error_set(e, -EINVAL,
				 "bytes 0x%" PRIx64 " + %" PRIu32 " are outside of region %" PRIu32,
				 offset, count, region);
	return 0;
}

int vfio_user_region_read(struct vfio_user_connection *c, struct vfio_user_message *m,
			  struct error *e)
{
	struct vfio_user_region_access access;
	struct iovec parts[2] = { { &access, sizeof(access) } };
	int err;

	memcpy(&access, m->payload, sizeof(access));
	if (check_range(c, access.region, access.offset, access.count, e))
		return e->code;
	parts[1] = (struct iovec){ calloc(1, access.count + 1), access.count };
	if (!parts[1].iov_base)
		return error_set(e, -ENOMEM, "out of memory");
	err = pci_region_read(c->function, access.region, access.offset, parts[1].iov_base,
			      access.count);
	if (!err)
		err = reply(c, m, parts, 2);
	free(parts[1].iov_base);
	return err < 0 ? error_set(e, err, "region %" PRIu32, access.region) : err;
}

static int write_region(struct vfio_user_connection *c, uint32_t region, uint64_t offset,
			const void *from, uint32_t count, struct error *e)
{
	int err = check_range(c, region, offset, count, e);

	if (!err)
		err = pci_region_write(c->function, region, offset, from, count);
	return err < 0 && !e->code ? error_set(e, err, "region %" PRIu32, region) : err;
}

int vfio_user_region_write(struct vfio_user_connection *c, struct vfio_user_message *m,
			   struct error *e)
{
	struct vfio_user_region_access access;
	int err;

	memcpy(&access, m->payload, sizeof(access));
	err = write_region(c, access.region, access.offset,
			   (const char *)m->payload + sizeof(access), access.count, e);
	return err ? err : reply(c, m, &(struct iovec){ &access, sizeof(access) }, 1);
}

int vfio_user_region_write_multi(struct vfio_user_connection *c, struct vfio_user_message *m,
				 struct error *e)
{
	const struct vfio_user_write_one *one =
		(const void *)((const char *)m->payload + sizeof(uint64_t));
	uint64_t count;

	if (!c->terms.write_multiple)
		return error_set(e, -EOPNOTSUPP, "not negotiated");
	memcpy(&count, m->payload, sizeof(count));
	for (uint64_t i = 0; i < count; i++)
		if (write_region(c, one[i].region, one[i].offset, one[i].data, one[i].count, e))
			return error_wrap(e, "write %" PRIu64, i);
	return reply(c, m, &(struct iovec){ &count, sizeof(count) }, 1);
}
