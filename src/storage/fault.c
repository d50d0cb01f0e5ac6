/* fault.c - lets requests fail, by chance or by count.
 *
 * A request that fails has not reached the layer below.  Counting is over all channels of the
 * storage, so it is exact on one reactor and in the virtual world; between real threads the order
 * of arrival decides.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uri.h"
#include "reactor/reactor.h"
#include "storage/storage_list.h"

struct fault_state {
	int error;                         /* -errno */
	uint32_t rate[STORAGE_OPERATIONS]; /* of URI_CERTAIN */
	unsigned kinds;                    /* bit per operation that may fail */
	uint64_t after, every, count_max;  /* 0: none */
	bool seeded;
	uint64_t seed;         /* atomic: the generator's state */
	uint64_t seen, failed; /* atomic */
};

static const char *const kind_names[STORAGE_OPERATIONS] = {
	[STORAGE_READ] = "read",
	[STORAGE_WRITE] = "write",
	[STORAGE_FLUSH] = "flush",
	[STORAGE_DISCARD] = "discard",
	[STORAGE_WRITE_ZEROES] = "write-zeroes",
};

static int read_error(const struct storage_options *o, int *error, struct error *e)
{
	const char *text = storage_options_text(o, "fault-errno");

	*error = -EIO;
	if (!text)
		return 0;
	for (int number = 1; number < 256; number++) {
		const char *name = strerrorname_np(number);

		if (!name || strcmp(name, text))
			continue;
		if (number == ECANCELED)
			return error_set(e, -EINVAL,
					 "option \"fault-errno\": ECANCELED says that a request "
					 "was withdrawn, and is no failure");
		*error = -number;
		return 0;
	}
	return error_set(e, -EINVAL, "option \"fault-errno\": \"%.40s\" is no error (such as EIO)",
			 text);
}

static int kind_of(const char *name, size_t length)
{
	for (int i = 0; i < STORAGE_OPERATIONS; i++)
		if (strlen(kind_names[i]) == length && !memcmp(kind_names[i], name, length))
			return i;
	return -1;
}

static int read_kinds(const struct storage_options *o, unsigned *kinds, struct error *e)
{
	const char *text = storage_options_text(o, "fault-kinds");

	*kinds = text ? 0 : ~0u;
	while (text && *text) {
		size_t length = strcspn(text, ",");
		int kind = kind_of(text, length);

		if (kind < 0)
			return error_set(e, -EINVAL,
					 "option \"fault-kinds\": \"%.40s\": known: read, write, "
					 "flush, discard, write-zeroes",
					 text);
		*kinds |= 1u << kind;
		text += length;
		text += *text == ',';
	}
	return 0;
}

static int read_rates(const struct storage_options *o, struct fault_state *f, struct error *e)
{
	static const char *const names[STORAGE_OPERATIONS] = {
		[STORAGE_READ] = "fault-rate-read",          [STORAGE_WRITE] = "fault-rate-write",
		[STORAGE_FLUSH] = "fault-rate-flush",        [STORAGE_DISCARD] = "fault-rate-clear",
		[STORAGE_WRITE_ZEROES] = "fault-rate-clear",
	};
	bool any = false;
	uint32_t common;
	int status;

	for (unsigned i = 0; i < STORAGE_OPERATIONS; i++)
		any |= storage_options_text(o, names[i]) != NULL;
	common = any || f->every ? 0 : URI_CERTAIN;
	status = storage_options_percent(o, "fault-rate", &common, e);
	for (unsigned i = 0; !status && i < STORAGE_OPERATIONS; i++) {
		f->rate[i] = common;
		status = storage_options_percent(o, names[i], &f->rate[i], e);
	}
	return status;
}

static int fault_open(struct storage_layer *l, const struct storage_options *o,
		      struct storage_limits *limits, struct error *e)
{
	struct fault_state *f = storage_layer_state(l);
	int status = read_error(o, &f->error, e);

	status = status ? status : read_kinds(o, &f->kinds, e);
	status = status ? status : storage_options_number(o, "fault-every", &f->every, e);
	status = status ? status : storage_options_number(o, "fault-after", &f->after, e);
	status = status ? status : storage_options_number(o, "fault-count", &f->count_max, e);
	status = status ? status : storage_options_number(o, "fault-seed", &f->seed, e);
	f->seeded = storage_options_text(o, "fault-seed") != NULL;
	return status ? status : read_rates(o, f, e);
}

static void fault_close(struct storage_layer *l)
{
}

/* SplitMix64: any thread's next number is one addition, then mixing. */
static uint64_t seeded_random(uint64_t *state)
{
	uint64_t z = __atomic_add_fetch(state, 0x9e3779b97f4a7c15, __ATOMIC_RELAXED);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static bool by_chance(struct fault_state *f, struct reactor *r, enum storage_operation kind)
{
	uint64_t number;

	if (f->rate[kind] == 0 || f->rate[kind] == URI_CERTAIN)
		return f->rate[kind];
	number = f->seeded ? seeded_random(&f->seed) : reactor_random(r);
	return number % URI_CERTAIN < f->rate[kind];
}

static bool fails(struct fault_state *f, struct reactor *r, enum storage_operation kind)
{
	uint64_t seen;

	if (!(f->kinds >> kind & 1))
		return false;
	seen = __atomic_add_fetch(&f->seen, 1, __ATOMIC_RELAXED);
	if (seen <= f->after)
		return false;
	if (!(f->every && (seen - f->after) % f->every == 0) && !by_chance(f, r, kind))
		return false;
	return !f->count_max || __atomic_fetch_add(&f->failed, 1, __ATOMIC_RELAXED) < f->count_max;
}

static void fault_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct fault_state *f = storage_channel_layer_state(ch);

	if (fails(f, storage_channel_reactor(ch), io->operation))
		storage_complete(ch, io, f->error);
	else
		storage_forward(ch, io);
}

const struct storage_provider storage_fault = {
	.about.scheme = "fault",
	.about.summary = "lets requests fail; all of them unless a rate or fault-every is given",
	.about.help =
		"fault-errno=NAME          EIO unless given\n"
		"fault-kinds=KIND,...      read, write, flush, discard, write-zeroes; all unless "
		"given\n"
		"fault-rate=PERCENT        so many fail, by chance\n"
		"fault-rate-read=PERCENT   for reads, instead\n"
		"fault-rate-write=PERCENT  for writes, instead\n"
		"fault-rate-flush=PERCENT  for flushes, instead\n"
		"fault-rate-clear=PERCENT  for discards and write-zeroes, instead\n"
		"fault-every=NUMBER        one in so many fails, counted\n"
		"fault-after=NUMBER        the first so many pass\n"
		"fault-count=NUMBER        after so many failures no more\n"
		"fault-seed=NUMBER         the same chances every time\n",
	.about.is_filter = true,
	.state_size = sizeof(struct fault_state),
	.open = fault_open,
	.close = fault_close,
	.submit = fault_submit,
};
