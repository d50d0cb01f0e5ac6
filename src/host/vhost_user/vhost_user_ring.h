/* vhost_user_ring.h - a ring as the front-end describes it, message by message (vhost-user.rst,
 * "Ring states").
 *
 * The specification lets a ring start with its first kick; we start it when the kick descriptor
 * has come and size and addresses are known, in whatever order: a kick given then is looked at
 * first.  GET_VRING_BASE stops it, and the next SET_VRING_KICK starts it again.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_RING_H
#define HOST_VHOST_USER_VHOST_USER_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "host/vhost_user/vhost_user_message.h"

struct vhost_user_connection;

struct vhost_user_ring {
	uint16_t size;			/* descriptors; 0: not known yet */
	uint32_t base;			/* where to go on, as the front-end's messages have it */
	uint32_t stood;			/* where a reset by SET_STATUS stopped it */
	bool has_stood;
	bool has_address, has_kick;
	struct vhost_user_vring_address address;
};

/* Enables or disables every ring of the device. */
void vhost_user_ring_enable_all(struct vhost_user_connection *c, bool on);

/* Forgets what the front-end said of every ring; none is started. */
void vhost_user_ring_forget_all(struct vhost_user_connection *c);

/* Stops every started ring, one after the other, each drained; then `after` runs, at once if there
 * is none.  GET_VRING_BASE answers where a ring stood then, also once it has been reset, until the
 * front-end sets its base. */
void vhost_user_ring_stop_all(struct vhost_user_connection *c,
			      void (*after)(struct vhost_user_connection *c));

/* As vhost_user_ring_forget_all(), but where rings stood is remembered. */
void vhost_user_ring_reset_all(struct vhost_user_connection *c);

#endif
