/* link.c - moving bytes between the VM's memory and ours. */
#include "link/link.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "link/dirty_log.h"
#include "link/link_model.h"
#include "link/link_provider.h"
#include "link/memory_map.h"

static const struct counter_field fields[] = {
	{ "ring_reads", offsetof(struct link_numbers, reads[LINK_RING]) },
	{ "ring_read_bytes", offsetof(struct link_numbers, read_bytes[LINK_RING]) },
	{ "ring_writes", offsetof(struct link_numbers, writes[LINK_RING]) },
	{ "ring_write_bytes", offsetof(struct link_numbers, write_bytes[LINK_RING]) },
	{ "header_reads", offsetof(struct link_numbers, reads[LINK_HEADER]) },
	{ "header_read_bytes", offsetof(struct link_numbers, read_bytes[LINK_HEADER]) },
	{ "payload_reads", offsetof(struct link_numbers, reads[LINK_PAYLOAD]) },
	{ "payload_read_bytes", offsetof(struct link_numbers, read_bytes[LINK_PAYLOAD]) },
	{ "payload_writes", offsetof(struct link_numbers, writes[LINK_PAYLOAD]) },
	{ "payload_write_bytes", offsetof(struct link_numbers, write_bytes[LINK_PAYLOAD]) },
	{ "status_writes", offsetof(struct link_numbers, writes[LINK_STATUS]) },
	{ "status_write_bytes", offsetof(struct link_numbers, write_bytes[LINK_STATUS]) },
	{ "failures", offsetof(struct link_numbers, failures) },
};

void link_open(struct link *l, const char *name)
{
	*l = (struct link){ 0 };
	l->group = (struct counter_group){ .room = "link",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &l->numbers };
	snprintf(l->group.name, sizeof(l->group.name), "%s", name);
	counter_group_add(&l->group);
}

void link_close(struct link *l)
{
	counter_group_remove(&l->group);
}

/* What has been stored, so far, is marked even if the rest fails. */
static void mark(const struct link_transfer *t, uint64_t bytes)
{
	if (t->log && *t->log && bytes)
		dirty_log_mark(*t->log, t->iova, bytes);
}

/* Begins with what lies in the region at the present place: a copy, or a provider's transfer. */
static int transfer_part(struct link_transfer *t)
{
	uint64_t iova = t->iova + t->finished;
	char *local = (char *)t->local + t->finished;
	void *host;

	t->part = memory_map_reach(t->map, iova, t->length - t->finished,
				   t->write ? MEMORY_WRITE : MEMORY_READ, &host);
	if (!t->part)
		return -EFAULT;
	if (!host)
		return LINK_PENDING;
	if (t->write)
		memcpy(host, local, t->part);
	else
		memcpy(local, host, t->part);
	t->finished += t->part;
	return LINK_DONE;
}

/* Runs until a remote part is under way, the end, or an error. */
static int transfer_run(struct link_transfer *t)
{
	int answer = LINK_DONE;

	while (answer == LINK_DONE && t->finished < t->length)
		answer = transfer_part(t);
	if (answer != LINK_PENDING)
		mark(t, t->finished);
	return answer;
}

static void provider_submit(struct link_transfer *t)
{
	struct link_remote *remote = memory_map_remote(t->map);

	if (t->write)
		remote->type->write(remote, t);
	else
		remote->type->read(remote, t);
}

/* Without a model.  A map that has remote regions but nobody who reaches them is a fault. */
static int transfer_start(struct link_transfer *t)
{
	int answer = transfer_run(t);

	if (answer == LINK_PENDING && !memory_map_remote(t->map))
		answer = -EFAULT;
	if (answer == LINK_PENDING)
		provider_submit(t);
	if (answer < 0)
		counter_add(&t->link->numbers.failures, 1);
	return answer;
}

static int model_start(struct link_model *model, struct link_transfer *t)
{
	int err = link_model_submit(model, t);

	return err ? err : LINK_PENDING;
}

static int transfer_begin(struct link *l, const struct memory_map *m, struct link_transfer *t)
{
	struct link_model *model = memory_map_model(m);

	assert(t->length);
	t->link = l;
	t->map = m;
	t->reactor = l->reactor;
	t->finished = 0;
	t->status = 0;
	return model ? model_start(model, t) : transfer_start(t);
}

void link_transfer_begin_now(struct link_transfer *t)
{
	int answer = transfer_start(t);

	if (answer == LINK_PENDING)
		return;
	t->status = answer < 0 ? answer : 0;
	t->done(t);
}

int link_read(struct link *l, const struct memory_map *m, struct link_transfer *t)
{
	t->write = false;
	t->log = NULL;
	link_count_read(l, t->purpose, 1, t->length);
	return transfer_begin(l, m, t);
}

int link_write(struct link *l, const struct memory_map *m, struct dirty_log *const *log,
	       struct link_transfer *t)
{
	t->write = true;
	t->log = log;
	link_count_write(l, t->purpose, 1, t->length);
	return transfer_begin(l, m, t);
}

void link_transfer_complete(struct link_transfer *t, int status)
{
	assert(reactor_is_home(t->reactor));
	if (!status) {
		t->finished += t->part;
		status = transfer_run(t);
		if (status == LINK_PENDING) {
			provider_submit(t);
			return;
		}
	}
	if (status < 0) {
		/* Nobody knows how much of the part that failed has arrived. */
		mark(t, t->finished + t->part);
		counter_add(&t->link->numbers.failures, 1);
	}
	t->status = status < 0 ? status : 0;
	t->done(t);
}
