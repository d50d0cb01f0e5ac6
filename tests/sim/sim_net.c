/* sim_net.c - a network device, its driver and a network behind it, under a seeded schedule:
 * sim_net [--seeds N] [--seed FIRST]. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "reactor/reactor_virtual.h"
#include "sim_net.h"

enum { TURNS = 300 };

/* With what the seed chose, which tells most of where to look. */
void fail(const struct sim *s, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "sim_net: seed %llu: ", (unsigned long long)s->seed);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr,
		"\n%u pairs at %s, buffers %u..%u%s%s%s%s%s%s%s%s%s%s\n"
		"%u pairs accepted, %u active, features 0x%llx\n",
		s->pairs, s->uri, s->room_least, s->room_most, s->packed ? ", packed" : "",
		s->event_index ? ", event index" : "", s->in_order ? ", in order" : "",
		s->hashes ? ", hashes" : "", s->mergeable ? ", mergeable" : "",
		s->storms ? ", storms" : "", s->hostile ? ", hostile" : "",
		s->remote ? ", remote" : "", s->interrupts ? ", interrupts" : "",
		s->lossless ? ", lossless" : "", s->model.pairs, s->model.active,
		(unsigned long long)s->model.features);
	abort();
}

uint64_t pick(struct sim *s, uint64_t n)
{
	uint64_t z = s->random += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % n;
}

/* ---- what a seed chooses once ---- */

/* Receive buffers: large ones, ones that frames need several of, or ones that are too small for
 * some. */
static void choose_rooms(struct sim *s)
{
	unsigned whole = 20 + FRAME_MAX;

	s->room_most = whole + pick(s, ROOM - whole);
	s->room_least = s->mergeable ? 64 + pick(s, 200) : whole;
	if (!pick(s, 6)) {
		s->room_least = 20 + pick(s, 100);
		s->lossless = false;
	}
}

static void choose_port(struct sim *s)
{
	static const char *const uris[] = {
		"switch:sim",
		"delay+switch:sim?time=20us&jitter=10us",
		"loss+switch:sim?loss=10",
		"limit+delay+switch:sim?pps=20000&time=5us",
	};
	unsigned which = pick(s, 3) ? 0 : pick(s, 4);

	snprintf(s->uri, sizeof(s->uri), "%s", uris[which]);
	s->lossless = which < 2;
}

static void choose(struct sim *s)
{
	s->pairs = 1 + pick(s, PAIRS_MAX);
	s->packed = pick(s, 2);
	s->event_index = pick(s, 2);
	s->in_order = !pick(s, 4);
	s->mergeable = pick(s, 2);
	s->hashes = pick(s, 2);
	s->storms = pick(s, 2);
	s->hostile = pick(s, 2);
	s->remote = !pick(s, 4);
	s->interrupts = pick(s, 2);
	choose_port(s);
	choose_rooms(s);
}

/* ---- a run ---- */

static void restart(struct sim *s)
{
	device_reset(s);
	if (!pick(s, 4))
		device_announce(s);
	driver_start(s);
}

static void step(struct sim *s)
{
	for (uint64_t n = pick(s, 12); n; n--)
		reactor_world_step(s->world);
	reactor_world_enter(s->world, s->control);
	if (s->needs_reset)
		restart(s);
}

static void trouble(struct sim *s)
{
	unsigned queues = 2 * s->model.pairs + !!control_queue(s);

	switch (pick(s, 120)) {
	case 0:
		restart(s);
		break;
	case 1:
		queue_reset(s, pick(s, queues));
		break;
	case 2:
		queue_rest(s, pick(s, queues));
		break;
	case 3:
		device_announce(s);
		break;
	case 4:
		migrate(s);
		break;
	}
}

void traffic(struct sim *s)
{
	switch (pick(s, 9)) {
	case 0:
	case 1:
		far_send(s, pick(s, FLOWS), true);
		break;
	case 2:
	case 3:
		transmit(s, pick(s, s->model.pairs), s->hostile && !pick(s, 4));
		break;
	case 4:
		receive_fill(s, &s->queues[2 * pick(s, s->model.pairs)]);
		break;
	case 5:
		control_send(s);
		break;
	case 6:
		collect(s);
		break;
	}
}

/* ---- a moment's rest: what must have come by then ---- */

static unsigned outstanding(const struct sim *s)
{
	unsigned count = s->command_count;

	for (unsigned i = 0; i < s->model.pairs; i++)
		count += guest_queue_outstanding(&s->queues[2 * i + 1].ring);
	return count;
}

/* Until nothing moves any more, with buffers for what comes or without; false: the device needed a
 * reset. */
static bool settle(struct sim *s, bool fill)
{
	unsigned before;

	do {
		before = s->arrived + s->taken + outstanding(s) * 65536;
		for (unsigned i = 0; fill && i < s->model.pairs; i++)
			receive_fill(s, &s->queues[2 * i]);
		come_to_rest(s);
		if (s->needs_reset) {
			restart(s);
			return false;
		}
		collect(s);
	} while (before != s->arrived + s->taken + outstanding(s) * 65536);
	if (outstanding(s))
		fail(s, "a descriptor does not come back");
	return true;
}

static void check_arrival(struct sim *s, const struct flow *f, bool wanted)
{
	bool came = f->marks[f->sent] & SEEN;

	if (came == wanted || (wanted && (!s->lossless || s->may_break)))
		return;
	fail(s, "frame %u of %s flow %u %s", f->sent,
	     f >= s->from_guest ? "the guest's" : "the network's", f->number,
	     wanted ? "did not arrive" : "arrived, and must not");
}

static void check_passage(struct sim *s)
{
	/* frames may have to wait for buffers, or find them */
	if (!settle(s, pick(s, 2)))
		return;
	for (unsigned i = 0; i < FLOWS; i++)
		far_send(s, i, false);
	for (unsigned i = 0; i < s->model.pairs; i++)
		transmit(s, i, false);
	come_to_rest(s);
	if (!settle(s, true))
		return;
	device_check_config(s);
	for (unsigned i = 0; i < FLOWS; i++)
		check_arrival(s, &s->to_guest[i], model_passes(&s->model, &s->to_guest[i]));
	for (unsigned i = 0; i < s->model.pairs; i++)
		check_arrival(s, &s->from_guest[i], true);
}

static void run(uint64_t seed)
{
	struct sim *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->seed = s->random = seed;
	choose(s);
	flows_open(s);
	device_open(s);
	driver_start(s);
	for (unsigned i = 0; i < TURNS; i++) {
		traffic(s);
		trouble(s);
		step(s);
		if (!pick(s, 60))
			check_passage(s);
	}
	check_passage(s);
	restart(s);
	s->hostile = false;
	check_passage(s);
	device_close(s);
	free(s);
}

int main(int argc, char **argv)
{
	uint64_t first = 1, count = 1;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seeds"))
			count = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			first = strtoull(argv[i + 1], NULL, 0);
		else
			return 2;
	}
	log_set_level(LOG_LEVEL_ERROR);
	printf("sim_net: seeds %llu to %llu\n", (unsigned long long)first,
	       (unsigned long long)(first + count - 1));
	fflush(stdout);
	for (uint64_t i = 0; i < count; i++)
		run(first + i);
	return 0;
}
