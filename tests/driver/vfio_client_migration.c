/* vfio_client_migration.c - what a VMM does to migrate a device over vfio-user. */
#include "driver/vfio_client_migration.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "driver/vfio_user_client.h"

enum { COMMAND_FEATURE = 16, COMMAND_READ = 17, COMMAND_WRITE = 18 };
enum { GET = 1 << 16, SET = 1 << 17 };
enum {
	FEATURE_MIGRATION = 1,
	FEATURE_STATE = 2,
	FEATURE_LOG_START = 6,
	FEATURE_LOG_STOP = 7,
	FEATURE_LOG_REPORT = 8,
	FEATURE_DATA_SIZE = 9
};

struct feature {
	uint32_t argsz, flags;
};

static size_t reply_bytes(const struct vfio_user_client *c)
{
	return c->channel.reply.header.size - sizeof(struct vfio_client_header);
}

/* The reply's payload, at least n bytes of it, into to. */
static int ask(struct vfio_user_client *c, uint16_t command, void *request, size_t size, void *to,
	       size_t n, struct error *e)
{
	int err = vfio_user_client_ask(c, command, request, size, NULL, 0, e);

	if (err)
		return err;
	if (reply_bytes(c) < n)
		return error_set(e, -EPROTO, "a reply of %zu bytes, not %zu", reply_bytes(c), n);
	memcpy(to, c->channel.reply.payload, n);
	return 0;
}

int vfio_client_migration_flags(struct vfio_user_client *c, uint64_t *flags, struct error *e)
{
	struct {
		struct feature head;
		uint64_t flags;
	} m = { { sizeof(m), FEATURE_MIGRATION | GET }, 0 };
	int err = ask(c, COMMAND_FEATURE, &m, sizeof(m.head), &m, sizeof(m), e);

	*flags = m.flags;
	return err;
}

struct state {
	struct feature head;
	uint32_t state;
	int32_t fd;
};

int vfio_client_get_state(struct vfio_user_client *c, uint32_t *state, struct error *e)
{
	struct state m = { { sizeof(m), FEATURE_STATE | GET }, 0, 0 };
	int err = ask(c, COMMAND_FEATURE, &m, sizeof(m.head), &m, sizeof(m), e);

	*state = m.state;
	return err;
}

int vfio_client_set_state(struct vfio_user_client *c, uint32_t state, struct error *e)
{
	struct state m = { { sizeof(m), FEATURE_STATE | SET }, state, -1 };

	return ask(c, COMMAND_FEATURE, &m, sizeof(m), &m, sizeof(m), e);
}

struct data {
	uint32_t argsz, size;
};

ssize_t vfio_client_mig_read(struct vfio_user_client *c, void *to, uint32_t n, struct error *e)
{
	struct data m = { sizeof(m) + n, n };
	int err = ask(c, COMMAND_READ, &m, sizeof(m), &m, sizeof(m), e);

	if (err)
		return err;
	if (m.size > n || reply_bytes(c) != sizeof(m) + m.size)
		return error_set(e, -EPROTO, "%u bytes of state in %zu", m.size, reply_bytes(c));
	memcpy(to, (const char *)c->channel.reply.payload + sizeof(m), m.size);
	return m.size;
}

int vfio_client_mig_write(struct vfio_user_client *c, const void *from, uint32_t n, struct error *e)
{
	struct data *m = malloc(sizeof(*m) + n);
	int err;

	*m = (struct data){ sizeof(*m), n };
	memcpy(m + 1, from, n);
	err = vfio_user_client_ask(c, COMMAND_WRITE, m, sizeof(*m) + n, NULL, 0, e);
	free(m);
	return err;
}

int vfio_client_data_size(struct vfio_user_client *c, uint64_t *bytes, struct error *e)
{
	struct {
		struct feature head;
		uint64_t bytes;
	} m = { { sizeof(m), FEATURE_DATA_SIZE | GET }, 0 };
	int err = ask(c, COMMAND_FEATURE, &m, sizeof(m.head), &m, sizeof(m), e);

	*bytes = m.bytes;
	return err;
}

struct log_start {
	struct feature head;
	uint64_t page_size;
	uint32_t count, reserved;
	struct vfio_client_range ranges[];
};

int vfio_client_log_start(struct vfio_user_client *c, const struct vfio_client_range *ranges,
			  unsigned count, uint64_t *page_size, struct error *e)
{
	size_t n = sizeof(struct log_start) + count * sizeof(ranges[0]);
	struct log_start *m = calloc(1, n);
	int err;

	m->head = (struct feature){ n, FEATURE_LOG_START | SET };
	m->page_size = *page_size;
	m->count = count;
	for (unsigned i = 0; i < count; i++)
		m->ranges[i] = ranges[i];
	err = ask(c, COMMAND_FEATURE, m, n, m, n, e);
	*page_size = m->page_size;
	free(m);
	return err;
}

int vfio_client_log_stop(struct vfio_user_client *c, struct error *e)
{
	struct feature m = { sizeof(m), FEATURE_LOG_STOP | SET };

	return ask(c, COMMAND_FEATURE, &m, sizeof(m), &m, sizeof(m), e);
}

int vfio_client_log_report(struct vfio_user_client *c, uint64_t iova, uint64_t length,
			   uint64_t page_size, uint64_t *bitmap, size_t bytes, struct error *e)
{
	struct {
		struct feature head;
		uint64_t iova, length, page_size;
	} m = { { sizeof(m) + bytes, FEATURE_LOG_REPORT | GET }, iova, length, page_size };
	int err = vfio_user_client_ask(c, COMMAND_FEATURE, &m, sizeof(m), NULL, 0, e);

	if (err)
		return err;
	if (reply_bytes(c) < sizeof(m) || reply_bytes(c) - sizeof(m) > bytes)
		return error_set(e, -EPROTO, "a reply of %zu bytes", reply_bytes(c));
	memset(bitmap, 0, bytes);
	memcpy(bitmap, (const char *)c->channel.reply.payload + sizeof(m),
	       reply_bytes(c) - sizeof(m));
	return 0;
}
