/* vxlan_options.h - what a URI says of a VXLAN port. */
#ifndef NETWORK_VXLAN_OPTIONS_H
#define NETWORK_VXLAN_OPTIONS_H

#include <net/if.h>

#include "network/vxlan_address.h"

struct error;
struct uri;

enum { VXLAN_PEERS_STATIC = 64 };

struct vxlan_options {
	struct vxlan_address peers[VXLAN_PEERS_STATIC];	/* all of one family; at most one group */
	unsigned peer_count;			/* at least 1 */
	int group;				/* which of them is a multicast group; -1: none */
	struct vxlan_address local;		/* with the port to listen at */
	char device[IFNAMSIZ];			/* "": none */
	unsigned device_index;			/* of it; 0: none */
	uint32_t vni, mtu;			/* mtu: bytes of an inner packet; 0: not given */
	uint16_t port;
	uint8_t ttl;				/* 0: not given */
	uint32_t ageing;			/* seconds */
	bool learning, checksum, suppress;
};

extern const char vxlan_options_help[];

/* 0, or -EINVAL or -ENODEV with the reason in *e. */
int vxlan_options_parse(struct vxlan_options *o, const struct uri *uri, struct error *e);

#endif
