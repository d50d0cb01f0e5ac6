/* virtio_queue.h - a queue as a device type (blk, net) uses it.
 *
 * Wraps virtqueue/ with the three things every device would otherwise repeat: how many requests
 * are in flight (a stop waits for zero), a budget per turn (no queue starves its neighbours), and
 * one deferred flush per turn (at most one interrupt).  All functions: the queue's reactor only.
 */
#ifndef VIRTIO_VIRTIO_QUEUE_H
#define VIRTIO_VIRTIO_QUEUE_H

#include <stdint.h>

#include "virtqueue/virtqueue.h"

struct reactor;
struct virtio_device;
struct virtio_queue;

struct virtio_device *virtio_queue_device(const struct virtio_queue *q);
struct reactor *virtio_queue_reactor(const struct virtio_queue *q);
unsigned virtio_queue_index(const struct virtio_queue *q);
uint16_t virtio_queue_size(const struct virtio_queue *q);	/* request slots to allocate */

/* The device type's own, from queue_start to queue_stop. */
void virtio_queue_set_state(struct virtio_queue *q, void *state);
void *virtio_queue_state(const struct virtio_queue *q);

/* 1 = *c taken and counted in flight; 0 = empty, out of budget, stopping or broken: return to the
 * reactor, queue_work() is called again when it matters. */
int virtio_queue_take(struct virtio_queue *q, struct virtqueue_chain **c);

/* Gives the chain back, `written` bytes of its writable payload stored.  The last one while
 * stopping acknowledges the stop. */
void virtio_queue_return(struct virtio_queue *q, struct virtqueue_chain *c, uint64_t written,
			 uint8_t status);

/* A request that came back unexecuted after queue_withdraw(): the chain stays taken until the stop
 * decides on it.  False: there is no such stop (any more), begin the request again. */
bool virtio_queue_park(struct virtio_queue *q, struct virtqueue_chain *c);

/* There may be something for queue_work() that did not come through the ring. */
void virtio_queue_wake(struct virtio_queue *q);

/* Whether the driver is to notify when it adds buffers; it is, at first.  Where what wakes a queue
 * is something else, a notification per buffer would be for nothing. */
void virtio_queue_want_kicks(struct virtio_queue *q, bool on);

/* As virtqueue_set_coalescing(). */
void virtio_queue_set_coalescing(struct virtio_queue *q, uint32_t chains, uint64_t wait_ns);

/* The driver broke a rule that only the device type can see (virtio 1.3, 2.1.2): stops this queue
 * and raises DEVICE_NEEDS_RESET.  why is static.  A chain in hand is returned all the same. */
void virtio_queue_break(struct virtio_queue *q, const char *why);

#endif
