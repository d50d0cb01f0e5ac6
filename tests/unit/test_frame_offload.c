/* If this fails, frames go out with wrong checksums or lengths, segments lack or repeat payload, or
 * a header that lies makes us read or write outside the frame. */
#include "frame_bed.h"

#include <errno.h>
#include <time.h>

#include "network/frame_offload.h"

/* At the end of their allocations, so that a sanitizer sees what runs over. */
struct area {
	uint8_t *frame, *piece;
	size_t length;
	struct virtio_net_hdr header;
};

static struct area area_of(const struct recipe *r, uint8_t gso, unsigned size)
{
	static uint8_t scratch[2 * NETWORK_FRAME_MAX];
	struct area a;

	a.length = bake(r, scratch, &a.header, gso, size);
	a.frame = malloc(a.length);
	a.piece = malloc(NETWORK_FRAME_MAX);
	memcpy(a.frame, scratch, a.length);
	return a;
}

static void area_free(struct area *a)
{
	free(a->frame);
	free(a->piece);
}

/* ---- checksums ---- */

static void sums_as_the_plain_way_does(void **state)
{
	uint8_t bytes[300];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = i * i + 200;
	for (unsigned n = 0; n <= sizeof(bytes); n++) {
		uint16_t sum = frame_sum_fold(frame_sum(bytes, n, 0));

		assert_int_equal(be16toh(sum), plain_sum(bytes, n, 0));
	}
	memset(bytes, 255, sizeof(bytes));
	assert_int_equal(frame_sum_fold(frame_sum(bytes, 300, 0)), 0xffff);
}

static void finishes_checksums(void **state)
{
	static const struct recipe recipes[] = {
		{ .version = 4, .protocol = BED_TCP, .payload = 1 },
		{ .version = 4, .protocol = BED_UDP, .payload = 1400, .ip_options = 40 },
		{ .version = 6, .protocol = BED_TCP, .payload = 1333, .tcp_options = 12 },
		{ .version = 6, .protocol = BED_UDP, .payload = 7, .ip_options = 16 },
		{ .version = 4, .protocol = BED_UDP, .payload = 0, .tags = 2 },
	};

	for (unsigned i = 0; i < ARRAY_LENGTH(recipes); i++) {
		struct area a = area_of(&recipes[i], 0, 0);
		struct packet p;

		assert_int_equal(frame_header_check(&a.header, a.length), 0);
		frame_finish_checksum(a.frame, a.length, &a.header);
		p = take_apart(a.frame, a.length);
		assert_int_equal(p.length - p.payload, recipes[i].payload);
		area_free(&a);
	}
}

/* RFC 768: a sum of zero is sent as all ones. */
static void a_udp_checksum_is_never_zero(void **state)
{
	struct recipe r = { .version = 4, .protocol = BED_UDP, .payload = 2 };
	struct area a = area_of(&r, 0, 0);
	uint8_t *udp = a.frame + 34;
	uint16_t sum;

	memset(udp + 8, 0, 2);
	sum = plain_sum(udp, 10, 0);
	store_be16(udp + 8, ~sum);
	frame_finish_checksum(a.frame, a.length, &a.header);
	assert_int_equal(load_be16(udp + 6), 0xffff);
	take_apart(a.frame, a.length);
	area_free(&a);
}

/* ---- segments ---- */

static uint8_t flags_wanted(uint8_t flags, bool first, bool last)
{
	flags &= last ? 255 : ~(FIN | PSH);
	return flags & (first ? 255 : ~CWR);
}

/* What is not a matter of lengths and places stays as it was. */
static void check_headers(const struct area *a, const struct packet *p, const struct packet *whole)
{
	const uint8_t *was = a->frame, *is = a->piece;

	assert_int_equal(p->network, whole->network);
	assert_memory_equal(was, is, p->network);
	assert_int_equal(p->version, whole->version);
	assert_int_equal(p->protocol, whole->protocol);
	if (p->version == 4) {
		assert_memory_equal(was + p->network, is + p->network, 2);
		assert_memory_equal(was + p->network + 8, is + p->network + 8, 2);
		assert_memory_equal(was + p->network + 12, is + p->network + 12,
				    p->transport - p->network - 12);
	} else {
		assert_memory_equal(was + p->network, is + p->network, 4);
		assert_memory_equal(was + p->network + 7, is + p->network + 7, 33);
	}
	if (!p->fragment)
		assert_memory_equal(was + whole->transport, is + p->transport, 4);
}

