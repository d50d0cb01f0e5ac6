/* frame_bed.h - builds Ethernet frames from a description, and takes them apart again.
 *
 * Written from the RFCs in the plainest way, byte by byte, and shares nothing with frame_offload.c.
 */
#ifndef FRAME_BED_H
#define FRAME_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "network/network_port.h"

enum { BED_TCP = 6, BED_UDP = 17, BED_FRAGMENT = 44, GSO_UDP_L4 = 5 };
enum { FIN = 1, SYN = 2, PSH = 8, ACK = 16, ECE = 64, CWR = 128 };

/* What a frame is made from. */
struct recipe {
	unsigned tags;		/* 802.1Q tags, 0 to 2 */
	unsigned version;	/* 4 or 6 */
	unsigned ip_options;	/* bytes, a multiple of 4 (version 4) or 8 (6: one header) */
	unsigned protocol;
	unsigned tcp_options;	/* bytes, a multiple of 4 */
	uint8_t tcp_flags;
	uint16_t id;
	uint32_t sequence;
	unsigned payload;	/* bytes */
};

/* What was found in one. */
struct packet {
	size_t network, transport, payload, length;
	unsigned version, protocol;
	uint16_t id;
	bool more;
	unsigned place;		/* of a fragment, bytes */
	bool fragment;
	uint32_t datagram;
	uint32_t sequence;
	uint8_t tcp_flags;
};

static inline uint8_t payload_byte(size_t i)
{
	return i * 31 + (i >> 8) * 7 + 3;
}

/* ---- sums: RFC 1071, two bytes at a time ---- */

static inline uint16_t plain_sum(const uint8_t *bytes, size_t n, uint32_t sum)
{
	for (size_t i = 0; i < n; i++) {
		sum += i % 2 ? bytes[i] : bytes[i] << 8;
		if (sum > 0xffff)
			sum -= 0xffff;
	}
	return sum;
}

static inline uint16_t pseudo_sum(const uint8_t *ip, unsigned version, unsigned protocol, size_t n)
{
	uint8_t bytes[40] = { 0 };
	unsigned addresses = version == 4 ? 8 : 32;

	memcpy(bytes, ip + (version == 4 ? 12 : 8), addresses);
	store_be32(bytes + addresses, n);
	bytes[addresses + 7] = protocol;
	return plain_sum(bytes, addresses + 8, 0);
}

/* ---- building ---- */

static inline size_t put_ethernet(uint8_t *to, const struct recipe *r)
{
	size_t at = 12;

	memcpy(to, "\x02\0\0\0\0\x0b\x02\0\0\0\0\x0a", 12);
	for (unsigned i = 0; i < r->tags; i++, at += 4) {
		store_be16(to + at, i + 1 < r->tags ? 0x88a8 : 0x8100);
		store_be16(to + at + 2, 7 + i);
	}
	store_be16(to + at, r->version == 4 ? 0x0800 : 0x86dd);
	return at + 2;
}

static inline size_t put_ipv4(uint8_t *ip, const struct recipe *r, size_t content)
{
	size_t header = 20 + r->ip_options;

	memset(ip, 0, header);
	ip[0] = 0x40 | header / 4;
	ip[1] = 2;		/* ECN: ECT(0) */
	store_be16(ip + 2, header + content);
	store_be16(ip + 4, r->id);
	ip[6] = 0x40;		/* do not fragment */
	ip[8] = 64;
	ip[9] = r->protocol;
	memcpy(ip + 12, "\x0a\x01\x02\x03\x0a\x09\x08\x07", 8);
	memset(ip + 20, 1, r->ip_options);	/* no operation */
	store_be16(ip + 10, ~plain_sum(ip, header, 0));
	return header;
}

static inline size_t put_ipv6(uint8_t *ip, const struct recipe *r, size_t content)
{
	memset(ip, 0, 40 + r->ip_options);
	store_be32(ip, 0x60212345);
	store_be16(ip + 4, r->ip_options + content);
	ip[6] = r->ip_options ? 60 : r->protocol;	/* destination options */
	ip[7] = 64;
	for (unsigned i = 8; i < 40; i++)
		ip[i] = i * 5 + 1;
	if (r->ip_options) {
		ip[40] = r->protocol;
		ip[41] = r->ip_options / 8 - 1;
		ip[42] = 1;	/* PadN */
		ip[43] = r->ip_options - 4;
	}
	return 40 + r->ip_options;
}

static inline size_t transport_bytes(const struct recipe *r)
{
	return r->protocol == BED_TCP ? 20 + r->tcp_options : 8;
}

