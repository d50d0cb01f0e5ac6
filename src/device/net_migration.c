/* net_migration.c - what a network device's state consists of beside its queues: all that commands
 * of the control queue have set. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "device/net_state.h"
#include "network/flow_hash.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

const char *const net_records[] = { "net", "net.mode", "net.filt", "net.rss", "net.coal", NULL };

enum { MAC_BYTES = 6 };

/* ---- what it is ---- */

void net_save_identity(const struct virtio_device *d, struct stream_writer *w)
{
	const struct net *n = virtio_device_state(d);

	stream_begin(w, "net", 0);
	stream_u32(w, n->pairs);
	stream_u32(w, n->mtu);
	stream_u8(w, n->hashes);
	stream_bytes(w, n->mac, MAC_BYTES);
	stream_end(w);
}

static int load_identity(const struct net *n, struct stream_reader *r, struct error *e)
{
	uint32_t pairs = stream_get_u32(r), mtu = stream_get_u32(r);
	uint8_t hashes = stream_get_u8(r), mac[MAC_BYTES];

	stream_get_bytes(r, mac, MAC_BYTES);
	if (pairs != n->pairs)
		return error_set(e, -EINVAL, "%u pairs of queues here, %" PRIu32 " there", n->pairs,
				 pairs);
	if (mtu != n->mtu)
		return error_set(e, -EINVAL,
				 "the MTU is %" PRIu32 " here, %" PRIu32 " there: --mtu", n->mtu,
				 mtu);
	if (hashes != n->hashes)
		return error_set(e, -EINVAL, "--rss is %s here, %s there", n->hashes ? "on" : "off",
				 hashes ? "on" : "off");
	if (memcmp(mac, n->mac, MAC_BYTES))
		return error_set(e, -EINVAL,
				 "the MAC address is %02x:%02x:%02x:%02x:%02x:%02x here, "
				 "%02x:%02x:%02x:%02x:%02x:%02x there: --mac",
				 n->mac[0], n->mac[1], n->mac[2], n->mac[3], n->mac[4], n->mac[5],
				 mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	return 0;
}

/* ---- modes ---- */

static void save_mode(const struct net *n, struct stream_writer *w)
{
	stream_begin(w, "net.mode", 0);
	stream_u32(w, atomic_load(&n->active));
	stream_u64(w, atomic_load(&n->guest_offloads));
	stream_u8(w, atomic_load(&n->adopted));
	stream_u8(w, atomic_load(&n->announcing));
	stream_end(w);
}

static int load_mode(struct net *n, struct stream_reader *r, bool apply, struct error *e)
{
	uint32_t active = stream_get_u32(r);
	uint64_t offloads = stream_get_u64(r);
	bool adopted = stream_get_u8(r), announcing = stream_get_u8(r);

	if (active > n->pairs)
		return error_set(e, -EINVAL, "state: %" PRIu32 " pairs of queues in use, of %u",
				 active, n->pairs);
	if (offloads & ~net_offload_features())
		return error_set(e, -EINVAL, "state: unknown offloads 0x%" PRIx64,
				 offloads & ~net_offload_features());
	if (!apply)
		return 0;
	atomic_store(&n->active, active);
	atomic_store(&n->guest_offloads, offloads);
	atomic_store(&n->adopted, adopted);
	atomic_store(&n->announcing, announcing);
	net_apply_offloads(n);
	net_apply_active(n);
	return 0;
}

/* ---- the receive filter ---- */

static void save_addresses(const struct net_addresses *a, struct stream_writer *w)
{
	unsigned count = atomic_load(&a->count);

	stream_u16(w, count);
	for (unsigned i = 0; i < count; i++)
		stream_u64(w, atomic_load(&a->list[i]));
}

static void save_filter(const struct net *n, struct stream_writer *w)
{
	const struct net_filter *f = &n->filter;

	stream_begin(w, "net.filt", 0);
	stream_u32(w, atomic_load(&f->flags));
	stream_u64(w, atomic_load(&f->own));
	stream_u8(w, atomic_load(&f->by_vlan));
	for (unsigned i = 0; i < ARRAY_LENGTH(f->vlans); i++)
		stream_u64(w, atomic_load(&f->vlans[i]));
	save_addresses(&f->unicast, w);
	save_addresses(&f->multicast, w);
	stream_end(w);
}

static int load_addresses(struct net_addresses *a, struct stream_reader *r, bool apply,
			  struct error *e)
{
	unsigned count = stream_get_u16(r);

	if (count > NET_FILTER_ADDRESSES)
		return error_set(e, -EINVAL, "state: %u addresses in a filter of %d", count,
				 NET_FILTER_ADDRESSES);
	for (unsigned i = 0; i < count; i++) {
		uint64_t address = stream_get_u64(r);

		if (address >> 48)
			return error_set(e, -EINVAL, "state: 0x%" PRIx64 " is no MAC address",
					 address);
		if (apply)
			atomic_store(&a->list[i], address);
	}
	if (apply)
		atomic_store(&a->count, count);
	return 0;
}

static int load_filter(struct net *n, struct stream_reader *r, bool apply, struct error *e)
{
	struct net_filter *f = &n->filter;
	uint32_t flags = stream_get_u32(r);
	uint64_t own = stream_get_u64(r);
	bool by_vlan = stream_get_u8(r);
	int err;

	if (flags > UINT8_MAX || own >> 48)
		return error_set(e, -EINVAL, "state: a receive filter 0x%" PRIx32 " of 0x%" PRIx64,
				 flags, own);
	for (unsigned i = 0; i < ARRAY_LENGTH(f->vlans); i++) {
		uint64_t word = stream_get_u64(r);

		if (apply)
			atomic_store(&f->vlans[i], word);
	}
	err = load_addresses(&f->unicast, r, apply, e);
	err = err ? err : load_addresses(&f->multicast, r, apply, e);
	if (err || !apply)
		return err;
	atomic_store(&f->flags, flags);
	atomic_store(&f->own, own);
	atomic_store(&f->by_vlan, by_vlan);
	return 0;
}

/* ---- steering ---- */

static void save_steering(const struct net *n, struct stream_writer *w)
{
	const struct network_steering *s = &n->steering;

	stream_begin(w, "net.rss", 0);
	stream_u32(w, s->hash_types);
	stream_bytes(w, s->key, sizeof(s->key));
	stream_u8(w, s->by_table);
	stream_u16(w, s->mask);
	stream_u16(w, s->unclassified);
	for (unsigned i = 0; i < NETWORK_TABLE_MAX; i++)
		stream_u16(w, s->table[i]);
	stream_end(w);
}

static void read_steering(struct network_steering *s, struct stream_reader *r)
{
	s->hash_types = stream_get_u32(r);
	stream_get_bytes(r, s->key, sizeof(s->key));
	s->by_table = stream_get_u8(r);
	s->mask = stream_get_u16(r);
	s->unclassified = stream_get_u16(r);
	for (unsigned i = 0; i < NETWORK_TABLE_MAX; i++)
		s->table[i] = stream_get_u16(r);
}

static bool names_queues_that_are(const struct net *n, const struct network_steering *s)
{
	if (s->mask >= NETWORK_TABLE_MAX || !is_power_of_two(s->mask + 1u) ||
	    s->unclassified >= n->pairs)
		return false;
	for (unsigned i = 0; i <= s->mask; i++)
		if (s->table[i] >= n->pairs)
			return false;
	return true;
}

static int load_steering(struct net *n, struct stream_reader *r, bool apply, struct error *e)
{
	struct network_steering s = { 0 };

	read_steering(&s, r);
	if ((s.hash_types & ~FLOW_HASH_TYPES) || (s.by_table && !names_queues_that_are(n, &s)))
		return error_set(e, -EINVAL, "state: impossible steering of frames");
	return apply ? net_apply_steering(n, &s) : 0;
}

/* ---- interrupts ---- */

static void save_coalescing(const struct net *n, struct stream_writer *w)
{
	stream_begin(w, "net.coal", 0);
	for (unsigned i = 0; i < n->queue_count; i++)
		stream_u64(w, atomic_load(&n->queues[i].coalescing));
	stream_end(w);
}

static int load_coalescing(struct net *n, struct stream_reader *r, bool apply, struct error *e)
{
	for (unsigned i = 0; i < n->queue_count; i++) {
		uint64_t word = stream_get_u64(r);

		if (apply)
			atomic_store(&n->queues[i].coalescing, word);
	}
	return 0;
}

/* ---- all of it ---- */

void net_save(const struct virtio_device *d, struct stream_writer *w)
{
	const struct net *n = virtio_device_state(d);

	save_mode(n, w);
	save_filter(n, w);
	save_steering(n, w);
	save_coalescing(n, w);
}

static const struct {
	const char *name;
	int (*load)(struct net *n, struct stream_reader *r, bool apply, struct error *e);
} loaders[] = {
	{ "net.mode", load_mode },
	{ "net.filt", load_filter },
	{ "net.rss", load_steering },
	{ "net.coal", load_coalescing },
};

int net_load(struct virtio_device *d, const char *name, struct stream_reader *r, bool apply,
	     struct error *e)
{
	struct net *n = virtio_device_state(d);

	if (!strcmp(name, "net"))
		return load_identity(n, r, e) ? e->code : 1;
	for (unsigned i = 0; i < ARRAY_LENGTH(loaders); i++)
		if (!strcmp(name, loaders[i].name))
			return loaders[i].load(n, r, apply, e) ? -EINVAL : 1;
	return 0;
}
