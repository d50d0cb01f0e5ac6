/* link.h - moving bytes between the VM's memory and ours.
 *
 * A transfer over mapped memory is complete when link_read() or link_write() returns LINK_DONE:
 * the caller goes straight on.  Over remote memory it returns LINK_PENDING, and transfer->done
 * runs later, once, on the caller's reactor.  Callers are state machines that take both answers
 * alike.  A range may mix mapped and remote regions.  Pending transfers are not ordered.
 *
 * Every transfer is counted, by direction and purpose, so that "DMA transactions per request" is
 * true in every mode.  Code that loads from or stores to mapped memory in place says so with
 * link_count_read() and link_count_write().
 */
#ifndef LINK_LINK_H
#define LINK_LINK_H

#include <stdint.h>

#include "base/counter.h"
#include "reactor/reactor.h"

struct dirty_log;
struct memory_map;

/* What a transfer is for.  RING is all that a request costs beside its own bytes: indexes,
 * descriptors, used elements, event words. */
enum link_purpose { LINK_RING, LINK_HEADER, LINK_PAYLOAD, LINK_STATUS, LINK_PURPOSES };
enum link_answer { LINK_DONE = 1, LINK_PENDING = 0 };	/* or -errno */

struct link_numbers {
	uint64_t reads[LINK_PURPOSES], read_bytes[LINK_PURPOSES];
	uint64_t writes[LINK_PURPOSES], write_bytes[LINK_PURPOSES];
	uint64_t failures;
};

struct link_waiting {		/* for a modelled bus, in order of due_ns: link_model.h */
	struct link_transfer *first, *last;
};

struct link {			/* one per queue, embedded in its owner */
	struct link_numbers numbers;
	struct counter_group group;
	struct reactor *reactor;	/* set before the first transfer, where completions run */
	struct link_waiting waiting[2];	/* private, by direction */
	struct reactor_timer timer;	/* private, likewise */
};

/* name: "vda/0".  Registers the counters. */
void link_open(struct link *l, const char *name);
void link_close(struct link *l);

struct link_transfer {		/* embedded in its owner */
	uint64_t iova;		/* bytes */
	void *local;		/* our memory; borrowed until done */
	uint32_t length;	/* bytes, > 0 */
	enum link_purpose purpose;
	int status;		/* 0 or -errno, set before done */
	void (*done)(struct link_transfer *t);
	void *owner;		/* the caller's */

	/* The rest is private to the link and its provider. */
	struct reactor *reactor;
	struct link *link;
	const struct memory_map *map;	/* the caller keeps it until done */
	struct dirty_log *const *log;
	uint32_t finished;	/* bytes transferred before the part under way */
	uint32_t part;		/* bytes of the part under way */
	uint8_t write;
	uint64_t due_ns;	/* on a modelled bus */
	struct link_transfer *next;	/* the provider's while it has the transfer, as is task */
	struct reactor_task task;
};

/* Reads or writes one contiguous range of the VM's memory: LINK_DONE, LINK_PENDING, or -EFAULT for
 * a range that is not in the map or may not be accessed so.  A write marks the pages in *log, as
 * it is when the bytes have been stored (NULL: no log). */
int link_read(struct link *l, const struct memory_map *m, struct link_transfer *t);
int link_write(struct link *l, const struct memory_map *m, struct dirty_log *const *log,
	       struct link_transfer *t);

static inline void link_count_read(struct link *l, enum link_purpose purpose, unsigned transfers,
				   uint64_t bytes)
{
	counter_add(&l->numbers.reads[purpose], transfers);
	counter_add(&l->numbers.read_bytes[purpose], bytes);
}

static inline void link_count_write(struct link *l, enum link_purpose purpose, unsigned transfers,
				    uint64_t bytes)
{
	counter_add(&l->numbers.writes[purpose], transfers);
	counter_add(&l->numbers.write_bytes[purpose], bytes);
}

#endif
