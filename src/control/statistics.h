/* statistics.h - what the program has done so far, for people and scripts. */
#ifndef CONTROL_STATISTICS_H
#define CONTROL_STATISTICS_H

#include <stdio.h>

struct instance;
struct reactor_thread;

/* Borrowed lists. */
struct statistics_source {
	struct instance *const *instances;
	unsigned instance_count;
	struct reactor_thread *const *workers;
	unsigned worker_count;
};

/* Writes "room name counter value" lines: every counter, latencies, CPU time, memory; and a
 * summary per device.  Control thread. */
void statistics_print(const struct statistics_source *source, FILE *to);

#endif
