/* virtio_records.h - a device's state as records of a stream: what the files that write and read
 * them share.
 *
 *	device		what it is: both sides must agree on it
 *	features	what the driver has accepted
 *	status		the driver's word, and whether the device needs a reset
 *	queue		one per queue that the driver has set up: where, how far, what is parked
 *	...		the device type's, and the transport's
 *
 * A loading goes over the stream twice.  First everything is checked, each record against what this
 * device is and against those before it; nothing of the device changes.  Then the same code
 * applies what it has checked.
 */
#ifndef VIRTIO_VIRTIO_RECORDS_H
#define VIRTIO_VIRTIO_RECORDS_H

#include "stream/stream.h"
#include "virtio/virtio_state.h"

struct virtio_loading {
	struct virtio_device *device;
	/* A transport's own records: 1 it was one of them, 0 it was not, or -errno with *e.  NULL:
	 * it has none. */
	int (*other)(struct virtio_loading *l, const char *name, struct stream_reader *r,
		     struct error *e);
	void *arg;
	const char *const *needed;	/* that must be there beside the device's own; NULL ends */
	bool preview;		/* a part of what will come: checked only, and records may miss */

	/* The rest is private to the loading, but for its reading. */
	bool apply;
	bool has_device, has_features;
	uint64_t features;
	uint64_t *queues_seen;		/* owned: bit per queue */
	uint64_t needed_seen;		/* bit per entry of needed, and then of the type's */
};

/* 0, or -errno with *e and nothing changed. */
int virtio_loading_run(struct virtio_loading *l, const void *bytes, size_t n, struct error *e);

/* The records that never change while a driver runs the device. */
void virtio_save_identity(const struct virtio_device *d, struct stream_writer *w);

#endif
