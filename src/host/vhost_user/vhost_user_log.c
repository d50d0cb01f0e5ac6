/* vhost_user_log.c - the dirty log that the front-end shares. */
#include "host/vhost_user/vhost_user_log.h"

#include <errno.h>
#include <inttypes.h>

#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "host/vhost_user/vhost_user_request.h"
#include "link/dirty_log.h"
#include "virtio/virtio_device.h"

/* A front-end that shares more cannot mean guest memory: addresses have 64 bits. */
#define LOG_BYTES_MAX (UINT64_MAX / DIRTY_LOG_PAGE / 8)

/* A page without a bit would be lost in the migration, without anybody noticing. */
int vhost_user_log_covers(const struct vhost_user_log *l, uint64_t end, struct error *e)
{
	if (!l->used || end <= l->end)
		return 0;
	return error_set(e, -ENOSPC,
			 "the dirty log ends at 0x%" PRIx64 ", guest memory at 0x%" PRIx64, l->end,
			 end);
}

static void drop_retired(struct vhost_user_log *l)
{
	dirty_log_free(l->retired);
	l->retired = NULL;
}

static void log_is_updated(struct vhost_user_connection *c)
{
	drop_retired(&c->log);
	vhost_user_connection_finish(c, 0, NULL);
}

int vhost_user_log_may_begin(const struct vhost_user_connection *c, struct error *e)
{
	uint64_t end = vhost_user_memory_end(&c->memory);

	if (!c->log.shared || end <= c->log.end)
		return 0;
	return error_set(e, -ENOSPC,
			 "the dirty log ends at 0x%" PRIx64 ", guest memory at 0x%" PRIx64,
			 c->log.end, end);
}

int vhost_user_log_update(struct vhost_user_connection *c)
{
	bool on = c->features & (UINT64_C(1) << VHOST_F_LOG_ALL_BIT);
	struct dirty_log *wanted = on ? c->log.shared : NULL;

	if (wanted == c->log.used) {
		drop_retired(&c->log);
		return 0;
	}
	c->log.used = wanted;
	virtio_device_set_dirty_log(c->device, wanted,
				    vhost_user_connection_change(c, log_is_updated));
	return VHOST_USER_LATER;
}

void vhost_user_log_clear(struct vhost_user_log *l)
{
	drop_retired(l);
	dirty_log_free(l->shared);
	*l = (struct vhost_user_log){ 0 };
}

/* ---- requests ---- */

/* What is refused here is refused before anything changes: the log in use stays in use. */
static int check_area(const struct vhost_user_connection *c, const struct vhost_user_message *m,
		      struct error *e)
{
	const struct vhost_user_log_area *area = &m->payload.log;
	uint64_t end = vhost_user_memory_end(&c->memory);

	if (!vhost_user_connection_has(c, VHOST_USER_PROTOCOL_F_LOG_SHMFD))
		return error_set(e, -EOPNOTSUPP, "a dirty log needs LOG_SHMFD");
	if (m->header.size != sizeof(*area) || m->fd_count != 1)
		return error_set(e, -EPROTO,
				 "%" PRIu32 " bytes and %u file descriptors, expected "
				 "%zu and 1",
				 m->header.size, m->fd_count, sizeof(*area));
	if (!area->size || area->size > LOG_BYTES_MAX)
		return error_set(e, -EINVAL, "a log of %" PRIu64 " bytes", area->size);
	if (end > area->size * 8 * DIRTY_LOG_PAGE)
		return error_set(e, -ENOSPC,
				 "a log of %" PRIu64 " bytes is too small for guest "
				 "memory up to 0x%" PRIx64,
				 area->size, end);
	return 0;
}

int vhost_user_set_log_base(struct vhost_user_connection *c, struct vhost_user_message *m,
			    struct error *e)
{
	int err = check_area(c, m, e);
	struct dirty_log *shared;

	if (err)
		return err;
	shared = dirty_log_share(m->fds[0], m->payload.log.offset, m->payload.log.size, e);
	if (!shared)
		return e->code;
	c->log.retired = c->log.shared;
	c->log.shared = shared;
	c->log.end = m->payload.log.size * 8 * DIRTY_LOG_PAGE;
	return vhost_user_log_update(c);
}

/* The front-end may offer to be told when the log changes, and "may" be told: it polls the log
 * anyway, so its descriptor is closed. */
int vhost_user_set_log_fd(struct vhost_user_connection *c, struct vhost_user_message *m,
			  struct error *e)
{
	return 0;
}
