/* virtio_device_type.h - what a kind of device (blk, net) must provide.
 * The face for implementers; hosts and control include virtio_device.h. */
#ifndef VIRTIO_VIRTIO_DEVICE_TYPE_H
#define VIRTIO_VIRTIO_DEVICE_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct virtio_device;
struct virtio_queue;

struct virtio_device_type {
	const char *name;	/* "blk": in logs and metrics */
	uint32_t device_id;	/* virtio 1.3, section 5 */
	uint32_t pci_class;	/* base class, subclass and interface, as pci_ids.h names them */
	size_t config_size;	/* bytes */
	uint16_t header_size;	/* bytes that every request begins with: handed out as a copy */
	bool has_status;	/* the last writable byte of a request is a status */

	/* Control reactor.  Ranges are inside config_size.  config_write: -EINVAL for a field that
	 * the driver may not write. */
	uint64_t (*features)(const struct virtio_device *d);
	void (*config_read)(const struct virtio_device *d, size_t offset, void *to, size_t n);
	int (*config_write)(struct virtio_device *d, size_t offset, const void *from, size_t n);

	/* The queue's reactor. */
	int (*queue_start)(struct virtio_queue *q, struct error *e);
	void (*queue_work)(struct virtio_queue *q);	/* take until 0 comes back */
	void (*queue_stop)(struct virtio_queue *q);	/* nothing in flight when called */
};

#endif
