/* net_filter.c - which of the frames that come are for this guest. */
#include "device/net_filter.h"

#include <linux/if_ether.h>

#include "base/bytes.h"

static const uint64_t broadcast = 0xffffffffffff;

static bool has(unsigned flags, unsigned any)
{
	return flags & any;
}

uint64_t net_address(const uint8_t *mac)
{
	return (uint64_t)load_be32(mac) << 16 | load_be16(mac + 4);
}

void net_filter_reset(struct net_filter *f, const uint8_t *own)
{
	atomic_store(&f->flags, NET_PROMISCUOUS);
	atomic_store(&f->own, net_address(own));
	atomic_store(&f->unicast.count, 0);
	atomic_store(&f->multicast.count, 0);
	atomic_store(&f->by_vlan, false);
	for (unsigned i = 0; i < ARRAY_LENGTH(f->vlans); i++)
		atomic_store(&f->vlans[i], 0);
}

void net_filter_set_flag(struct net_filter *f, enum net_filter_flag flag, bool on)
{
	if (on)
		atomic_fetch_or(&f->flags, flag);
	else
		atomic_fetch_and(&f->flags, ~(unsigned)flag);
}

void net_filter_set_addresses(struct net_filter *f, bool multicast, const uint8_t *macs,
			      unsigned count)
{
	struct net_addresses *a = multicast ? &f->multicast : &f->unicast;
	bool overflow = count > NET_FILTER_ADDRESSES;

	net_filter_set_flag(f, multicast ? NET_MULTICAST_OVERFLOW : NET_UNICAST_OVERFLOW, overflow);
	if (overflow)
		count = 0;
	for (unsigned i = 0; i < count; i++)
		atomic_store(&a->list[i], net_address(macs + (size_t)6 * i));
	atomic_store(&a->count, count);
}

void net_filter_set_vlan(struct net_filter *f, unsigned vlan, bool on)
{
	uint64_t bit = 1ull << vlan % 64;

	if (on)
		atomic_fetch_or(&f->vlans[vlan / 64], bit);
	else
		atomic_fetch_and(&f->vlans[vlan / 64], ~bit);
}

static bool contains(const struct net_addresses *a, uint64_t address)
{
	unsigned count = atomic_load_explicit(&a->count, memory_order_relaxed);

	for (unsigned i = 0; i < count; i++)
		if (atomic_load_explicit(&a->list[i], memory_order_relaxed) == address)
			return true;
	return false;
}

/* A tag of VLAN 0 says only how urgent a frame is (IEEE 802.1Q, 9.6). */
static bool vlan_passes(const struct net_filter *f, const uint8_t *bytes, size_t length)
{
	unsigned vlan;

	if (load_be16(bytes + 12) != ETH_P_8021Q || length < 18)
		return true;
	vlan = load_be16(bytes + 14) & 4095;
	return !vlan ||
	       (atomic_load_explicit(&f->vlans[vlan / 64], memory_order_relaxed) >> vlan % 64 & 1);
}

static bool group_passes(const struct net_filter *f, unsigned flags, uint64_t to)
{
	if (to == broadcast)
		return !has(flags, NET_NO_BROADCAST);
	if (has(flags, NET_NO_MULTICAST))
		return false;
	return has(flags, NET_ALL_MULTICAST | NET_MULTICAST_OVERFLOW) ||
	       contains(&f->multicast, to);
}

static bool unicast_passes(const struct net_filter *f, unsigned flags, uint64_t to)
{
	if (has(flags, NET_NO_UNICAST))
		return false;
	return has(flags, NET_ALL_UNICAST | NET_UNICAST_OVERFLOW) ||
	       to == atomic_load_explicit(&f->own, memory_order_relaxed) ||
	       contains(&f->unicast, to);
}

bool net_filter_passes(const struct net_filter *f, const uint8_t *bytes, size_t length)
{
	unsigned flags = atomic_load_explicit(&f->flags, memory_order_relaxed);
	uint64_t to;

	if (atomic_load_explicit(&f->by_vlan, memory_order_relaxed) &&
	    !vlan_passes(f, bytes, length))
		return false;
	if (likely(has(flags, NET_PROMISCUOUS)))
		return true;
	to = net_address(bytes);
	return bytes[0] & 1 ? group_passes(f, flags, to) : unicast_passes(f, flags, to);
}
