/* pages.c - large arrays of which little may ever be used. */
#include "base/pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__ /* which watches the ends of what the heap gives, not of mappings */

void *pages_allocate(size_t bytes)
{
	void *pages = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);

	return pages ? memset(pages, 0, bytes) : NULL;
}

void pages_free(void *pages, size_t bytes)
{
	free(pages);
}

#else

void *pages_allocate(size_t bytes)
{
	void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return pages == MAP_FAILED ? NULL : pages;
}

void pages_free(void *pages, size_t bytes)
{
	if (pages)
		munmap(pages, bytes);
}

#endif
