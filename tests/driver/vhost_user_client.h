/* vhost_user_client.h - a vhost-user front-end (QEMU docs/interop/vhost-user.rst) without a VMM
 * around it: what a VMM does to bring up, stop and lose a back-end.
 *
 * Blocking, one thread.  Functions return 0 or -errno with *e; a back-end that does not answer
 * within VHOST_USER_CLIENT_TIMEOUT_MS is an error (-ETIMEDOUT).
 */
#ifndef DRIVER_VHOST_USER_CLIENT_H
#define DRIVER_VHOST_USER_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct guest_memory;
struct guest_queue;

enum { VHOST_USER_CLIENT_QUEUES = 16, VHOST_USER_CLIENT_TIMEOUT_MS = 20000 };

struct vhost_user_client {
	int fd;				/* owned; -1: not connected */
	uint64_t offered, features;	/* virtio and VHOST_USER_F_PROTOCOL_FEATURES */
	uint64_t protocol_features;	/* what both sides know */
	unsigned queue_max;
	int kick[VHOST_USER_CLIENT_QUEUES], call[VHOST_USER_CLIENT_QUEUES]; /* owned; -1: none */
	int inflight_fd;		/* owned, outlives connections; -1: none */
	uint64_t inflight_size, inflight_offset;	/* bytes */
	uint16_t inflight_queues, inflight_queue_size;
};

/* Nothing is connected, and no in-flight buffer kept. */
void vhost_user_client_init(struct vhost_user_client *c);
/* Closes the connection and the eventfds, keeps the in-flight buffer.  Idempotent. */
void vhost_user_client_disconnect(struct vhost_user_client *c);
/* All of it. */
void vhost_user_client_close(struct vhost_user_client *c);

/* Connects (again), learns and sets protocol features, owner, number of queues. */
int vhost_user_client_connect(struct vhost_user_client *c, const char *path, struct error *e);

/* Accepts the wanted virtio features as far as they are offered; c->features says which. */
int vhost_user_client_set_features(struct vhost_user_client *c, uint64_t wanted, struct error *e);

/* SET_MEM_TABLE.  A region's user address is its iova plus VHOST_USER_CLIENT_SHIFT, so that a
 * back-end which mixes the two up is found out. */
#define VHOST_USER_CLIENT_SHIFT 0x7f0000000000ull
int vhost_user_client_share(struct vhost_user_client *c, const struct guest_memory *const *regions,
			    unsigned count, struct error *e);
/* ADD_MEM_REG, REM_MEM_REG. */
int vhost_user_client_add_region(struct vhost_user_client *c, const struct guest_memory *m,
				 struct error *e);
int vhost_user_client_remove_region(struct vhost_user_client *c, const struct guest_memory *m,
				    struct error *e);

/* GET_INFLIGHT_FD unless a buffer is kept from before, then SET_INFLIGHT_FD.  -EOPNOTSUPP: the
 * back-end cannot. */
int vhost_user_client_track_inflight(struct vhost_user_client *c, uint16_t queues,
				     uint16_t queue_size, struct error *e);

/* Starts queue `index` at available index `base` (packed: where its driver stands), enabled. */
int vhost_user_client_start_queue(struct vhost_user_client *c, unsigned index,
				  const struct guest_queue *q, uint16_t base, struct error *e);
/* GET_VRING_BASE: drains and stops; *base is where to go on. */
int vhost_user_client_stop_queue(struct vhost_user_client *c, unsigned index, uint16_t *base,
				 struct error *e);
int vhost_user_client_enable_queue(struct vhost_user_client *c, unsigned index, bool on,
				   struct error *e);

int vhost_user_client_read_config(struct vhost_user_client *c, size_t offset, void *to, size_t n,
				  struct error *e);

void vhost_user_client_kick(const struct vhost_user_client *c, unsigned index);

#endif
