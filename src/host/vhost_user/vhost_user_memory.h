/* vhost_user_memory.h - the front-end's memory table: which guest memory lies at which of its own
 * addresses (vhost-user.rst, "Memory access").  Control thread.
 *
 * The memory map knows guest addresses only; ring addresses come as the front-end's user
 * addresses, so the table is kept beside the map.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_MEMORY_H
#define HOST_VHOST_USER_VHOST_USER_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "host/vhost_user/vhost_user_message.h"
#include "reactor/reactor.h"

struct error;
struct memory_map;

enum { VHOST_USER_MEMORY_SLOTS = 256 };		/* what GET_MAX_MEM_SLOTS answers */

struct vhost_user_memory {
	struct memory_map *map;		/* held; NULL: no table has come */
	unsigned count;
	struct vhost_user_region regions[VHOST_USER_MEMORY_SLOTS];

	/* The change under way: answered when the queues have taken up the new map, and every
	 * mapping that is in it no more has been let go. */
	unsigned waiting;
	struct reactor_task released[VHOST_USER_MEMORY_SLOTS];
};

/* Each replaces the table and the map, or leaves both alone and returns -errno with *e, which is
 * not NULL.  What holds the old map keeps it.  fds are borrowed.  Regions have passed their check
 * (vhost_user_message.h); those of one table may share user addresses, not guest addresses. */
int vhost_user_memory_replace(struct vhost_user_memory *t,
			      const struct vhost_user_memory_table *by, const int *fds,
			      struct error *e);
int vhost_user_memory_add(struct vhost_user_memory *t, const struct vhost_user_region *r, int fd,
			  struct error *e);
/* The region with the same guest address, user address and size. */
int vhost_user_memory_remove(struct vhost_user_memory *t, const struct vhost_user_region *r,
			     struct error *e);

void vhost_user_memory_clear(struct vhost_user_memory *t);

/* Translates [user, user + length), which must lie in one region, to its guest address. */
bool vhost_user_memory_find(const struct vhost_user_memory *t, uint64_t user, uint64_t length,
			    uint64_t *guest);

/* The first guest address above all regions. */
uint64_t vhost_user_memory_end(const struct vhost_user_memory *t);

#endif
