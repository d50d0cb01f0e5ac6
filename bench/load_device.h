/* load_device.h - how the load reaches a block device. */
#ifndef BENCH_LOAD_DEVICE_H
#define BENCH_LOAD_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "driver/guest_pci.h"
#include "driver/vfio_user_client.h"
#include "driver/vhost_user_client.h"
#include "load_run.h"

struct guest_queue;
struct load_transport;

struct load_device {
	const struct load_transport *transport;
	const struct guest_memory *memory;	/* borrowed */
	uint64_t features;			/* accepted */
	unsigned queue_max;
	uint64_t sectors;
	bool is_served;				/* the device sends messages for its memory */
	struct vhost_user_client vhost;		/* one of the two */
	struct vfio_user_client vfio;
	struct guest_pci pci;
};

/* 0 or -errno with *e, where something can fail. */
struct load_transport {
	/* Connects, negotiates, shows the memory, learns queue_max and sectors. */
	int (*open)(struct load_device *d, const struct load_options *o, uint64_t wanted,
		    struct error *e);
	int (*start_queue)(struct load_device *d, unsigned index, const struct guest_queue *q,
			   struct error *e);
	int (*ready)(struct load_device *d, struct error *e);	/* all queues are started */
	/* base: as guest_queue_base(); -EPROTO: the device is elsewhere. */
	int (*stop_queue)(struct load_device *d, unsigned index, uint16_t base,
			  struct error *e);
	void (*kick)(struct load_device *d, unsigned index);
	int (*interrupt)(const struct load_device *d, unsigned index);	/* borrowed eventfd */
	/* What the device asks of us: a descriptor to wait for (-1: nothing), and doing it.  The
	 * number of messages, or -errno when the device is gone. */
	int (*socket)(const struct load_device *d);
	int (*serve)(struct load_device *d);
	struct load_transactions (*transactions)(struct load_device *d);
	void (*close)(struct load_device *d);
};

void load_device_init(struct load_device *d, const struct load_options *o,
		      const struct guest_memory *m);

#endif
