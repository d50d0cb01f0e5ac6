/* memory_map.c - the VM's memory as the device may address it. */
#include "link/memory_map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/guarded_mapping.h"
#include "reactor/reactor.h"

enum { ALIGNMENT = 64 }; /* bytes */

/* One mmap, shared by every map that has the region. */
struct region_mapping {
	struct guarded_mapping guard;
	unsigned references;       /* atomic */
	struct reactor *reactor;   /* borrowed: where done is posted at the end */
	struct reactor_task *done; /* borrowed; NULL: nobody waits */
};

struct region {
	struct memory_region public;    /* fd is -1 */
	char *host;                     /* NULL: remote */
	struct region_mapping *mapping; /* held; NULL: remote */
};

struct memory_map {
	struct link_remote *remote; /* borrowed */
	struct link_model *model;   /* borrowed; NULL: none */
	unsigned references;        /* atomic */
	unsigned count;
	struct region regions[]; /* by iova; no two overlap */
};

static struct memory_map *map_allocate(unsigned count, struct link_remote *remote, struct error *e)
{
	struct memory_map *m = calloc(1, sizeof(*m) + count * sizeof(m->regions[0]));

	if (!m) {
		error_set(e, -ENOMEM, "memory map: out of memory");
		return NULL;
	}
	m->references = 1;
	m->count = count;
	m->remote = remote;
	return m;
}

static void region_hold(const struct region *r)
{
	if (r->mapping)
		__atomic_fetch_add(&r->mapping->references, 1, __ATOMIC_RELAXED);
}

/* Whoever asked to be told wrote so while it held a reference: letting go of that published it. */
static void region_release(struct region *r)
{
	struct region_mapping *m = r->mapping;

	if (!m || __atomic_sub_fetch(&m->references, 1, __ATOMIC_ACQ_REL))
		return;
	guarded_mapping_close(&m->guard);
	if (m->done)
		reactor_post(m->reactor, m->done);
	free(m);
}

struct memory_map *memory_map_create(struct error *e)
{
	return map_allocate(0, NULL, e);
}

struct memory_map *memory_map_create_remote(struct link_remote *remote, struct error *e)
{
	return map_allocate(0, remote, e);
}

struct link_remote *memory_map_remote(const struct memory_map *m)
{
	return m->remote;
}

static int protection(unsigned access)
{
	return (access & MEMORY_READ ? PROT_READ : 0) | (access & MEMORY_WRITE ? PROT_WRITE : 0);
}

static int region_open(struct region *r, const struct memory_region *from, struct error *e)
{
	struct region_mapping *mapping;
	int err;

	*r = (struct region){ .public = *from };
	r->public.fd = -1;
	if (from->fd < 0)
		return 0;
	mapping = calloc(1, sizeof(*mapping));
	if (!mapping)
		return error_set(e, -ENOMEM, "out of memory");
	err = guarded_mapping_open(&mapping->guard, from->fd, from->fd_offset, from->length,
				   protection(from->access), e);
	if (err) {
		free(mapping);
		return err;
	}
	mapping->references = 1;
	r->mapping = mapping;
	r->host = guarded_mapping_start(&mapping->guard);
	return 0;
}

static bool overlap(const struct memory_region *a, const struct memory_region *b)
{
	return a->iova < b->iova + b->length && b->iova < a->iova + a->length;
}

static int check_region(const struct memory_map *old, const struct memory_region *r,
			struct error *e)
{
	if (!r->length || r->iova + r->length < r->iova)
		return error_set(e, -EINVAL, "range is empty or wraps");
	/* What is aligned for the driver must be for us: ring accesses are atomic. */
	if (r->fd >= 0 && (r->iova - r->fd_offset) % ALIGNMENT)
		return error_set(e, -EINVAL, "file offset 0x%llx is not aligned as the address is",
				 (unsigned long long)r->fd_offset);
	for (unsigned i = 0; i < old->count; i++)
		if (overlap(&old->regions[i].public, r))
			return error_set(e, -EEXIST, "overlaps the region at 0x%llx",
					 (unsigned long long)old->regions[i].public.iova);
	return 0;
}

struct memory_map *memory_map_add(const struct memory_map *old, const struct memory_region *region,
				  struct error *e)
{
	struct memory_map *m = NULL;
	struct region added;
	unsigned at = 0;

