/* vxlan_header.h - what a VXLAN datagram consists of (RFC 7348, 5), and what tells flows apart.
 *
 * Pure functions on bytes.  Any thread.
 */
#ifndef NETWORK_VXLAN_HEADER_H
#define NETWORK_VXLAN_HEADER_H

#include <stddef.h>
#include <stdint.h>

enum {
	VXLAN_HEADER = 8,		/* bytes, between UDP's header and the inner frame */
	VXLAN_PORT = 4789,		/* IANA's */
	VXLAN_VNI_MAX = 0xffffff,
	/* What an inner packet of MTU bytes grows by: outer IP, UDP, VXLAN, inner Ethernet. */
	VXLAN_OVERHEAD_IPV4 = 20 + 8 + VXLAN_HEADER + 14,
	VXLAN_OVERHEAD_IPV6 = 40 + 8 + VXLAN_HEADER + 14,
};

struct vxlan_packet {
	uint32_t vni;
	const uint8_t *frame;		/* within the datagram */
	size_t length;			/* bytes: NETWORK_HEADER..NETWORK_FRAME_MAX */
};

/* 0, or -EPROTO: no valid VNI, or no frame that could pass.  Reserved bits are ignored (RFC 7348,
 * 5: on receipt). */
int vxlan_header_parse(const uint8_t *datagram, size_t n, struct vxlan_packet *p);

/* Stores VXLAN_HEADER bytes. */
void vxlan_header_store(uint8_t *to, uint32_t vni);

/* A number that is the same for all frames of one conversation, fragments included: from the
 * addresses, and the ports where there are any (RFC 7348, 5: the outer source port). */
uint32_t vxlan_flow_hash(const uint8_t *frame, size_t n);

#endif
