/* vxlan_neighbours.c - who has which IP address, as heard from an overlay. */
#include "network/vxlan_neighbours.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "network/frame_offload.h"

enum { WAYS = 4, SETS = 1024 };

/* Offsets from the frame's begin, of what has no options. */
enum { ARP = 14, ARP_END = ARP + 28, IPV6 = 14, ICMP = IPV6 + 40, ND_END = ICMP + 24 };
enum { ARP_REQUEST = 1, ARP_REPLY = 2 };
enum { SOLICITATION = 135, ADVERTISEMENT = 136 };
enum { SOURCE_ADDRESS = 1, TARGET_ADDRESS = 2 }; /* RFC 4861, 4.6.1 */
enum { ROUTER = 0x80, SOLICITED = 0x40, OVERRIDE = 0x20 };

struct neighbour {
	uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d */
	uint8_t mac[6];
	bool router, known;
	uint32_t seen; /* seconds */
};

struct vxlan_neighbours {
	pthread_mutex_t lock;
	uint64_t key;
	uint32_t age;
	struct neighbour places[SETS * WAYS];
};

struct vxlan_neighbours *vxlan_neighbours_create(uint32_t age, uint64_t key)
{
	struct vxlan_neighbours *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	pthread_mutex_init(&t->lock, NULL);
	t->key = key | 1;
	t->age = age;
	return t;
}

