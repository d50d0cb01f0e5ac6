/* counter.h - numbers that one thread counts and any thread may print.
 *
 * An object keeps its counters as plain uint64_t fields in a struct, counts with counter_add()
 * and describes them once, in a table.  A counter_group joins the two under a room and a name.
 * When an object goes, counter_group_remove() folds its numbers into those retired under the
 * same room and name, so that what is printed at exit is the sum over the whole run.
 */
#ifndef BASE_COUNTER_H
#define BASE_COUNTER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct counter_field {
	const char *name;	/* "interrupts_sent": static */
	size_t offset;		/* of a uint64_t in the struct at counter_group.values */
};

struct counter_group {		/* embedded in its owner */
	const char *room;	/* "virtqueue": static */
	char name[64];		/* "vda/0": groups of one room and name are printed as one sum */
	const struct counter_field *fields;
	unsigned count;
	const void *values;
	struct counter_group *next;	/* private */
};

/* Only the thread that owns the counter; readers see a value that is at most a little old. */
static inline void counter_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* Any thread; take a lock, so not on a data path. */
void counter_group_add(struct counter_group *group);
void counter_group_remove(struct counter_group *group);

/* The sum of one counter over the groups of a room whose name is `name`, or begins with it and
 * "/".  Any thread. */
uint64_t counter_sum(const char *room, const char *name, const char *counter);

/* Writes "room name counter value" lines, one per counter that is not zero. */
void counter_print_all(FILE *to);

#endif
