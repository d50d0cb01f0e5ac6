/* vxlan_receiver.h - one queue's ear: datagrams become frames in the inboxes of whom they are for.
 *
 * Of one queue's reactor.
 */
#ifndef NETWORK_VXLAN_RECEIVER_H
#define NETWORK_VXLAN_RECEIVER_H

#include <stdint.h>

struct error;
struct network_layer_queue;
struct vxlan_port;
struct vxlan_receiver;

struct vxlan_receiver_numbers {
	uint64_t datagrams, calls;
	uint64_t malformed;		/* no VXLAN header, or no frame behind it */
	uint64_t unknown_vni;
	uint64_t no_room;		/* in an inbox */
	uint64_t unlearned;		/* came from one peer too many */
};

/* numbers: borrowed until the end.  The queue's inbox is open, and stays so.  NULL with *e. */
struct vxlan_receiver *vxlan_receiver_create(struct vxlan_port *port, struct network_layer_queue *q,
					     struct vxlan_receiver_numbers *numbers,
					     struct error *e);
void vxlan_receiver_free(struct vxlan_receiver *r);

/* The queue's inbox is empty: there is room again. */
void vxlan_receiver_go_on(struct vxlan_receiver *r);

#endif
