/* vxlan_port.h - what the queues of a VXLAN port share, and whoever receives for it. */
#ifndef NETWORK_VXLAN_PORT_H
#define NETWORK_VXLAN_PORT_H

#include <stdatomic.h>

#include "network/network_port.h"
#include "network/vxlan_options.h"

struct frame_inbox;
struct mac_table;
struct vxlan_endpoint;
struct vxlan_neighbours;
struct vxlan_peers;

/* Made and changed on the control thread, but for what its parts allow to any. */
struct vxlan_port {
	const char *name;			/* borrowed: the layer's */
	struct vxlan_options options;		/* never changes */
	struct vxlan_endpoint *endpoint;	/* held */
	struct mac_table *macs;			/* owned: a place is a peer's number */
	struct vxlan_peers *peers;		/* owned */
	struct vxlan_neighbours *neighbours;	/* owned; NULL: nothing is suppressed */
	uint64_t key;				/* a number that nobody else knows */
	unsigned queues;
	_Atomic unsigned active;
	struct frame_inbox *inboxes[NETWORK_QUEUES_MAX];	/* owned: one per queue */
};

#endif