static void check_payload(const struct area *a, const struct packet *p, size_t at)
{
	for (size_t i = p->payload; i < p->length; i++)
		assert_int_equal(a->piece[i], payload_byte(at + i - p->payload));
}

static struct packet whole_of(const struct area *a, const struct recipe *r)
{
	struct packet whole = { .network = 14 + 4 * r->tags,
				.transport = le16toh(a->header.csum_start),
				.version = r->version,
				.protocol = r->protocol };

	return whole;
}

static void check_tcp(const struct area *a, const struct recipe *r, const struct packet *p,
		      size_t at, unsigned count)
{
	bool last = at + (p->length - p->payload) == r->payload;

	assert_int_equal(p->sequence, (uint32_t)(r->sequence + at));
	assert_int_equal(p->tcp_flags, flags_wanted(r->tcp_flags, !count, last));
	assert_memory_equal(a->frame + p->transport + 8, a->piece + p->transport + 8, 5);
	assert_memory_equal(a->frame + p->transport + 20, a->piece + p->transport + 20,
			    r->tcp_options);
}

/* Of TCP and of USO: whole packets.  Returns how many there were. */
static unsigned check_segments(const struct recipe *r, uint8_t gso, unsigned size)
{
	struct area a = area_of(r, gso, size);
	struct packet whole = whole_of(&a, r);
	struct frame_segments s;
	size_t at = 0, length;
	unsigned count = 0;

	assert_int_equal(frame_header_check(&a.header, a.length), 0);
	assert_int_equal(frame_segments_begin(&s, a.frame, a.length, &a.header), 0);
	while ((length = frame_segments_next(&s, a.piece)) > 0) {
		struct packet p = take_apart(a.piece, length);

		check_headers(&a, &p, &whole);
		check_payload(&a, &p, at);
		if (r->version == 4)
			assert_int_equal(p.id, (uint16_t)(r->id + count));
		if (r->protocol == BED_TCP)
			check_tcp(&a, r, &p, at, count);
		at += p.length - p.payload;
		count++;
		assert_true(at == r->payload || p.length - p.payload == size);
	}
	assert_int_equal(at, r->payload);
	assert_int_equal(frame_segments_next(&s, a.piece), 0);
	area_free(&a);
	return count;
}

static void cuts_tcp(void **state)
{
	struct recipe r = { .version = 4,
			    .protocol = BED_TCP,
			    .payload = 10 * 1448,
			    .tcp_options = 12,
			    .id = 0xfffb,
			    .sequence = 0xffffff00,
			    .tcp_flags = ACK | PSH | FIN };

	assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 1448), 10);
	r.payload--;
	assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 1448), 10);
	r.payload += 2;
	assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 1448), 11);
	r.payload = 0;
	assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 1448), 1);
	r.payload = 65535 - 20 - 32;
	check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 1);
	check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 65535 - 20 - 32);
	r.version = 6;
	r.payload = 65535 - 32;
	assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV6, 1428), 46);
	assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV6, 65535 - 32), 1);
}

static void cuts_behind_tags_and_options(void **state)
{
	for (unsigned tags = 0; tags <= 2; tags++)
		for (unsigned options = 0; options <= 40; options += 8) {
			struct recipe r = { .version = 4,
					    .protocol = BED_TCP,
					    .tags = tags,
					    .ip_options = options,
					    .tcp_options = 40 - options,
					    .tcp_flags = ACK | CWR | ECE | PSH,
					    .payload = 5001 };

			assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4, 1000), 6);
			r.version = 6;
			assert_int_equal(check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV6, 1000), 6);
		}
}

