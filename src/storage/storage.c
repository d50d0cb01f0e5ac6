/* storage.c - opens, closes and resizes disks. */
#include "storage/storage.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "storage/storage_layer.h"
#include "storage/storage_list.h"
#include "storage/storage_options.h"

void *storage_layer_state(struct storage_layer *l)
{
	return l->state;
}

const char *storage_layer_name(const struct storage_layer *l)
{
	return l->storage->name;
}

struct reactor *storage_layer_control(const struct storage_layer *l)
{
	return l->storage->control;
}

/* ---- size ---- */

static void tell_resized(void *arg)
{
	struct storage_resize_notice *n = arg;
	struct storage *s = n->storage;

	n->pending = false;
	if (!s)
		free(n);
	else if (s->resized)
		s->resized(s->resized_arg);
}

void storage_layer_resized(struct storage_layer *l, uint64_t size)
{
	struct storage *s = l->storage;

	size = align_down(size, s->limits.block_size);
	if (size == storage_size(s))
		return;
	log_info("disk %s: size changes from %llu to %llu bytes", s->name,
		 (unsigned long long)storage_size(s), (unsigned long long)size);
	__atomic_store_n(&s->size, size, __ATOMIC_RELAXED);
	s->notice->pending = true;
	reactor_defer(s->control, &s->notice->task);
}

uint64_t storage_size(const struct storage *s)
{
	return __atomic_load_n(&s->size, __ATOMIC_RELAXED);
}

void storage_set_resize_listener(struct storage *s, void (*fn)(void *arg), void *arg)
{
	s->resized = fn;
	s->resized_arg = arg;
}

void storage_refresh(struct storage *s)
{
	for (unsigned i = 0; i < s->layer_count; i++)
		if (s->layers[i].provider->refresh)
			s->layers[i].provider->refresh(&s->layers[i]);
}

/* ---- open and close ---- */

static int resize_notice_create(struct storage *s, struct error *e)
{
	struct storage_resize_notice *n = calloc(1, sizeof(*n));

	if (!n)
		return error_set(e, -ENOMEM, "out of memory");
	n->storage = s;
	n->task = (struct reactor_task){ .fn = tell_resized, .arg = n };
	s->notice = n;
	return 0;
}

static void resize_notice_release(struct storage_resize_notice *n)
{
	if (n->pending)
		n->storage = NULL;
	else
		free(n);
}

static int check_limits(const struct storage_limits *limits, struct error *e)
{
	if (!is_power_of_two(limits->block_size) || limits->block_size < 512)
		return error_set(e, -EINVAL, "block size %u is not a power of two from 512 on",
				 limits->block_size);
	if (limits->transfer_max && limits->transfer_max < limits->block_size)
		return error_set(e, -EINVAL, "takes less than a block at once");
	if (limits->clear_max && limits->clear_max < limits->block_size)
		return error_set(e, -EINVAL, "clears less than a block at once");
	return 0;
}

/* Opens one layer on top of those that are open. */
static int layer_open_one(struct storage *s, const struct storage_provider *p,
			  const struct storage_options *o, struct error *e)
{
	struct storage_layer *l = &s->layers[s->layer_count];
	int status;

	l->provider = p;
	l->storage = s;
	l->channel_offset = s->channel_size;
	l->io_offset = s->io_size;
	l->state = calloc(1, p->state_size + 1);
	if (!l->state)
		return error_set(e, -ENOMEM, "out of memory");
	status = p->open(l, o, &s->limits, e);
	if (status) {
		free(l->state);
		return status;
	}
	s->layer_count++;
	s->channel_size += align_up(p->channel_size, STATE_ALIGNMENT);
	s->io_size += align_up(p->io_size, STATE_ALIGNMENT);
	return check_limits(&s->limits, e);
}

/* The same, so that the next one sees a layer that takes requests of any size. */
static int layer_open(struct storage *s, const struct storage_provider *p,
		      const struct storage_options *o, struct error *e)
{
	int status = layer_open_one(s, p, o, e);

	if (!status && (s->limits.transfer_max || s->limits.clear_max))
		status = layer_open_one(s, &storage_split, o, e);
	return status;
}

static void layers_close(struct storage *s)
{
	while (s->layer_count) {
		struct storage_layer *l = &s->layers[--s->layer_count];

		l->provider->close(l);
		free(l->state);
	}
}

static int layers_open(struct storage *s, const struct uri_stack *stack,
		       const struct storage_options *o, struct error *e)
{
	int status = layer_open(s, storage_provider_of(stack->provider), o, e);

	for (unsigned i = stack->filter_count; !status && i > 0; i--)
		status = layer_open(s, storage_provider_of(stack->filters[i - 1]), o, e);
	if (status) {
		layers_close(s);
		return status;
	}
	s->limits.size = align_down(s->limits.size, s->limits.block_size);
	s->limits.read_only |= o->read_only;
	s->size = s->limits.size;
	return 0;
}

static struct storage *storage_allocate(const char *name, struct reactor *control, struct error *e)
{
	size_t layers = 2 * (URI_FILTERS_MAX + 1); /* each may need a split above it */
	struct storage *s = calloc(1, sizeof(*s) + layers * sizeof(s->layers[0]));

	if (!s) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	strncpy(s->name, name, sizeof(s->name) - 1);
	s->control = control;
	pthread_mutex_init(&s->lock, NULL);
	if (!resize_notice_create(s, e))
		return s;
	free(s);
	return NULL;
}

static void storage_free(struct storage *s)
{
	resize_notice_release(s->notice);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int open_uri(struct storage *s, const char *uri, bool read_only, struct error *e)
{
	struct storage_options o = { .uri = &s->uri, .original = uri, .read_only = read_only };
	struct uri_stack stack;
	int status = uri_parse(&s->uri, uri, e);

	status = status ? status : storage_list_resolve(&stack, s->uri.schemes, e);
	status = status ? status : uri_scheme_check_options(&stack, &s->uri, e);
	if (status)
		return status;
	o.scheme = stack.scheme;
	return layers_open(s, &stack, &o, e);
}

struct storage *storage_open(const char *name, const char *uri, bool read_only,
			     struct reactor *control, struct error *e)
{
	struct storage *s = storage_allocate(name, control, e);

	if (!s)
		return NULL;
	if (!open_uri(s, uri, read_only, e))
		return s;
	error_wrap(e, "disk %s: %.*s", name, (int)minimum_u64(strcspn(uri, "?"), 100), uri);
	storage_free(s);
	return NULL;
}

void storage_close(struct storage *s)
{
	if (!s)
		return;
	assert(!s->channels);
	layers_close(s);
	storage_free(s);
}

const struct storage_limits *storage_limits(const struct storage *s)
{
	return &s->limits;
}

size_t storage_io_size(const struct storage *s)
{
	return sizeof(struct storage_io) + s->io_size;
}
