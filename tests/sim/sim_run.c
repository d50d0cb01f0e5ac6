/* sim_run.c - one seed from beginning to end, and the troubles on the way. */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "reactor/reactor_random.h"
#include "reactor/reactor_virtual.h"
#include "sim.h"
#include "virtio/virtio_device.h"

enum {
	HANG_STEPS = 100000, /* a request outstanding, none came back */
	TROUBLE_ODDS = 150,
	MIGRATION_ODDS = 150, /* a trouble once in so many steps */
	KILL_STORES = 60,     /* after at most so many stores to what survives */
};

/* ---- chance, and the end ---- */

uint64_t sim_pick(struct sim *s, uint64_t n)
{
	return random_next(&s->random) % n;
}

bool sim_chance(struct sim *s, unsigned n)
{
	return !sim_pick(s, n);
}

void sim_fail(struct sim *s, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "seed %llu: ", (unsigned long long)s->seed);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n  %s%s%s, %u requests sent, %u back\n", s->plan.filters,
		s->plan.persistent ? "file" : "memory", s->plan.options, s->sent, s->completed);
	fflush(NULL);
	_exit(1);
}

void sim_trace(struct sim *s, const char *format, ...)
{
	va_list arguments;

	if (!s->verbose)
		return;
	fprintf(stderr, "%10llu ",
		s->world ? (unsigned long long)reactor_world_now(s->world) - 1000000000 : 0);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
}

/* ---- steps ---- */

void sim_step(struct sim *s)
{
	if (!reactor_world_step(s->world))
		sim_driver_push(s);
	else if (sim_chance(s, 3))
		sim_driver_turn(s);
	if (++s->idle_steps > HANG_STEPS && s->outstanding && !s->needs_reset)
		sim_fail(s, "%u requests do not come back", s->outstanding);
}

void sim_drain(struct sim *s)
{
	bool before = s->draining;

	s->draining = true;
	while (s->outstanding && !s->needs_reset)
		sim_step(s);
	s->draining = before;
}

/* ---- troubles ---- */

static struct sim_queue *any_queue(struct sim *s)
{
	return &s->queues[sim_pick(s, s->plan.queues)];
}

static void steps(struct sim *s, unsigned n)
{
	while (n--)
		sim_step(s);
}

static void trouble_kill(struct sim *s)
{
	if (!s->plan.kills)
		return;
	if (sim_chance(s, 4))
		siglongjmp(s->kill_point, 1);
	sim_trap_arm(s, 1 + sim_pick(s, KILL_STORES), sim_chance(s, 2));
	steps(s, 1 + sim_pick(s, 2000));
	sim_trap_disarm(s);
}

/* Device and driver act at the same time. */
static void trouble_race(struct sim *s)
{
	sim_trap_arm(s, 0, true);
	steps(s, 1 + sim_pick(s, 500));
	sim_trap_disarm(s);
}

static void trouble_stop(struct sim *s)
{
	struct sim_queue *q = any_queue(s);

	if (!s->plan.stops)
		return;
	sim_trace(s, "queue %u: stop", q->index);
	sim_queue_stop(s, q);
	steps(s, sim_pick(s, 50));
	if (!s->needs_reset)
		sim_queue_start(s, q, sim_queue_used_index(q));
}

static void trouble_reconnect(struct sim *s)
{
	if (!s->plan.stops || !s->plan.persistent)
		return;
	for (unsigned i = 0; i < s->plan.queues; i++)
		sim_queue_stop(s, &s->queues[i]);
	if (s->needs_reset)
		return;
	sim_device_end(s);
	sim_device_start(s);
}

static void trouble_reset(struct sim *s)
{
	if (s->plan.resets)
		sim_device_reset(s);
}

static void trouble_disable(struct sim *s)
{
	struct sim_queue *q = any_queue(s);

	virtio_queue_enable(s->device, q->index, false);
	steps(s, sim_pick(s, 100));
	virtio_queue_enable(s->device, q->index, true);
}

static void trouble_eventfds(struct sim *s)
{
	sim_device_replace_eventfds(s, any_queue(s));
}

