/* virtio_pci_state.h - a virtio device's PCI registers, as the files of this transport share them.
 *
 *   virtio_pci.c            the function: BARs, capabilities, doorbells, reset
 *   virtio_pci_common.c     the common configuration structure
 *   virtio_pci_life.c       making the device follow the registers
 *   virtio_pci_freeze.c     stopped for a migration, and started again
 *   virtio_pci_records.c    registers as records of a migration's state
 *   virtio_pci_interrupt.c  from queues to vectors and to the interrupt line
 *
 * The registers are the driver's wishes, changed at once.  The device follows: whenever something
 * has changed virtio_pci_follow() compares the two and makes the next change that is needed, one at
 * a time, until they agree.  So a register never waits, and a driver that does not wait either
 * (firmware that goes on right after writing status 0) is served as if it had.
 *
 * All on the control reactor.
 */
#ifndef VIRTIO_VIRTIO_PCI_STATE_H
#define VIRTIO_VIRTIO_PCI_STATE_H

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "base/log.h"
#include "pci/pci_function_type.h"
#include "reactor/reactor.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_pci.h"

/* The BAR of the virtio structures: each has a page of its own, so that a client may map one. */
enum {
	VIRTIO_BAR = 4,
	MSIX_BAR = 1,
	STRUCTURE_BYTES = 4096,
	COMMON_OFFSET = 0,
	ISR_OFFSET = STRUCTURE_BYTES,
	DEVICE_OFFSET = 2 * STRUCTURE_BYTES,
	NOTIFY_OFFSET = 3 * STRUCTURE_BYTES,
	VIRTIO_BAR_BYTES = 4 * STRUCTURE_BYTES,
	NOTIFY_BYTES = 4,	/* per queue */
	QUEUES_MAX = STRUCTURE_BYTES / NOTIFY_BYTES,
};

/* virtio 1.3, 6: what linux/virtio_config.h of older kernels does not have. */
#ifndef VIRTIO_F_NOTIFICATION_DATA
#define VIRTIO_F_NOTIFICATION_DATA 38
#endif
#ifndef VIRTIO_F_NOTIF_CONFIG_DATA
#define VIRTIO_F_NOTIF_CONFIG_DATA 39
#endif
#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif

/* virtio 1.3, 4.1.4.3: what linux/virtio_pci.h does not have yet. */
enum { COMMON_BYTES = 64 };

/* Where a queue's interrupts go at present. */
enum interrupt_way { WAY_NONE, WAY_DIRECT, WAY_CAUGHT };

struct dirty_log;
struct migrate;
struct stream_writer;

struct virtio_pci_queue {
	struct virtio_pci *pci;
	uint16_t size, vector;
	uint64_t descriptor_iova, driver_iova, device_iova;
	bool wanted;		/* the driver has enabled it */
	bool resetting;		/* by queue_reset; until the device has let go of it */
	bool failed;		/* could not be started: not tried again before a reset */
	int start_status;
	int kick;		/* owned eventfd; -1: not made yet */
	enum interrupt_way way;
	uint16_t way_vector;
	uint32_t way_connection;
	int catcher;		/* owned eventfd: interrupts that we send on; -1: not made yet */
	struct reactor_watch watch;
};

struct virtio_pci {
	struct pci_function function;
	struct virtio_device *device;	/* borrowed */
	unsigned queue_count;
	uint16_t access_capability;	/* of configuration space: VIRTIO_PCI_CAP_PCI_CFG */
	int doorbell_fd;		/* owned memfd; -1: the client does not map notifications */
	uint32_t *doorbells;		/* owned mapping, a word per queue */

	/* Registers. */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	struct log_limit refusals;	/* of features */
	uint16_t config_vector, queue_select;
	uint8_t status, generation, isr;
	bool may_address;

