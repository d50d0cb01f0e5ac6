/* vfio_user_memory.c - the client's memory: DMA_MAP, DMA_UNMAP. */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_command.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "link/memory_map.h"
#include "pci/pci_function.h"

#define RELEASE_PATIENCE_NS (2 * UINT64_C(1000000000))

_Static_assert((int)VFIO_DMA_MAP_FLAG_READ == MEMORY_READ &&
		       (int)VFIO_DMA_MAP_FLAG_WRITE == MEMORY_WRITE,
	       "flags are passed on as they are");

/* The map is ours from here on, and the function's as soon as it can be. */
static void give(struct vfio_user_connection *c, struct memory_map *m, vfio_user_step *after)
{
	memory_map_release(c->map);
	c->map = m;
	vfio_user_dma_set_map(&c->dma, m);
	pci_function_set_memory(c->function, m, vfio_user_connection_change(c, after));
}

/* ---- DMA_MAP ---- */

static void map_is_applied(struct vfio_user_connection *c)
{
	counter_add(&c->numbers->maps, 1);
	vfio_user_connection_finish(c, NULL, 0);
}

static struct memory_map *map_with(struct vfio_user_connection *c, const struct memory_region *r,
				   struct error *e)
{
	struct memory_map *empty = c->map ? NULL : memory_map_create_remote(&c->dma.remote, e);
	struct memory_map *m = NULL;

	if (c->map || empty)
		m = memory_map_add(c->map ? c->map : empty, r, e);
	memory_map_release(empty);
	return m;
}

int vfio_user_map(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	const struct vfio_user_dma_map *map = m->payload;
	const struct memory_region region = {
		.iova = map->address,
		.length = map->size,
		.fd = m->fd_count ? m->fds[0] : -1,
		.fd_offset = m->fd_count ? map->offset : 0,
		.access = map->flags,
	};
	struct memory_map *with;

	if (c->map && memory_map_count(c->map) >= c->terms.maps_max)
		return error_set(e, -ENOSPC, "%" PRIu32 " regions are mapped", c->terms.maps_max);
	if (!m->fd_count && vfio_user_dma_open(&c->dma))
		return error_set(e, -ENOMEM, "out of memory");
	with = map_with(c, &region, e);
	if (!with)
		return e->code;
	give(c, with, map_is_applied);
	return VFIO_USER_LATER;
}

/* ---- DMA_UNMAP ---- */

struct range {
	uint64_t iova, length; /* not wrapping; everything has a length of UINT64_MAX */
};

static bool is_inside(const struct memory_region *r, const struct range *range)
{
	return r->iova >= range->iova &&
	       range_fits(r->iova - range->iova, r->length, range->length);
}

static bool is_apart(const struct memory_region *r, const struct range *range)
{
	return r->iova - range->iova >= range->length && range->iova - r->iova >= r->length;
}

/* How many regions the range holds; -EINVAL if it cuts one in two. */
static int count_inside(const struct memory_map *m, const struct range *range, struct error *e)
{
	struct memory_region r;
	int count = 0;

	for (unsigned i = 0; m && i < memory_map_count(m); i++) {
		memory_map_region(m, i, &r);
		if (is_inside(&r, range))
			count++;
		else if (!is_apart(&r, range))
			return error_set(e, -EINVAL,
					 "the region at 0x%" PRIx64 " would be cut in two", r.iova);
	}
	return count;
}

static bool is_mapped(const struct memory_map *m, const struct memory_region *r)
{
	void *host = NULL;

	return memory_map_part(m, r->iova, 1, r->access, &host) && host;
}

static void unmap_is_done(struct vfio_user_connection *c)
{
	if (c->after_change || c->releasing)
		return;
	reactor_timer_cancel(&c->patience);
	free(c->releases);
	c->releases = NULL;
	c->dma.refusing = false;
	counter_add(&c->numbers->unmaps, 1);
	vfio_user_connection_finish(c, &c->unmap, sizeof(c->unmap));
}

static void region_is_released(void *arg)
{
	struct vfio_user_connection *c = arg;

	c->releasing--;
	if (c->state == VFIO_USER_OPEN)
		unmap_is_done(c);
	else
		vfio_user_connection_go_on(c);
}

static void release_is_late(void *arg)
{
	struct vfio_user_connection *c = arg;

	counter_add(&c->numbers->release_timeouts, 1);
	c->dma.refusing = true; /* until the unmap is done */
	if (vfio_user_dma_fail_all(&c->dma, -ETIMEDOUT))
		vfio_user_connection_break(c, "out of memory");
}

/* Asks for word of each mapped region in the range, while the map still has them. */
static void await_releases(struct vfio_user_connection *c, const struct range *range)
{
	struct memory_region r;

	for (unsigned i = 0; i < memory_map_count(c->map); i++) {
		struct reactor_task *task = &c->releases[c->releasing];

		memory_map_region(c->map, i, &r);
		if (!is_inside(&r, range) || !is_mapped(c->map, &r))
			continue;
		*task = (struct reactor_task){ .fn = region_is_released, .arg = c };
		memory_map_on_release(c->map, r.iova, c->control, task);
		c->releasing++;
	}
}

static int begin_unmap(struct vfio_user_connection *c, const struct range *range, unsigned count,
		       struct error *e)
{
	struct memory_map *without = memory_map_remove(c->map, range->iova, range->length, e);
	uint64_t deadline = reactor_now(c->control) + RELEASE_PATIENCE_NS;
	int err = without ? 0 : e->code;

	c->releases = calloc(count, sizeof(c->releases[0]));
	c->patience = (struct reactor_timer){ .fn = release_is_late, .arg = c };
	if (!err && (!c->releases || reactor_timer_set(c->control, &c->patience, deadline)))
		err = error_set(e, -ENOMEM, "out of memory");
	if (err) {
		memory_map_release(without);
		free(c->releases);
		c->releases = NULL;
		return err;
	}
	await_releases(c, range);
	give(c, without, unmap_is_done);
	return VFIO_USER_LATER;
}

/* vfio-user.rst says that a range must match one mapping.  QEMU unmaps whole domains of a virtual
 * IOMMU in large power-of-two ranges, as the kernel allows: all that lies inside goes, and a
 * range with nothing inside is fine. */
int vfio_user_unmap(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	struct range range;
	int count;

	memcpy(&c->unmap, m->payload, sizeof(c->unmap));
	range = (struct range){ c->unmap.address, c->unmap.size };
	if (c->unmap.flags & VFIO_DMA_UNMAP_FLAG_ALL)
		range = (struct range){ 0, UINT64_MAX };
	count = count_inside(c->map, &range, e);
	if (count > 0)
		return begin_unmap(c, &range, count, e);
	if (count < 0)
		return count;
	vfio_user_connection_reply(c, &m->header, &(struct iovec){ &c->unmap, sizeof(c->unmap) }, 1,
				   NULL, 0);
	return VFIO_USER_REPLIED;
}
