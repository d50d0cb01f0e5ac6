/* frame_offload.c - checksums and segmentation in software. */
#include "network/frame_offload.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "network/network_port.h"

enum {
	KNOWN_FLAGS = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID |
		      VIRTIO_NET_HDR_F_RSC_INFO,
	GSO_UDP_L4 = 5, /* VIRTIO_NET_HDR_GSO_UDP_L4: younger than some kernels' headers */
};

enum { IPV4_HEADER = 20, IPV6_HEADER = 40, TCP_HEADER = 20, UDP_HEADER = 8, IPV6_FRAGMENT = 8 };
enum { IPV4_FRAGMENT = 0x3fff, IPV4_MORE = 0x2000 };
enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 128 };

static uint8_t gso_type(const struct virtio_net_hdr *h)
{
	return h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
}

static bool needs_checksum(const struct virtio_net_hdr *h)
{
	return h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
}

static bool gso_type_is_known(uint8_t type)
{
	return type == VIRTIO_NET_HDR_GSO_NONE || type == VIRTIO_NET_HDR_GSO_TCPV4 ||
	       type == VIRTIO_NET_HDR_GSO_UDP || type == VIRTIO_NET_HDR_GSO_TCPV6 ||
	       type == GSO_UDP_L4;
}

/* virtio 1.3, 5.1.6.2: what is to be segmented also lacks its checksum. */
int frame_header_check(const struct virtio_net_hdr *h, size_t bytes)
{
	uint32_t start = le16toh(h->csum_start), offset = le16toh(h->csum_offset);

	if (unlikely(bytes < NETWORK_HEADER || bytes > NETWORK_FRAME_MAX))
		return -EINVAL;
	if (likely(!h->flags && !h->gso_type))
		return 0;
	if ((h->flags & ~KNOWN_FLAGS) || !gso_type_is_known(gso_type(h)))
		return -EINVAL;
	if (needs_checksum(h) && (start < NETWORK_HEADER || start + offset + 2 > bytes))
		return -EINVAL;
	if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return 0;
	return needs_checksum(h) && h->gso_size && gso_type(h) ? 0 : -EINVAL;
}

unsigned frame_header_needs(const struct virtio_net_hdr *h)
{
	unsigned needs = needs_checksum(h) ? NETWORK_CHECKSUM : 0;

	if (h->gso_type & VIRTIO_NET_HDR_GSO_ECN)
		needs |= NETWORK_ECN;
	switch (gso_type(h)) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return needs | NETWORK_TSO4;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return needs | NETWORK_TSO6;
	case VIRTIO_NET_HDR_GSO_UDP:
		return needs | NETWORK_UFO;
	case GSO_UDP_L4: /* of either version: the header does not say */
		return needs | NETWORK_USO4 | NETWORK_USO6;
	default:
		return needs;
	}
}

/* ---- checksums ---- */

uint64_t frame_sum(const void *bytes, size_t n, uint64_t sum)
{
	const uint8_t *at = bytes;

	for (; n >= 4; n -= 4, at += 4) {
		uint32_t word;

		memcpy(&word, at, 4);
		sum += word;
	}
	if (n >= 2) {
		uint16_t half;

		memcpy(&half, at, 2);
		sum += half;
		at += 2;
		n -= 2;
	}
	if (n) {
		uint8_t last[2] = { *at, 0 };
		uint16_t half;

		memcpy(&half, last, 2);
		sum += half;
	}
	return sum;
}

uint16_t frame_sum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum over what is there, the field included, goes into the field, inverted.  A UDP checksum of
 * zero would mean "none" (RFC 768); what stands for it is equal in one's complement, and as good
 * for every other protocol. */
static void put_checksum(uint8_t *field, uint64_t sum)
{
	uint16_t value = ~frame_sum_fold(sum);

	if (!value)
		value = 0xffff;
	memcpy(field, &value, 2);
}

void frame_finish_checksum(uint8_t *bytes, size_t length, const struct virtio_net_hdr *h)
{
	size_t start = le16toh(h->csum_start);
	uint8_t *field = bytes + start + le16toh(h->csum_offset);

	put_checksum(field, frame_sum(bytes + start, length - start, 0));
}

