/* guest_memory.h - a piece of a guest's RAM, as a VMM would share it: a memfd, mapped here, at an
 * address of its own in the device's eyes (iova).  For tests and benchmarks; failures abort. */
#ifndef DRIVER_GUEST_MEMORY_H
#define DRIVER_GUEST_MEMORY_H

#include <assert.h>
#include <stdint.h>

struct guest_memory {
	int fd;			/* owned */
	char *bytes;		/* owned: the mapping */
	uint64_t iova, size;	/* bytes */
	uint64_t used;		/* bytes handed out so far, from the start */
};

void guest_memory_open(struct guest_memory *m, uint64_t iova, uint64_t size);
void guest_memory_close(struct guest_memory *m);	/* idempotent */

/* The iova of so many bytes that nobody else has; alignment is a power of two.  There is no way to
 * give a part back: guest_memory_clear() takes all. */
uint64_t guest_memory_allocate(struct guest_memory *m, uint64_t bytes, uint64_t alignment);
void guest_memory_clear(struct guest_memory *m);

/* Where the byte at iova, which lies in m, is in our process. */
static inline void *guest_memory_at(const struct guest_memory *m, uint64_t iova)
{
	assert(iova - m->iova < m->size);
	return m->bytes + (iova - m->iova);
}

#endif
