/* buffer_pool.h - buffers of ours for payload that is on its way over the link, bounded.
 *
 * One pool per queue, used by its reactor only.  Sizes are rounded up to powers of two and kept
 * for reuse, so a steady load does not allocate.  A single request may be larger than the whole
 * pool: it gets its buffer when it is alone.
 */
#ifndef LINK_BUFFER_POOL_H
#define LINK_BUFFER_POOL_H

#include <stdbool.h>
#include <stddef.h>

struct buffer_pool;

struct buffer_pool *buffer_pool_create(size_t limit);	/* bytes; NULL: out of memory */
void buffer_pool_free(struct buffer_pool *p);		/* all returned; NULL is ignored */

/* NULL: not now, try again after a return; if none is out, out of memory. */
void *buffer_pool_take(struct buffer_pool *p, size_t bytes);
bool buffer_pool_is_unused(const struct buffer_pool *p);	/* none is out */
void buffer_pool_return(struct buffer_pool *p, void *buffer, size_t bytes);	/* as taken */

#endif
