/* net_stream_bed.h - a driver that has set all that a network card's control queue can set, for
 * stream_bed.h: its commands lie in the ring before the queue starts. */
#ifndef TESTS_UNIT_NET_STREAM_BED_H
#define TESTS_UNIT_NET_STREAM_BED_H

#include "stream_bed.h"

#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define NET_STREAM_BIT(n) (1ull << (n))
#define NET_STREAM_FEATURES \
	(NET_STREAM_BIT(VIRTIO_NET_F_MAC) | NET_STREAM_BIT(VIRTIO_NET_F_CTRL_VQ) | \
	 NET_STREAM_BIT(VIRTIO_NET_F_CTRL_RX) | NET_STREAM_BIT(VIRTIO_NET_F_CTRL_VLAN) | \
	 NET_STREAM_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | NET_STREAM_BIT(VIRTIO_NET_F_MQ) | \
	 NET_STREAM_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | NET_STREAM_BIT(VIRTIO_NET_F_RSS))

enum {
	NET_STREAM_OWN = 0x77,		/* last byte of the address that the driver has set */
	NET_STREAM_QUEUE = 2 * STREAM_BED_PAIRS,
	NET_STREAM_RING = 0x1000 * (NET_STREAM_QUEUE + 1), /* as stream_bed_start_queue() has it */
	NET_STREAM_COMMANDS = 0x8000,	/* 256 bytes each, the last is for the answer */
	NET_STREAM_COMMAND = 256,
};

struct net_stream_command {
	uint8_t length, bytes[80];
};

/* virtio 1.3, 5.1.6.5: class, command, data. */
static const struct net_stream_command net_stream_commands[] = {
	{ 3, { VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI, 1 } },
	{ 3, { VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, 1 } },
	{ 28, { VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
		2, 0, 0, 0, 2, 0, 0, 0, 0, 0x81, 2, 0, 0, 0, 0, 0x82,
		1, 0, 0, 0, 1, 0, 0x5e, 0, 0, 7 } },
	{ 8, { VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 0, 0, 0, 0, NET_STREAM_OWN } },
	{ 4, { VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, 5, 0 } },
	{ 4, { VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, 0xfe, 0x0f } },
	/* hashes of IPv4 and TCPv4, a mask of 1, queue 1 and 0, two pairs, a key of 40 bytes */
	{ 2 + 8 + 4 + 3 + 40, { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG,
		3, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 2, 0, 40, 0x6d, 0x5a, 0x56, 0xda, 0x25 } },
};

enum { NET_STREAM_COUNT = sizeof(net_stream_commands) / sizeof(net_stream_commands[0]) };

static inline uint64_t net_stream_answer(unsigned i)
{
	return NET_STREAM_COMMANDS + (i + 1) * NET_STREAM_COMMAND - 1;
}

static inline void net_stream_put(struct stream_bed *b, unsigned i)
{
	const struct net_stream_command *c = &net_stream_commands[i];
	uint64_t at = NET_STREAM_COMMANDS + i * NET_STREAM_COMMAND;
	struct vring_desc *d = guest_memory_at(&b->memory, NET_STREAM_RING);
	struct vring_avail *available = guest_memory_at(&b->memory, NET_STREAM_RING + 0x400);

	memcpy(guest_memory_at(&b->memory, at), c->bytes, c->length);
	*(uint8_t *)guest_memory_at(&b->memory, net_stream_answer(i)) = 0xee;
	d[2 * i] = (struct vring_desc){ htole64(at), htole32(c->length),
					htole16(VRING_DESC_F_NEXT), htole16(2 * i + 1) };
	d[2 * i + 1] = (struct vring_desc){ htole64(net_stream_answer(i)), htole32(1),
					    htole16(VRING_DESC_F_WRITE), 0 };
	available->ring[i] = htole16(2 * i);
	available->idx = htole16(i + 1);
}

/* Split rings; each command has been carried out. */
static inline void net_stream_drive(struct stream_bed *b)
{
	for (unsigned i = 0; i < NET_STREAM_COUNT; i++)
		net_stream_put(b, i);
	stream_bed_drive(b, NET_STREAM_FEATURES);
	for (unsigned i = 0; i < NET_STREAM_COUNT; i++)
		if (*(uint8_t *)guest_memory_at(&b->memory, net_stream_answer(i)) != VIRTIO_NET_OK)
			abort();
}

#endif
