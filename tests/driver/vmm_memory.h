/* vmm_memory.h - a guest's RAM in two places, of which the guest is at one: a memfd each, and one
 * range of addresses at which its processors see whichever is theirs.
 *
 * Processors store through the view and nobody else does, so a VMM learns by page protection what
 * they wrote, as KVM does.  A device stores through mappings of its own, or by DMA messages through
 * sides[].bytes, and is not seen.
 *
 * One thread; one memory of a process is watched at a time.  Failures abort. */
#ifndef DRIVER_VMM_MEMORY_H
#define DRIVER_VMM_MEMORY_H

#include <stdint.h>

#include "driver/guest_memory.h"

enum { VMM_PAGE = 4096 };		/* bytes */

struct vmm_memory {
	struct guest_memory view;	/* the driver's; has no descriptor */
	struct guest_memory sides[2];	/* the devices' */
	unsigned at;			/* the side where the guest is */
	uint64_t pages;
	uint64_t *written;		/* owned: a bit per page that the processors stored to */
};

void vmm_memory_open(struct vmm_memory *m, uint64_t iova, uint64_t size);
void vmm_memory_close(struct vmm_memory *m);

static inline struct guest_memory *vmm_memory_here(struct vmm_memory *m)
{
	return &m->sides[m->at];
}

static inline struct guest_memory *vmm_memory_there(struct vmm_memory *m)
{
	return &m->sides[!m->at];
}

/* Words of a bitmap with a bit per page. */
static inline uint64_t vmm_memory_words(const struct vmm_memory *m)
{
	return (m->pages + 63) / 64;
}

/* From now on it is known which pages the processors store to. */
void vmm_memory_watch(struct vmm_memory *m);
void vmm_memory_unwatch(struct vmm_memory *m);
/* Adds those since the last time to a bitmap. */
void vmm_memory_take_written(struct vmm_memory *m, uint64_t *bitmap);

/* The processors see the other side's memory, at the same addresses. */
void vmm_memory_move(struct vmm_memory *m);

#endif
