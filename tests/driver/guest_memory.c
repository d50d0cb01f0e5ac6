/* guest_memory.c - a piece of a guest's RAM. */
#include "driver/guest_memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	abort();
}

void guest_memory_open(struct guest_memory *m, uint64_t iova, uint64_t size)
{
	*m = (struct guest_memory){ .iova = iova, .size = size };
	m->fd = memfd_create("guest", MFD_CLOEXEC);
	must(m->fd >= 0, "memfd_create");
	must(!ftruncate(m->fd, (off_t)size), "ftruncate");
	m->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	must(m->bytes != MAP_FAILED, "mmap");
}

void guest_memory_close(struct guest_memory *m)
{
	if (m->bytes)
		munmap(m->bytes, m->size);
	if (m->bytes)
		fd_close(&m->fd);
	m->bytes = NULL;
}

uint64_t guest_memory_allocate(struct guest_memory *m, uint64_t bytes, uint64_t alignment)
{
	uint64_t at = align_up(m->used, alignment);

	if (!range_fits(at, bytes, m->size)) {
		fprintf(stderr, "guest memory of %llu bytes is too small\n",
			(unsigned long long)m->size);
		abort();
	}
	m->used = at + bytes;
	return m->iova + at;
}

void guest_memory_clear(struct guest_memory *m)
{
	memset(m->bytes, 0, m->used);
	m->used = 0;
}
