/* memory_map_remote.h - a range of the map, region by region.  For link.c. */
#ifndef LINK_MEMORY_MAP_REMOTE_H
#define LINK_MEMORY_MAP_REMOTE_H

#include <stdint.h>

#include "link/memory_map.h"

/* How many bytes of [iova, iova + length) the region at iova holds, and in *host where they are;
 * NULL: remote.  0: nothing there, or access denied. */
uint64_t memory_map_part(const struct memory_map *m, uint64_t iova, uint64_t length,
			 enum memory_access access, void **host);

#endif
