/* memory_map.h - the VM's memory as the device may address it.
 *
 * A map is immutable.  A change makes a new map; whoever holds the old one keeps it valid until
 * it lets go.  A region is mapped (the VMM shared an fd) or remote (it did not; link.h moves the
 * bytes by DMA requests).  Maps are made on the control reactor and used on any.
 *
 * A mapped file may shrink under us.  The access that finds out (SIGBUS) is given zeroes, and the
 * region is remembered as lost: memory_map_is_lost().  Its user breaks its own function, nobody
 * else is harmed.
 */
#ifndef LINK_MEMORY_MAP_H
#define LINK_MEMORY_MAP_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct link_model;
struct link_remote;
struct memory_map;
struct reactor;
struct reactor_task;

enum memory_access { MEMORY_READ = 1, MEMORY_WRITE = 2 };

struct memory_region {
	uint64_t iova;		/* bytes, first address in the device's DMA space */
	uint64_t length;	/* bytes; iova + length does not wrap */
	int      fd;		/* borrowed: the map keeps the mapping, not the fd; -1 = remote */
	uint64_t fd_offset;	/* bytes */
	unsigned access;	/* MEMORY_READ | MEMORY_WRITE */
};

/* All return a new map with one reference, or NULL with *e set: -EEXIST a region overlaps another,
 * -EINVAL a range wraps, lies in the file aligned otherwise than in memory, or beyond the
 * file's end, -ENOENT nothing to remove, or what mmap said. */
struct memory_map *memory_map_create(struct error *e);

/* As memory_map_create(): regions without an fd are reached through remote (link_provider.h), which
 * is borrowed and outlives every map made from this one. */
struct memory_map *memory_map_create_remote(struct link_remote *remote, struct error *e);
struct link_remote *memory_map_remote(const struct memory_map *m);	/* NULL: none */

/* The same regions behind a bus (link_model.h), which is borrowed by the new map: all are remote.
 */
struct memory_map *memory_map_with_model(const struct memory_map *m, struct link_model *model,
					 struct error *e);
struct link_model *memory_map_model(const struct memory_map *m);	/* NULL: none */

struct memory_map *memory_map_add(const struct memory_map *old,
				  const struct memory_region *region, struct error *e);
struct memory_map *memory_map_remove(const struct memory_map *old,
				     uint64_t iova, uint64_t length, struct error *e);

/* done is posted to r, once and later, when no map has the mapping of the region at iova any more:
 * nothing of ours reaches into the VMM's file.  For a remote region, which has no mapping, it is
 * posted soon.  m must have a region that begins at iova; one caller per region. */
void memory_map_on_release(struct memory_map *m, uint64_t iova, struct reactor *r,
			   struct reactor_task *done);

struct memory_map *memory_map_hold(struct memory_map *m);
void memory_map_release(struct memory_map *m);		/* NULL is ignored */

/* Whether a mapped region has lost its file since.  Any thread; look at
 * guarded_mapping_losses() first, which is one load. */
bool memory_map_is_lost(const struct memory_map *m);

/* How many regions, and each in order of iova (fd is -1: it is not kept). */
unsigned memory_map_count(const struct memory_map *m);
void memory_map_region(const struct memory_map *m, unsigned index, struct memory_region *to);

/* How many bytes of [iova, iova + length) the region at iova holds, and in *host where they are;
 * NULL: remote.  0: nothing there, or access denied.  length > 0. */
uint64_t memory_map_part(const struct memory_map *m, uint64_t iova, uint64_t length,
			 enum memory_access access, void **host);

/* For link.c: the same where the bytes really are, whatever bus is modelled before them. */
uint64_t memory_map_reach(const struct memory_map *m, uint64_t iova, uint64_t length,
			  enum memory_access access, void **host);

/* The address of [iova, iova + length) in our process.  NULL: some byte is remote, unmapped or
 * denied, or the range crosses regions; *remote: the link reaches all of it, though. */
void *memory_map_contiguous(const struct memory_map *m, uint64_t iova, uint64_t length,
			    enum memory_access access, bool *remote);

#endif
