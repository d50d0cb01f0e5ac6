/* sim_migration.c - a VMM that moves the guest: memory by pre-copy (other_side.h), then the device.
 */
#include "base/bytes.h"
#include "base/error.h"
#include "sim.h"
#include "sim/other_side.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

enum { ROUNDS = 4 };

/* ---- what the processors do ---- */

void sim_migration_processors_begin(struct sim *s)
{
	for (unsigned i = 0; s->other_side && i < s->plan.queues; i++)
		other_side_ring_begin(s->other_side, i, &s->queues[i].ring);
}

void sim_migration_processors_end(struct sim *s)
{
	for (unsigned i = 0; s->other_side && i < s->plan.queues; i++)
		other_side_ring_end(s->other_side, i, &s->queues[i].ring);
}

static void allow_request(struct sim *s, const struct sim_request *r)
{
	for (unsigned i = 0; i < r->segment_count; i++)
		if (r->segments[i].writable && r->segments[i].length)
			other_side_allow(s->other_side, r->segments[i].iova, r->segments[i].length);
}

void sim_migration_request_written(struct sim *s, const struct sim_request *r)
{
	if (!s->other_side)
		return;
	other_side_mirror(s->other_side, r->area_iova, AREA);
	if (r->layout.table)
		other_side_mirror(s->other_side, r->layout.table_iova,
				  SEGMENTS_MAX * sizeof(struct vring_desc));
	allow_request(s, r);
}

static void allow_all_there_is(struct sim *s)
{
	for (unsigned i = 0; i < s->plan.queues; i++) {
		other_side_allow_ring(s->other_side, &s->queues[i].ring);
		for (unsigned j = 0; j < REQUESTS_MAX; j++)
			if (s->queues[i].requests[j].busy)
				allow_request(s, &s->queues[i].requests[j]);
	}
}

/* ---- phases ---- */

static void set_log(struct sim *s, struct dirty_log *log)
{
	struct sim_order o;

	virtio_device_set_dirty_log(s->device, log, sim_order_task(&o));
	sim_order_wait(s, &o, false, "dirty log");
}

static uint64_t pick(void *sim, uint64_t n)
{
	return sim_pick(sim, n);
}

static void go_on(void *sim)
{
	sim_step(sim);
}

static __attribute__((noreturn)) void failed(void *sim, const char *text)
{
	sim_fail(sim, "%s", text);
}

static void begin(struct sim *s)
{
	const struct other_side_sim sim = { s, pick, go_on, failed };

	s->other_side = other_side_open(s->regions, REGIONS, &sim);
	allow_all_there_is(s);
	set_log(s, other_side_log(s->other_side));
}

/* The device, if there is one, has let go of the log. */
static void end(struct sim *s)
{
	other_side_close(s->other_side);
	s->other_side = NULL;
}

static uint64_t patience(struct sim *s)
{
	static const uint64_t some[] = { 0, 20000, 1000000, UINT64_MAX, UINT64_MAX };

	return some[sim_pick(s, ARRAY_LENGTH(some))];
}

/* False: refused. */
static bool quiesce(struct sim *s)
{
	struct virtio_quiesce how = { .patience_ns = patience(s), .park = sim_chance(s, 2) };
	struct sim_order o;

	virtio_device_quiesce(s->device, &how, sim_order_task(&o));
	sim_order_wait(s, &o, false, "quiesce");
	sim_trace(s, "quiesce with %lld ns%s: %s", (long long)how.patience_ns,
		  how.park ? ", parking" : "", how.status ? how.reason : "stopped");
	if (how.status && how.patience_ns == UINT64_MAX)
		sim_fail(s, "a stop that waits for ever was refused");
	return !how.status;
}

static void resume(struct sim *s)
{
	struct sim_order o;
	int status;

	virtio_device_resume(s->device, &status, sim_order_task(&o));
	sim_order_wait(s, &o, sim_chance(s, 2), "resume");
	if (status && !s->needs_reset)
		sim_fail(s, "resume: %d", status);
}

static void compare(struct sim *s)
{
	for (unsigned i = 0; i < REGIONS; i++)
		if (s->present[i])
			other_side_compare(s->other_side, i);
}

/* A packed ring that is tracked over there must stay mapped: some of it is remote then. */
static void choose_kinds(struct sim *s)
{
	bool any = s->plan.packed && !s->plan.untracked;

	s->plan.remote_regions = any + sim_pick(s, (1 << REGIONS) - any);
	s->remote.regions |= s->plan.remote_regions;
}

/* To another process, with the memory of the other side. */
static void hand_over(struct sim *s)
{
	struct stream_writer w;
	struct error e = { 0 };

	stream_writer_begin(&w);
	virtio_device_save(s->device, &w);
	if (stream_writer_end(&w, &e))
		sim_fail(s, "save: %s", e.text);
	set_log(s, NULL);
	end(s);
	sim_device_end(s);
	if (s->plan.kinds_change)
		choose_kinds(s);
	sim_device_receive(s, w.bytes, w.length);
	stream_writer_free(&w);
}

static void stop_here(struct sim *s)
{
	set_log(s, NULL);
	end(s);
}

void sim_migrate(struct sim *s)
{
	sim_trap_disarm(s);
	sim_trace(s, "a migration begins");
	begin(s);
	other_side_copy_all(s->other_side, 4);
	for (unsigned i = sim_pick(s, ROUNDS); i; i--)
		other_side_copy_dirty(s->other_side, 2);
	if (!quiesce(s)) {
		stop_here(s);
		return;
	}
	other_side_copy_dirty(s->other_side, 0);
	compare(s);
	if (s->needs_reset || sim_chance(s, 4)) {
		resume(s);
		stop_here(s);
	} else {
		hand_over(s);
	}
}
