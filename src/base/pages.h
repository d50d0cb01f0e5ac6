/* pages.h - large arrays of which little may ever be used: zeroed, page aligned, and resident only
 * where they were touched.  Any thread. */
#ifndef BASE_PAGES_H
#define BASE_PAGES_H

#include <stddef.h>

/* NULL: out of memory. */
void *pages_allocate(size_t bytes);
/* NULL is ignored.  bytes: as allocated. */
void pages_free(void *pages, size_t bytes);

#endif