/* RFC 3168, 6.1.2: CWR once; the header may say that it is there. */
static void congestion_window_reduced_stays_with_the_first(void **state)
{
	struct recipe r = {
		.version = 4, .protocol = BED_TCP, .payload = 3000, .tcp_flags = ACK | CWR | PSH
	};

	check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 1000);
	r.version = 6;
	check_segments(&r, VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN, 1000);
}

static void cuts_udp_into_datagrams(void **state)
{
	struct recipe r = {
		.version = 4, .protocol = BED_UDP, .payload = 4001, .id = 9, .ip_options = 4
	};

	assert_int_equal(check_segments(&r, GSO_UDP_L4, 1000), 5);
	r.tags = 1;
	r.version = 6;
	r.ip_options = 8;
	assert_int_equal(check_segments(&r, GSO_UDP_L4, 1000), 5);
	assert_int_equal(check_segments(&r, GSO_UDP_L4, 4001), 1);
}

/* ---- fragments ---- */

/* Puts the datagram together again behind the first fragment's headers, and has it checked. */
static void check_datagram(const struct recipe *r, const uint8_t *datagram, size_t n)
{
	static uint8_t frame[NETWORK_FRAME_MAX];
	struct virtio_net_hdr h;
	struct packet p;
	size_t at;

	bake(r, frame, &h, 0, 0);
	at = le16toh(h.csum_start);
	memcpy(frame + at, datagram, n);
	p = take_apart(frame, at + n);
	assert_int_equal(p.length - p.payload, r->payload);
	for (size_t i = p.payload; i < p.length; i++)
		assert_int_equal(frame[i], payload_byte(i - p.payload));
}

static unsigned check_fragments(const struct recipe *r, unsigned size)
{
	static uint8_t datagram[NETWORK_FRAME_MAX];
	struct area a = area_of(r, VIRTIO_NET_HDR_GSO_UDP, size);
	struct packet whole = whole_of(&a, r), p = { .more = true };
	struct frame_segments s;
	size_t at = 0, length;
	unsigned count = 0;
	uint32_t id = 0;

	assert_int_equal(frame_segments_begin(&s, a.frame, a.length, &a.header), 0);
	while ((length = frame_segments_next(&s, a.piece)) > 0) {
		assert_true(p.more);
		p = take_apart(a.piece, length);
		assert_true(p.fragment);
		check_headers(&a, &p, &whole);
		id = count++ ? id : p.datagram;
		assert_int_equal(p.datagram, id);
		assert_int_equal(p.id, r->version == 4 ? r->id : 0);
		assert_int_equal(p.place, at);
		assert_true(p.length - p.payload <= size);
		memcpy(datagram + at, a.piece + p.payload, p.length - p.payload);
		at += p.length - p.payload;
	}
	assert_false(p.more);
	check_datagram(r, datagram, at);
	area_free(&a);
	return count;
}

static void cuts_udp_into_fragments(void **state)
{
	struct recipe r = { .version = 4, .protocol = BED_UDP, .payload = 8 * 1480 - 8, .id = 77 };

	assert_int_equal(check_fragments(&r, 1480), 8);
	assert_int_equal(check_fragments(&r, 1481), 8); /* multiples of eight */
	r.ip_options = 24;
	assert_int_equal(check_fragments(&r, 8), 1480);
	r.payload = 65535 - 20 - 24 - 8;
	check_fragments(&r, 1480);
	r.ip_options = 0;
	r.version = 6;
	r.tags = 1;
	r.payload = 8 * 1448 - 7;
	assert_int_equal(check_fragments(&r, 1448), 9);
	r.payload = 65535 - 8;
	check_fragments(&r, 1448);
	assert_int_equal(check_fragments(&r, 65528), 2); /* of which 65536 would not be told */
}

/* RFC 8021: an IPv6 fragment that is the whole datagram does only harm. */
static void what_fits_is_no_fragment(void **state)
{
	struct recipe r = { .version = 6, .protocol = BED_UDP, .payload = 1000 };

	for (; r.version >= 4; r.version -= 2) {
		struct area a = area_of(&r, VIRTIO_NET_HDR_GSO_UDP, 1448);
		struct frame_segments s;
		struct packet p;
		size_t n;

		assert_int_equal(frame_segments_begin(&s, a.frame, a.length, &a.header), 0);
		n = frame_segments_next(&s, a.piece);
		p = take_apart(a.piece, n);
		assert_false(p.fragment);
		assert_int_equal(n, a.length);
		assert_int_equal(frame_segments_next(&s, a.piece), 0);
		area_free(&a);
	}
}

