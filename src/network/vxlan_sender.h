/* vxlan_sender.h - one queue's way out: frames become datagrams, a turn's datagrams few calls.
 *
 * RFC 7348, 5: the outer source port comes from a hash of the inner flow, so that the network in
 * between may spread flows over its paths.  A socket has one port, and a raw one needs privileges:
 * a queue has VXLAN_SENDER_SOCKETS, each opened when the first flow falls to it.  Sixteen ports
 * from each queue are as good as any number for the few paths that there are, and for a receiver's
 * queues.
 *
 * Datagrams of one size to one peer that follow each other go out in one piece, which the kernel
 * or the card cuts (UDP_SEGMENT), where it can.  One thread.
 */
#ifndef NETWORK_VXLAN_SENDER_H
#define NETWORK_VXLAN_SENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vxlan_address;
struct vxlan_options;
struct vxlan_sender;

enum { VXLAN_SENDER_SOCKETS = 16 };

struct vxlan_sender_numbers {
	uint64_t datagrams, calls;
	uint64_t too_large;		/* for the way to the peer */
	uint64_t unreachable;		/* no way, or any other reason of the kernel's */
	uint64_t no_room;		/* in the socket */
};

/* name: of the port, in messages.  o, numbers: borrowed until the end.  NULL: out of memory. */
struct vxlan_sender *vxlan_sender_create(const char *name, const struct vxlan_options *o,
					 uint32_t seed, struct vxlan_sender_numbers *numbers);
void vxlan_sender_free(struct vxlan_sender *s);		/* NULL is ignored */

/* Where a frame of up to NETWORK_FRAME_MAX bytes may be put down, until the next call. */
uint8_t *vxlan_sender_room(struct vxlan_sender *s);

/* Sends what was put there to one or several, at the next flush at the latest. */
void vxlan_sender_put(struct vxlan_sender *s, size_t bytes, uint32_t flow,
		      const struct vxlan_address *to, unsigned count);
void vxlan_sender_flush(struct vxlan_sender *s);

#endif
