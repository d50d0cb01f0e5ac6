/* vfio_user_migration.c - migration: DEVICE_FEATURE, MIG_DATA_READ and MIG_DATA_WRITE.
 *
 * A change of state, and of what is logged, is answered when it is done.  Until then no other
 * command is handled.  One that is refused leaves the state as it was, and says why in the log.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_command.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "link/dirty_log.h"
#include "link/memory_map.h"
#include "virtio/migrate.h"

_Static_assert((int)VFIO_USER_LOG_RANGES_MAX == (int)DIRTY_LOG_RANGES_MAX, "ranges of a log");

static int reply(struct vfio_user_connection *c, const struct vfio_user_message *m, void *payload,
		 size_t n)
{
	((struct vfio_user_feature *)payload)->argsz = n;
	vfio_user_connection_reply(c, &m->header, &(struct iovec){ payload, n }, 1, NULL, 0);
	return VFIO_USER_REPLIED;
}

/* ---- what is answered later ---- */

static void migration_is_done(void *arg)
{
	struct vfio_user_connection *c = arg;
	struct vfio_user_feature *answer = c->feature;
	struct error e = { 0 };
	bool is_state = (answer->flags & VFIO_DEVICE_FEATURE_MASK) == VFIO_USER_FEATURE_STATE;

	c->migrating = false;
	c->feature = NULL;
	if (is_state && migrate_result(c->migrate, &e))
		vfio_user_connection_fail(c, &e);
	else
		vfio_user_connection_finish(c, answer, c->feature_bytes);
	free(answer);
	vfio_user_connection_go_on(c);
}

void vfio_user_migration_prepare(struct vfio_user_connection *c)
{
	c->migration = (struct reactor_task){ .fn = migration_is_done, .arg = c };
}

/* The reply is the request; it is kept until then. */
static int wait(struct vfio_user_connection *c, const struct vfio_user_message *m, struct error *e)
{
	size_t n = vfio_user_payload_size(m);

	c->feature = malloc(n);
	if (!c->feature)
		return error_set(e, -ENOMEM, "out of memory");
	memcpy(c->feature, m->payload, n);
	c->feature_bytes = n;
	c->migrating = true;
	return 0;
}

static int waiting(struct vfio_user_connection *c, int err)
{
	if (!err)
		return VFIO_USER_LATER;
	c->migrating = false;
	free(c->feature);
	c->feature = NULL;
	return err;
}

/* ---- features ---- */

static int get_migration(struct vfio_user_connection *c, struct vfio_user_message *m,
			 struct error *e)
{
	struct vfio_user_migration answer = {
		.head = *(const struct vfio_user_feature *)m->payload,
		.flags = VFIO_USER_MIGRATION_STOP_COPY | VFIO_USER_MIGRATION_P2P |
			 VFIO_USER_MIGRATION_PRE_COPY,
	};

	return reply(c, m, &answer, sizeof(answer));
}

static int get_state(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	struct vfio_user_mig_state answer = { .head = *(const struct vfio_user_feature *)m->payload,
					      .state = migrate_state(c->migrate),
					      .data_fd = -1 };

	return reply(c, m, &answer, sizeof(answer));
}

static int set_state(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	const struct vfio_user_mig_state *s = m->payload;

	if (wait(c, m, e))
		return e->code;
	return waiting(c, migrate_set_state(c->migrate, s->state, &c->migration, e));
}

/* No range: all that the client has mapped by now. */
static unsigned mapped_ranges(const struct vfio_user_connection *c, struct dirty_log_range *to)
{
	unsigned count = c->map ? memory_map_count(c->map) : 0;

	for (unsigned i = 0; i < count && i < DIRTY_LOG_RANGES_MAX; i++) {
		struct memory_region region;

		memory_map_region(c->map, i, &region);
		to[i] = (struct dirty_log_range){ region.iova, region.length };
	}
	return minimum_u64(count, DIRTY_LOG_RANGES_MAX + 1);
}

static int set_log_start(struct vfio_user_connection *c, struct vfio_user_message *m,
			 struct error *e)
{
	const struct vfio_user_log_start *s = m->payload;
	struct dirty_log_range ranges[DIRTY_LOG_RANGES_MAX];
	bool possible = is_power_of_two(s->page_size) && s->page_size >= DIRTY_LOG_PAGE;
	uint64_t page_size = possible ? s->page_size : DIRTY_LOG_PAGE; /* it is a hint */
	unsigned count = s->range_count;

	for (unsigned i = 0; i < count; i++)
		ranges[i] = (struct dirty_log_range){ s->ranges[i].iova, s->ranges[i].length };
	if (!count)
		count = mapped_ranges(c, ranges);
	if (wait(c, m, e))
		return e->code;
	((struct vfio_user_log_start *)c->feature)->page_size = page_size;
	return waiting(c,
		       migrate_log_start(c->migrate, ranges, count, page_size, &c->migration, e));
}