/* ---- headers that lie ---- */

static void refuses_headers(void **state)
{
	static const struct virtio_net_hdr bad[] = {
		{ .flags = 0x80 },
		{ .flags = 8 },
		{ .gso_type = 2 },
		{ .gso_type = 0x7f },
		{ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000 }, /* no checksum */
		{ .flags = 1, .csum_start = 13, .csum_offset = 16 },
		{ .flags = 1, .csum_start = 0, .csum_offset = 16 },
		{ .flags = 1, .csum_start = 34, .csum_offset = 65 },
		{ .flags = 1, .csum_start = 99, .csum_offset = 0 },
		{ .flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff },
		{ .flags = 1, .csum_start = 34, .csum_offset = 16, .gso_type = 1 }, /* size 0 */
		{ .flags = 1,
		  .csum_start = 34,
		  .csum_offset = 16,
		  .gso_type = 0x80,
		  .gso_size = 9 },
	};
	struct virtio_net_hdr good = { .flags = 1, .csum_start = 34, .csum_offset = 64 };

	for (unsigned i = 0; i < ARRAY_LENGTH(bad); i++)
		assert_int_equal(frame_header_check(&bad[i], 100), -EINVAL);
	assert_int_equal(frame_header_check(&good, 100), 0);
	assert_int_equal(frame_header_check(&good, 99), -EINVAL);
	good = (struct virtio_net_hdr){ 0 };
	assert_int_equal(frame_header_check(&good, 14), 0);
	assert_int_equal(frame_header_check(&good, 13), -EINVAL);
	assert_int_equal(frame_header_check(&good, NETWORK_FRAME_MAX), 0);
	assert_int_equal(frame_header_check(&good, NETWORK_FRAME_MAX + 1), -EINVAL);
}

static void says_what_is_needed(void **state)
{
	static const struct {
		uint8_t gso;
		unsigned needs;
	} cases[] = {
		{ VIRTIO_NET_HDR_GSO_NONE, 0 },
		{ VIRTIO_NET_HDR_GSO_TCPV4, NETWORK_TSO4 },
		{ VIRTIO_NET_HDR_GSO_TCPV6, NETWORK_TSO6 },
		{ VIRTIO_NET_HDR_GSO_UDP, NETWORK_UFO },
		{ GSO_UDP_L4, NETWORK_USO4 | NETWORK_USO6 },
		{ VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, NETWORK_TSO4 | NETWORK_ECN },
	};
	struct virtio_net_hdr h = { 0 };

	assert_int_equal(frame_header_needs(&h), 0);
	h.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		h.gso_type = cases[i].gso;
		assert_int_equal(frame_header_needs(&h), NETWORK_CHECKSUM | cases[i].needs);
	}
}

static int begin(const struct area *a)
{
	struct frame_segments s;

	return frame_segments_begin(&s, a->frame, a->length, &a->header);
}

/* One byte of a good frame is made wrong at a time. */
static void refuse_change(const struct recipe *r, uint8_t gso, size_t at, uint8_t value)
{
	struct area a = area_of(r, gso, 1000);

	assert_int_equal(begin(&a), 0);
	a.frame[at] = value;
	if (begin(&a) != -EINVAL)
		fail_msg("byte %zu as %u is taken", at, value);
	area_free(&a);
}

