/* vxlan_peers.h - the other ends of a VXLAN segment: those that were configured, and those that
 * were heard of.  Each has a number, which is what a table of Ethernet addresses knows.
 *
 * Of a fixed size: a flood of datagrams with forged sources fills the room for those who were
 * heard of, until they age; the configured ones have theirs.
 */
#ifndef NETWORK_VXLAN_PEERS_H
#define NETWORK_VXLAN_PEERS_H

#include <stdbool.h>
#include <stdint.h>

struct mac_table;
struct vxlan_address;
struct vxlan_options;

enum { VXLAN_PEER_NONE = 0xffff };

struct vxlan_peers;

/* o: borrowed until the end.  key: any number that others do not know.  macs: borrowed; forgets
 * who was behind a peer whose number is used again.  NULL: out of memory. */
struct vxlan_peers *vxlan_peers_create(const struct vxlan_options *o, struct mac_table *macs,
				       uint64_t key);
void vxlan_peers_free(struct vxlan_peers *p);		/* NULL is ignored */

/* Any thread, both.
 *
 * The number of the peer that a datagram came from; VXLAN_PEER_NONE: no room, or two configured
 * peers have this address.  Its source port says nothing (RFC 7348, 5): what is sent to a peer
 * that was not configured goes to o->port.  Takes a lock for one not known yet.  now: seconds. */
uint16_t vxlan_peers_learn(struct vxlan_peers *p, const struct vxlan_address *from, uint32_t now);

/* Stores where a peer is; false: the number is nobody's (any more). */
bool vxlan_peers_find(struct vxlan_peers *p, uint16_t number, struct vxlan_address *to);

#endif
