/* buffer_pool.c - buffers of ours for payload that is on its way over the link, bounded. */
#include "link/buffer_pool.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST_SHIFT = 12, CLASSES = 52 };

struct free_buffer {
	struct free_buffer *next;
};

struct buffer_pool {
	size_t limit, used, cached; /* bytes */
	struct free_buffer *classes[CLASSES];
};

static unsigned class_of(size_t bytes)
{
	unsigned class = 0;

	while (((size_t)1 << (SMALLEST_SHIFT + class)) < bytes)
		class ++;
	return class;
}

static size_t class_bytes(unsigned class)
{
	return (size_t)1 << (SMALLEST_SHIFT + class);
}

struct buffer_pool *buffer_pool_create(size_t limit)
{
	struct buffer_pool *p = calloc(1, sizeof(*p));

	if (p)
		p->limit = limit;
	return p;
}

static void drop_cached(struct buffer_pool *p)
{
	for (unsigned i = 0; i < CLASSES; i++) {
		while (p->classes[i]) {
			struct free_buffer *b = p->classes[i];

			p->classes[i] = b->next;
			free(b);
		}
	}
	p->cached = 0;
}

void buffer_pool_free(struct buffer_pool *p)
{
	if (!p)
		return;
	assert(!p->used);
	drop_cached(p);
	free(p);
}

static void *take_cached(struct buffer_pool *p, unsigned class)
{
	struct free_buffer *b = p->classes[class];

	if (b) {
		p->classes[class] = b->next;
		p->cached -= class_bytes(class);
	}
	return b;
}

void *buffer_pool_take(struct buffer_pool *p, size_t bytes)
{
	unsigned class = class_of(bytes);
	size_t rounded = class_bytes(class);
	void *buffer;

	if (p->used && p->used + rounded > p->limit)
		return NULL;
	buffer = take_cached(p, class);
	if (!buffer) {
		if (p->used + p->cached + rounded > p->limit)
			drop_cached(p);
		buffer = aligned_alloc(4096, rounded);
		if (buffer) /* what the process had there before is nobody's business */
			memset(buffer, 0, rounded);
	}
	if (buffer)
		p->used += rounded;
	return buffer;
}

bool buffer_pool_is_unused(const struct buffer_pool *p)
{
	return !p->used;
}

void buffer_pool_return(struct buffer_pool *p, void *buffer, size_t bytes)
{
	unsigned class = class_of(bytes);
	struct free_buffer *b = buffer;

	p->used -= class_bytes(class);
	if (class_bytes(class) > p->limit) {
		free(buffer);
		return;
	}
	p->cached += class_bytes(class);
	b->next = p->classes[class];
	p->classes[class] = b;
}
