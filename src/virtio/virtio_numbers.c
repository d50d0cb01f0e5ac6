/* virtio_numbers.c - what a device's migrations have cost, for statistics. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "virtio/virtio_state.h"

static const struct counter_field fields[] = {
	{ "logs", offsetof(struct virtio_migration, logs) },
	{ "reports", offsetof(struct virtio_migration, reports) },
	{ "report_ns", offsetof(struct virtio_migration, report_ns) },
	{ "quiesces", offsetof(struct virtio_migration, quiesces) },
	{ "quiesces_refused", offsetof(struct virtio_migration, quiesces_refused) },
	{ "quiesce_ns", offsetof(struct virtio_migration, quiesce_ns) },
	{ "parked", offsetof(struct virtio_migration, parked) },
	{ "saves", offsetof(struct virtio_migration, saves) },
	{ "save_ns", offsetof(struct virtio_migration, save_ns) },
	{ "state_bytes", offsetof(struct virtio_migration, state_bytes) },
	{ "loads", offsetof(struct virtio_migration, loads) },
	{ "loads_refused", offsetof(struct virtio_migration, loads_refused) },
	{ "load_ns", offsetof(struct virtio_migration, load_ns) },
	{ "resumes", offsetof(struct virtio_migration, resumes) },
	{ "resume_ns", offsetof(struct virtio_migration, resume_ns) },
};

int virtio_migration_open(struct virtio_device *d)
{
	struct virtio_migration *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->group = (struct counter_group){
		.room = "migration", .fields = fields, .count = ARRAY_LENGTH(fields), .values = m
	};
	snprintf(m->group.name, sizeof(m->group.name), "%s", d->name);
	counter_group_add(&m->group);
	d->migration = m;
	return 0;
}

void virtio_migration_close(struct virtio_device *d)
{
	if (d->migration)
		counter_group_remove(&d->migration->group);
	free(d->migration);
	d->migration = NULL;
}

void virtio_device_count_report(struct virtio_device *d, uint64_t began_ns)
{
	counter_add(&d->migration->reports, 1);
	counter_add(&d->migration->report_ns, reactor_clock(d->control) - began_ns);
}
