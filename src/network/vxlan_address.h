/* vxlan_address.h - an outer address: IPv4 or IPv6, with a UDP port. */
#ifndef NETWORK_VXLAN_ADDRESS_H
#define NETWORK_VXLAN_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>

struct vxlan_address {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	};
};

enum { VXLAN_ADDRESS_TEXT = 72 };	/* bytes: "[address%interface]:port", with the zero */

/* From "10.0.0.1", "10.0.0.1:4789", "[fe80::1%eth0]" or "[fd00::1]:4789"; without a port, `port`.
 * 0, or -EINVAL. */
int vxlan_address_parse(struct vxlan_address *a, const char *text, uint16_t port);

/* The same without a port in the text, IPv6 with or without brackets. */
int vxlan_address_parse_host(struct vxlan_address *a, const char *text, uint16_t port);

/* 0.0.0.0 or :: */
void vxlan_address_set_any(struct vxlan_address *a, sa_family_t family, uint16_t port);

socklen_t vxlan_address_length(const struct vxlan_address *a);
uint16_t vxlan_address_port(const struct vxlan_address *a);
void vxlan_address_set_port(struct vxlan_address *a, uint16_t port);
bool vxlan_address_is_group(const struct vxlan_address *a);

/* Whether both are one host, whatever the ports. */
bool vxlan_address_same_host(const struct vxlan_address *a, const struct vxlan_address *b);

/* Stores it as it is written in a URI; returns text, of VXLAN_ADDRESS_TEXT bytes. */
const char *vxlan_address_print(const struct vxlan_address *a, char *text);

#endif