static bool region_in_use(const struct sim *s, unsigned region)
{
	for (unsigned i = 0; i < s->plan.queues; i++)
		for (unsigned j = 0; j < REQUESTS_MAX; j++)
			if (s->queues[i].requests[j].busy &&
			    sim_area_touches(s, &s->queues[i].requests[j], region))
				return true;
	return false;
}

/* Memory that was shared is not any more, or the other way round; nobody stops using it. */
static void change_kind(struct sim *s, unsigned region)
{
	s->plan.remote_regions ^= region;
	s->remote.regions |= s->plan.remote_regions;
	sim_trace(s, "regions that are remote: 0x%x", s->plan.remote_regions);
	sim_device_change_memory(s);
}

/* The guest stops using a region before the VMM takes it away. */
static void trouble_memory(struct sim *s)
{
	unsigned region = 2 + sim_pick(s, REGIONS - 2);

	if (s->plan.kinds_change && sim_chance(s, 2)) /* of the rings, mostly */
		change_kind(s, 1u << (sim_chance(s, 3) ? sim_pick(s, REGIONS) : 0));
	if (!s->plan.map_changes)
		return;
	s->avoid_region = region;
	while (s->present[region] && region_in_use(s, region) && !s->needs_reset)
		sim_step(s);
	if (!s->needs_reset) {
		s->present[region] = !s->present[region];
		sim_trace(s, "region %u %s", region, s->present[region] ? "comes" : "goes");
		sim_device_change_memory(s);
	}
	s->avoid_region = -1;
}

static void trouble_resize(struct sim *s)
{
	uint64_t sectors = s->disk.count + 8 * (1 + sim_pick(s, 16));

	if (s->plan.resizes && sectors <= s->disk.room)
		sim_device_resize(s, sectors);
}

static void (*const troubles[])(struct sim *s) = {
	trouble_kill,     trouble_kill,      trouble_race,   trouble_race,
	trouble_stop,     trouble_reconnect, trouble_reset,  trouble_disable,
	trouble_eventfds, trouble_memory,    trouble_resize,
};

/* ---- a seed ---- */

static void open_world(struct sim *s)
{
	s->random = s->seed * 0x9e3779b97f4a7c15 + 1;
	sim_plan_choose(s);
	sim_memory_open(s);
	sim_remote_open(s);
	sim_disk_open(&s->disk, s->plan.sectors, s->plan.sectors * 2, s->plan.persistent);
	sim_driver_open(s);
	sim_trace(s, "%u queues of %u, %u workers, %s%s, remote regions 0x%x%s%s%s%s%s%s",
		  s->plan.queues, s->plan.queue_size, s->plan.workers, s->plan.filters,
		  s->plan.persistent ? "file" : "memory", s->plan.remote_regions,
		  s->plan.event_index ? ", EVENT_IDX" : "", s->plan.indirect ? ", INDIRECT" : "",
		  s->plan.interrupts ? ", interrupts" : "", s->plan.kills ? ", kills" : "",
		  s->plan.packed ? ", PACKED" : "", s->plan.in_order ? ", IN_ORDER" : "");
}

static void live(struct sim *s)
{
	while (s->sent < s->plan.requests || s->outstanding || s->needs_reset) {
		sim_step(s);
		if (s->needs_reset)
			sim_device_reset(s);
		else if (sim_chance(s, TROUBLE_ODDS))
			troubles[sim_pick(s, sizeof(troubles) / sizeof(troubles[0]))](s);
		else if (s->plan.migrations && sim_chance(s, MIGRATION_ODDS))
			sim_migrate(s);
	}
	s->calm = true;
}

void sim_run(struct sim *s)
{
	open_world(s);
	/* A kill ends here, wherever it fell. */
	if (sigsetjmp(s->kill_point, 1)) {
		sim_device_abandon(s);
		s->avoid_region = -1;
	}
	sim_device_start(s);
	live(s);
	sim_driver_verify(s);
	sim_device_end(s);
	sim_driver_close(s);
	sim_disk_close(&s->disk);
	sim_memory_close(s);
}
