/* vhost_user_request.h - what the back-end does with each request of the front-end.
 *
 * A handler gets a message that has passed its shape (vhost_user_message.h).  It returns 0 (done),
 * -errno with *e set (refused), or VHOST_USER_LATER (one change of the device is under way;
 * vhost_user_connection_finish() follows).  A reply, where the request has one, is stored in *m
 * over the request.  A descriptor that it keeps it takes out of m->fds by fd_take(); the others
 * are closed.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_REQUEST_H
#define HOST_VHOST_USER_VHOST_USER_REQUEST_H

#include <stdint.h>

#include "host/vhost_user/vhost_user_message.h"

struct error;
struct vhost_user_connection;

enum { VHOST_USER_LATER = 1 };

typedef int vhost_user_handler(struct vhost_user_connection *c, struct vhost_user_message *m,
			       struct error *e);

enum vhost_user_reply {
	VHOST_USER_REPLY_ACK, /* a number for success, if REPLY_ACK and need_reply ask for it */
	VHOST_USER_REPLY_PAYLOAD,	/* always: what the handler stored */
	VHOST_USER_REPLY_LOG, /* a number always, once LOG_SHMFD is negotiated; else as ACK */
};

struct vhost_user_request {
	const char *name;		/* "SET_VRING_ADDR"; NULL: there is no such request */
	vhost_user_handler *handler;
	struct vhost_user_shape shape;
	enum vhost_user_reply reply;
	uint64_t needs;			/* protocol features of which this request is part */
};

/* NULL: unknown, or not offered. */
const struct vhost_user_request *vhost_user_request_find(uint32_t number);

/* Which protocol features GET_PROTOCOL_FEATURES offers. */
uint64_t vhost_user_protocol_features(const struct vhost_user_connection *c);

/* Features that the front-end may choose from: the device's, less what this transport cannot do,
 * and the transport's own. */
uint64_t vhost_user_features(const struct vhost_user_connection *c);

/* For a fuzzer, and for the tests: takes n bytes as one message that came with fd_count
 * descriptors, as the socket would.  0, or -EPROTO with *e. */
int vhost_user_message_decode(const void *bytes, size_t n, unsigned fd_count,
			      struct vhost_user_message *m, struct error *e);

vhost_user_handler vhost_user_set_mem_table, vhost_user_add_mem_reg, vhost_user_rem_mem_reg,
	vhost_user_get_max_mem_slots;
vhost_user_handler vhost_user_set_log_base, vhost_user_set_log_fd;
vhost_user_handler vhost_user_get_inflight_fd, vhost_user_set_inflight_fd;
vhost_user_handler vhost_user_set_vring_num, vhost_user_set_vring_addr, vhost_user_set_vring_base,
	vhost_user_get_vring_base, vhost_user_set_vring_kick, vhost_user_set_vring_call,
	vhost_user_set_vring_err, vhost_user_set_vring_enable;
vhost_user_handler vhost_user_set_backend_req_fd;
vhost_user_handler vhost_user_set_device_state_fd, vhost_user_check_device_state;

#endif
