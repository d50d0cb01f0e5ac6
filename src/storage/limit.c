/* limit.c - at most so many requests and bytes per second.
 *
 * The buckets are the storage's; each channel has its requests in one list, whose starting times
 * only grow, and one timer for its head.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/token_bucket.h"
#include "reactor/reactor.h"
#include "storage/storage_list.h"

struct limit_state {
	struct token_bucket requests, bytes;
};

struct limit_channel {
	struct storage_layer_channel *channel;
	struct storage_io *head, **end; /* waiting, in order of arrival */
	struct reactor_timer timer;     /* set while head is not NULL */
};

struct limit_io {
	uint64_t start_ns;
};

typedef int option_reader(const struct storage_options *o, const char *name, uint64_t *to,
			  struct error *e);

static int bucket_open(struct token_bucket *b, const struct storage_options *o, option_reader *read,
		       const char *name, const char *burst_name, struct error *e)
{
	uint64_t rate = 0, burst;
	int status = read(o, name, &rate, e);

	if (status)
		return status;
	if (storage_options_text(o, name) && !rate)
		return error_set(e, -EINVAL, "option \"%s\": nothing could ever pass", name);
	if (!rate && storage_options_text(o, burst_name))
		return error_set(e, -EINVAL, "option \"%s\" needs \"%s\"", burst_name, name);
	burst = rate / 10;
	status = read(o, burst_name, &burst, e);
	token_bucket_set(b, rate, burst);
	return status;
}

static int limit_open(struct storage_layer *l, const struct storage_options *o,
		      struct storage_limits *limits, struct error *e)
{
	struct limit_state *s = storage_layer_state(l);
	int status = bucket_open(&s->requests, o, storage_options_number, "iops", "iops-burst", e);

	status = status ? status
			: bucket_open(&s->bytes, o, storage_options_size, "bps", "bps-burst", e);
	if (!status && !s->requests.rate && !s->bytes.rate)
		return error_set(e, -EINVAL, "limit needs the option \"iops\", \"bps\" or both");
	return status;
}

static void limit_close(struct storage_layer *l)
{
}

static uint64_t start_of(struct storage_layer_channel *ch, struct storage_io *io)
{
	return ((struct limit_io *)storage_io_state(ch, io))->start_ns;
}

/* Without memory for a timer nothing would ever wake the list: everything goes now. */
static void release_due(void *arg)
{
	struct limit_channel *c = arg;
	struct reactor *r = storage_channel_reactor(c->channel);

	while (c->head) {
		struct storage_io *io = c->head;
		uint64_t start = start_of(c->channel, io);

		if (start > reactor_now(r) && !reactor_timer_set(r, &c->timer, start))
			return;
		c->head = io->next;
		if (!c->head)
			c->end = &c->head;
		storage_forward(c->channel, io);
	}
}

static int limit_channel_open(struct storage_layer_channel *ch, struct error *e)
{
	struct limit_channel *c = storage_channel_state(ch);

	c->channel = ch;
	c->end = &c->head;
	c->timer = (struct reactor_timer){ .fn = release_due, .arg = c };
	return 0;
}

static uint64_t admit(struct limit_state *s, const struct storage_io *io, uint64_t now_ns)
{
	bool moves = io->operation == STORAGE_READ || io->operation == STORAGE_WRITE;
	uint64_t start = token_bucket_take(&s->requests, 1, now_ns);

	if (moves)
		start = maximum_u64(start, token_bucket_take(&s->bytes, io->length, now_ns));
	return start;
}

static void append(struct limit_channel *c, struct storage_io *io)
{
	io->next = NULL;
	*c->end = io;
	c->end = &io->next;
}

static void limit_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct limit_channel *c = storage_channel_state(ch);
	struct limit_io *l = storage_io_state(ch, io);
	uint64_t now_ns = reactor_now(storage_channel_reactor(ch));

	l->start_ns = admit(storage_channel_layer_state(ch), io, now_ns);
	if (!c->head && l->start_ns <= now_ns) {
		storage_forward(ch, io);
		return;
	}
	append(c, io);
	if (c->head == io)
		release_due(c);
}

/* What was withdrawn has used up nothing: when it comes again, it takes its turn again. */
static void give_back(struct limit_state *s, const struct storage_io *io)
{
	token_bucket_give(&s->requests, 1);
	if (io->operation == STORAGE_READ || io->operation == STORAGE_WRITE)
		token_bucket_give(&s->bytes, io->length);
}

static void limit_withdraw(struct storage_layer_channel *ch)
{
	struct limit_channel *c = storage_channel_state(ch);
	struct storage_io *io = c->head, *next;

	c->head = NULL;
	c->end = &c->head;
	for (; io; io = next) {
		next = io->next;
		if (io->flags & STORAGE_STARTED) {
			append(c, io);
			continue;
		}
		give_back(storage_channel_layer_state(ch), io);
		storage_complete(ch, io, -ECANCELED);
	}
	if (!c->head)
		reactor_timer_cancel(&c->timer);
}

const struct storage_provider storage_limit = {
	.about.scheme = "limit",
	.about.summary = "lets at most so many requests and bytes per second pass, over all queues",
	.about.help =
		"iops=NUMBER            requests per second, of every kind\n"
		"bps=BYTES              bytes per second, read and written\n"
		"iops-burst=NUMBER      that may pass at once after a rest; a tenth of a second's\n"
		"bps-burst=BYTES        the same in bytes\n",
	.about.is_filter = true,
	.state_size = sizeof(struct limit_state),
	.channel_size = sizeof(struct limit_channel),
	.io_size = sizeof(struct limit_io),
	.open = limit_open,
	.close = limit_close,
	.channel_open = limit_channel_open,
	.submit = limit_submit,
	.withdraw = limit_withdraw,
};
