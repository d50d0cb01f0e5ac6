/* vhost_user_inflight.h - the buffer in which queues note what is in flight, kept by the front-end
 * for us across a crash (vhost-user.rst, "Inflight I/O tracking").
 *
 * One region per queue, of equal size; what is in a region is virtqueue/'s business.  Control
 * thread.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_INFLIGHT_H
#define HOST_VHOST_USER_VHOST_USER_INFLIGHT_H

#include <stddef.h>
#include <stdint.h>

#include "link/guarded_mapping.h"

struct vhost_user_inflight {
	struct guarded_mapping mapping;
	unsigned queue_count;		/* regions; 0: not mapped */
	uint16_t queue_size;		/* descriptors that a region was made for */
	size_t stride;			/* bytes from region to region */
};

/* The region of one queue, or NULL: in-flight tracking is off for it. */
void *vhost_user_inflight_region(const struct vhost_user_inflight *f, unsigned index);

/* When no queue is started. */
void vhost_user_inflight_close(struct vhost_user_inflight *f);

#endif