/* Of a whole TCP segment or UDP datagram, whose own field is overwritten. */
static void transport_checksum(uint8_t *ip, uint8_t *transport, size_t n, uint8_t protocol)
{
	bool v6 = ip[0] >> 4 == 6;
	uint8_t *field = transport + (protocol == IPPROTO_TCP ? 16 : 6);
	uint64_t sum = v6 ? frame_sum(ip + 8, 32, 0) : frame_sum(ip + 12, 8, 0);
	uint8_t rest[8] = { 0 };

	store_be32(rest, n);
	rest[7] = protocol;
	memset(field, 0, 2);
	put_checksum(field, frame_sum(transport, n, frame_sum(rest, sizeof(rest), sum)));
}

/* ---- segments ---- */

static size_t network_offset(const uint8_t *bytes, size_t length, uint16_t *type)
{
	size_t at = 12;

	for (unsigned tags = 0; tags < 3 && at + 2 <= length; tags++, at += 4) {
		*type = load_be16(bytes + at);
		if (*type != ETH_P_8021Q && *type != ETH_P_8021AD)
			return at + 2;
	}
	return length;
}

/* The protocol behind an IPv4 header that reaches to the segment's; -1: it does not, or the packet
 * is a fragment. */
static int ipv4_protocol(const struct frame_segments *s)
{
	const uint8_t *ip = s->bytes + s->network;

	if (s->transport < s->network + IPV4_HEADER || ip[0] >> 4 != 4 ||
	    (ip[0] & 15) * 4u != s->transport - s->network || load_be16(ip + 6) & IPV4_FRAGMENT)
		return -1;
	return ip[9];
}

/* The same for IPv6 with its extension headers (RFC 8200, 4), each of at least eight bytes. */
static int ipv6_protocol(const struct frame_segments *s)
{
	size_t at = s->network + IPV6_HEADER;
	uint8_t next;

	if (s->transport < at || s->bytes[s->network] >> 4 != 6)
		return -1;
	next = s->bytes[s->network + 6];
	while (at + 8 <= s->transport &&
	       (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS)) {
		next = s->bytes[at];
		at += s->bytes[at + 1] * 8 + 8;
	}
	return at == s->transport ? next : -1;
}

static int find_tcp_payload(struct frame_segments *s)
{
	if (s->transport + TCP_HEADER > s->length)
		return -EINVAL;
	s->payload = s->transport + (s->bytes[s->transport + 12] >> 4) * 4u;
	return s->payload < s->transport + TCP_HEADER ? -EINVAL : 0;
}

static bool is_udp(const struct frame_segments *s)
{
	return s->type == VIRTIO_NET_HDR_GSO_UDP || s->type == GSO_UDP_L4;
}

/* The network's header, which has to agree with the type of segmentation. */
static int find_network(struct frame_segments *s)
{
	uint16_t type = 0;
	int protocol;

	s->network = network_offset(s->bytes, s->length, &type);
	if (s->transport > s->length || (type != ETH_P_IP && type != ETH_P_IPV6) ||
	    (s->type == VIRTIO_NET_HDR_GSO_TCPV4 && type != ETH_P_IP) ||
	    (s->type == VIRTIO_NET_HDR_GSO_TCPV6 && type != ETH_P_IPV6))
		return -EINVAL;
	/* Options between the two headers would have to go before the fragment's own. */
	if (type == ETH_P_IPV6 && s->type == VIRTIO_NET_HDR_GSO_UDP &&
	    s->transport != s->network + IPV6_HEADER)
		return -EINVAL;
	protocol = type == ETH_P_IP ? ipv4_protocol(s) : ipv6_protocol(s);
	return protocol == (is_udp(s) ? IPPROTO_UDP : IPPROTO_TCP) ? 0 : -EINVAL;
}

/* Whether a packet's length fits into its field: that of the largest segment, or of the datagram
 * that fragments are put together to. */
static bool lengths_fit(const struct frame_segments *s)
{
	size_t payload = s->length - s->payload, extra = 0;

	if (s->bytes[s->network] >> 4 == 6)
		extra = IPV6_HEADER; /* is not counted */
	if (s->type != VIRTIO_NET_HDR_GSO_UDP)
		payload = minimum_u64(payload, s->size);
	return s->payload - s->network + payload <= UINT16_MAX + extra;
}

/* Where the segments' payload begins, if all headers are there and agree with the header. */
static int find_headers(struct frame_segments *s)
{
	int status = find_network(s);

	if (status)
		return status;
	s->payload = s->transport + UDP_HEADER;
	if (!is_udp(s) && find_tcp_payload(s))
		return -EINVAL;
	return s->payload <= s->length && lengths_fit(s) ? 0 : -EINVAL;
}