static int set_log_stop(struct vfio_user_connection *c, struct vfio_user_message *m,
			struct error *e)
{
	if (wait(c, m, e))
		return e->code;
	return waiting(c, migrate_log_stop(c->migrate, &c->migration, e));
}

static int get_log_report(struct vfio_user_connection *c, struct vfio_user_message *m,
			  struct error *e)
{
	const struct vfio_user_log_report *r = m->payload;
	size_t bytes = vfio_user_bitmap_bytes(r->length, r->page_size);
	struct vfio_user_log_report *answer = calloc(1, sizeof(*answer) + bytes);
	int err;

	if (!answer)
		return error_set(e, -ENOMEM, "out of memory");
	*answer = *r;
	err = migrate_log_report(c->migrate, r->iova, r->length, r->page_size,
				 (uint64_t *)(answer + 1), bytes, e);
	if (!err)
		err = reply(c, m, answer, sizeof(*answer) + bytes);
	free(answer);
	return err;
}

static int get_data_size(struct vfio_user_connection *c, struct vfio_user_message *m,
			 struct error *e)
{
	struct vfio_user_data_size answer = { .head = *(const struct vfio_user_feature *)m->payload,
					      .bytes = migrate_data_size(c->migrate) };

	return reply(c, m, &answer, sizeof(answer));
}

static const struct {
	vfio_user_handler *get, *set; /* NULL: there is no such method */
} features[VFIO_USER_FEATURE_END] = {
	[VFIO_USER_FEATURE_MIGRATION] = { get_migration, NULL },
	[VFIO_USER_FEATURE_STATE] = { get_state, set_state },
	[VFIO_USER_FEATURE_LOG_START] = { NULL, set_log_start },
	[VFIO_USER_FEATURE_LOG_STOP] = { NULL, set_log_stop },
	[VFIO_USER_FEATURE_LOG_REPORT] = { get_log_report, NULL },
	[VFIO_USER_FEATURE_DATA_SIZE] = { get_data_size, NULL },
};

/* <linux/vfio.h> has no words for the errno of what does not exist; the kernel's is ENOTTY, and
 * callers probe for that. */
static int check_method(const struct vfio_user_feature *f, struct error *e)
{
	unsigned index = f->flags & VFIO_DEVICE_FEATURE_MASK;
	bool known = index < VFIO_USER_FEATURE_END && (features[index].get || features[index].set);

	if (!known)
		return error_set(e, -ENOTTY, "feature %u is not offered", index);
	if ((f->flags & VFIO_DEVICE_FEATURE_GET && !features[index].get) ||
	    (f->flags & VFIO_DEVICE_FEATURE_SET && !features[index].set))
		return error_set(e, -EINVAL, "feature %u cannot be %s", index,
				 features[index].get ? "set" : "got");
	return 0;
}

int vfio_user_device_feature(struct vfio_user_connection *c, struct vfio_user_message *m,
			     struct error *e)
{
	const struct vfio_user_feature *f = m->payload;
	unsigned index = f->flags & VFIO_DEVICE_FEATURE_MASK;
	struct vfio_user_feature answer = *f;

	if (check_method(f, e))
		return e->code;
	if (f->flags & VFIO_DEVICE_FEATURE_PROBE)
		return reply(c, m, &answer, sizeof(answer));
	return (f->flags & VFIO_DEVICE_FEATURE_GET ? features[index].get
						   : features[index].set)(c, m, e);
}

/* ---- data ---- */

int vfio_user_mig_data_read(struct vfio_user_connection *c, struct vfio_user_message *m,
			    struct error *e)
{
	const struct vfio_user_mig_data *asked = m->payload;
	struct vfio_user_mig_data *answer = calloc(1, sizeof(*answer) + asked->size);
	ssize_t n;

	if (!answer)
		return error_set(e, -ENOMEM, "out of memory");
	n = migrate_read(c->migrate, answer + 1, asked->size, e);
	if (n >= 0) {
		answer->argsz = sizeof(*answer) + n;
		answer->size = n;
		vfio_user_connection_reply(
			c, &m->header, &(struct iovec){ answer, sizeof(*answer) + n }, 1, NULL, 0);
	}
	free(answer);
	return n < 0 ? (int)n : VFIO_USER_REPLIED;
}

int vfio_user_mig_data_write(struct vfio_user_connection *c, struct vfio_user_message *m,
			     struct error *e)
{
	const struct vfio_user_mig_data *d = m->payload;
	ssize_t n = migrate_write(c->migrate, d + 1, d->size, e);

	return n < 0 ? (int)n : 0;
}
