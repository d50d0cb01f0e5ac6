/* virtio_device.h - a virtio device as a host transport drives it.
 *
 * All functions run on the control reactor.  Those with a "done" change what queue reactors see;
 * done runs on the control reactor once every queue has acknowledged, never before the call
 * returns.  The caller waits for done: at most one change of memory is under way per device, and
 * beside it at most one other (start, stop, reset, log).
 *
 * A device outlives its transport's connections.  Addresses are I/O virtual addresses (iova), as
 * the driver writes them into descriptors; a transport with other addresses translates first.
 */
#ifndef VIRTIO_VIRTIO_DEVICE_H
#define VIRTIO_VIRTIO_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dirty_log;
struct error;
struct link_model;
struct memory_map;
struct reactor;
struct reactor_task;
struct stream_writer;
struct virtio_device;
struct virtio_device_type;

struct virtio_device_options {
	const char *name;		/* "vda": in messages and counters; copied */
	unsigned queues;		/* offered; 1.. */
	uint16_t queue_size;		/* largest the driver may choose; power of two */
	struct reactor *control;	/* borrowed for the device's life, as are the workers */
	struct reactor **workers;	/* set i of queues: workers[i % worker_count]; copied */
	unsigned worker_count;
	bool packed, in_order;		/* offered: VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER */
	uint64_t masked;		/* features not to offer; see virtio_features_parse() */
	struct link_model *link_model;	/* a bus before all memory; borrowed; NULL: none */
	uint64_t drain_ns; /* how long a migration's stop waits for requests; 0: the default */
};

/* A stop that ends, if no earlier, after this time. */
#define VIRTIO_DRAIN_NS_DEFAULT (5000 * UINT64_C(1000000))

/* state is the device type's own.  NULL with *e. */
struct virtio_device *virtio_device_create(const struct virtio_device_type *type, void *state,
					   const struct virtio_device_options *options,
					   struct error *e);
/* After a virtio_device_reset() that is done, with nothing called since, or unused.  NULL is
 * ignored. */
void virtio_device_free(struct virtio_device *d);

void *virtio_device_state(const struct virtio_device *d);
const char *virtio_device_name(const struct virtio_device *d);
uint32_t virtio_device_id(const struct virtio_device *d);	/* virtio 1.3, section 5 */
uint32_t virtio_device_pci_class(const struct virtio_device *d);	/* 24 bits */
unsigned virtio_device_queue_count(const struct virtio_device *d);
unsigned virtio_device_set_count(const struct virtio_device *d);	/* a NIC's: pairs */
uint16_t virtio_device_queue_size_max(const struct virtio_device *d);
size_t virtio_device_config_size(const struct virtio_device *d);
struct reactor *virtio_device_queue_reactor(const struct virtio_device *d, unsigned index);
struct reactor *virtio_device_control(const struct virtio_device *d);
uint64_t virtio_device_drain_ns(const struct virtio_device *d);

/* Offered features: the device type's and those of the rings.  accept: -EINVAL names those that
 * were not offered. */
uint64_t virtio_device_features(const struct virtio_device *d);
/* Those of them that its user lets it offer: for a transport's own. */
uint64_t virtio_device_unmasked(const struct virtio_device *d, uint64_t features);
int virtio_device_accept(struct virtio_device *d, uint64_t features, struct error *e);
uint64_t virtio_device_accepted(const struct virtio_device *d);

uint8_t virtio_device_status(const struct virtio_device *d);
/* 0 does not reset: see virtio_device_reset(). */
void virtio_device_set_status(struct virtio_device *d, uint8_t status);

/* 0, or -EINVAL for a range outside the configuration space or a field that is read-only. */
int virtio_device_config_read(struct virtio_device *d, size_t offset, void *to, size_t n);
int virtio_device_config_write(struct virtio_device *d, size_t offset, const void *from, size_t n);

/* fn runs on the control reactor when the device has changed its configuration space, or needs a
 * reset (see virtio_device_status()).  One listener; NULL: none. */
void virtio_device_set_listener(struct virtio_device *d, void (*config_changed)(void *arg),
				void *arg);
/* For device types: tells the listener, at the end of the turn. */
void virtio_device_config_changed(struct virtio_device *d);

/* For devices that have a network only.  announce: it is told where the VM with this address (6
 * bytes) is now, before the guest does so itself.  set_mtu: the driver will be told so many bytes;
 * -EINVAL: more than the network passes. */
bool virtio_device_has_network(const struct virtio_device *d);
void virtio_device_announce(struct virtio_device *d, const uint8_t *mac);
int virtio_device_set_mtu(struct virtio_device *d, uint64_t mtu, struct error *e);

/* ---- queues ---- */

struct virtio_queue_setup {
	uint16_t size;			/* descriptors; power of two for split */
	uint16_t available_index;	/* where to go on reading */
	uint16_t used_index; /* packed: where to go on writing; virtio_queue_first_index() first */
	uint64_t descriptor_iova, driver_iova, device_iova;
};

/* Where the queue stands; valid while it is stopped. */
struct virtio_queue_position {
	uint16_t available_index, used_index;
};

/* Both indexes of a ring that was never used, with the features accepted: split 0; packed
 * descriptor 0, and in bit 15 the wrap counter, 1 (virtio 1.3, 2.8.1). */
