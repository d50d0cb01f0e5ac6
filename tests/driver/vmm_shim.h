/* vmm_shim.h - the part of a VMM that migrates a guest with a vfio-user device: its memory by
 * pre-copy, its device by VFIO's second migration protocol.
 *
 * The other side's memory is filled by copies of pages alone: all of them once, then those that the
 * guest's processors stored to (vmm_memory.h) and those that the device's report names.  Nothing
 * else tells of the device's stores.
 *
 * One thread, the guest's too.  0 or -errno with *e; -EPROTO: the device has done what it must not.
 */
#ifndef DRIVER_VMM_SHIM_H
#define DRIVER_VMM_SHIM_H

#include <stdbool.h>
#include <stdint.h>

#include "driver/vmm_memory.h"

struct error;
struct vfio_user_client;

struct vmm_shim {
	struct vmm_memory *memory;		/* borrowed */
	/* Borrowed: of the functions where the guest is, and where it shall go.  Both have been
	 * told of their side's memory. */
	struct vfio_user_client *here, *there;
	void (*guest)(void *arg);		/* goes on for a moment; while pages are copied */
	void *arg;
	uint64_t log_page;			/* bytes; 0: the device decides, of all memory */
	uint64_t report_page;			/* bytes, at least the log's */

	/* What came of it, for the caller to read. */
	unsigned passes;			/* over the memory, the last one too */
	uint64_t copied, written, reported;	/* pages: all; of processors, of the device */
	uint64_t state_bytes;
	uint64_t downtime_ns;			/* from the processors' stop until the other
						 * function runs, without the comparison */

	uint64_t *dirty;			/* owned: a bit per page to be copied */
	char *state;				/* owned */
	char *left;				/* owned: the memory that the guest left behind */
	bool has_left;
	uint64_t clock_ns;			/* when it began to run */
};

void vmm_shim_open(struct vmm_shim *s, struct vmm_memory *memory);
void vmm_shim_close(struct vmm_shim *s);

/* In this order.  The device marks, the other side has had the preview.  -EPROTO: the memory that
 * the guest left behind last time has been written since. */
int vmm_shim_begin(struct vmm_shim *s, struct error *e);
/* Copies while the guest works. */
int vmm_shim_copy(struct vmm_shim *s, struct error *e);
/* Stops the device, copies the rest.  -EPROTO: a byte is not the same on both sides, or the device
 * goes on marking. */
int vmm_shim_stop(struct vmm_shim *s, struct error *e);
/* The other function runs, with the other memory; here and there are exchanged by the caller. */
int vmm_shim_hand_over(struct vmm_shim *s, struct error *e);

/* Instead of the last, or of the last two: the guest goes on where it is. */
int vmm_shim_cancel(struct vmm_shim *s, struct error *e);

#endif
