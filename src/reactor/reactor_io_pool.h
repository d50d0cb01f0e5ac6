/* reactor_io_pool.h - a few threads that carry out file operations and post them home. */
#ifndef REACTOR_REACTOR_IO_POOL_H
#define REACTOR_REACTOR_IO_POOL_H

struct reactor;
struct reactor_io;
struct reactor_io_pool;

/* Starts no thread yet.  NULL: out of memory.  Home thread, as is all below. */
struct reactor_io_pool *reactor_io_pool_create(struct reactor *r);
/* Joins the threads; no operation may be pending.  NULL is ignored. */
void reactor_io_pool_free(struct reactor_io_pool *p);

/* Ends in reactor_io_complete(), later. */
void reactor_io_pool_submit(struct reactor_io_pool *p, struct reactor_io *io);

#endif