void vxlan_neighbours_free(struct vxlan_neighbours *t)
{
	if (!t)
		return;
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* ---- the table: the lock is held ---- */

static struct neighbour *set_of(struct vxlan_neighbours *t, const uint8_t *ip)
{
	uint64_t mixed = t->key;

	for (unsigned i = 0; i < 16; i += 8) {
		mixed = (mixed ^ load_be64(ip + i)) * 0x9e3779b97f4a7c15ull;
		mixed = (mixed ^ mixed >> 29) * t->key;
	}
	return &t->places[(mixed >> 40) % SETS * WAYS];
}

static struct neighbour *find(struct vxlan_neighbours *t, const uint8_t *ip, uint32_t now)
{
	struct neighbour *set = set_of(t, ip);

	for (unsigned i = 0; i < WAYS; i++)
		if (set[i].known && !memcmp(set[i].ip, ip, 16) && now - set[i].seen < t->age)
			return &set[i];
	return NULL;
}

/* The place of an address, or else the one to give up for it. */
static struct neighbour *place_for(struct vxlan_neighbours *t, const uint8_t *ip, uint32_t now)
{
	struct neighbour *set = set_of(t, ip), *oldest = set;

	for (unsigned i = 0; i < WAYS; i++) {
		if (set[i].known && !memcmp(set[i].ip, ip, 16))
			return &set[i];
		if (oldest->known && (!set[i].known || now - set[i].seen > now - oldest->seen))
			oldest = &set[i];
	}
	return oldest;
}

/* ---- messages ---- */

/* What a message says of its sender, and what it asks. */
struct message {
	bool says, asks, router;
	uint8_t ip[16], mac[6]; /* says */
	uint8_t target[16];     /* asks */
};

static void map_ipv4(uint8_t *to, const uint8_t *ip)
{
	memset(to, 0, 10);
	memset(to + 10, 0xff, 2);
	memcpy(to + 12, ip, 4);
}

static bool is_host(const uint8_t *mac)
{
	static const uint8_t none[6];

	return !(mac[0] & 1) && memcmp(mac, none, 6);
}

/* RFC 826; a request with a sender of zero is a probe, one for the sender's own address an
 * announcement (RFC 5227, 1.1): both must be heard by all. */
static void read_arp(const uint8_t *frame, size_t n, struct message *m)
{
	static const uint8_t ethernet_ipv4[6] = { 0, 1, 8, 0, 6, 4 };
	const uint8_t *arp = frame + ARP;
	uint16_t operation;

	if (n < ARP_END || memcmp(arp, ethernet_ipv4, 6))
		return;
	operation = load_be16(arp + 6);
	if (operation != ARP_REQUEST && operation != ARP_REPLY)
		return;
	memcpy(m->mac, arp + 8, 6);
	map_ipv4(m->ip, arp + 14);
	map_ipv4(m->target, arp + 24);
	m->says = is_host(m->mac) && load_be32(arp + 14) && !IN_MULTICAST(load_be32(arp + 14));
	m->asks = operation == ARP_REQUEST && m->says && memcmp(arp + 14, arp + 24, 4);
}

/* RFC 4861, 7.1: what makes a message valid. */
static bool nd_is_valid(const uint8_t *frame, size_t n, size_t *length)
{
	const uint8_t *ip = frame + IPV6;
	uint8_t rest[8] = { 0 };
	uint64_t sum;

	if (n < ND_END || ip[0] >> 4 != 6 || ip[6] != IPPROTO_ICMPV6 || ip[7] != 255)
		return false;
	*length = load_be16(ip + 4);
	if (*length < ND_END - ICMP || *length > n - ICMP || frame[ICMP + 1])
		return false;
	store_be32(rest, *length);
	rest[7] = IPPROTO_ICMPV6;
	sum = frame_sum(rest, sizeof(rest), frame_sum(ip + 8, 32, 0));
	return frame_sum_fold(frame_sum(frame + ICMP, *length, sum)) == 0xffff;
}

/* The link-layer address in a message's options, or NULL; an option of length 0 makes the whole
 * invalid (RFC 4861, 4.6).  Each turn goes on by 8 bytes or more. */
static const uint8_t *nd_option(const uint8_t *icmp, size_t length, uint8_t type)
{
	const uint8_t *found = NULL;
	size_t at = ND_END - ICMP;

	while (at + 8 <= length) {
		size_t size = icmp[at + 1] * 8u;

		if (!size || size > length - at)
			return NULL;
		if (icmp[at] == type && size == 8)
			found = icmp + at + 2;
		at += size;
	}
	return at == length ? found : NULL;
}

static void read_solicitation(const uint8_t *frame, size_t length, struct message *m)
{
	const uint8_t *mac = nd_option(frame + ICMP, length, SOURCE_ADDRESS);
	const uint8_t *source = frame + IPV6 + 8;
	static const uint8_t unspecified[16];

	if (!memcmp(source, unspecified, 16) || source[0] == 0xff)
		return;
	memcpy(m->target, frame + ICMP + 8, 16);
	m->asks = m->target[0] != 0xff;
	if (!mac || !is_host(mac))
		return;
	memcpy(m->ip, source, 16);
	memcpy(m->mac, mac, 6);
	m->says = true;
}

static void read_advertisement(const uint8_t *frame, size_t length, struct message *m)
{
	const uint8_t *mac = nd_option(frame + ICMP, length, TARGET_ADDRESS);

	if (!mac || !is_host(mac) || frame[ICMP + 8] == 0xff)
		return;
	memcpy(m->ip, frame + ICMP + 8, 16);
	memcpy(m->mac, mac, 6);
	m->router = frame[ICMP + 4] & ROUTER;
	m->says = true;
}

static void read_nd(const uint8_t *frame, size_t n, struct message *m)
{
	size_t length = 0;

	if (!nd_is_valid(frame, n, &length))
		return;
	if (frame[ICMP] == SOLICITATION)
		read_solicitation(frame, length, m);
	else if (frame[ICMP] == ADVERTISEMENT)
		read_advertisement(frame, length, m);
}

static struct message read_message(const uint8_t *frame, size_t n)
{
	uint16_t type = load_be16(frame + 12);
	struct message m = { 0 };

	if (unlikely(type == ETH_P_ARP))
		read_arp(frame, n, &m);
	else if (type == ETH_P_IPV6)
		read_nd(frame, n, &m);
	return m;
}

/* ---- hearing ---- */

void vxlan_neighbours_hear(struct vxlan_neighbours *t, const uint8_t *frame, size_t n, uint32_t now)
{
	struct message m = read_message(frame, n);
	struct neighbour *place;

	if (likely(!m.says))
		return;
	pthread_mutex_lock(&t->lock);
	place = place_for(t, m.ip, now);
	/* a solicitation does not say whether its sender is a router */
	if (place->known && !memcmp(place->ip, m.ip, 16) && m.asks)
		m.router = place->router;
	*place = (struct neighbour){ .router = m.router, .known = true, .seen = now };
	memcpy(place->ip, m.ip, 16);
	memcpy(place->mac, m.mac, 6);
	pthread_mutex_unlock(&t->lock);
}

/* ---- answers ---- */

static void put_ethernet(uint8_t *to, const uint8_t *question, const struct neighbour *from,
			 uint16_t type)
{
	memcpy(to, question + 6, 6);
	memcpy(to + 6, from->mac, 6);
	store_be16(to + 12, type);
}

static size_t put_arp_reply(uint8_t *to, const uint8_t *question, const struct neighbour *from)
{
	put_ethernet(to, question, from, ETH_P_ARP);
	memcpy(to + ARP, question + ARP, 6);
	store_be16(to + ARP + 6, ARP_REPLY);
	memcpy(to + ARP + 8, from->mac, 6);
	memcpy(to + ARP + 14, from->ip + 12, 4);
	memcpy(to + ARP + 18, question + ARP + 8, 10);
	return ARP_END;
}

/* RFC 4861, 4.4 and 7.2.4. */
static size_t put_advertisement(uint8_t *to, const uint8_t *question, const struct neighbour *from)
{
	static const uint8_t start[8] = { 0x60, 0, 0, 0, 0, 32, IPPROTO_ICMPV6, 255 };
	uint8_t *ip = to + IPV6, *icmp = to + ICMP, rest[8] = { [3] = 32, [7] = IPPROTO_ICMPV6 };
	uint16_t sum;

	put_ethernet(to, question, from, ETH_P_IPV6);
	memcpy(ip, start, 8);
	memcpy(ip + 8, from->ip, 16);
	memcpy(ip + 24, question + IPV6 + 8, 16);
	memset(icmp, 0, 32);
	icmp[0] = ADVERTISEMENT;
	icmp[4] = SOLICITED | OVERRIDE | (from->router ? ROUTER : 0);
	memcpy(icmp + 8, from->ip, 16);
	icmp[24] = TARGET_ADDRESS;
	icmp[25] = 1;
	memcpy(icmp + 26, from->mac, 6);
	sum = ~frame_sum_fold(frame_sum(icmp, 32, frame_sum(rest, 8, frame_sum(ip + 8, 32, 0))));
	memcpy(icmp + 2, &sum, 2);
	return ICMP + 32;
}

/* The lock is held. */
static size_t answer(struct vxlan_neighbours *t, const struct message *m, const uint8_t *frame,
		     uint32_t now, uint8_t *to)
{
	struct neighbour *own = m->says ? find(t, m->ip, now) : NULL;
	const struct neighbour *asked;

	if (own)
		own->known = false;
	asked = m->asks ? find(t, m->target, now) : NULL;
	if (!asked)
		return 0;
	if (load_be16(frame + 12) == ETH_P_ARP)
		return put_arp_reply(to, frame, asked);
	return put_advertisement(to, frame, asked);
}

size_t vxlan_neighbours_ask(struct vxlan_neighbours *t, const uint8_t *frame, size_t n,
			    uint32_t now, uint8_t *to)
{
	struct message m = read_message(frame, n);
	size_t length;

	if (likely(!m.says && !m.asks))
		return 0;
	/* one who asks its neighbour alone wants to know whether it is still there */
	m.asks &= frame[0] & 1;
	pthread_mutex_lock(&t->lock);
	length = answer(t, &m, frame, now, to);
	pthread_mutex_unlock(&t->lock);
	return length;
}
