/* storage_channel.c - the funnel: every request of every disk enters and leaves here.
 *
 *	storage_submit -> layer n-1 .submit -> storage_forward -> ... -> layer 0 .submit
 *	done <- end of turn <- storage_complete <- nearest .completed above <- storage_complete
 *
 * What completes is chained and handed out by one task at the end of the reactor's turn, so that
 * done never runs inside submit however early a layer completes.  No allocation, lock, loop or
 * system call on this path.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "storage/storage_layer.h"

/* ---- the data path ---- */

static void finish(struct storage_channel *ch, struct storage_io *io, int status)
{
	io->status = status;
	io->next = NULL;
	if (!ch->completed)
		reactor_defer(ch->reactor, &ch->task);
	*ch->completed_end = io;
	ch->completed_end = &io->next;
}

/* What was withdrawn has never happened, as a request and as an error. */
static void count(struct storage_channel *ch, const struct storage_io *io)
{
	if (unlikely(io->status)) {
		bool withdrawn = io->status == -ECANCELED;

		counter_add(withdrawn ? &ch->counters.withdrawn : &ch->counters.errors, 1);
		if (withdrawn)
			return;
	}
	counter_add(&ch->counters.requests[io->operation], 1);
	counter_add(&ch->counters.bytes[io->operation], io->length);
}

/* The last done may close the channel: nothing of it is touched afterwards.  What completes while
 * this runs makes a new list and defers the task again. */
static void drain(void *arg)
{
	struct storage_channel *ch = arg;
	struct storage_io *io = ch->completed;

	ch->completed = NULL;
	ch->completed_end = &ch->completed;
	while (io) {
		struct storage_io *next = io->next;

		count(ch, io);
		ch->in_flight--;
		io->done(io);
		io = next;
	}
}

static int refusal(const struct storage_channel *ch, const struct storage_io *io)
{
	if (ch->storage->limits.read_only && io->operation != STORAGE_READ)
		return -EROFS;
	return -EOPNOTSUPP;
}

/* 0 when the layers have to see the request, 1 when there is nothing to do, or -errno. */
static inline int check(const struct storage_channel *ch, const struct storage_io *io)
{
	assert(io->operation < STORAGE_OPERATIONS);
	if (unlikely(!(ch->operations >> io->operation & 1)))
		return io->operation == STORAGE_FLUSH ? 1 : refusal(ch, io);
	if (io->operation == STORAGE_FLUSH)
		return 0;
	if (unlikely((io->offset | io->length) & ch->block_mask))
		return -EINVAL;
	if (unlikely(!range_fits(io->offset, io->length,
				 __atomic_load_n(ch->size, __ATOMIC_RELAXED))))
		return -ENOSPC;
	return io->length == 0;
}

/* Apart, so that the other way needs no registers saved. */
static void __attribute__((noinline))
end_here(struct storage_channel *ch, struct storage_io *io, int verdict)
{
	finish(ch, io, verdict < 0 ? verdict : 0);
}

void storage_submit(struct storage_channel *ch, struct storage_io *io)
{
	int verdict = check(ch, io);

	ch->in_flight++;
	if (unlikely(verdict))
		end_here(ch, io, verdict);
	else
		ch->top->submit(ch->top, io);
}

/* From the bottom up: what lies deeper came earlier. */
void storage_withdraw(struct storage_channel *ch)
{
	for (unsigned i = 0; i < ch->storage->layer_count; i++) {
		struct storage_layer_channel *lc = &ch->layers[i];

		if (lc->layer->provider->withdraw)
			lc->layer->provider->withdraw(lc);
	}
}

void storage_complete(struct storage_layer_channel *ch, struct storage_io *io, int status)
{
	struct storage_layer_channel *above = ch->above;

	if (above)
		above->layer->provider->completed(above, io, status);
	else
		finish(ch->channel, io, status);
}

void storage_forward(struct storage_layer_channel *ch, struct storage_io *io)
{
	ch[-1].submit(ch - 1, io);
}

void *storage_io_state(struct storage_layer_channel *ch, struct storage_io *io)
{
	return io->scratch + ch->io_offset;
}

void *storage_channel_state(struct storage_layer_channel *ch)
{
	return ch->state;
}

void *storage_channel_layer_state(struct storage_layer_channel *ch)
{
	return ch->layer->state;
}

struct reactor *storage_channel_reactor(const struct storage_layer_channel *ch)
{
	return ch->channel->reactor;
}

const char *storage_channel_name(const struct storage_layer_channel *ch)
{
	return ch->channel->storage->name;
}

static const struct counter_field counter_fields[] = {
#define FIELD(name, member)                                     \
	{                                                       \
		name, offsetof(struct storage_counters, member) \
	}
	FIELD("reads", requests[STORAGE_READ]),
	FIELD("writes", requests[STORAGE_WRITE]),
	FIELD("flushes", requests[STORAGE_FLUSH]),
	FIELD("discards", requests[STORAGE_DISCARD]),
	FIELD("write_zeroes", requests[STORAGE_WRITE_ZEROES]),
	FIELD("read_bytes", bytes[STORAGE_READ]),
	FIELD("write_bytes", bytes[STORAGE_WRITE]),
	FIELD("discard_bytes", bytes[STORAGE_DISCARD]),
	FIELD("write_zeroes_bytes", bytes[STORAGE_WRITE_ZEROES]),
	FIELD("errors", errors),
	FIELD("withdrawn", withdrawn),
#undef FIELD
};