	if (check_region(old, region, e) || region_open(&added, region, e))
		goto fail;
	m = map_allocate(old->count + 1, old->remote, e);
	if (!m) {
		region_release(&added);
		goto fail;
	}
	while (at < old->count && old->regions[at].public.iova < region->iova)
		at++;
	memcpy(m->regions, old->regions, at * sizeof(added));
	memcpy(m->regions + at + 1, old->regions + at, (old->count - at) * sizeof(added));
	for (unsigned i = 0; i < old->count; i++)
		region_hold(&old->regions[i]);
	m->regions[at] = added;
	return m;
fail:
	error_wrap(e, "memory region 0x%llx+0x%llx", (unsigned long long)region->iova,
		   (unsigned long long)region->length);
	return NULL;
}

struct memory_map *memory_map_with_model(const struct memory_map *old, struct link_model *model,
					 struct error *e)
{
	struct memory_map *m = map_allocate(old->count, old->remote, e);

	if (!m)
		return NULL;
	m->model = model;
	memcpy(m->regions, old->regions, old->count * sizeof(m->regions[0]));
	for (unsigned i = 0; i < old->count; i++)
		region_hold(&m->regions[i]);
	return m;
}

struct link_model *memory_map_model(const struct memory_map *m)
{
	return m->model;
}

static bool inside(const struct memory_region *r, uint64_t iova, uint64_t length)
{
	return r->iova >= iova && range_fits(r->iova - iova, r->length, length);
}

struct memory_map *memory_map_remove(const struct memory_map *old, uint64_t iova, uint64_t length,
				     struct error *e)
{
	struct memory_map *m = map_allocate(old->count, old->remote, e);

	if (!m)
		return NULL;
	m->count = 0;
	for (unsigned i = 0; i < old->count; i++) {
		if (inside(&old->regions[i].public, iova, length))
			continue;
		region_hold(&old->regions[i]);
		m->regions[m->count++] = old->regions[i];
	}
	if (m->count == old->count) {
		memory_map_release(m);
		error_set(e, -ENOENT, "memory region 0x%llx+0x%llx: no such region",
			  (unsigned long long)iova, (unsigned long long)length);
		return NULL;
	}
	return m;
}

/* The region that holds iova, or NULL.  Few regions: a walk beats a binary search. */
static const struct region *find(const struct memory_map *m, uint64_t iova)
{
	for (unsigned i = 0; i < m->count; i++)
		if (iova - m->regions[i].public.iova < m->regions[i].public.length)
			return &m->regions[i];
	return NULL;
}

void memory_map_on_release(struct memory_map *m, uint64_t iova, struct reactor *r,
			   struct reactor_task *done)
{
	const struct region *region = find(m, iova);

	assert(region && region->public.iova == iova);
	if (!region->mapping) {
		reactor_post(r, done);
		return;
	}
	assert(!region->mapping->done);
	region->mapping->reactor = r;
	region->mapping->done = done;
}

struct memory_map *memory_map_hold(struct memory_map *m)
{
	__atomic_fetch_add(&m->references, 1, __ATOMIC_RELAXED);
	return m;
}

void memory_map_release(struct memory_map *m)
{
	if (!m || __atomic_sub_fetch(&m->references, 1, __ATOMIC_ACQ_REL))
		return;
	for (unsigned i = 0; i < m->count; i++)
		region_release(&m->regions[i]);
	free(m);
}

bool memory_map_is_lost(const struct memory_map *m)
{
	for (unsigned i = 0; i < m->count; i++)
		if (m->regions[i].mapping && guarded_mapping_is_lost(&m->regions[i].mapping->guard))
			return true;
	return false;
}

unsigned memory_map_count(const struct memory_map *m)
{
	return m->count;
}

void memory_map_region(const struct memory_map *m, unsigned index, struct memory_region *to)
{
	assert(index < m->count);
	*to = m->regions[index].public;
}

uint64_t memory_map_reach(const struct memory_map *m, uint64_t iova, uint64_t length,
			  enum memory_access access, void **host)
{
	const struct region *r = find(m, iova);

	if (!r || (r->public.access & access) != access)
		return 0;
	*host = r->host ? r->host + (iova - r->public.iova) : NULL;
	return minimum_u64(length, r->public.length - (iova - r->public.iova));
}

uint64_t memory_map_part(const struct memory_map *m, uint64_t iova, uint64_t length,
			 enum memory_access access, void **host)
{
	uint64_t part = memory_map_reach(m, iova, length, access, host);

	if (unlikely(m->model))
		*host = NULL;
	return part;
}

void *memory_map_contiguous(const struct memory_map *m, uint64_t iova, uint64_t length,
			    enum memory_access access, bool *remote)
{
	bool first = true, far = false;

	*remote = false;
	while (length) {
		void *host;
		uint64_t part = memory_map_part(m, iova, length, access, &host);

		if (!part)
			return NULL;
		if (first && part == length && host)
			return host;
		far |= !host;
		first = false;
		iova += part;
		length -= part;
	}
	*remote = far;
	return NULL;
}
