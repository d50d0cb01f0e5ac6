/* net.h - a virtio network device (virtio 1.3, 5.1) in front of a port. */
#ifndef DEVICE_NET_H
#define DEVICE_NET_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct net;
struct network_port;
struct virtio_device;
struct virtio_device_options;

enum { NET_PAIRS_MAX = 16 };		/* a receive and a transmit queue each */

struct net_options {
	struct network_port *port;	/* borrowed until net_free() */
	uint8_t mac[6];			/* of the guest; not a group's */
	uint32_t mtu;			/* bytes; 0: the port's, or none is told */
	bool hashes;			/* offer RSS and HASH_REPORT */
	unsigned pairs;			/* of queues, 1..NET_PAIRS_MAX, as the port allows */
};

/* Control thread.  device_options->queues is ignored: it follows from pairs.  NULL with *e. */
struct net *net_create(const struct net_options *options,
		       const struct virtio_device_options *device_options, struct error *e);
void net_free(struct net *n);				/* queues stopped; NULL is ignored */
struct virtio_device *net_device(struct net *n);	/* owned by n */

#endif