	/* What the device has to be brought to. */
	bool reset_wanted;
	uint8_t status_before_reset;	/* read until the reset is done */
	bool changing;			/* one change is under way */
	struct reactor_task changed;
	struct reactor_task *reset_done;	/* the function's; NULL: nobody waits */

	/* Frozen, the device follows no register; reads and writes of registers go on. */
	bool frozen;
	struct virtio_quiesce *freeze;		/* wanted or under way; NULL: neither */
	struct reactor_task *freeze_done;	/* or of a thaw */
	struct reactor_task emptied;
	bool emptying;
	struct dirty_log *log, *log_wanted; /* owned: what the device has, and is to have */
	struct dirty_log *log_before;		/* owned: until every queue has let go of it */
	struct reactor_task *log_done;
	struct migrate *migrate;		/* owned */

	struct virtio_pci_queue queues[];
};

/* virtio_pci_common.c: ranges lie inside COMMON_BYTES. */
void virtio_pci_common_read(struct virtio_pci *v, unsigned offset, void *to, unsigned n);
void virtio_pci_common_write(struct virtio_pci *v, unsigned offset, const void *from, unsigned n);

/* virtio_pci_life.c */
void virtio_pci_follow(struct virtio_pci *v);
void virtio_pci_reset_registers(struct virtio_pci *v);
void virtio_pci_reset_queue(struct virtio_pci *v, struct virtio_pci_queue *q);
uint8_t virtio_pci_status(const struct virtio_pci *v);
uint64_t virtio_pci_offered(const struct virtio_pci *v);
void virtio_pci_set_status(struct virtio_pci *v, uint8_t status);
int virtio_pci_connect_kick(struct virtio_pci *v, struct virtio_pci_queue *q);	/* 0 or -errno */
/* The kick eventfd, made when first wanted; -1: no descriptor left. */
int virtio_pci_kick(struct virtio_pci_queue *q);

/* virtio_pci_freeze.c: when no change is under way and none is wanted, all queues are quiesced;
 * done runs with how->status.  A thaw starts them again; *status: 0 or -errno. */
void virtio_pci_freeze(struct virtio_pci *v, struct virtio_quiesce *how,
		       struct reactor_task *done);
void virtio_pci_thaw(struct virtio_pci *v, int *status, struct reactor_task *done);
void virtio_pci_freeze_now(struct virtio_pci *v);	/* for virtio_pci_follow(), as the next */
void virtio_pci_change_log(struct virtio_pci *v);
/* The log moves; NULL: none.  done (may be NULL) runs when every queue has it, and the one before
 * is gone.  One at a time. */
void virtio_pci_set_log(struct virtio_pci *v, struct dirty_log *log, struct reactor_task *done);
/* Frozen, with nothing of its own: for a state that is to be loaded.  done runs at once if need be,
 * never before the call returns. */
void virtio_pci_freeze_empty(struct virtio_pci *v, struct reactor_task *done);

/* migrate.c */
struct migrate *migrate_create(struct virtio_pci *v);	/* NULL: out of memory */
void migrate_free(struct migrate *m);
void migrate_was_reset(struct migrate *m);	/* by the host, or by the guest (FLR) */

/* virtio_pci_records.c: frozen.  load: as virtio_loading_run(). */
void virtio_pci_save(const struct virtio_pci *v, struct stream_writer *w);
void virtio_pci_save_preview(const struct virtio_pci *v, struct stream_writer *w);
int virtio_pci_load(struct virtio_pci *v, const void *bytes, size_t n, bool preview,
		    struct error *e);

/* virtio_pci_interrupt.c */
void virtio_pci_catch_all(struct virtio_pci *v);	/* what workers have written has arrived */
void virtio_pci_config_interrupt(struct virtio_pci *v);
uint8_t virtio_pci_take_isr(struct virtio_pci *v);
/* Brings the interrupts of started queues on their way, if it has changed. */
void virtio_pci_route(struct virtio_pci *v);
void virtio_pci_interrupt_close(struct virtio_pci_queue *q);

#endif
