/* vhost_user_state.h - the device's internal state on its way through a descriptor (vhost-user.rst,
 * "Migrating back-end state"): what the front-end does not know of, such as a disk's cache mode or
 * a network device's filters.  The front-end moves rings and features itself.
 *
 * The bytes are one stream (stream.h), written until their end or read until the other side has
 * closed, while requests go on.  CHECK_DEVICE_STATE waits for neither: it tells what has become of
 * it, and applies what has been read.  Control thread.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_STATE_H
#define HOST_VHOST_USER_VHOST_USER_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include "reactor/reactor.h"

struct vhost_user_connection;

enum vhost_user_transfer {
	VHOST_USER_TRANSFER_NONE, VHOST_USER_TRANSFER_SAVE, VHOST_USER_TRANSFER_LOAD
};

struct vhost_user_state_transfer {
	enum vhost_user_transfer kind;
	struct reactor_watch watch;	/* its descriptor is owned; -1: the transfer has ended */
	bool watching;
	char *bytes;			/* owned */
	size_t length, done;		/* to be written, written; or read, room */
	int status;			/* 0 or -errno, when it has ended */
	bool waited_for;		/* CHECK_DEVICE_STATE waits for its end */
};

void vhost_user_state_prepare(struct vhost_user_connection *c);
/* Drops a transfer under way; idempotent. */
void vhost_user_state_close(struct vhost_user_connection *c);

#endif
