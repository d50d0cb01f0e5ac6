/* test_reactor_bed.h - one reactor of each kind to run the same test on. */
#ifndef TEST_REACTOR_BED_H
#define TEST_REACTOR_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/counter.h"
#include "base/error.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"

#define POLL_NS_MAX 1000000

struct bed {
	const char *name;
	bool virtual;
	enum reactor_kind kind;
	struct reactor *r;
	struct reactor_world *world;
};

static __attribute__((unused)) struct bed beds[] = {
	{ .name = "io_uring", .kind = REACTOR_IO_URING },
	{ .name = "epoll", .kind = REACTOR_EPOLL },
	{ .name = "virtual", .virtual = true },
};

static inline struct reactor *bed_create_reactor(struct bed *b)
{
	struct reactor_options options = {
		.name = b->name,
		.kind = b->kind,
		.poll_ns_max = POLL_NS_MAX,
	};
	struct error e = { 0 };

	if (b->virtual)
		return reactor_virtual_create(b->world, b->name);
	return reactor_create(&options, &e);
}

static inline int bed_setup(void **state)
{
	struct bed *b = *state;

	if (b->virtual)
		b->world = reactor_world_create(1);
	b->r = bed_create_reactor(b);
	return 0;
}

static inline int bed_teardown(void **state)
{
	struct bed *b = *state;

	reactor_free(b->r);
	reactor_world_free(b->world);
	b->r = NULL;
	b->world = NULL;
	return 0;
}

/* Skips where the kernel has no such loop. */
static inline struct bed *bed_of(void **state)
{
	struct bed *b = *state;

	if (!b->r)
		skip();
	return b;
}

/* Of all reactors that had this name. */
static inline uint64_t bed_count(const struct bed *b, const char *field)
{
	char *text = NULL, prefix[96];
	size_t size;
	FILE *f = open_memstream(&text, &size);
	uint64_t value = 0;

	counter_print_all(f);
	fclose(f);
	snprintf(prefix, sizeof(prefix), "reactor %s %s ", b->name, field);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (!strncmp(line, prefix, strlen(prefix)))
			value = strtoull(line + strlen(prefix), NULL, 10);
	free(text);
	return value;
}

#define ON(bed, test)                                                                              \
	{ #test " on " #bed, test, bed_setup, bed_teardown, &beds[BED_##bed] }
#define ON_REAL(test) ON(io_uring, test), ON(epoll, test)
#define ON_ALL(test)  ON_REAL(test), ON(virtual, test)

enum { BED_io_uring, BED_epoll, BED_virtual };

#endif