bool virtio_device_is_packed(const struct virtio_device *d);	/* by the features accepted */
uint16_t virtio_queue_first_index(const struct virtio_device *d);

/* While the queue is stopped; takes effect at the next start. */
int virtio_queue_configure(struct virtio_device *d, unsigned index,
			   const struct virtio_queue_setup *s, struct error *e);
void virtio_queue_position(const struct virtio_device *d, unsigned index,
			   struct virtio_queue_position *p);

/* Any time.  The descriptors (eventfds) move to the queue; -1: none, the queue polls, or
 * interrupts are masked. */
void virtio_queue_give_kick(struct virtio_device *d, unsigned index, int fd);
void virtio_queue_give_interrupt(struct virtio_device *d, unsigned index, int fd);
/* As give_interrupt, for a descriptor that leads to the same place as the old one, from which
 * nothing gets lost: no interrupt is sent to make sure. */
void virtio_queue_move_interrupt(struct virtio_device *d, unsigned index, int fd);
void virtio_queue_give_error(struct virtio_device *d, unsigned index, int fd);

/* A word that the driver overwrites to notify (virtio 1.3, 4.1.5.2); all ones: nothing new.  It is
 * looked at all the time while the queue is enabled, in place of a kick descriptor.  Borrowed until
 * the queue is stopped; NULL: none.  While the queue is stopped. */
void virtio_queue_set_doorbell(struct virtio_device *d, unsigned index, uint32_t *word);

/* Disabled queues take no requests.  Any time. */
void virtio_queue_enable(struct virtio_device *d, unsigned index, bool on);

/* In-flight tracking (vhost-user INFLIGHT_SHMFD): `region` is this queue's part of the shared
 * buffer, at least virtio_queue_inflight_size(its size) bytes (checked at start), borrowed until
 * the queue is stopped; NULL: off.  While the queue is stopped.  */
size_t virtio_queue_inflight_size(uint16_t queue_size, bool packed);
void virtio_queue_set_inflight(struct virtio_device *d, unsigned index, void *region, size_t bytes);

/* start: checks that the rings lie in memory; on failure done runs with *status set to -errno and
 * the reason logged.  stop: drains what is in flight; afterwards the position is known. */
void virtio_queue_start(struct virtio_device *d, unsigned index, int *status,
			struct reactor_task *done);
void virtio_queue_stop(struct virtio_device *d, unsigned index, struct reactor_task *done);
bool virtio_queue_is_started(const struct virtio_device *d, unsigned index);

/* ---- migration ---- */

struct virtio_quiesce {		/* the caller's, until done */
	uint64_t patience_ns;	/* how long requests that a server may still execute are waited
				 * for; UINT64_MAX: for ever */
	/* Requests that have not left us may stay taken: virtio_device_save() writes them, or the
	 * in-flight region has them.  Else they go back into the ring or are waited for. */
	bool park;
	/* 0; or -ETIMEDOUT: nothing has changed, the queues go on, and reason says why. */
	int status;
	char reason[160];
};

/* Stops one queue, or all that are started, at once and within bounds.  done: where the queues are
 * is known, and all that was written is marked in the log.  What is not stopped by -ETIMEDOUT had
 * requests at the storage that nobody may send again elsewhere. */
void virtio_queue_quiesce(struct virtio_device *d, unsigned index, struct virtio_quiesce *how,
			  struct reactor_task *done);
void virtio_device_quiesce(struct virtio_device *d, struct virtio_quiesce *how,
			   struct reactor_task *done);
/* Starts the queues that virtio_device_quiesce() has stopped, or virtio_device_load() has prepared,
 * where they stood.  *status: 0, or the first -errno; the reason is logged. */
void virtio_device_resume(struct virtio_device *d, int *status, struct reactor_task *done);

/* For statistics: a report of the dirty log has been made since. */
void virtio_device_count_report(struct virtio_device *d, uint64_t began_ns);

/* While quiesced: adds the records of all that a driver can see of the device. */
void virtio_device_save(const struct virtio_device *d, struct stream_writer *w);
/* The same without what transports move by themselves: queues and status. */
void virtio_device_save_internal(const struct virtio_device *d, struct stream_writer *w);
/* After a reset, with a stream that one of these alone has filled.  On an error, which *e
 * tells, nothing has changed; else the device is as it was when it was saved: quiesced. */
int virtio_device_load(struct virtio_device *d, const void *bytes, size_t n, struct error *e);

/* Stops every queue and forgets features, status, queue set-up and eventfds; memory stays. */
void virtio_device_reset(struct virtio_device *d, struct reactor_task *done);

/* The device holds the map it is given; NULL: none, started queues break.  done: every queue has
 * gone over to it, nothing new begins with the old one.  That never waits for a request: those
 * under way keep the old map, and memory_map_on_release() tells when the last has let go. */
void virtio_device_set_memory(struct virtio_device *d, struct memory_map *m,
			      struct reactor_task *done);

/* The log is borrowed; done: every queue has let go of the old one.  NULL: off. */
void virtio_device_set_dirty_log(struct virtio_device *d, struct dirty_log *log,
				 struct reactor_task *done);

#endif
