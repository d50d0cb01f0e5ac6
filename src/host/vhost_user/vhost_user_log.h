/* vhost_user_log.h - the dirty log that the front-end shares (vhost-user.rst, "Migration").
 *
 * It is in use while the front-end has set both a log (SET_LOG_BASE) and the feature
 * VHOST_F_LOG_ALL.  Control thread.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_LOG_H
#define HOST_VHOST_USER_VHOST_USER_LOG_H

#include <stdint.h>

#include "host/vhost_user/vhost_user_message.h"

struct dirty_log;
struct error;
struct vhost_user_connection;

struct vhost_user_log {
	struct dirty_log *shared;	/* owned; NULL: none has come */
	struct dirty_log *used; /* what the device was given last: shared, retired or NULL */
	struct dirty_log *retired; /* owned; the one before shared, until the device let go of it */
	uint64_t end;			/* bytes: addresses from here on have no bit in shared */
};

/* 0, or -ENOSPC with *e when a log is in use that has no bit for address end - 1. */
int vhost_user_log_covers(const struct vhost_user_log *l, uint64_t end, struct error *e);

/* Before LOG_ALL is accepted: -ENOSPC when the log has no room for the memory there is. */
int vhost_user_log_may_begin(const struct vhost_user_connection *c, struct error *e);

/* Gives the device the log that it should use now, according to the features: 0 when it has it
 * already, else VHOST_USER_LATER and the request is finished by itself. */
int vhost_user_log_update(struct vhost_user_connection *c);

/* When the device has no log any more. */
void vhost_user_log_clear(struct vhost_user_log *l);

#endif
