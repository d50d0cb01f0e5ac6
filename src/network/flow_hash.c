/* flow_hash.c - the Toeplitz hash of a frame's flow. */
#include "network/flow_hash.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"

enum { IPV4_HEADER = 20, IPV6_HEADER = 40, TAGS_MAX = 2, EXTENSIONS_MAX = 8 };
enum { IPV4_FRAGMENT = 0x3fff };    /* offset, or more of them */
enum { HOME_ADDRESS_OPTION = 201 }; /* RFC 6275, 6.3 */
enum { ROUTING_TYPE_2 = 2 };        /* RFC 6275, 6.4 */

/* What a hash may be made of. */
struct flow {
	const uint8_t *source, *destination; /* NULL: not IP */
	size_t address;                      /* bytes of each */
	const uint8_t *ports;                /* both; NULL: none */
	uint8_t protocol;
	bool extended;                /* IPv6 with extension headers */
	const uint8_t *home, *routed; /* in those; NULL: none */
};

/* ---- Toeplitz ---- */

/* The 32 bits of the key from this one on. */
static uint32_t key_window(const uint8_t *key, unsigned bit)
{
	uint64_t word = (uint64_t)load_be32(key + bit / 8) << 8 | key[bit / 8 + 4];

	return word >> (8 - bit % 8);
}

void flow_hasher_set(struct flow_hasher *h, uint32_t types, const uint8_t *key)
{
	h->types = types & FLOW_HASH_TYPES;
	memset(h->sums, 0, sizeof(h->sums));
	for (unsigned half = 0; half < 2 * FLOW_HASH_INPUT; half++)
		for (unsigned value = 0; value < 16; value++)
			for (unsigned bit = 0; bit < 4; bit++)
				if (value & 8 >> bit)
					h->sums[half][value] ^= key_window(key, 4 * half + bit);
}

/* The input is hashed in pieces; *half says how far it is. */
static uint32_t add(const struct flow_hasher *h, unsigned *half, const uint8_t *bytes, size_t n)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		sum ^= h->sums[(*half)++][bytes[i] >> 4];
		sum ^= h->sums[(*half)++][bytes[i] & 15];
	}
	return sum;
}

/* ---- what is in a frame ---- */

static void find_ports(struct flow *f, const uint8_t *ip, size_t n, size_t at)
{
	if ((f->protocol == IPPROTO_TCP || f->protocol == IPPROTO_UDP) && range_fits(at, 4, n))
		f->ports = ip + at;
}

static void read_ipv4(struct flow *f, const uint8_t *ip, size_t n)
{
	if (n < IPV4_HEADER)
		return;
	f->source = ip + 12;
	f->destination = ip + 16;
	f->address = 4;
	f->protocol = ip[9];
	if (!(load_be16(ip + 6) & IPV4_FRAGMENT))
		find_ports(f, ip, n, (ip[0] & 15) * 4u);
}

/* RFC 8200, 4.6: options one behind the other; a single zero byte is padding. */
static void find_home(struct flow *f, const uint8_t *header, size_t n)
{
	for (size_t at = 2; range_fits(at, 2, n);) {
		if (header[at] == HOME_ADDRESS_OPTION && header[at + 1] == 16 &&
		    range_fits(at, 18, n))
			f->home = header + at + 2;
		at += header[at] ? 2u + header[at + 1] : 1;
	}
}

static void read_extension(struct flow *f, const uint8_t *header, size_t n)
{
	if (f->protocol == IPPROTO_DSTOPTS)
		find_home(f, header, n);
	if (f->protocol == IPPROTO_ROUTING && header[2] == ROUTING_TYPE_2 && n >= 24)
		f->routed = header + 8;
}

static bool is_extension(uint8_t protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_ROUTING;
}

