/* net_filter.h - which of the frames that come are for this guest (virtio 1.3, 5.1.6.5.1..3).
 *
 * One thread sets it, by the driver's commands; others ask it meanwhile, without a lock.  While a
 * command takes effect a frame may be judged by some of both, as on any network card.
 */
#ifndef DEVICE_NET_FILTER_H
#define DEVICE_NET_FILTER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NET_FILTER_ADDRESSES = 64 };	/* of a kind; with more, all of the kind pass */

enum net_filter_flag {
	NET_PROMISCUOUS = 1, NET_ALL_MULTICAST = 2, NET_ALL_UNICAST = 4,
	NET_NO_MULTICAST = 8, NET_NO_UNICAST = 16, NET_NO_BROADCAST = 32,
	NET_UNICAST_OVERFLOW = 64, NET_MULTICAST_OVERFLOW = 128,
};

struct net_addresses {
	_Atomic unsigned count;
	_Atomic uint64_t list[NET_FILTER_ADDRESSES];
};

struct net_filter {
	_Atomic unsigned flags;
	_Atomic uint64_t own;		/* the guest's address */
	struct net_addresses unicast, multicast;
	_Atomic bool by_vlan;
	_Atomic uint64_t vlans[4096 / 64];
};

uint64_t net_address(const uint8_t *mac);	/* six bytes as a number */

/* All pass: a driver that knows of no filter wants it so. */
void net_filter_reset(struct net_filter *f, const uint8_t *own);
void net_filter_set_flag(struct net_filter *f, enum net_filter_flag flag, bool on);
/* Replaces a list by count addresses of six bytes each. */
void net_filter_set_addresses(struct net_filter *f, bool multicast, const uint8_t *macs,
			      unsigned count);
void net_filter_set_vlan(struct net_filter *f, unsigned vlan, bool on);	/* vlan < 4096 */

/* Whether a frame of length >= 14 bytes is for the guest. */
bool net_filter_passes(const struct net_filter *f, const uint8_t *bytes, size_t length);

#endif
