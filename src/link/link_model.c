/* link_model.c - the cost of a bus in front of memory. */
#include "link/link_model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/link.h"
#include "link/link_provider.h"
#include "reactor/reactor.h"

static const uint64_t second_ns = 1000ull * 1000 * 1000;

/* A PCIe memory request's framing, sequence number, header of four words and checksum. */
enum { TRANSACTION_BYTES = 24 };
enum { TEXT_MAXIMUM = 128 };

struct link_model {
	struct link_model_settings settings;
	uint64_t busy_until_ns[2]; /* atomic; by direction */
	uint64_t transactions;     /* atomic */
};

/* ---- settings ---- */

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit times[] = {
	{ "ns", 1 }, { "us", 1000 }, { "ms", 1000 * 1000 }, { NULL, 0 }
};
static const struct unit rates[] = { { "MB/s", 1000 * 1000 },
				     { "GB/s", 1000 * 1000 * 1000 },
				     { NULL, 0 } };
static const struct unit sizes[] = { { "", 1 }, { NULL, 0 } };

struct field {
	const char *name;
	const struct unit *units;
	uint64_t minimum, maximum;
	const char *wanted;
};

enum field_name { LATENCY, BANDWIDTH, READ, WRITE, FIELDS };

static const struct field fields[FIELDS] = {
	[LATENCY] = { "latency", times, 0, second_ns, "a time up to 1000ms, such as 1us" },
	[BANDWIDTH] = { "bandwidth", rates, 1000 * 1000, second_ns * 1000,
			"a rate from 1MB/s to 1000GB/s" },
	[READ] = { "read", sizes, 64, 4096, "64 to 4096 bytes" },
	[WRITE] = { "write", sizes, 64, 4096, "64 to 4096 bytes" },
};

/* "32GB/s": a decimal number and one of the units. */
static int parse_value(const struct field *f, const char *text, uint64_t *to)
{
	char *end;
	uint64_t number;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, 10);
	for (const struct unit *u = f->units; u->name; u++) {
		if (strcmp(end, u->name))
			continue;
		if (errno || number > f->maximum / u->factor || number * u->factor < f->minimum)
			return -EINVAL;
		*to = number * u->factor;
		return 0;
	}
	return -EINVAL;
}

static int parse_item(char *item, uint64_t values[FIELDS], bool given[FIELDS], struct error *e)
{
	char *value = strchr(item, '=');

	if (value)
		*value++ = 0;
	for (unsigned i = 0; i < FIELDS; i++) {
		if (strcmp(item, fields[i].name))
			continue;
		if (given[i])
			return error_set(e, -EINVAL, "\"%s\" is given twice", item);
		given[i] = true;
		if (!value || parse_value(&fields[i], value, &values[i]))
			return error_set(e, -EINVAL, "%s must be %s, not \"%s\"", item,
					 fields[i].wanted, value ? value : "");
		return 0;
	}
	return error_set(e, -EINVAL, "\"%s\" is not one of latency, bandwidth, read and write",
			 item);
}

int link_model_parse(const char *text, struct link_model_settings *s, struct error *e)
{
	uint64_t values[FIELDS] = { 0 };
	bool given[FIELDS] = { false };
	char copy[TEXT_MAXIMUM], *rest = copy, *item;

	if (strlen(text) >= sizeof(copy))
		return error_set(e, -EINVAL, "is longer than %u characters", TEXT_MAXIMUM - 1);
	memcpy(copy, text, strlen(text) + 1);
	while ((item = strsep(&rest, ","))) {
		int err = parse_item(item, values, given, e);

		if (err)
			return err;
	}
	*s = (struct link_model_settings){ .latency_ns = values[LATENCY],
					   .bandwidth = values[BANDWIDTH],
					   .read = values[READ],
					   .write = values[WRITE] };
	return 0;
}

/* ---- the bus ---- */

struct link_model *link_model_create(const struct link_model_settings *s, struct error *e)
{
	struct link_model *m = calloc(1, sizeof(*m));

	if (!m)
		error_set(e, -ENOMEM, "link model: out of memory");
	else
		m->settings = *s;
	return m;
}

void link_model_free(struct link_model *m)
{
	free(m);
}

uint64_t link_model_transactions(const struct link_model *m)
{
	return __atomic_load_n(&m->transactions, __ATOMIC_RELAXED);
}

static uint64_t count_transactions(const struct link_model *m, bool write, uint32_t bytes)
{
	uint32_t most = write ? m->settings.write : m->settings.read;

	return most ? (bytes + (uint64_t)most - 1) / most : 1;
}

/* Nanoseconds that the bytes occupy a lane.  At most 4 GiB and their headers, over a rate of at
 * least 1 MB/s: 64 bits hold the product in picoseconds' stead. */
static uint64_t lane_ns(const struct link_model *m, uint64_t bytes)
{
	__extension__ unsigned __int128 product = (unsigned __int128)bytes * second_ns;

	return m->settings.bandwidth ? product / m->settings.bandwidth : 0;
}

/* Moves the lane's end on; returns it.  Only as many turns as other reactors do so meanwhile. */
static uint64_t lane_take(struct link_model *m, bool write, uint64_t cost_ns, uint64_t now_ns)
{
	uint64_t *end = &m->busy_until_ns[write];
	uint64_t found = __atomic_load_n(end, __ATOMIC_RELAXED);
	uint64_t next;

	do {
		next = maximum_u64(found, now_ns) + cost_ns;
	} while (!__atomic_compare_exchange_n(end, &found, next, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	return next;
}

/* ---- waiting: each link has a list per lane, whose times only grow, and one timer ---- */

static int set_timer(struct link *l)
{
	const struct link_waiting *w = l->waiting;
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < 2; i++)
		if (w[i].first)
			next = minimum_u64(next, w[i].first->due_ns);
	return next == UINT64_MAX ? 0 : reactor_timer_set(l->reactor, &l->timer, next);
}

static struct link_transfer *take_due(struct link_waiting *w, uint64_t now_ns)
{
	struct link_transfer *t = w->first;

	if (!t || t->due_ns > now_ns)
		return NULL;
	w->first = t->next;
	return t;
}

static void carry_until(struct link *l, uint64_t time_ns)
{
	struct link_transfer *t;

	for (unsigned i = 0; i < 2; i++)
		while ((t = take_due(&l->waiting[i], time_ns)))
			link_transfer_begin_now(t);
}

/* Without memory for the timer the bus is infinitely fast for once: nobody may wait for ever. */
static void carry(void *arg)
{
	struct link *l = arg;

	carry_until(l, reactor_now(l->reactor));
	while (set_timer(l))
		carry_until(l, UINT64_MAX);
}

int link_model_submit(struct link_model *m, struct link_transfer *t)
{
	struct link *l = t->link;
	struct link_waiting *w = &l->waiting[t->write];
	uint64_t transactions = count_transactions(m, t->write, t->length);
	uint64_t cost = lane_ns(m, t->length + transactions * TRANSACTION_BYTES);

	t->next = NULL;
	t->due_ns = lane_take(m, t->write, cost, reactor_now(l->reactor)) + m->settings.latency_ns;
	__atomic_fetch_add(&m->transactions, transactions, __ATOMIC_RELAXED);
	if (!w->first)
		w->first = t;
	else
		w->last->next = t;
	w->last = t;
	l->timer.fn = carry;
	l->timer.arg = l;
	if (!set_timer(l))
		return 0;
	w->first = NULL; /* only the first to wait needs memory for the timer */
	return -ENOMEM;
}
