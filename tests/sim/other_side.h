/* other_side.h - guest memory as a VMM has it on the other side of a migration, in a simulation.
 *
 * It gets bytes in two ways only.  What the guest's processors store arrives by itself, byte by
 * byte.  What the device stores arrives when the VMM copies a page: every page once, then those
 * that the dirty log names.  So at the end, with the device stopped, it equals the guest's memory,
 * or a mark was missing, or came too early.  No page may be named that the device had no business
 * in.
 *
 * The VMM copies at the worst of times: often a page is read out of the log, and copied, right
 * after its mark (the executable is linked with --wrap=dirty_log_mark).  What is stored behind a
 * mark is then on one side only.
 */
#ifndef SIM_OTHER_SIDE_H
#define SIM_OTHER_SIDE_H

#include <stdint.h>

#include "driver/guest_memory.h"
#include "driver/guest_queue.h"

struct dirty_log;
struct other_side;

/* What a simulation does for it. */
struct other_side_sim {
	void *sim;
	uint64_t (*pick)(void *sim, uint64_t n);	/* 0..n-1 */
	void (*go_on)(void *sim);			/* guest and device, for a while */
	void (*fail)(void *sim, const char *text) __attribute__((noreturn));
};

/* Memory of the guest's regions, and a log of one kind or the other; regions and sim are borrowed.
 * One is open at a time. */
struct other_side *other_side_open(const struct guest_memory *regions, unsigned count,
				   const struct other_side_sim *sim);
void other_side_close(struct other_side *o);	/* the device has let go of the log */
struct dirty_log *other_side_log(struct other_side *o);

/* The device may write there. */
void other_side_allow(struct other_side *o, uint64_t iova, uint64_t length);
void other_side_allow_ring(struct other_side *o, const struct guest_queue *q);

/* The processors have stored there. */
void other_side_mirror(struct other_side *o, uint64_t iova, uint64_t length);
/* Around all that the processors do with a ring; index: which it is. */
void other_side_ring_begin(struct other_side *o, unsigned index, const struct guest_queue *q);
void other_side_ring_end(struct other_side *o, unsigned index, const struct guest_queue *q);

/* Each page; the guest goes on after one in so many. */
void other_side_copy_all(struct other_side *o, unsigned one_in);
/* Those that the log names; one_in is 0: nothing goes on. */
void other_side_copy_dirty(struct other_side *o, unsigned one_in);
/* The device is stopped, and what the log named is copied: both sides are equal. */
void other_side_compare(struct other_side *o, unsigned region);

#endif
