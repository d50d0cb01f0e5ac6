/* vhost_user_connection.h - one front-end at our socket, from its first byte until the device has
 * let go of everything it gave us.  Control thread.
 *
 * Requests are handled strictly one after the other.  A request that changes what queues see is
 * under way until the device says so: meanwhile the socket is not read.
 *
 *	READING --message--> (handler) --0, -errno--> [REPLYING] --> READING
 *	                        |                         ^
 *	                        +--VHOST_USER_LATER--> WORKING
 *	any but ENDING --lost, broken, or asked to end--> ENDING --> CLOSED
 *
 * ENDING disables every ring, stops them one by one (drained), resets the device, takes the dirty
 * log and the memory away from it and frees what the front-end shared.  Only then the socket is
 * closed: when the front-end sees that, nothing of its memory is touched any more.
 *
 * A front-end may be silent for ever, but not in the middle of a message, its own or our answer:
 * others wait for the connection, and a message that never ends may hold descriptors that keep
 * the connection itself from ending.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_CONNECTION_H
#define HOST_VHOST_USER_VHOST_USER_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "host/vhost_user/vhost_user_inflight.h"
#include "host/vhost_user/vhost_user_log.h"
#include "host/vhost_user/vhost_user_memory.h"
#include "host/vhost_user/vhost_user_ring.h"
#include "host/vhost_user/vhost_user_socket.h"
#include "host/vhost_user/vhost_user_state.h"
#include "reactor/reactor.h"
#include "virtio/virtio_device.h"

struct error;
struct host_journal;
struct virtio_device;
struct vhost_user_connection;

typedef void vhost_user_step(struct vhost_user_connection *c);

enum vhost_user_state {
	VHOST_USER_CLOSED, VHOST_USER_READING, VHOST_USER_WORKING, VHOST_USER_REPLYING,
	VHOST_USER_ENDING
};

struct vhost_user_numbers {
	uint64_t connections, disconnects;
	uint64_t requests, requests_refused;	/* carried out; answered or ended with an error */
	uint64_t protocol_errors;		/* malformed messages */
	uint64_t timeouts;			/* half a message, or an answer not read */
	uint64_t config_changes_sent;
};

struct vhost_user_connection {
	struct virtio_device *device;		/* borrowed */
	struct reactor *control;		/* borrowed */
	struct vhost_user_numbers *numbers;	/* borrowed */
	struct host_journal *journal;		/* borrowed */
	void (*ended)(void *owner); /* last thing a connection does; may open it again */
	void *owner;

	enum vhost_user_state state;
	bool ending;				/* end when the change under way is done */
	struct vhost_user_socket socket;
	struct reactor_watch watch;
	bool watching;
	struct reactor_timer patience;		/* with a front-end in the middle of a message */
	bool is_patient;			/* the timer is set */

	struct reactor_task change;		/* the device's "done" */
	vhost_user_step *after;
	int change_status;
	unsigned cursor;			/* ring that the change under way is about */
	struct virtio_quiesce quiesce;		/* how it is stopped */
	vhost_user_step *all_stopped;		/* what follows when the cursor is at the end */

	uint64_t features;			/* as the front-end set them, ours included */
	uint64_t protocol_features;
	struct vhost_user_memory memory;
	struct vhost_user_log log;
	struct vhost_user_inflight inflight;
	struct vhost_user_state_transfer state_transfer;
	struct vhost_user_ring *rings;		/* owned; one per queue of the device */
	unsigned ring_count;
	int backend_fd;				/* owned; -1: no channel for our own requests */
	bool config_changed;			/* and the front-end has not been told */
};

/* Once, before anything else: everything borrowed above is set.  0 or -ENOMEM. */
int vhost_user_connection_prepare(struct vhost_user_connection *c);
void vhost_user_connection_destroy(struct vhost_user_connection *c);	/* CLOSED */

/* Serves the socket, which moves to the connection.  CLOSED before.  0 or -errno (then fd is
 * closed). */
int vhost_user_connection_open(struct vhost_user_connection *c, int fd);

/* Not CLOSED.  Ends it as soon as the change under way is done; then calls ended. */
void vhost_user_connection_end(struct vhost_user_connection *c);

/* ---- for request handlers ---- */

/* The task to hand to the one device function that is called next; `after` runs when it is done. */
struct reactor_task *vhost_user_connection_change(struct vhost_user_connection *c,
						  vhost_user_step *after);

/* Completes the request whose handler returned VHOST_USER_LATER.  status: 0, or -errno with *e. */
void vhost_user_connection_finish(struct vhost_user_connection *c, int status, struct error *e);

bool vhost_user_connection_has(const struct vhost_user_connection *c, unsigned protocol_feature);

/* Logs "NAME: vhost-user: text", a bounded number of lines a minute. */
void vhost_user_connection_warn(struct vhost_user_connection *c, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* ---- vhost_user_backend.c: our own requests ---- */

/* Tells the front-end of config_changed, if it can be told now. */
void vhost_user_backend_notify(struct vhost_user_connection *c);

#endif
