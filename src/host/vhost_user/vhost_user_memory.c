/* vhost_user_memory.c - the front-end's memory table, and the requests that change it. */
#include "host/vhost_user/vhost_user_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_request.h"
#include "link/memory_map.h"
#include "virtio/virtio_device.h"

/* A new map: old (NULL: an empty one) with the region. */
static struct memory_map *map_with(const struct memory_map *old, const struct vhost_user_region *r,
				   int fd, struct error *e)
{
	const struct memory_region region = {
		.iova = r->guest_address,
		.length = r->size,
		.fd = fd,
		.fd_offset = r->mmap_offset,
		.access = MEMORY_READ | MEMORY_WRITE,
	};
	struct memory_map *empty = old ? NULL : memory_map_create(e);
	struct memory_map *m = NULL;

	if (old || empty)
		m = memory_map_add(old ? old : empty, &region, e);
	memory_map_release(empty);
	return m;
}

static void put_map(struct vhost_user_memory *t, struct memory_map *m)
{
	memory_map_release(t->map);
	t->map = m;
}

int vhost_user_memory_replace(struct vhost_user_memory *t, const struct vhost_user_memory_table *by,
			      const int *fds, struct error *e)
{
	struct memory_map *m = memory_map_create(e);

	for (unsigned i = 0; m && i < by->count; i++) {
		struct memory_map *more = map_with(m, &by->regions[i], fds[i], e);

		memory_map_release(m);
		m = more;
	}
	if (!m)
		return e->code;
	put_map(t, m);
	t->count = by->count;
	memcpy(t->regions, by->regions, by->count * sizeof(t->regions[0]));
	return 0;
}

int vhost_user_memory_add(struct vhost_user_memory *t, const struct vhost_user_region *r, int fd,
			  struct error *e)
{
	struct memory_map *m;

	if (t->count == VHOST_USER_MEMORY_SLOTS)
		return error_set(e, -ENOSPC, "more than %u regions",
				 (unsigned)VHOST_USER_MEMORY_SLOTS);
	m = map_with(t->map, r, fd, e);
	if (!m)
		return e->code;
	put_map(t, m);
	t->regions[t->count++] = *r;
	return 0;
}

static bool same_region(const struct vhost_user_region *a, const struct vhost_user_region *b)
{
	return a->guest_address == b->guest_address && a->user_address == b->user_address &&
	       a->size == b->size;
}

int vhost_user_memory_remove(struct vhost_user_memory *t, const struct vhost_user_region *r,
			     struct error *e)
{
	struct memory_map *m;
	unsigned i = 0;

	while (i < t->count && !same_region(&t->regions[i], r))
		i++;
	if (i == t->count)
		return error_set(e, -ENOENT,
				 "no region of 0x%" PRIx64 " bytes at guest address 0x%" PRIx64,
				 r->size, r->guest_address);
	m = memory_map_remove(t->map, r->guest_address, r->size, e);
	if (!m)
		return e->code;
	put_map(t, m);
	t->regions[i] = t->regions[--t->count];
	return 0;
}

void vhost_user_memory_clear(struct vhost_user_memory *t)
{
	put_map(t, NULL);
	t->count = 0;
}

bool vhost_user_memory_find(const struct vhost_user_memory *t, uint64_t user, uint64_t length,
			    uint64_t *guest)
{
	for (unsigned i = 0; i < t->count; i++) {
		const struct vhost_user_region *r = &t->regions[i];

		if (user < r->user_address || !range_fits(user - r->user_address, length, r->size))
			continue;
		*guest = r->guest_address + (user - r->user_address);
		return true;
	}
	return false;
}

uint64_t vhost_user_memory_end(const struct vhost_user_memory *t)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < t->count; i++)
		end = maximum_u64(end, t->regions[i].guest_address + t->regions[i].size);
	return end;
}

/* ---- requests ---- */

static void memory_step(struct vhost_user_connection *c)
{
	if (!--c->memory.waiting)
		vhost_user_connection_finish(c, 0, NULL);
}

static void region_is_released(void *arg)
{
	memory_step(arg);
}

/* The answer waits until nothing of ours reaches into the regions that were taken away, for the
 * front-end may unmap them then: all of old's [iova, iova + length). */
static void wait_for_release(struct vhost_user_connection *c, struct memory_map *old, uint64_t iova,
			     uint64_t length)
{
	struct vhost_user_memory *t = &c->memory;
	unsigned used = 0;

	for (unsigned i = 0; i < memory_map_count(old); i++) {
		struct memory_region r;

		memory_map_region(old, i, &r);
		if (r.iova < iova || !range_fits(r.iova - iova, r.length, length))
			continue;
		t->released[used] = (struct reactor_task){ .fn = region_is_released, .arg = c };
		memory_map_on_release(old, r.iova, c->control, &t->released[used++]);
	}
	t->waiting += used;
}

/* The queues use the new map from now on. */
static int give_memory(struct vhost_user_connection *c)
{
	c->memory.waiting++;
	virtio_device_set_memory(c->device, c->memory.map,
				 vhost_user_connection_change(c, memory_step));
	return VHOST_USER_LATER;
}

static struct memory_map *hold_present(const struct vhost_user_connection *c)
{
	return c->memory.map ? memory_map_hold(c->memory.map) : NULL;
}

/* After a change that went well (err is 0), or not.  old: what hold_present() said before. */
static int end_change(struct vhost_user_connection *c, struct memory_map *old, uint64_t iova,
		      uint64_t length, int err)
{
	if (!err && old)
		wait_for_release(c, old, iova, length);
	memory_map_release(old);
	return err ? err : give_memory(c);
}

/* Refused before anything changes. */
static int check_log(const struct vhost_user_connection *c, const struct vhost_user_region *r,
		     struct error *e)
{
	return vhost_user_log_covers(&c->log, r->guest_address + r->size, e);
}

int vhost_user_set_mem_table(struct vhost_user_connection *c, struct vhost_user_message *m,
			     struct error *e)
{
	const struct vhost_user_memory_table *table = &m->payload.table;
	struct memory_map *old;
	int err = 0;

	for (unsigned i = 0; !err && i < table->count; i++)
		err = check_log(c, &table->regions[i], e);
	if (err)
		return err;
	old = hold_present(c);
	err = vhost_user_memory_replace(&c->memory, table, m->fds, e);
	return end_change(c, old, 0, UINT64_MAX, err);
}

int vhost_user_add_mem_reg(struct vhost_user_connection *c, struct vhost_user_message *m,
			   struct error *e)
{
	const struct vhost_user_region *region = &m->payload.single.region;
	int err = check_log(c, region, e);

	if (!err)
		err = vhost_user_memory_add(&c->memory, region, m->fds[0], e);
	return err ? err : give_memory(c);
}

int vhost_user_rem_mem_reg(struct vhost_user_connection *c, struct vhost_user_message *m,
			   struct error *e)
{
	const struct vhost_user_region *region = &m->payload.single.region;
	struct memory_map *old = hold_present(c);
	int err = vhost_user_memory_remove(&c->memory, region, e);

	return end_change(c, old, region->guest_address, region->size, err);
}

int vhost_user_get_max_mem_slots(struct vhost_user_connection *c, struct vhost_user_message *m,
				 struct error *e)
{
	vhost_user_message_put_number(m, VHOST_USER_MEMORY_SLOTS);
	return 0;
}