/* Extension headers up to the one that ends them, or hides what follows. */
static void read_ipv6(struct flow *f, const uint8_t *ip, size_t n)
{
	size_t at = IPV6_HEADER;

	if (n < IPV6_HEADER)
		return;
	f->source = ip + 8;
	f->destination = ip + 24;
	f->address = 16;
	f->protocol = ip[6];
	for (unsigned i = 0; i < EXTENSIONS_MAX && is_extension(f->protocol); i++) {
		size_t size = range_fits(at, 8, n) ? (ip[at + 1] + 1u) * 8 : 0;

		if (!size || !range_fits(at, size, n))
			return;
		f->extended = true;
		read_extension(f, ip + at, size);
		f->protocol = ip[at];
		at += size;
	}
	f->extended |= f->protocol == IPPROTO_FRAGMENT;
	find_ports(f, ip, n, at);
}

static struct flow read_frame(const uint8_t *frame, size_t n)
{
	struct flow f = { 0 };
	size_t at = 12;
	uint16_t type;

	for (unsigned tags = 0; range_fits(at, 2, n); tags++) {
		type = load_be16(frame + at);
		if (tags == TAGS_MAX || (type != ETH_P_8021Q && type != ETH_P_8021AD))
			break;
		at += 4;
	}
	if (!range_fits(at, 2, n))
		return f;
	if (type == ETH_P_IP)
		read_ipv4(&f, frame + at + 2, n - at - 2);
	else if (type == ETH_P_IPV6)
		read_ipv6(&f, frame + at + 2, n - at - 2);
	return f;
}

/* ---- which hash ---- */

/* The first enabled of: with TCP's ports, with UDP's, of the addresses alone. */
static unsigned first_enabled(const struct flow_hasher *h, const struct flow *f, unsigned ip,
			      unsigned tcp, unsigned udp)
{
	if (f->ports && f->protocol == IPPROTO_TCP && h->types >> (tcp - 1) & 1)
		return tcp;
	if (f->ports && f->protocol == IPPROTO_UDP && h->types >> (udp - 1) & 1)
		return udp;
	return h->types >> (ip - 1) & 1 ? ip : VIRTIO_NET_HASH_REPORT_NONE;
}

/* VIRTIO_NET_HASH_REPORT_...; a type's bit is one lower than its report's number. */
static unsigned choose(const struct flow_hasher *h, const struct flow *f)
{
	unsigned report = VIRTIO_NET_HASH_REPORT_NONE;

	if (f->address == 4)
		return first_enabled(h, f, VIRTIO_NET_HASH_REPORT_IPv4,
				     VIRTIO_NET_HASH_REPORT_TCPv4, VIRTIO_NET_HASH_REPORT_UDPv4);
	if (f->address != 16)
		return report;
	if (f->extended)
		report = first_enabled(h, f, VIRTIO_NET_HASH_REPORT_IPv6_EX,
				       VIRTIO_NET_HASH_REPORT_TCPv6_EX,
				       VIRTIO_NET_HASH_REPORT_UDPv6_EX);
	if (report)
		return report;
	return first_enabled(h, f, VIRTIO_NET_HASH_REPORT_IPv6, VIRTIO_NET_HASH_REPORT_TCPv6,
			     VIRTIO_NET_HASH_REPORT_UDPv6);
}

static bool is_extended(unsigned report)
{
	return report >= VIRTIO_NET_HASH_REPORT_IPv6_EX;
}

static bool has_ports(unsigned report)
{
	return report % 3 != VIRTIO_NET_HASH_REPORT_IPv4 % 3;
}

unsigned flow_hash(const struct flow_hasher *h, const uint8_t *frame, size_t n, uint32_t *hash)
{
	struct flow f = read_frame(frame, n);
	unsigned report = choose(h, &f), half = 0;

	if (!report)
		return report;
	if (is_extended(report) && f.home)
		f.source = f.home;
	if (is_extended(report) && f.routed)
		f.destination = f.routed;
	*hash = add(h, &half, f.source, f.address);
	*hash ^= add(h, &half, f.destination, f.address);
	if (has_ports(report))
		*hash ^= add(h, &half, f.ports, 4);
	return report;
}
