/* vxlan_header.c - what a VXLAN datagram consists of, and what tells flows apart. */
#include "network/vxlan_header.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdbool.h>

#include "base/bytes.h"
#include "network/network_port.h"

enum { FLAG_VNI = 0x08 /* "I": the VNI is valid */ };

int vxlan_header_parse(const uint8_t *datagram, size_t n, struct vxlan_packet *p)
{
	if (n < VXLAN_HEADER + NETWORK_HEADER || n > VXLAN_HEADER + NETWORK_FRAME_MAX)
		return -EPROTO;
	if (!(datagram[0] & FLAG_VNI))
		return -EPROTO;
	p->vni = load_be32(datagram + 4) >> 8;
	p->frame = datagram + VXLAN_HEADER;
	p->length = n - VXLAN_HEADER;
	return 0;
}

void vxlan_header_store(uint8_t *to, uint32_t vni)
{
	store_be32(to, (uint32_t)FLAG_VNI << 24);
	store_be32(to + 4, vni << 8);
}

/* ---- flows ---- */

static uint64_t mix(uint64_t sum, const uint8_t *bytes, size_t n)
{
	for (; n >= 4; n -= 4, bytes += 4)
		sum = (sum ^ load_be32(bytes)) * 0x9e3779b97f4a7c15ull;
	return sum ^ sum >> 31;
}

static bool has_ports(uint8_t protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

static uint64_t mix_ports(uint64_t sum, uint8_t protocol, const uint8_t *ip, size_t n, size_t at)
{
	sum = (sum ^ protocol) * 0x9e3779b97f4a7c15ull;
	return has_ports(protocol) && range_fits(at, 4, n) ? mix(sum, ip + at, 4) : sum;
}

/* Only a datagram's first fragment has the ports, so no fragment's are looked at. */
static uint64_t mix_ipv4(uint64_t sum, const uint8_t *ip, size_t n)
{
	if (n < 20)
		return sum;
	sum = mix(sum, ip + 12, 8);
	if (load_be16(ip + 6) & 0x3fff)
		return sum;
	return mix_ports(sum, ip[9], ip, n, (ip[0] & 15) * 4u);
}

static uint64_t mix_ipv6(uint64_t sum, const uint8_t *ip, size_t n)
{
	if (n < 40)
		return sum;
	return mix_ports(mix(sum, ip + 8, 32), ip[6], ip, n, 40);
}

uint32_t vxlan_flow_hash(const uint8_t *frame, size_t n)
{
	uint64_t sum = mix(0, frame, 12);
	size_t at = 12;
	uint16_t type = load_be16(frame + at);

	for (unsigned tags = 0; tags < 2 && (type == ETH_P_8021Q || type == ETH_P_8021AD); tags++) {
		at += 4;
		if (at + 2 > n)
			return sum >> 32;
		type = load_be16(frame + at);
	}
	at += 2;
	if (type == ETH_P_IP)
		sum = mix_ipv4(sum, frame + at, n - at);
	else if (type == ETH_P_IPV6)
		sum = mix_ipv6(sum, frame + at, n - at);
	return (sum ^ sum >> 32) * 0x9e3779b1u >> 8;
}