int frame_segments_begin(struct frame_segments *s, uint8_t *bytes, size_t length,
			 const struct virtio_net_hdr *h)
{
	static uint32_t datagrams;

	*s = (struct frame_segments){ .bytes = bytes,
				      .length = length,
				      .type = gso_type(h),
				      .size = le16toh(h->gso_size),
				      .transport = le16toh(h->csum_start) };
	if (find_headers(s))
		return -EINVAL;
	if (s->type != VIRTIO_NET_HDR_GSO_UDP)
		return 0;
	/* Fragments: the datagram's header is part of what is cut, in multiples of eight, none so
	 * long that no length tells it together with IPv6's own header. */
	s->size = align_down(minimum_u64(s->size, UINT16_MAX - IPV6_FRAGMENT), 8);
	if (!s->size)
		return -EINVAL;
	frame_finish_checksum(bytes, length, h);
	s->payload = s->transport;
	s->datagram = __atomic_add_fetch(&datagrams, 1, __ATOMIC_RELAXED);
	return 0;
}

/* Lengths, identification and the header's own checksum, for which zero is a value as any. */
static void finish_ipv4(const struct frame_segments *s, uint8_t *ip, size_t bytes)
{
	uint16_t sum;

	store_be16(ip + 2, bytes);
	if (s->type != VIRTIO_NET_HDR_GSO_UDP)
		store_be16(ip + 4, load_be16(ip + 4) + s->count);
	memset(ip + 10, 0, 2);
	sum = ~frame_sum_fold(frame_sum(ip, s->transport - s->network, 0));
	memcpy(ip + 10, &sum, 2);
}

static void finish_network(const struct frame_segments *s, uint8_t *ip, size_t bytes)
{
	if (ip[0] >> 4 == 4)
		finish_ipv4(s, ip, bytes);
	else
		store_be16(ip + 4, bytes - IPV6_HEADER);
}

static void finish_tcp(const struct frame_segments *s, uint8_t *frame, size_t length, bool last)
{
	uint8_t *tcp = frame + s->transport;

	store_be32(tcp + 4, load_be32(tcp + 4) + s->at);
	if (!last)
		tcp[13] &= ~(TCP_FIN | TCP_PSH);
	if (s->count)
		tcp[13] &= ~TCP_CWR;
	transport_checksum(frame + s->network, tcp, length - s->transport, IPPROTO_TCP);
}

static void finish_udp(const struct frame_segments *s, uint8_t *frame, size_t length)
{
	uint8_t *udp = frame + s->transport;

	store_be16(udp + 4, length - s->transport);
	transport_checksum(frame + s->network, udp, length - s->transport, IPPROTO_UDP);
}

/* RFC 8200, 4.5: a header of its own, between the network's headers and the fragment. */
static size_t put_ipv6_fragment(const struct frame_segments *s, uint8_t *to, bool last)
{
	uint8_t *at = to + s->transport;

	memset(at, 0, IPV6_FRAGMENT);
	at[0] = to[s->network + 6];
	to[s->network + 6] = IPPROTO_FRAGMENT;
	store_be16(at + 2, s->at | !last);
	store_be32(at + 4, s->datagram);
	return IPV6_FRAGMENT;
}

static size_t put_fragment_place(const struct frame_segments *s, uint8_t *to, bool last)
{
	if (to[s->network] >> 4 == 6)
		return put_ipv6_fragment(s, to, last);
	store_be16(to + s->network + 6, s->at / 8 | (last ? 0 : IPV4_MORE));
	return 0;
}

size_t frame_segments_next(struct frame_segments *s, uint8_t *to)
{
	size_t left = s->length - s->payload - s->at, header = s->payload;
	size_t part = minimum_u64(left, s->size);
	bool last = part == left;

	if (s->count && !left)
		return 0;
	memcpy(to, s->bytes, s->payload);
	if (s->type == VIRTIO_NET_HDR_GSO_UDP && part != s->length - s->payload)
		header += put_fragment_place(s, to, last);
	memcpy(to + header, s->bytes + s->payload + s->at, part);
	finish_network(s, to + s->network, header + part - s->network);
	if (s->type == GSO_UDP_L4)
		finish_udp(s, to, header + part);
	else if (s->type != VIRTIO_NET_HDR_GSO_UDP)
		finish_tcp(s, to, header + part, last);
	s->at += part;
	s->count++;
	return header + part;
}
