/* sim_remote.c - the link to regions that are not mapped: transfers take their time, overtake each
 * other and sometimes fail; the bytes move at the beginning, or at the end. */
#include <errno.h>
#include <stdlib.h>

#include "link/link.h"
#include "reactor/reactor.h"
#include "sim.h"

enum { DELAY_NS = 5000, FAILURE_ODDS = 400, FAILURE_ODDS_MIGRATING = 60 };

struct sim_transfer {
	struct reactor_timer timer;
	struct sim *sim;
	struct link_transfer *transfer;
	struct sim_transfer *next;
	bool moved;
};

static void move(struct sim *s, const struct link_transfer *t)
{
	sim_guest_copy(s, t->iova + t->finished, (char *)t->local + t->finished, t->part, t->write);
}

static void unlink_transfer(struct sim *s, struct sim_transfer *d)
{
	struct sim_transfer **at = &s->remote.pending;

	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
}

static void arrive(void *arg)
{
	struct sim_transfer *d = arg;
	struct link_transfer *t = d->transfer;
	struct sim *s = d->sim;
	unsigned odds = s->other_side ? FAILURE_ODDS_MIGRATING : FAILURE_ODDS;
	bool fails = s->plan.link_failures && !s->calm && sim_chance(s, odds);

	if (!d->moved && !fails) {
		if (t->write)
			sim_trap_store(s);
		move(s, t);
	}
	unlink_transfer(s, d);
	free(d);
	link_transfer_complete(t, fails ? -EIO : 0);
}

/* The map that the device uses must not name what the driver has taken away. */
static void check_range(struct sim *s, const struct link_transfer *t)
{
	uint64_t iova = t->iova + t->finished;

	for (unsigned i = 0; i < REGIONS; i++) {
		const struct guest_memory *m = &s->regions[i];

		if (iova - m->iova >= m->size)
			continue;
		if (!s->present[i] || !(s->remote.regions >> i & 1) ||
		    t->part > m->iova + m->size - iova)
			sim_fail(s, "a transfer outside of remote memory, region %u", i);
		return;
	}
	sim_fail(s, "a transfer outside of guest memory");
}

static void begin(struct link_remote *remote, struct link_transfer *t)
{
	struct sim *s = ((struct sim_remote *)remote)->sim;
	struct sim_transfer *d = calloc(1, sizeof(*d));

	if (!d)
		abort();
	check_range(s, t);
	*d = (struct sim_transfer){ .sim = s, .transfer = t, .next = s->remote.pending };
	d->timer = (struct reactor_timer){ .fn = arrive, .arg = d };
	s->remote.pending = d;
	if (sim_chance(s, 2)) {
		if (t->write)
			sim_trap_store(s);
		d->moved = true;
		move(s, t);
	}
	reactor_timer_set(t->reactor, &d->timer, reactor_now(t->reactor) + sim_pick(s, DELAY_NS));
}

static const struct link_remote_type type = { .name = "sim", .read = begin, .write = begin };

void sim_remote_open(struct sim *s)
{
	s->remote = (struct sim_remote){ .remote.type = &type,
					 .sim = s,
					 .regions = s->plan.remote_regions };
}

void sim_remote_kill(struct sim *s)
{
	while (s->remote.pending) {
		struct sim_transfer *d = s->remote.pending;

		if (d->transfer->write && !d->moved && sim_chance(s, 2))
			move(s, d->transfer);
		s->remote.pending = d->next;
		free(d);
	}
}