/* Its checksum is as NEEDS_CSUM wants it: the pseudo header's sum, not inverted. */
static inline size_t put_transport(uint8_t *to, const struct recipe *r, const uint8_t *ip)
{
	size_t header = transport_bytes(r), whole = header + r->payload;

	memset(to, 1, header);	/* options: no operation */
	store_be16(to, 40000);
	store_be16(to + 2, 443);
	if (r->protocol == BED_TCP) {
		store_be32(to + 4, r->sequence);
		to[12] = header / 4 << 4;
		to[13] = r->tcp_flags;
		store_be16(to + 16, pseudo_sum(ip, r->version, BED_TCP, whole));
	} else {
		store_be16(to + 4, whole);
		store_be16(to + 6, pseudo_sum(ip, r->version, BED_UDP, whole));
	}
	return header;
}

/* Stores a frame and fills in its header: checksum to be done, segmentation as asked for (0: none).
 * Returns the length. */
static inline size_t bake(const struct recipe *r, uint8_t *to, struct virtio_net_hdr *h,
			  uint8_t gso, unsigned size)
{
	size_t content = transport_bytes(r) + r->payload, at = put_ethernet(to, r), ip = at;

	at += r->version == 4 ? put_ipv4(to + at, r, content) : put_ipv6(to + at, r, content);
	*h = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				      .gso_type = gso,
				      .gso_size = htole16(size),
				      .csum_start = htole16(at),
				      .csum_offset = htole16(r->protocol == BED_TCP ? 16 : 6) };
	at += put_transport(to + at, r, to + ip);
	h->hdr_len = htole16(at);
	for (size_t i = 0; i < r->payload; i++)
		to[at + i] = payload_byte(i);
	return at + r->payload;
}

/* ---- taking apart ---- */

static inline size_t walk_ipv4(const uint8_t *bytes, struct packet *p)
{
	const uint8_t *ip = bytes + p->network;
	size_t header = (ip[0] & 15) * 4;

	assert_int_equal(ip[0] >> 4, 4);
	assert_int_equal(load_be16(ip + 2), p->length - p->network);
	assert_int_equal(plain_sum(ip, header, 0), 0xffff);
	p->id = load_be16(ip + 4);
	p->more = ip[6] & 0x20;
	p->place = (load_be16(ip + 6) & 0x1fff) * 8;
	p->fragment = p->more || p->place;
	p->protocol = ip[9];
	return p->network + header;
}

static inline size_t walk_ipv6(const uint8_t *bytes, struct packet *p)
{
	const uint8_t *ip = bytes + p->network;
	size_t at = p->network + 40;

	assert_int_equal(ip[0] >> 4, 6);
	assert_int_equal(load_be16(ip + 4), p->length - at);
	p->protocol = ip[6];
	if (p->protocol == 60) {
		p->protocol = bytes[at];
		at += bytes[at + 1] * 8 + 8;
	}
	if (p->protocol == BED_FRAGMENT) {
		p->fragment = true;
		p->protocol = bytes[at];
		assert_int_equal(bytes[at + 1], 0);
		p->more = bytes[at + 3] & 1;
		p->place = load_be16(bytes + at + 2) & 0xfff8;
		p->datagram = load_be32(bytes + at + 4);
		at += 8;
	}
	return at;
}

static inline void check_transport(const uint8_t *bytes, const struct packet *p)
{
	size_t n = p->length - p->transport;
	uint16_t pseudo = pseudo_sum(bytes + p->network, p->version, p->protocol, n);

	assert_int_equal(plain_sum(bytes + p->transport, n, pseudo), 0xffff);
	if (p->protocol != BED_UDP)
		return;
	assert_int_equal(load_be16(bytes + p->transport + 4), n);
	assert_int_not_equal(load_be16(bytes + p->transport + 6), 0);	/* RFC 768: none */
}

/* A frame as a receiver wants it: every length and checksum must be right.  Of a fragment all that
 * follows the network's headers is payload. */
static inline struct packet take_apart(const uint8_t *bytes, size_t length)
{
	struct packet p = { .length = length };
	size_t at = 12;

	while (load_be16(bytes + at) == 0x8100 || load_be16(bytes + at) == 0x88a8)
		at += 4;
	p.network = at + 2;
	p.version = load_be16(bytes + at) == 0x0800 ? 4 : 6;
	p.transport = p.version == 4 ? walk_ipv4(bytes, &p) : walk_ipv6(bytes, &p);
	p.payload = p.transport;
	if (p.fragment)
		return p;
	check_transport(bytes, &p);
	p.payload += p.protocol == BED_TCP ? (bytes[p.transport + 12] >> 4) * 4 : 8;
	if (p.protocol == BED_TCP) {
		p.sequence = load_be32(bytes + p.transport + 4);
		p.tcp_flags = bytes[p.transport + 13];
	}
	return p;
}

#endif
