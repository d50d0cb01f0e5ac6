/* virtio_device_type.h - what a kind of device (blk, net) must provide.
 * The face for implementers; hosts and control include virtio_device.h. */
#ifndef VIRTIO_VIRTIO_DEVICE_TYPE_H
#define VIRTIO_VIRTIO_DEVICE_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct stream_reader;
struct stream_writer;
struct virtio_device;
struct virtio_queue;
struct virtqueue_chain;

struct virtio_device_type {
	const char *name;	/* "blk": in logs and metrics */
	uint32_t device_id;	/* virtio 1.3, section 5 */
	unsigned queues_per_set; /* what users and vhost-user count; 0: 1 */
	uint32_t pci_class;	/* base class, subclass and interface, as pci_ids.h names them */
	size_t config_size;	/* bytes */
	bool has_status;	/* the last writable byte of a request is a status */

	/* The queue's reactor, before its start: bytes that every request begins with, which are
	 * handed out as a copy. */
	uint16_t (*header_size)(const struct virtio_device *d, unsigned queue);

	/* Control reactor.  Ranges are inside config_size.  config_write: -EINVAL for a field that
	 * the driver may not write. */
	uint64_t (*features)(const struct virtio_device *d);
	void (*config_read)(const struct virtio_device *d, size_t offset, void *to, size_t n);
	int (*config_write)(struct virtio_device *d, size_t offset, const void *from, size_t n);
	/* Every queue is stopped, features and status are forgotten.  May be NULL. */
	void (*reset)(struct virtio_device *d);
	/* Its records of a migration's state.  identity: what cannot change while a driver runs it.
	 * save: the rest, while all queues are quiesced. */
	void (*save_identity)(const struct virtio_device *d, struct stream_writer *w);
	void (*save)(const struct virtio_device *d, struct stream_writer *w);
	/* 1 the record is one of the type's, 0 it is not, or -EINVAL with *e.  Called twice for
	 * each record: to check it, with nothing changed, and, when all are good, to apply it. */
	int (*load)(struct virtio_device *d, const char *name, struct stream_reader *r, bool apply,
		    struct error *e);
	const char *const *records;	/* that a state must have; NULL ends */
	/* Of devices that have a network, both; else NULL: see virtio_device.h. */
	void (*announce)(struct virtio_device *d, const uint8_t *mac);
	int (*set_mtu)(struct virtio_device *d, uint64_t mtu, struct error *e);

	/* The queue's reactor. */
	int (*queue_start)(struct virtio_queue *q, struct error *e);
	void (*queue_work)(struct virtio_queue *q);	/* take until 0 comes back */
	void (*queue_stop)(struct virtio_queue *q);	/* nothing in flight when called */
	/* Return what is held and not being worked on: a stop, or a change of memory, waits for it.
	 * May be NULL. */
	void (*queue_yield)(struct virtio_queue *q);
	/* A stop that must not wait for what has not left us: such requests are to come back soon,
	 * to be given to virtio_queue_park().  NULL: requests of this type end by themselves. */
	void (*queue_withdraw)(struct virtio_queue *q);
	/* Begin a chain that was parked once more, from its beginning.  With queue_withdraw. */
	void (*queue_again)(struct virtio_queue *q, struct virtqueue_chain *c);
	/* The driver takes, or no longer takes, what this queue brings.  May be NULL. */
	void (*queue_enabled)(struct virtio_queue *q, bool on);
};

#endif
