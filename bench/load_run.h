/* load_run.h - a load of block requests, and what came of it. */
#ifndef BENCH_LOAD_RUN_H
#define BENCH_LOAD_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/histogram.h"

struct error;

enum { LOAD_QUEUES_MAX = 16 };

struct load_options {
	const char *socket;
	bool vfio;		/* speaks vfio-user, else vhost-user */
	bool unshared;		/* vfio-user: the device reaches memory by messages only */
	unsigned read_percent;
	bool random;
	uint32_t block;		/* bytes of a request */
	unsigned depth;		/* requests in flight per queue */
	unsigned queues;
	double seconds, warm_seconds;
	bool interrupt;		/* sleep until the device interrupts, instead of looking */
	bool indirect;		/* indirect descriptors, if the device knows them */
	bool packed;		/* a packed ring, or an error */
	bool idle;		/* connect, send one request, then nothing */
	pid_t server;		/* whose CPU time to take; 0: nobody's */
	int cpu;		/* run here; -1: anywhere */
};

struct load_transactions { /* by messages */
	uint64_t reads, writes, bytes;
};

struct load_result {
	uint64_t requests, errors, kicks, interrupts;
	double seconds, server_cpu_seconds, own_cpu_seconds;
	uint64_t sum_ns;	/* of all latencies */
	struct histogram latency;	/* nanoseconds */
	struct load_transactions dma;
};

/* 0 or -errno with *e.  Requests that end with a bad status are counted as errors. */
int load_run(const struct load_options *o, struct load_result *result, struct error *e);

#endif
