/* flow_hash.h - the Toeplitz hash of a frame's flow (virtio 1.3, 5.1.6.4.3). */
#ifndef NETWORK_FLOW_HASH_H
#define NETWORK_FLOW_HASH_H

#include "network/network_port.h"

enum {
	FLOW_HASH_INPUT = 36,		/* bytes at most: two IPv6 addresses and two ports */
	FLOW_HASH_TYPES = 0x1ff,	/* VIRTIO_NET_RSS_HASH_TYPE_..., all of them */
};

struct flow_hasher {
	uint32_t types;			/* enabled */
	/* What each value of each half byte of the input adds. */
	uint32_t sums[2 * FLOW_HASH_INPUT][16];
};

/* key: NETWORK_HASH_KEY bytes.  types: those that are not known are ignored. */
void flow_hasher_set(struct flow_hasher *h, uint32_t types, const uint8_t *key);

/* Which hash it is, VIRTIO_NET_HASH_REPORT_..., and *hash; 0 if none is enabled for such a frame.
 * n: any number of bytes, of which none is believed.  Tags of VLANs are passed over; a fragment's
 * ports are not looked at, since only the first has them. */
unsigned flow_hash(const struct flow_hasher *h, const uint8_t *frame, size_t n, uint32_t *hash);

#endif
