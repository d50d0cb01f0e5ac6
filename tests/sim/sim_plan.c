/* sim_plan.c - what a seed chooses once. */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "sim.h"

enum { FILTERS = 5, ALL_REGIONS = (1 << REGIONS) - 1 };

struct filter {
	const char *name, *options;
};

static const struct filter filters[FILTERS] = {
	{ "delay+", "&time=10us&jitter=40us" }, { "limit+", "&iops=200000&iops-burst=3&bps=1G" },
	{ "log+", "&log-file=/dev/null" },      { "split+", "&transfer-max=4096&clear-max=8192" },
	{ "fault+", "&fault-rate=5" },
};

/* So long that some still wait when a device is stopped, and some behind them have ended. */
static const struct filter long_delay = { "delay+", "&time=10us&jitter=1ms" };

static const struct filter *choose_filter(struct sim *s, const struct sim_plan *p, unsigned i)
{
	if (!i && p->migrations && sim_chance(s, 2))
		return &long_delay;
	return sim_chance(s, 3) ? &filters[i] : NULL;
}

/* Each filter or not, in any order. */
static void choose_filters(struct sim *s, struct sim_plan *p)
{
	unsigned first = sim_pick(s, FILTERS), step = 1 + sim_pick(s, FILTERS - 1);

	for (unsigned i = 0; i < FILTERS; i++) {
		const struct filter *f = choose_filter(s, p, (first + i * step) % FILTERS);

		if (!f)
			continue;
		strcat(p->filters, f->name);
		strcat(p->options, f->options);
		p->faults |= !strcmp(f->name, "fault+");
	}
	if (p->faults)
		snprintf(p->options + strlen(p->options), URI_MAX - strlen(p->options),
			 "&fault-seed=%u", (unsigned)sim_pick(s, 1u << 30));
}

static void choose_link(struct sim *s, struct sim_plan *p)
{
	unsigned kind = sim_pick(s, 4);

	p->remote_regions = kind < 2 ? 0 : kind == 2 ? ALL_REGIONS : sim_pick(s, ALL_REGIONS);
	p->link_failures = p->remote_regions && sim_chance(s, 4);
	p->kinds_change = p->remote_regions && sim_chance(s, 2);
}

static void choose_troubles(struct sim *s, struct sim_plan *p)
{
	p->kills = sim_chance(s, 3);
	p->stops = sim_chance(s, 3);
	p->resets = sim_chance(s, 4);
	p->map_changes = sim_chance(s, 3);
	p->persistent = p->kills || sim_chance(s, 3);
	p->resizes = p->persistent && sim_chance(s, 3);
	p->migrations = p->persistent && !sim_chance(s, 3);
	p->across = sim_chance(s, 2);
	p->untracked = !p->kills && !p->stops && !sim_chance(s, 3);
	if (p->packed && p->remote_regions) /* nothing tracks what is in flight there */
		p->kills = false;
}

void sim_plan_choose(struct sim *s)
{
	struct sim_plan *p = &s->plan;

	*p = (struct sim_plan){
		.queues = 1 + sim_pick(s, QUEUES_MAX),
		.workers = 1 + sim_pick(s, WORKERS_MAX),
		.requests = 40 + sim_pick(s, 200),
		.queue_size = 4 << sim_pick(s, 5),
		.event_index = sim_chance(s, 2),
		.indirect = sim_chance(s, 2),
		.packed = sim_chance(s, 2),
		.in_order = sim_chance(s, 3),
		.interrupts = !sim_chance(s, 3),
		.polled_kicks = sim_chance(s, 6),
		.sectors = 64 + 8 * sim_pick(s, 64),
		.block = SECTOR,
	};
	choose_link(s, p);
	choose_troubles(s, p);
	choose_filters(s, p);
	if (!p->persistent && sim_chance(s, 3))
		p->block = 4096;
}
