/* sim_net_frame.c - frames: what is in one, and whether it may come as it comes.
 *
 * Behind the addresses, and a tag or the headers of UDP, the body: the flow, its number, then what
 * follows from the number.
 */
#include <linux/if_ether.h>
#include <string.h>

#include "base/bytes.h"
#include "network/flow_hash.h"
#include "sim_net.h"

enum { IP = 20, UDP = 8, BODY = 5 /* bytes */ };

/* ---- what is in one ---- */

/* To whom; every other one is UDP, and two are in VLANs. */
void flows_open(struct sim *s)
{
	static const uint8_t to[FLOWS][6] = {
		{ 2, 0, 0, 0, 0, 1 },          { 2, 0, 0, 0, 0, 1 },
		{ 2, 0, 0, 0, 0, 1 },          { 2, 0, 0, 0, 0, 1 },
		{ 2, 0, 0, 0, 0, 0x77 },       { 2, 0, 0, 0, 0, 0x77 },
		{ 2, 0, 0, 0, 0, 0x78 },       { 255, 255, 255, 255, 255, 255 },
		{ 0x33, 0x33, 0, 0, 0, 1 },    { 0x33, 0x33, 0, 0, 0, 2 },
		{ 0x33, 0x33, 0, 0x80, 0, 1 }, { 2, 0, 0, 0, 0, 1 },
	};

	for (unsigned i = 0; i < FLOWS; i++) {
		struct flow *f = &s->to_guest[i];

		memcpy(f->destination, to[i], 6);
		f->source = 0xe0 + i;
		f->number = i;
		f->udp = i % 2;
		f->vlan = i == 2 ? 5 : i == 3 ? 4095 : 0;
	}
	for (unsigned i = 0; i < PAIRS_MAX; i++) {
		struct flow *f = &s->from_guest[i];

		memcpy(f->destination, "\x02\0\0\0\0\xe0", 6);
		f->source = 1;
		f->number = i;
		f->udp = i % 2;
	}
}

/* Any, the least and the most more often than others. */
static size_t frame_length(const struct flow *f, uint32_t number)
{
	uint32_t mixed = (number * 16 + f->number) * 2654435761u >> 7;

	switch (mixed % 8) {
	case 0:
		return FRAME_MIN;
	case 1:
		return FRAME_MAX;
	default:
		return FRAME_MIN + mixed / 8 % (FRAME_MAX - FRAME_MIN + 1);
	}
}

