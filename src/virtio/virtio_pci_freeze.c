/* virtio_pci_freeze.c - the device behind PCI registers, stopped for a migration and started again.
 *
 * Frozen, registers are read and written as ever, and the driver's notifications stay in their
 * eventfds; the device catches up with all of it when it thaws.
 */
#include "link/dirty_log.h"
#include "virtio/virtio_pci_state.h"

static void end(struct virtio_pci *v)
{
	struct reactor_task *done = v->freeze_done;

	v->freeze_done = NULL;
	if (done)
		reactor_defer(v->function.control, done);
}

/* ---- freezing ---- */

static void is_quiesced(void *arg)
{
	struct virtio_pci *v = arg;

	v->changing = false;
	v->frozen = !v->freeze->status;
	v->freeze = NULL;
	virtio_pci_catch_all(v);
	end(v);
	virtio_pci_follow(v);
}

void virtio_pci_freeze_now(struct virtio_pci *v)
{
	v->changing = true;
	v->changed = (struct reactor_task){ .fn = is_quiesced, .arg = v };
	virtio_device_quiesce(v->device, v->freeze, &v->changed);
}

void virtio_pci_freeze(struct virtio_pci *v, struct virtio_quiesce *how, struct reactor_task *done)
{
	v->freeze = how;
	v->freeze_done = done;
	virtio_pci_follow(v);
}

static void is_empty(void *arg)
{
	end(arg);
}

void virtio_pci_freeze_empty(struct virtio_pci *v, struct reactor_task *done)
{
	v->freeze_done = done;
	v->emptied = (struct reactor_task){ .fn = is_empty, .arg = v };
	v->emptying = v->frozen = true; /* a reset that comes while we wait is somebody else's */
	pci_function_reset(&v->function, &v->emptied);
	v->emptying = false;
}

/* ---- thawing ---- */

static void is_thawed(void *arg)
{
	struct virtio_pci *v = arg;

	v->changing = false;
	v->frozen = false;
	end(v);
	virtio_pci_follow(v);
}

void virtio_pci_thaw(struct virtio_pci *v, int *status, struct reactor_task *done)
{
	v->freeze_done = done;
	v->changing = true;
	v->changed = (struct reactor_task){ .fn = is_thawed, .arg = v };
	virtio_device_resume(v->device, status, &v->changed);
}

/* ---- the dirty log ---- */

static void log_is_settled(struct virtio_pci *v)
{
	struct reactor_task *done = v->log_done;

	v->log_done = NULL;
	if (done)
		reactor_defer(v->function.control, done);
}

/* The device has let go of the one before. */
static void log_is_changed(void *arg)
{
	struct virtio_pci *v = arg;

	v->changing = false;
	dirty_log_free(v->log_before);
	v->log_before = NULL;
	if (v->log == v->log_wanted)
		log_is_settled(v);
	virtio_pci_follow(v);
}

void virtio_pci_change_log(struct virtio_pci *v)
{
	v->changing = true;
	v->log_before = v->log;
	v->log = v->log_wanted;
	v->changed = (struct reactor_task){ .fn = log_is_changed, .arg = v };
	virtio_device_set_dirty_log(v->device, v->log, &v->changed);
}

void virtio_pci_set_log(struct virtio_pci *v, struct dirty_log *log, struct reactor_task *done)
{
	if (v->log_wanted != v->log)
		dirty_log_free(v->log_wanted);
	v->log_wanted = log;
	if (done)
		v->log_done = done; /* else whoever waits for the one before waits for this */
	if (v->log == v->log_wanted)
		log_is_settled(v);
	virtio_pci_follow(v);
}
