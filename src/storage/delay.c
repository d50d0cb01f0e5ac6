/* delay.c - every request waits before it goes on; the smallest filter. */
#include <errno.h>

#include "base/bytes.h"
#include "base/error.h"
#include "reactor/reactor.h"
#include "storage/storage_list.h"

struct delay_state {
	uint64_t wait_ns[STORAGE_OPERATIONS], jitter_ns;
};

struct delay_io {
	struct reactor_timer timer;
	struct storage_layer_channel *channel;
	struct storage_io *io;
	struct delay_io *next, *previous; /* while it waits */
};

struct delay_channel {
	struct delay_io *head, *tail; /* waiting, in order of arrival */
};

/* "ms=5" and "time=5ms" say the same: the wait of every kind that has none of its own. */
static int common_wait(const struct storage_options *o, uint64_t *wait_ns, struct error *e)
{
	uint64_t ms = 0;
	int status = storage_options_number(o, "ms", &ms, e);

	if (status)
		return status;
	if (storage_options_text(o, "ms") && storage_options_text(o, "time"))
		return error_set(e, -EINVAL, "options \"ms\" and \"time\" exclude each other");
	if (__builtin_mul_overflow(ms, 1000 * 1000, wait_ns))
		return error_set(e, -EINVAL, "option \"ms\": too large");
	return storage_options_duration(o, "time", wait_ns, e);
}

static int delay_open(struct storage_layer *l, const struct storage_options *o,
		      struct storage_limits *limits, struct error *e)
{
	static const char *const names[STORAGE_OPERATIONS] = {
		[STORAGE_READ] = "delay-read",          [STORAGE_WRITE] = "delay-write",
		[STORAGE_FLUSH] = "delay-flush",        [STORAGE_DISCARD] = "delay-clear",
		[STORAGE_WRITE_ZEROES] = "delay-clear",
	};
	struct delay_state *d = storage_layer_state(l);
	uint64_t common = 0;
	int status = common_wait(o, &common, e);

	for (unsigned i = 0; !status && i < STORAGE_OPERATIONS; i++) {
		d->wait_ns[i] = common;
		status = storage_options_duration(o, names[i], &d->wait_ns[i], e);
	}
	return status ? status : storage_options_duration(o, "jitter", &d->jitter_ns, e);
}

static void delay_close(struct storage_layer *l)
{
}

static void append(struct delay_channel *c, struct delay_io *d)
{
	d->next = NULL;
	d->previous = c->tail;
	*(c->tail ? &c->tail->next : &c->head) = d;
	c->tail = d;
}

static void unlink_io(struct delay_channel *c, struct delay_io *d)
{
	*(d->previous ? &d->previous->next : &c->head) = d->next;
	*(d->next ? &d->next->previous : &c->tail) = d->previous;
}

static void waited(void *arg)
{
	struct delay_io *d = arg;

	unlink_io(storage_channel_state(d->channel), d);
	storage_forward(d->channel, d->io);
}

static uint64_t wait_of(const struct delay_state *d, struct reactor *r, const struct storage_io *io)
{
	uint64_t wait = d->wait_ns[io->operation];

	return d->jitter_ns ? wait + reactor_random(r) % d->jitter_ns : wait;
}

static void delay_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct reactor *r = storage_channel_reactor(ch);
	uint64_t wait = wait_of(storage_channel_layer_state(ch), r, io);
	struct delay_io *d = storage_io_state(ch, io);

	*d = (struct delay_io){ .timer = { .fn = waited, .arg = d }, .channel = ch, .io = io };
	/* Out of memory: a request that does not wait is better than one that fails. */
	if (!wait || reactor_timer_set(r, &d->timer, reactor_now(r) + wait))
		storage_forward(ch, io);
	else
		append(storage_channel_state(ch), d);
}

static void delay_withdraw(struct storage_layer_channel *ch)
{
	struct delay_channel *c = storage_channel_state(ch);
	struct delay_io *d, *next;

	for (d = c->head; d; d = next) {
		next = d->next;
		if (d->io->flags & STORAGE_STARTED)
			continue;
		reactor_timer_cancel(&d->timer);
		unlink_io(c, d);
		storage_complete(ch, d->io, -ECANCELED);
	}
}

const struct storage_provider storage_delay = {
	.about.scheme = "delay",
	.about.summary = "lets every request wait before it goes on",
	.about.help = "ms=NUMBER              milliseconds, for every kind of request\n"
		      "time=DURATION          the same with a unit: 500us, 5ms, 2s\n"
		      "delay-read=DURATION    for reads, instead\n"
		      "delay-write=DURATION   for writes, instead\n"
		      "delay-flush=DURATION   for flushes, instead\n"
		      "delay-clear=DURATION   for discards and write-zeroes, instead\n"
		      "jitter=DURATION        adds a random time below this to each\n",
	.about.is_filter = true,
	.state_size = sizeof(struct delay_state),
	.channel_size = sizeof(struct delay_channel),
	.io_size = sizeof(struct delay_io),
	.open = delay_open,
	.close = delay_close,
	.submit = delay_submit,
	.withdraw = delay_withdraw,
};
