/* counter.c - numbers that one thread counts and any thread may print.
 *
 * The list is file-scope and locked: objects of every room come and go on their own threads, and
 * a signal handler's print must find them all.
 */
#include "base/counter.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct retired_group {
	struct counter_group group;
	uint64_t sums[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct counter_group *living;
static struct counter_group *retired;

static bool same_sum(const struct counter_group *a, const struct counter_group *b)
{
	return a->fields == b->fields && !strcmp(a->room, b->room) && !strcmp(a->name, b->name);
}

static struct counter_group *find(struct counter_group *list, const struct counter_group *like)
{
	while (list && !same_sum(list, like))
		list = list->next;
	return list;
}

static uint64_t value_of(const struct counter_group *g, unsigned field)
{
	const void *at = (const char *)g->values + g->fields[field].offset;

	return __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED);
}

/* The sums of a retired group are laid out like its living relatives', field by field. */
static struct retired_group *retired_create(const struct counter_group *g)
{
	size_t end = 0;
	struct retired_group *r;

	for (unsigned i = 0; i < g->count; i++)
		end = g->fields[i].offset + sizeof(uint64_t) > end
			      ? g->fields[i].offset + sizeof(uint64_t)
			      : end;
	r = calloc(1, sizeof(*r) + end);
	if (!r)
		return NULL;
	r->group = *g;
	r->group.values = r->sums;
	r->group.next = retired;
	retired = &r->group;
	return r;
}

static void retire(const struct counter_group *g)
{
	struct counter_group *r = find(retired, g);

	if (!r) {
		struct retired_group *made = retired_create(g);

		if (!made)
			return; /* statistics are not worth failing for */
		r = &made->group;
	}
	for (unsigned i = 0; i < g->count; i++) {
		void *sum = (char *)((struct retired_group *)r)->sums + g->fields[i].offset;

		*(uint64_t *)sum += value_of(g, i);
	}
}

void counter_group_add(struct counter_group *group)
{
	pthread_mutex_lock(&lock);
	group->next = living;
	living = group;
	pthread_mutex_unlock(&lock);
}

void counter_group_remove(struct counter_group *group)
{
	pthread_mutex_lock(&lock);
	for (struct counter_group **at = &living; *at; at = &(*at)->next) {
		if (*at != group)
			continue;
		*at = group->next;
		retire(group);
		break;
	}
	pthread_mutex_unlock(&lock);
}

static bool belongs(const struct counter_group *g, const char *room, const char *name)
{
	size_t n = strlen(name);

	return !strcmp(g->room, room) && !strncmp(g->name, name, n) &&
	       (!g->name[n] || g->name[n] == '/');
}

static uint64_t sum_of_list(const struct counter_group *g, const char *room, const char *name,
			    const char *counter)
{
	uint64_t sum = 0;

	for (; g; g = g->next)
		for (unsigned i = 0; belongs(g, room, name) && i < g->count; i++)
			sum += strcmp(g->fields[i].name, counter) ? 0 : value_of(g, i);
	return sum;
}

uint64_t counter_sum(const char *room, const char *name, const char *counter)
{
	uint64_t sum;

	pthread_mutex_lock(&lock);
	sum = sum_of_list(living, room, name, counter);
	sum += sum_of_list(retired, room, name, counter);
	pthread_mutex_unlock(&lock);
	return sum;
}

static void print_group(FILE *to, const struct counter_group *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		const struct counter_group *r = find(retired, g);
		uint64_t sum = r && r != g ? value_of(r, i) : 0;

		for (const struct counter_group *other = living; other; other = other->next)
			sum += other != g && same_sum(other, g) ? value_of(other, i) : 0;
		sum += value_of(g, i);
		if (sum)
			fprintf(to, "%s %s %s %llu\n", g->room, g->name, g->fields[i].name,
				(unsigned long long)sum);
	}
}

void counter_print_all(FILE *to)
{
	pthread_mutex_lock(&lock);
	for (const struct counter_group *g = living; g; g = g->next)
		if (find(living, g) == g)
			print_group(to, g);
	for (const struct counter_group *g = retired; g; g = g->next)
		if (!find(living, g))
			print_group(to, g);
	pthread_mutex_unlock(&lock);
}