/* ---- channels ---- */

static struct storage_channel *channel_find(struct storage *s, const struct reactor *r)
{
	struct storage_channel *ch;

	pthread_mutex_lock(&s->lock);
	for (ch = s->channels; ch && ch->reactor != r; ch = ch->next)
		;
	pthread_mutex_unlock(&s->lock);
	return ch;
}

static void channel_insert(struct storage *s, struct storage_channel *ch)
{
	pthread_mutex_lock(&s->lock);
	ch->next = s->channels;
	s->channels = ch;
	pthread_mutex_unlock(&s->lock);
}

static void channel_remove(struct storage *s, struct storage_channel *ch)
{
	struct storage_channel **at = &s->channels;

	pthread_mutex_lock(&s->lock);
	while (*at != ch)
		at = &(*at)->next;
	*at = ch->next;
	pthread_mutex_unlock(&s->lock);
}

static unsigned operations_of(const struct storage_limits *limits)
{
	unsigned writes = 1u << STORAGE_WRITE;

	if (limits->can_discard)
		writes |= 1u << STORAGE_DISCARD;
	if (limits->can_write_zeroes)
		writes |= 1u << STORAGE_WRITE_ZEROES;
	return 1u << STORAGE_READ | (limits->volatile_cache ? 1u << STORAGE_FLUSH : 0) |
	       (limits->read_only ? 0 : writes);
}

static void channel_link_layers(struct storage_channel *ch)
{
	const struct storage *s = ch->storage;
	size_t states = align_up(sizeof(*ch) + s->layer_count * sizeof(ch->layers[0]),
				 STATE_ALIGNMENT);
	struct storage_layer_channel *above = NULL;

	for (unsigned i = s->layer_count; i-- > 0;) {
		const struct storage_layer *l = &s->layers[i];

		ch->layers[i] = (struct storage_layer_channel){
			.submit = l->provider->submit,
			.above = above,
			.channel = ch,
			.layer = l,
			.state = (char *)ch + states + l->channel_offset,
			.io_offset = l->io_offset,
		};
		if (l->provider->completed)
			above = &ch->layers[i];
	}
	ch->top = &ch->layers[s->layer_count - 1];
}

static struct storage_channel *channel_allocate(struct storage *s, struct reactor *r)
{
	size_t size = align_up(sizeof(struct storage_channel) +
				       s->layer_count * sizeof(struct storage_layer_channel),
			       STATE_ALIGNMENT);
	struct storage_channel *ch;

	size = align_up(size + s->channel_size, CACHE_LINE);
	ch = aligned_alloc(CACHE_LINE, size);
	if (!ch)
		return NULL;
	memset(ch, 0, size);
	ch->storage = s;
	ch->reactor = r;
	ch->size = &s->size;
	ch->block_mask = s->limits.block_size - 1;
	ch->operations = operations_of(&s->limits);
	ch->completed_end = &ch->completed;
	ch->task = (struct reactor_task){ .fn = drain, .arg = ch };
	ch->opens = 1;
	channel_link_layers(ch);
	return ch;
}

static void channel_count(struct storage_channel *ch)
{
	ch->group = (struct counter_group){
		.room = "storage",
		.fields = counter_fields,
		.count = ARRAY_LENGTH(counter_fields),
		.values = &ch->counters,
	};
	strncpy(ch->group.name, ch->storage->name, sizeof(ch->group.name) - 1);
	counter_group_add(&ch->group);
}

static void layers_channel_close(struct storage_channel *ch, unsigned count)
{
	while (count--) {
		struct storage_layer_channel *lc = &ch->layers[count];

		if (lc->layer->provider->channel_close)
			lc->layer->provider->channel_close(lc);
	}
}

static int layers_channel_open(struct storage_channel *ch, struct error *e)
{
	for (unsigned i = 0; i < ch->storage->layer_count; i++) {
		const struct storage_provider *p = ch->layers[i].layer->provider;
		int status = p->channel_open ? p->channel_open(&ch->layers[i], e) : 0;

		if (status) {
			layers_channel_close(ch, i);
			return status;
		}
	}
	return 0;
}

struct storage_channel *storage_channel_open(struct storage *s, struct reactor *r, struct error *e)
{
	struct storage_channel *ch = channel_find(s, r);

	if (ch) {
		ch->opens++;
		return ch;
	}
	ch = channel_allocate(s, r);
	if (!ch)
		error_set(e, -ENOMEM, "out of memory");
	if (!ch || layers_channel_open(ch, e)) {
		error_wrap(e, "disk %s", s->name);
		free(ch);
		return NULL;
	}
	channel_count(ch);
	channel_insert(s, ch);
	return ch;
}

void storage_channel_close(struct storage_channel *ch)
{
	if (--ch->opens)
		return;
	assert(!ch->in_flight);
	channel_remove(ch->storage, ch);
	counter_group_remove(&ch->group);
	layers_channel_close(ch, ch->storage->layer_count);
	free(ch);
}
