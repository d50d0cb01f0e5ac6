/* net_load.h - a load of Ethernet frames on one or two vhost-user network devices. */
#ifndef BENCH_NET_LOAD_H
#define BENCH_NET_LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/histogram.h"

struct error;

enum net_load_mode {
	NET_LOAD_SEND,		/* to the first device, as fast as it takes them */
	NET_LOAD_RECEIVE,	/* from the first device, as fast as they come */
	NET_LOAD_PASS,		/* to the first device, and from the second */
	NET_LOAD_ECHO		/* one frame to the second and back to the first */
};

struct net_load_options {
	enum net_load_mode mode;
	const char *sockets[2];	/* the second: NULL where the mode needs none */
	uint32_t frame;		/* bytes of a frame, without the virtio-net header */
	bool tso;		/* the frames are TCP, to be cut into packets of 1,500 bytes */
	bool packed;		/* packed rings, or an error */
	double seconds, warm_seconds;
	pid_t server;		/* whose CPU time to take; 0: nobody's */
	int cpu;		/* run here; -1: anywhere */
};

struct net_load_result {
	uint64_t frames, kicks;	/* ECHO: round trips */
	double seconds, server_cpu_seconds;
	struct histogram latency;	/* ECHO: nanoseconds of a round trip */
};

/* 0 or -errno with *e.  Blocks for the whole run; one thread, which never sleeps. */
int net_load_run(const struct net_load_options *o, struct net_load_result *result,
		 struct error *e);

#endif