static void refuses_frames_that_are_something_else(void **state)
{
	struct recipe tcp4 = { .version = 4, .protocol = BED_TCP, .payload = 3000 };
	struct recipe tcp6 = { .version = 6, .protocol = BED_TCP, .payload = 3000 };
	struct recipe udp4 = { .version = 4, .protocol = BED_UDP, .payload = 3000 };
	struct recipe udp6 = { .version = 6, .protocol = BED_UDP, .payload = 3000 };

	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 12, 0x09);    /* Ethernet's type */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 14, 0x65);    /* version */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 14, 0x46);    /* header's length */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 14, 0x40);    /* the same */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 23, BED_UDP); /* protocol */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 20, 0x20);    /* a fragment */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 21, 1);       /* a fragment */
	refuse_change(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 46, 4 << 4);  /* TCP's length */
	refuse_change(&tcp6, VIRTIO_NET_HDR_GSO_TCPV6, 14, 0x45);    /* version */
	refuse_change(&tcp6, VIRTIO_NET_HDR_GSO_TCPV6, 20, BED_UDP); /* protocol */
	refuse_change(&udp4, VIRTIO_NET_HDR_GSO_UDP, 23, BED_TCP);   /* protocol */
	refuse_change(&udp4, VIRTIO_NET_HDR_GSO_UDP, 20, 0x20);      /* a fragment */
	refuse_change(&udp6, VIRTIO_NET_HDR_GSO_UDP, 20, BED_TCP);   /* protocol */
	refuse_change(&udp4, GSO_UDP_L4, 23, BED_TCP);
	refuse_change(&udp6, GSO_UDP_L4, 20, BED_TCP);
}

static void refuse_header(const struct recipe *r, uint8_t gso, unsigned size, uint16_t start)
{
	struct area a = area_of(r, gso, size);

	if (start)
		a.header.csum_start = htole16(start);
	if (begin(&a) != -EINVAL)
		fail_msg("gso %u size %u start %u is taken", gso, size, start);
	area_free(&a);
}

static void refuses_what_does_not_add_up(void **state)
{
	struct recipe tcp4 = { .version = 4, .protocol = BED_TCP, .payload = 3000 };
	struct recipe tcp6 = { .version = 6, .protocol = BED_TCP, .payload = 3000 };
	struct recipe udp6 = { .version = 6, .protocol = BED_UDP, .payload = 3000 };
	struct recipe bare = { .version = 4, .protocol = BED_TCP };

	refuse_header(&tcp4, VIRTIO_NET_HDR_GSO_TCPV6, 1000, 0);
	refuse_header(&tcp6, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 0);
	refuse_header(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 33);
	refuse_header(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 35);
	refuse_header(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 14);
	refuse_header(&tcp6, VIRTIO_NET_HDR_GSO_TCPV6, 1000, 53);
	refuse_header(&bare, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 36); /* TCP's header past the end */
	refuse_header(&udp6, VIRTIO_NET_HDR_GSO_UDP, 7, 0);       /* less than fragments' unit */
	udp6.ip_options = 8;
	refuse_header(&udp6, VIRTIO_NET_HDR_GSO_UDP, 1000, 0); /* RFC 8200, 4.5: a chain */
	tcp4.tags = 3;
	refuse_header(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 0);
}

/* A TCP header that no chain of extension headers leads to. */
static void refuses_headers_that_nothing_leads_to(void **state)
{
	struct recipe tcp6 = {
		.version = 6, .protocol = BED_TCP, .payload = 3000, .ip_options = 8
	};
	struct area a = area_of(&tcp6, VIRTIO_NET_HDR_GSO_TCPV6, 1000);

	a.header.csum_start = htole16(14 + 40 + 8 + 100);
	a.frame[14 + 40 + 8 + 100 + 12] = 5 << 4;
	assert_int_equal(begin(&a), -EINVAL);
	a.header.csum_start = htole16(14 + 40);
	a.frame[14 + 40 + 12] = 5 << 4;
	assert_int_equal(begin(&a), -EINVAL);
	area_free(&a);
}

/* More than an IP packet can be: no length could be right. */
static void refuses_packets_that_cannot_be(void **state)
{
	struct recipe tcp4 = { .version = 4, .protocol = BED_TCP, .payload = 65535 - 40 + 1 };
	struct recipe udp4 = { .version = 4, .protocol = BED_UDP, .payload = 65535 - 28 + 1 };
	struct recipe udp6 = { .version = 6, .protocol = BED_UDP, .payload = 65535 - 8 + 1 };

	refuse_header(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 65535, 0);
	refuse_header(&udp4, GSO_UDP_L4, 65535, 0);
	refuse_header(&udp4, VIRTIO_NET_HDR_GSO_UDP, 1480, 0);
	refuse_header(&udp6, VIRTIO_NET_HDR_GSO_UDP, 1448, 0);
	refuse_header(&udp6, GSO_UDP_L4, 65535, 0);
	check_segments(&tcp4, VIRTIO_NET_HDR_GSO_TCPV4, 1460);
}