/* RFC 1071, in the network's order. */
static uint16_t sum_of(const uint8_t *bytes, size_t n, uint32_t sum)
{
	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? bytes[i] : bytes[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Addresses and protocol, as UDP's checksum has them (RFC 768). */
static uint16_t pseudo_header(const uint8_t *ip, size_t datagram)
{
	return sum_of(ip + 12, 8, 17 + datagram);
}

static size_t write_udp(uint8_t *ip, const struct flow *f, uint32_t number, size_t n)
{
	memset(ip, 0, IP + UDP);
	ip[0] = 0x45;
	store_be16(ip + 2, n);
	store_be16(ip + 4, number);
	ip[8] = 64;
	ip[9] = 17;
	memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
	ip[15] = f->source;
	store_be16(ip + 10, ~sum_of(ip, IP, 0));
	store_be16(ip + IP, 1000 + f->number);
	store_be16(ip + IP + 2, 2000);
	store_be16(ip + IP + 4, n - IP);
	store_be16(ip + IP + 6, pseudo_header(ip, n - IP));
	return IP + UDP;
}

static size_t head_bytes(const struct flow *f)
{
	return f->vlan ? 18 : 14;
}

/* All but the checksum, of which only the pseudo-header is there. */
static size_t write_frame(uint8_t *to, const struct flow *f, uint32_t number)
{
	size_t n = frame_length(f, number), at = head_bytes(f);

	memcpy(to, f->destination, 6);
	memcpy(to + 6, "\x02\0\0\0\0", 5);
	to[11] = f->source;
	if (f->vlan) {
		store_be16(to + 12, ETH_P_8021Q);
		store_be16(to + 14, f->vlan);
	}
	store_be16(to + at - 2, f->udp ? ETH_P_IP : PLAIN);
	if (f->udp)
		at += write_udp(to + at, f, number, n - at);
	to[at] = f->number;
	store_be32(to + at + 1, number);
	for (size_t i = at + BODY; i < n; i++)
		to[i] = i * 7 + number * 13 + f->number;
	return n;
}

size_t frame_write_partial(uint8_t *to, const struct flow *f, uint32_t number,
			   struct virtio_net_hdr *header)
{
	*header = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
					   .csum_start = htole16(head_bytes(f) + IP),
					   .csum_offset = htole16(6) };
	return write_frame(to, f, number);
}

/* From `start` to the end; 0 would be no checksum at all (RFC 768). */
static void finish(uint8_t *bytes, size_t n, size_t start, size_t offset)
{
	uint16_t sum = ~sum_of(bytes + start, n - start, 0);

	store_be16(bytes + start + offset, sum ? sum : 0xffff);
}

size_t frame_write(uint8_t *to, const struct flow *f, uint32_t number)
{
	size_t n = write_frame(to, f, number);

	if (f->udp)
		finish(to, n, head_bytes(f) + IP, 6);
	return n;
}

/* ---- those on their way to the guest ---- */

static uint8_t marks_of(const struct model *m, const struct flow *f)
{
	return (model_passes(m, f) ? MAY_PASS : 0) |
	       (m->offloads >> VIRTIO_NET_F_GUEST_CSUM & 1 ? MAY_LACK_CHECKSUM : 0);
}

void frame_sent(struct sim *s, struct flow *f)
{
	if (f->sent >= NUMBERS)
		fail(s, "more frames than the simulation has numbers for");
	f->marks[f->sent] = marks_of(&s->model, f);
	for (unsigned i = 0; i < s->command_count; i++)
		f->marks[f->sent] |= marks_of(&s->commands[(s->first_command + i) % COMMANDS].after,
					      f);
}

void frames_mark(struct sim *s, const struct model *m)
{
	for (unsigned i = 0; i < FLOWS; i++)
		for (uint32_t n = 1; n <= s->to_guest[i].sent; n++)
			s->to_guest[i].marks[n] |= marks_of(m, &s->to_guest[i]);
}

void frames_mix(struct sim *s, bool done)
{
	for (unsigned i = 0; i < FLOWS; i++)
		s->to_guest[i].mixed_until = done ? s->to_guest[i].sent : UINT32_MAX;
}

/* ---- those that come ---- */

/* Where the body begins; 0: it is no frame of ours. */
static size_t find_body(const uint8_t *bytes, size_t n)
{
	size_t at = 14;

	if (n < FRAME_MIN)
		return 0;
	if (load_be16(bytes + 12) == ETH_P_8021Q)
		at = 18;
	if (load_be16(bytes + at - 2) == ETH_P_IP)
		return at + IP + UDP;
	return load_be16(bytes + at - 2) == PLAIN ? at : 0;
}

struct flow *frame_check(struct sim *s, struct flow *flows, unsigned count, const uint8_t *bytes,
			 size_t n)
{
	size_t body = find_body(bytes, n);
	struct flow *f = body && bytes[body] < count ? &flows[bytes[body]] : NULL;
	uint32_t number = f ? load_be32(bytes + body + 1) : 0;
	uint8_t wanted[ROOM];

	if (!f)
		fail(s, "a frame of nobody's");
	if (!number || number > f->sent)
		fail(s, "a frame that was not sent");
	if (f->marks[number] & SEEN)
		fail(s, "a frame comes twice");
	if (number < f->come && number > f->mixed_until)
		fail(s, "a frame comes late");
	if (n != frame_write(wanted, f, number) || memcmp(wanted, bytes, n))
		fail(s, "a frame was changed");
	f->marks[number] |= SEEN;
	f->come = number;
	return f;
}

/* ---- what the device says of one ---- */

static unsigned hash_of(const struct sim *s, const struct flow *f, uint32_t *hash)
{
	struct flow_hasher hasher;
	uint8_t frame[ROOM];
	uint32_t types = s->model.hash_types;
	bool with_ports = types & VIRTIO_NET_RSS_HASH_TYPE_UDPv4;
	size_t n = frame_write(frame, f, f->come);

	*hash = 0;
	if (!f->udp || !(types & (VIRTIO_NET_RSS_HASH_TYPE_UDPv4 | VIRTIO_NET_RSS_HASH_TYPE_IPv4)))
		return VIRTIO_NET_HASH_REPORT_NONE;
	flow_hasher_set(&hasher,
			with_ports ? VIRTIO_NET_RSS_HASH_TYPE_UDPv4 : VIRTIO_NET_RSS_HASH_TYPE_IPv4,
			s->model.key);
	flow_hash(&hasher, frame, n, hash);
	return with_ports ? VIRTIO_NET_HASH_REPORT_UDPv4 : VIRTIO_NET_HASH_REPORT_IPv4;
}

/* The queue, and the hash, of a frame that was sent after the last change of either. */
static void check_steering(struct sim *s, const struct flow *f, unsigned pair,
			   const uint8_t *header)
{
	const struct model *m = &s->model;
	uint32_t hash;
	unsigned report = hash_of(s, f, &hash);

	if (m->by_table && pair != (report ? m->table[hash & m->mask] : m->unclassified))
		fail(s, "a frame comes by another queue than the table's");
	if (!m->by_table && pair >= m->active)
		fail(s, "a frame comes by a queue that is not in use");
	if (model_accepted(m, VIRTIO_NET_F_HASH_REPORT) &&
	    (load_le16(header + 16) != report || load_le32(header + 12) != hash))
		fail(s, "a frame has another hash than it should");
}

/* What the header leaves to the driver; false: nothing. */
static bool finish_checksum(struct sim *s, const uint8_t *header, uint8_t *bytes, size_t n)
{
	unsigned start = load_le16(header + 6), offset = load_le16(header + 8);

	if (header[1] || (header[0] & ~VIRTIO_NET_HDR_F_NEEDS_CSUM))
		fail(s, "a header promises what was not sent");
	if (!header[0])
		return false;
	if (start + offset + 2 > n)
		fail(s, "a checksum outside of its frame");
	finish(bytes, n, start, offset);
	return true;
}

void frame_check_received(struct sim *s, unsigned pair, uint8_t *bytes, size_t n)
{
	unsigned head = model_header(&s->model);
	bool lacked = finish_checksum(s, bytes, bytes + head, n - head);
	struct flow *f = frame_check(s, s->to_guest, FLOWS, bytes + head, n - head);

	if (!(f->marks[f->come] & MAY_PASS))
		fail(s, "a frame passed a filter that forbids it");
	if (lacked && !(f->marks[f->come] & MAY_LACK_CHECKSUM))
		fail(s, "a checksum is left to a driver that did not ask for it");
	if (f->come > f->mixed_until)
		check_steering(s, f, pair, bytes);
	s->arrived++;
}
