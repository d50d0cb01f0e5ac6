/* vxlan_neighbours.h - who has which IP address, as heard from an overlay, to answer a guest's
 * questions without flooding them: ARP (RFC 826) and neighbour discovery (RFC 4861).
 *
 * Of a fixed size: a flood of addresses pushes out the oldest in a place that nobody outside can
 * foretell.  Any thread; takes a lock, but for ARP and neighbour discovery only.
 */
#ifndef NETWORK_VXLAN_NEIGHBOURS_H
#define NETWORK_VXLAN_NEIGHBOURS_H

#include <stddef.h>
#include <stdint.h>

enum { VXLAN_ANSWER_BYTES = 86 };	/* of the longest answer: an advertisement */

struct vxlan_neighbours;

/* What was not heard of for `age` seconds is forgotten.  key: any number that others do not know.
 * NULL: out of memory. */
struct vxlan_neighbours *vxlan_neighbours_create(uint32_t age, uint64_t key);
void vxlan_neighbours_free(struct vxlan_neighbours *t);		/* NULL is ignored */

/* A frame came from the overlay.  No byte of it is believed; what is not a valid ARP message,
 * solicitation or advertisement without VLAN tags says nothing.  now: seconds. */
void vxlan_neighbours_hear(struct vxlan_neighbours *t, const uint8_t *frame, size_t n,
			   uint32_t now);

/* A frame of a guest.  If it asks for an address that was heard of, stores the answer at `to`, of
 * VXLAN_ANSWER_BYTES, and returns its length.  0: it is for the overlay.  Probes for an address
 * that the guest wants to take itself are never answered from memory (RFC 5227, RFC 4862, 5.4),
 * and what it says of itself takes precedence over what was heard. */
size_t vxlan_neighbours_ask(struct vxlan_neighbours *t, const uint8_t *frame, size_t n,
			    uint32_t now, uint8_t *to);

#endif