/* ---- by chance ---- */

static struct recipe random_recipe(unsigned *seed)
{
	struct recipe r = { .tags = rand_r(seed) % 3,
			    .version = rand_r(seed) % 2 ? 4 : 6,
			    .protocol = rand_r(seed) % 2 ? BED_TCP : BED_UDP,
			    .tcp_options = rand_r(seed) % 11 * 4,
			    .tcp_flags = rand_r(seed),
			    .id = rand_r(seed),
			    .sequence = rand_r(seed) * 7u,
			    .payload = rand_r(seed) % (rand_r(seed) % 8 ? 4000 : 65000) };

	r.ip_options = r.version == 4 ? rand_r(seed) % 11 * 4 : rand_r(seed) % 4 * 8;
	r.payload = minimum_u64(r.payload, 65535 - 60 - 60);
	return r;
}

static void cut_random(unsigned *seed)
{
	struct recipe r = random_recipe(seed);
	unsigned size = 1 + rand_r(seed) % 3000 + r.payload / 200;
	bool fragments = rand_r(seed) % 2;

	if (r.protocol == BED_TCP) {
		check_segments(&r,
			       r.version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6,
			       size);
	} else if (!fragments) {
		check_segments(&r, GSO_UDP_L4, size);
	} else if (r.payload + 8 > align_down(size, 8) && size >= 8) {
		r.ip_options = r.version == 4 ? r.ip_options : 0;
		check_fragments(&r, size);
	}
}

/* Whatever is in it: begin refuses, or next ends after as many segments as there are bytes. */
static void spoil_random(unsigned *seed)
{
	static const uint8_t types[] = { 1, 3, 4, 5, 0x81, 0x84 };
	struct recipe r = random_recipe(seed);
	struct area a = area_of(&r, types[rand_r(seed) % ARRAY_LENGTH(types)],
				1 + rand_r(seed) % 2000);
	struct frame_segments s;
	unsigned count = 0;

	for (unsigned i = 0; i < 3; i++)
		a.frame[rand_r(seed) % minimum_u64(a.length, 100)] = rand_r(seed);
	if (rand_r(seed) % 2)
		a.header.csum_start = htole16(rand_r(seed) % 120);
	if (!frame_header_check(&a.header, a.length) &&
	    !frame_segments_begin(&s, a.frame, a.length, &a.header))
		while (frame_segments_next(&s, a.piece))
			assert_true(count++ <= a.length);
	area_free(&a);
}

static void any_frame(void **state)
{
	const char *text = getenv("OUTBOARD_SEED");
	unsigned seed = text ? strtoul(text, NULL, 0) : (unsigned)time(NULL);

	print_message("OUTBOARD_SEED=%u\n", seed);
	for (unsigned i = 0; i < 3000; i++) {
		cut_random(&seed);
		spoil_random(&seed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_as_the_plain_way_does),
		cmocka_unit_test(finishes_checksums),
		cmocka_unit_test(a_udp_checksum_is_never_zero),
		cmocka_unit_test(cuts_tcp),
		cmocka_unit_test(cuts_behind_tags_and_options),
		cmocka_unit_test(congestion_window_reduced_stays_with_the_first),
		cmocka_unit_test(cuts_udp_into_datagrams),
		cmocka_unit_test(cuts_udp_into_fragments),
		cmocka_unit_test(what_fits_is_no_fragment),
		cmocka_unit_test(refuses_headers),
		cmocka_unit_test(says_what_is_needed),
		cmocka_unit_test(refuses_frames_that_are_something_else),
		cmocka_unit_test(refuses_what_does_not_add_up),
		cmocka_unit_test(refuses_headers_that_nothing_leads_to),
		cmocka_unit_test(refuses_packets_that_cannot_be),
		cmocka_unit_test(any_frame),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
