/* sim_memory.c - guest memory: regions that come and go.  They lie side by side, so that a request
 * may begin in one and end in the next. */
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/memory_map.h"
#include "sim.h"

enum { BASE = 0x100000, RING_REGION = 0, RING_BYTES = 256 * 1024, AREAS_PER_REGION = 24 };

static uint64_t region_size(unsigned region)
{
	return region == RING_REGION ? RING_BYTES : align_up(AREAS_PER_REGION * AREA + 8000, 4096);
}

void sim_memory_open(struct sim *s)
{
	uint64_t iova = BASE;

	for (unsigned i = 0; i < REGIONS; i++) {
		guest_memory_open(&s->regions[i], iova, region_size(i));
		iova += region_size(i);
		s->present[i] = true;
	}
}

void sim_memory_close(struct sim *s)
{
	for (unsigned i = 0; i < REGIONS; i++)
		guest_memory_close(&s->regions[i]);
}

static struct guest_memory *region_of(struct sim *s, uint64_t iova)
{
	for (unsigned i = 0; i < REGIONS; i++)
		if (iova - s->regions[i].iova < s->regions[i].size)
			return &s->regions[i];
	sim_fail(s, "address 0x%llx is in no region", (unsigned long long)iova);
}

void sim_guest_copy(struct sim *s, uint64_t iova, void *local, uint32_t length, bool to_guest)
{
	char *at = local;

	while (length) {
		struct guest_memory *m = region_of(s, iova);
		uint32_t part = minimum_u64(length, m->iova + m->size - iova);
		char *host = guest_memory_at(m, iova);

		memcpy(to_guest ? host : at, to_guest ? at : host, part);
		iova += part;
		at += part;
		length -= part;
	}
}

uint64_t sim_area_iova(const struct sim *s, unsigned queue, unsigned request)
{
	return s->regions[1].iova + ((uint64_t)queue * REQUESTS_MAX + request) * AREA;
}

bool sim_area_touches(const struct sim *s, const struct sim_request *r, unsigned region)
{
	const struct guest_memory *m = &s->regions[region];

	return r->area_iova < m->iova + m->size && m->iova < r->area_iova + AREA;
}

struct memory_map *sim_memory_map(struct sim *s)
{
	struct error e = { 0 };
	struct memory_map *map = s->plan.remote_regions
					 ? memory_map_create_remote(&s->remote.remote, &e)
					 : memory_map_create(&e);

	for (unsigned i = 0; i < REGIONS; i++) {
		const struct memory_region region = {
			.iova = s->regions[i].iova,
			.length = s->regions[i].size,
			.fd = s->plan.remote_regions >> i & 1 ? -1 : s->regions[i].fd,
			.access = MEMORY_READ | MEMORY_WRITE,
		};
		struct memory_map *more;

		if (!s->present[i])
			continue;
		more = memory_map_add(map, &region, &e);
		if (!more)
			sim_fail(s, "memory: %s", e.text);
		memory_map_release(map);
		map = more;
	}
	return map;
}
