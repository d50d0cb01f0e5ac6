/* migrate.h - the migration of a PCI function, as VFIO's second protocol has it.
 *
 * States and arcs are those of <linux/vfio.h>, enum vfio_device_mig_state, and are numbered so.
 * What they mean here:
 *
 *	RUNNING			queues are served
 *	PRE_COPY		likewise; a short preview of the state can be read, so that a
 *				destination that does not fit refuses before memory is copied
 *	RUNNING_P2P, PRE_COPY_P2P	queues are stopped; registers are read and written as ever
 *	STOP			likewise
 *	STOP_COPY		likewise; the state can be read
 *	RESUMING		the function was reset, a state can be written
 *	ERROR			only a reset leads out
 *
 * An arc that stops queues may be refused, with the reason, when the storage does not answer in
 * time: the state is unchanged then, and the queues go on.  What is written in RESUMING is checked
 * as a whole before any of it is applied, by the arc to STOP: on an error the state is RESUMING
 * still, and another state may be written.
 *
 * Control reactor.
 */
#ifndef VIRTIO_MIGRATE_H
#define VIRTIO_MIGRATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct dirty_log_range;
struct error;
struct migrate;
struct reactor_task;
struct virtio_pci;

enum migrate_state {
	MIGRATE_ERROR, MIGRATE_STOP, MIGRATE_RUNNING, MIGRATE_STOP_COPY, MIGRATE_RESUMING,
	MIGRATE_RUNNING_P2P, MIGRATE_PRE_COPY, MIGRATE_PRE_COPY_P2P, MIGRATE_STATES
};

/* Borrowed; lives as long as v. */
struct migrate *virtio_pci_migrate(struct virtio_pci *v);

enum migrate_state migrate_state(const struct migrate *m);
const char *migrate_state_name(enum migrate_state state);

/* Goes from arc to arc until next.  0: done runs, later, with the outcome in migrate_result();
 * -EINVAL: no way leads there; -EBUSY: one is under way; both with *e and nothing changed. */
int migrate_set_state(struct migrate *m, enum migrate_state next, struct reactor_task *done,
		      struct error *e);
/* Of the last one: 0, or -errno with *e; the state is that before the arc that failed. */
int migrate_result(const struct migrate *m, struct error *e);

/* The next bytes of the state, in PRE_COPY, PRE_COPY_P2P and STOP_COPY: how many, 0 at the end;
 * -EINVAL in another state. */
ssize_t migrate_read(struct migrate *m, void *to, size_t n, struct error *e);
/* In RESUMING: n, or -errno with *e: what has come so far does not fit this function. */
ssize_t migrate_write(struct migrate *m, const void *from, size_t n, struct error *e);
/* Bytes of the preview not read yet, and those that have become old since. */
void migrate_pre_copy_info(const struct migrate *m, uint64_t *initial, uint64_t *dirty);
uint64_t migrate_data_size(const struct migrate *m);	/* bytes of the state, at most */

/* Which pages the function writes: dirty_log.h.  start, stop: 0 and done runs when every queue
 * knows; -EINVAL, -EBUSY, -ENOMEM with *e. */
int migrate_log_start(struct migrate *m, const struct dirty_log_range *ranges, unsigned count,
		      uint64_t page_size, struct reactor_task *done, struct error *e);
int migrate_log_stop(struct migrate *m, struct reactor_task *done, struct error *e);
int migrate_log_report(struct migrate *m, uint64_t iova, uint64_t length, uint64_t page_size,
		       uint64_t *bitmap, size_t bytes, struct error *e);

#endif
