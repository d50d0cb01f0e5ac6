/* link_model.h - the cost of a bus in front of memory, for experiments and for simulated time.
 *
 * A memory map with a model (memory_map_with_model()) is remote as a whole, shared or not: every
 * transfer ends as late as it would over such a bus.  The bus is one of two lanes, towards the VM
 * and from it, shared by all links of the model: a transfer waits for those before it, takes its
 * bytes' time (data, and 24 bytes of header for each transaction of at most `read` or `write`
 * bytes), and ends one latency later.  Waiting transfers overlap, as on a real bus.
 */
#ifndef LINK_LINK_MODEL_H
#define LINK_LINK_MODEL_H

#include <stdint.h>

struct error;
struct link_model;
struct link_transfer;

struct link_model_settings {
	uint64_t latency_ns;
	uint64_t bandwidth;	/* bytes per second and lane; 0: unlimited */
	uint32_t read, write;	/* bytes of the largest transaction; 0: unlimited */
};

/* "latency=1us,bandwidth=32GB/s,read=256,write=256", each once, in any order, at least one.  Times
 * in ns, us, ms; rates in MB/s, GB/s (powers of ten).  0, or -EINVAL with *e. */
int link_model_parse(const char *text, struct link_model_settings *s, struct error *e);

/* Any thread; used by any number of links until it is freed.  NULL with *e: out of memory. */
struct link_model *link_model_create(const struct link_model_settings *s, struct error *e);
void link_model_free(struct link_model *m);	/* NULL is ignored */

/* Transactions carried so far.  Any thread. */
uint64_t link_model_transactions(const struct link_model *m);

/* For link.c: link_transfer_begin_now(t) runs on t->reactor when the bus has carried t.  0, or
 * -ENOMEM. */
int link_model_submit(struct link_model *m, struct link_transfer *t);

#endif
