/* If this fails, frames of an overlay are lost, go to the wrong host, or come from a wrong one. */
#include "network/frame_offload.h"
#include "vxlan_bed.h"

/* ---- two ports ---- */

/* Both on 127.0.0.1 or ::1, at ports of their own; each the other's only peer. */
static void open_pair(struct bed *b, int family, unsigned queues, const char *more)
{
	const char *host = family == AF_INET ? "127.0.0.1" : "::1";
	const char *peer = family == AF_INET ? "127.0.0.1" : "[::1]";
	uint16_t here = free_port(family, host), there = free_port(family, host);
	char uri[256];

	snprintf(uri, sizeof(uri), "vxlan://%s:%u?vni=7&port=%u%s", peer, there, here, more);
	side_open(b, &b->a, queues, uri);
	snprintf(uri, sizeof(uri), "vxlan://%s:%u?vni=7&port=%u%s", peer, here, there, more);
	side_open(b, &b->b, queues, uri);
}

static void exchange(struct bed *b)
{
	side_send_new(&b->a, 60, mac_all, mac_a);
	bed_await_b(b, 1);
	assert_frame(&b->b, 0, 60, mac_all, mac_a);
	side_send_new(&b->b, 1514, mac_a, mac_b);
	bed_await_a(b, 1);
	assert_frame(&b->a, 0, 1514, mac_a, mac_b);
}

static void carries_frames_both_ways(void **state)
{
	open_pair(*state, AF_INET, 1, "");
	exchange(*state);
}

static void carries_frames_over_ipv6(void **state)
{
	open_pair(*state, AF_INET6, 1, "");
	exchange(*state);
}

static void carries_frames_without_checksums(void **state)
{
	open_pair(*state, AF_INET, 1, "&checksum=off");
	exchange(*state);
}

static void carries_frames_over_ipv6_without_checksums(void **state)
{
	open_pair(*state, AF_INET6, 1, "&checksum=off");
	exchange(*state);
}

/* Sizes that the kernel cuts and coalesces, mixed with such that it must not. */
static void keeps_order_and_size(void **state)
{
	static const unsigned sizes[] = { 60, 60, 60, 1514, 1514, 900, 1514, 14, 14, 9014 };
	struct bed *b = *state;

	open_pair(b, AF_INET, 1, "");
	for (unsigned i = 0; i < 100; i++) {
		static const struct virtio_net_hdr nothing_undone;
		uint8_t bytes[FRAME_BYTES];
		struct iovec iov = { bytes, sizes[i % ARRAY_LENGTH(sizes)] };

		frame_fill(bytes, iov.iov_len, mac_b, mac_a);
		assert_int_equal(
			network_send(b->a.queues[0], &nothing_undone, &iov, 1, iov.iov_len), 0);
	}
	network_flush(b->a.queues[0]);
	bed_await_b(b, 100);
	for (unsigned i = 0; i < 100; i++)
		assert_frame(&b->b, i, sizes[i % ARRAY_LENGTH(sizes)], mac_b, mac_a);
	assert_int_equal(side_counts(&b->a, "sent_datagrams"), 100);
	assert_true(side_counts(&b->a, "sent_calls") < 20);
}

static void serves_several_queues(void **state)
{
	struct bed *b = *state;

	open_pair(b, AF_INET, 4, "");
	for (unsigned i = 0; i < 64; i++) {
		uint8_t bytes[100], from[6] = { 2, 0, 0, 0, 1, i };

		frame_fill(bytes, sizeof(bytes), mac_b, from);
		side_send(&b->a, i % 4, bytes, sizeof(bytes));
	}
	bed_await_b(b, 64);
}

/* ---- one port, and peers by hand ---- */

struct hand {
	int fds[2];
	uint16_t ports[2], port;
};

/* Peers at 127.0.0.2 and 127.0.0.3, at the port's own UDP port, as on hosts of their own. */
static void open_hand(struct bed *b, struct hand *h, const char *options)
{
	char uri[256];

	h->port = free_port(AF_INET, "127.0.0.1");
	h->ports[0] = h->ports[1] = h->port;
	h->fds[0] = peer_open(AF_INET, "127.0.0.2", &h->ports[0]);
	h->fds[1] = peer_open(AF_INET, "127.0.0.3", &h->ports[1]);
	snprintf(uri, sizeof(uri),
		 "vxlan://127.0.0.2,127.0.0.3?vni=66051&local=127.0.0.1&port=%u%s", h->port,
		 options);
	side_open(b, &b->a, 1, uri);
}

static void close_hand(struct hand *h)
{
	close(h->fds[0]);
	close(h->fds[1]);
}

static bool hears(const struct hand *h, unsigned i, int ms)
{
	uint8_t bytes[2048];

	return peer_receive(h->fds[i], bytes, sizeof(bytes), NULL, ms) > 0;
}

/* RFC 7348, 5: flags 0x08, reserved bits zero, the VNI; a source port of the dynamic range. */
static void writes_the_header(void **state)
{
	static const uint8_t header[8] = { 8, 0, 0, 0, 1, 2, 3, 0 };
	struct bed *b = *state;
	uint8_t bytes[2048], frame[200];
	uint16_t from = 0;
	struct hand h;

	open_hand(b, &h, "");
	side_send_new(&b->a, sizeof(frame), mac_all, mac_a);
	frame_fill(frame, sizeof(frame), mac_all, mac_a);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(peer_receive(h.fds[i], bytes, sizeof(bytes), &from, 1000), 208);
		assert_memory_equal(bytes, header, 8);
		assert_memory_equal(bytes + 8, frame, sizeof(frame));
		assert_true(from >= 49152);
	}
	close_hand(&h);
}

/* One flow keeps its source port, many have several. */
static void spreads_flows_over_source_ports(void **state)
{
	struct bed *b = *state;
	uint16_t first = 0, from = 0, others = 0;
	uint8_t bytes[2048];
	struct hand h;

	open_hand(b, &h, "");
	for (unsigned i = 0; i < 40; i++) {
		uint8_t source[6] = { 2, 0, 0, 0, 2, i < 20 ? 0 : i };

		side_send_new(&b->a, 60, mac_all, source);
		assert_true(peer_receive(h.fds[0], bytes, sizeof(bytes), &from, 1000) > 0);
		if (!first)
			first = from;
		if (i < 20)
			assert_int_equal(from, first);
		others += from != first;
	}
	assert_true(others > 10);
	close_hand(&h);
}

static void teach(struct bed *b, struct hand *h, unsigned i, const uint8_t *mac)
{
	uint8_t frame[60];

	frame_fill(frame, sizeof(frame), mac_all, mac);
	peer_send_frame(h->fds[i], h->port, 66051, frame, sizeof(frame));
	bed_await_a(b, b->a.count + 1);
}

static void learns_who_is_where(void **state)
{
	struct bed *b = *state;
	struct hand h;

	open_hand(b, &h, "");
	teach(b, &h, 1, mac_b);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_true(hears(&h, 1, 1000));
	assert_false(hears(&h, 0, 50));
	/* moved */
	teach(b, &h, 0, mac_b);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_true(hears(&h, 0, 1000));
	assert_false(hears(&h, 1, 50));
	/* groups are always for all */
	side_send_new(&b->a, 60, mac_all, mac_a);
	assert_true(hears(&h, 0, 1000) && hears(&h, 1, 1000));
	close_hand(&h);
}

/* Also from peers that nobody has configured: answers go to the usual port. */
static void learns_of_unknown_peers(void **state)
{
	struct bed *b = *state;
	struct hand h;
	int other;

	open_hand(b, &h, "");
	other = peer_open(AF_INET, "127.0.0.4", &h.port);
	close(h.fds[0]);
	h.fds[0] = other;
	teach(b, &h, 0, mac_b);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_true(hears(&h, 0, 1000));
	assert_false(hears(&h, 1, 50));
	close_hand(&h);
}

static void learns_nothing_when_told_so(void **state)
{
	struct bed *b = *state;
	struct hand h;

	open_hand(b, &h, "&learning=off");
	teach(b, &h, 1, mac_b);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_true(hears(&h, 0, 1000) && hears(&h, 1, 1000));
	close_hand(&h);
}

static void forgets_with_time(void **state)
{
	struct bed *b = *state;
	struct hand h;

	open_hand(b, &h, "&ageing=1s");
	teach(b, &h, 1, mac_b);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_false(hears(&h, 0, 50));
	assert_true(hears(&h, 1, 1000));
	bed_pause(b, 2100000000);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_true(hears(&h, 0, 1000) && hears(&h, 1, 1000));
	close_hand(&h);
}

/* Dropped and counted; what is right still comes. */
static void drops_what_is_malformed(void **state)
{
	uint8_t bytes[8 + 60] = { 8, 0, 0, 0, 1, 2, 3, 0 };
	struct bed *b = *state;
	struct hand h;

	open_hand(b, &h, "");
	frame_fill(bytes + 8, 60, mac_a, mac_b);
	peer_send(h.fds[0], h.port, bytes, 0);
	peer_send(h.fds[0], h.port, bytes, 1);
	peer_send(h.fds[0], h.port, bytes, 8);
	peer_send(h.fds[0], h.port, bytes, 8 + 13);
	bytes[0] = 0;
	peer_send(h.fds[0], h.port, bytes, sizeof(bytes));
	bytes[0] = 8;
	bytes[6] = 4;
	peer_send(h.fds[0], h.port, bytes, sizeof(bytes));
	bytes[6] = 3;
	/* RFC 7348, 5: reserved, ignored on receipt */
	bytes[0] = 0xff;
	bytes[1] = bytes[2] = bytes[3] = bytes[7] = 0xff;
	peer_send(h.fds[0], h.port, bytes, sizeof(bytes));
	bed_await_a(b, 1);
	bed_pause(b, 20000000);
	assert_int_equal(b->a.count, 1);
	assert_int_equal(side_counts(&b->a, "come_malformed"), 5);
	assert_int_equal(side_counts(&b->a, "come_unknown_vni"), 1);
	close_hand(&h);
}

/* The receiver's memory is bounded, and the rest of the traffic goes on afterwards. */
static void survives_a_guest_that_takes_nothing(void **state)
{
	struct bed *b = *state;
	uint8_t frame[1400];
	struct hand h;

	open_hand(b, &h, "");
	b->a.idle = true;
	frame_fill(frame, sizeof(frame), mac_a, mac_b);
	for (unsigned i = 0; i < 3000; i++) {
		peer_send_frame(h.fds[0], h.port, 66051, frame, sizeof(frame));
		if (i % 50 == 0)
			bed_pause(b, 1000000);
	}
	assert_int_equal(b->a.count, 0);
	assert_true(side_counts(&b->a, "come_no_room") > 0);
	b->a.idle = false;
	side_ready(&b->a);
	do {
		b->a.count = 0;
		bed_pause(b, 100000000);
	} while (b->a.count);
	teach(b, &h, 1, mac_b);
	assert_frame(&b->a, 0, 60, mac_all, mac_b);
	close_hand(&h);
}

/* A flood of made-up senders fills tables of a fixed size, and no more. */
static void survives_a_flood_of_addresses(void **state)
{
	struct bed *b = *state;
	uint8_t frame[60], mac[6] = { 2 };
	struct hand h;

	open_hand(b, &h, "");
	for (unsigned i = 0; i < 20000; i++) {
		store_be32(mac + 2, i);
		frame_fill(frame, sizeof(frame), mac_all, mac);
		peer_send_frame(h.fds[0], h.port, 66051, frame, sizeof(frame));
		if (i % 100 == 0)
			bed_pause(b, 1);
	}
	bed_settle(b);
	teach(b, &h, 1, mac_b);
	side_send_new(&b->a, 60, mac_b, mac_a);
	assert_true(hears(&h, 1, 1000));
	assert_false(hears(&h, 0, 50));
	close_hand(&h);
}

/* ---- several ports at one UDP port ---- */

static void tells_segments_apart(void **state)
{
	struct bed *b = *state;
	uint8_t frame[60];
	struct hand h;
	char uri[256];

	open_hand(b, &h, "");
	snprintf(uri, sizeof(uri), "vxlan://127.0.0.2?vni=8&local=127.0.0.1&port=%u", h.port);
	side_open(b, &b->b, 2, uri);
	frame_fill(frame, sizeof(frame), mac_all, mac_b);
	for (unsigned i = 0; i < 20; i++) {
		uint16_t port = 0;
		int fd = peer_open(AF_INET, "127.0.0.2", &port);

		peer_send_frame(fd, h.port, 8, frame, sizeof(frame));
		peer_send_frame(fd, h.port, 66051, frame, sizeof(frame));
		peer_send_frame(fd, h.port, 9, frame, sizeof(frame));
		close(fd);
	}
	bed_await_a(b, 20);
	bed_await_b(b, 20);
	assert_int_equal(side_counts(&b->a, "come_unknown_vni") +
				 side_counts(&b->b, "come_unknown_vni"),
			 20);
	/* and what one of them leaves, the other still has */
	side_close(&b->b);
	bed_pause(b, 10000000); /* io_uring holds a closed socket until the end of the turn */
	teach(b, &h, 0, mac_b);
	close_hand(&h);
}

/* A guest that resets its device has its queues closed and opened again, maybe in one turn. */
static void opens_again_at_once(void **state)
{
	struct bed *b = *state;

	open_pair(b, AF_INET, 1, "");
	for (unsigned i = 0; i < 3; i++) {
		bed_pause(b, 10000000);
		network_queue_close(b->b.queues[0]);
		b->b.queue_count = 0;
		side_open_queues(&b->b, 1);
	}
	bed_pause(b, 10000000);
	exchange(b);
}

/* ---- neighbours ---- */

/* RFC 826, in a frame of 60 bytes. */
static size_t arp(uint8_t *to, uint16_t operation, const uint8_t *mac, uint32_t ip, uint32_t target)
{
	static const uint8_t kind[6] = { 0, 1, 8, 0, 6, 4 };

	memset(to, 0, 60);
	memcpy(to, mac_all, 6);
	memcpy(to + 6, mac, 6);
	store_be16(to + 12, 0x0806);
	memcpy(to + 14, kind, 6);
	store_be16(to + 20, operation);
	memcpy(to + 22, mac, 6);
	store_be32(to + 28, ip);
	store_be32(to + 38, target);
	return 60;
}

/* RFC 4861, 4.3: from fd00::<from> for fd00::<target>, with the sender's link-layer address. */
static size_t solicitation(uint8_t *to, const uint8_t *mac, uint8_t from, uint8_t target)
{
	static const uint8_t start[8] = { 0x60, 0, 0, 0, 0, 32, IPPROTO_ICMPV6, 255 };
	static const uint8_t group[6] = { 0x33, 0x33, 255, 0, 0, 1 };
	uint8_t *ip = to + 14, *icmp = ip + 40, rest[8] = { [3] = 32, [7] = IPPROTO_ICMPV6 };
	uint16_t sum;

	memset(to, 0, 86);
	memcpy(to, group, 6);
	memcpy(to + 6, mac, 6);
	store_be16(to + 12, 0x86dd);
	memcpy(ip, start, 8);
	ip[8] = from ? 0xfd : 0;
	ip[23] = from;
	ip[24] = 0xff;
	ip[39] = target;
	icmp[0] = 135;
	icmp[8] = 0xfd;
	icmp[23] = target;
	icmp[24] = icmp[25] = 1;
	memcpy(icmp + 26, mac, 6);
	sum = ~frame_sum_fold(frame_sum(icmp, 32, frame_sum(rest, 8, frame_sum(ip + 8, 32, 0))));
	memcpy(icmp + 2, &sum, 2);
	return 86;
}

static void hears_frame(struct bed *b, struct hand *h, const uint8_t *frame, size_t n)
{
	peer_send_frame(h->fds[0], h->port, 66051, frame, n);
	bed_await_a(b, b->a.count + 1);
}

static void answers_arp_for_others(void **state)
{
	struct bed *b = *state;
	const struct frame *answer = &b->a.frames[1];
	uint8_t frame[60];
	struct hand h;

	open_hand(b, &h, "&suppress=on");
	hears_frame(b, &h, frame, arp(frame, 1, mac_b, 0x0a00000b, 0x0a000063));
	side_send(&b->a, 0, frame, arp(frame, 1, mac_a, 0x0a00000a, 0x0a00000b));
	bed_await_a(b, 2);
	assert_int_equal(answer->length, 42);
	assert_memory_equal(answer->bytes, mac_a, 6);
	assert_memory_equal(answer->bytes + 6, mac_b, 6);
	assert_int_equal(load_be16(answer->bytes + 20), 2);
	assert_memory_equal(answer->bytes + 22, mac_b, 6);
	assert_int_equal(load_be32(answer->bytes + 28), 0x0a00000b);
	assert_memory_equal(answer->bytes + 32, mac_a, 6);
	assert_int_equal(load_be32(answer->bytes + 38), 0x0a00000a);
	assert_false(hears(&h, 0, 50));
	/* an address that nobody has heard of, a probe, and a question to the neighbour alone */
	side_send(&b->a, 0, frame, arp(frame, 1, mac_a, 0x0a00000a, 0x0a00000c));
	assert_true(hears(&h, 0, 1000));
	side_send(&b->a, 0, frame, arp(frame, 1, mac_a, 0, 0x0a00000b));
	assert_true(hears(&h, 0, 1000));
	arp(frame, 1, mac_a, 0x0a00000a, 0x0a00000b);
	memcpy(frame, mac_b, 6);
	side_send(&b->a, 0, frame, 60);
	assert_true(hears(&h, 0, 1000));
	/* the guest has taken the address itself */
	side_send(&b->a, 0, frame, arp(frame, 1, mac_a, 0x0a00000b, 0x0a00000b));
	assert_true(hears(&h, 0, 1000));
	side_send(&b->a, 0, frame, arp(frame, 1, mac_a, 0x0a00000a, 0x0a00000b));
	assert_true(hears(&h, 0, 1000));
	close_hand(&h);
}

static void answers_solicitations_for_others(void **state)
{
	struct bed *b = *state;
	const struct frame *answer = &b->a.frames[2];
	uint8_t frame[86], rest[8] = { [3] = 32, [7] = IPPROTO_ICMPV6 };
	struct hand h;

	open_hand(b, &h, "&suppress=on");
	hears_frame(b, &h, frame, solicitation(frame, mac_b, 0xb, 0x63));
	solicitation(frame, mac_b, 0xc, 0x63);
	frame[85] ^= 1; /* and so not valid */
	hears_frame(b, &h, frame, 86);
	side_send(&b->a, 0, frame, solicitation(frame, mac_a, 0xa, 0xb));
	bed_await_a(b, 3);
	assert_int_equal(answer->length, 86);
	assert_memory_equal(answer->bytes, mac_a, 6);
	assert_int_equal(answer->bytes[54], 136);
	assert_int_equal(answer->bytes[58], 0x60);
	assert_memory_equal(answer->bytes + 80, mac_b, 6);
	assert_memory_equal(answer->bytes + 38, frame + 22, 16);
	assert_int_equal(
		frame_sum_fold(frame_sum(answer->bytes + 54, 32,
					 frame_sum(rest, 8, frame_sum(answer->bytes + 22, 32, 0)))),
		0xffff);
	assert_false(hears(&h, 0, 50));
	side_send(&b->a, 0, frame, solicitation(frame, mac_a, 0xa, 0xc));
	assert_true(hears(&h, 0, 1000));
	side_send(&b->a, 0, frame, solicitation(frame, mac_a, 0, 0xb));
	assert_true(hears(&h, 0, 1000));
	close_hand(&h);
}

/* ---- URIs ---- */

static void refuses(struct bed *b, const char *uri, int code, const char *reason)
{
	struct error e = { 0 };

	assert_null(network_port_open("refused", uri, 1, b->reactor, &e));
	if (!strstr(e.text, reason))
		fail_msg("%s: \"%s\" lacks \"%s\"", uri, e.text, reason);
	assert_int_equal(e.code, code);
}

static void says_what_is_wrong_with_a_uri(void **state)
{
	struct bed *b = *state;

	refuses(b, "vxlan:?vni=1", -EINVAL, "without a peer");
	refuses(b, "vxlan://?vni=1", -EINVAL, "without a peer");
	refuses(b, "vxlan://10.0.0.1", -EINVAL, "option \"vni\" is missing");
	refuses(b, "vxlan://10.0.0.1?vni=16777216", -EINVAL, "not from 0 to 16777215");
	refuses(b, "vxlan://10.0.0.1?vni=x", -EINVAL, "option \"vni\"");
	refuses(b, "vxlan://10.0.0?vni=1", -EINVAL, "peer \"10.0.0\": not as");
	refuses(b, "vxlan://10.0.0.1,?vni=1", -EINVAL, "peer \"\": not as");
	refuses(b, "vxlan://10.0.0.1:0?vni=1", -EINVAL, "peer \"10.0.0.1:0\"");
	refuses(b, "vxlan://10.0.0.1:65536?vni=1", -EINVAL, "peer \"10.0.0.1:65536\"");
	refuses(b, "vxlan://0.0.0.0?vni=1", -EINVAL, "peer \"0.0.0.0\"");
	refuses(b, "vxlan://[fd00::1?vni=1", -EINVAL, "peer \"[fd00::1\"");
	refuses(b, "vxlan://[fd00::1]4789?vni=1", -EINVAL, "peer \"[fd00::1]4789\"");
	refuses(b, "vxlan://10.0.0.1,[fd00::1]?vni=1", -EINVAL, "IPv4 and IPv6");
	refuses(b, "vxlan://10.0.0.1?vni=1&port=0", -EINVAL, "option \"port\"");
	refuses(b, "vxlan://10.0.0.1?vni=1&ttl=256", -EINVAL, "option \"ttl\"");
	refuses(b, "vxlan://10.0.0.1?vni=1&mtu=67", -EINVAL, "option \"mtu\"");
	refuses(b, "vxlan://10.0.0.1?vni=1&ageing=0s", -EINVAL, "option \"ageing\"");
	refuses(b, "vxlan://10.0.0.1?vni=1&ageing=300", -EINVAL, "option \"ageing\"");
	refuses(b, "vxlan://10.0.0.1?vni=1&learning=maybe", -EINVAL, "option \"learning\"");
	refuses(b, "vxlan://10.0.0.1?vni=1&local=::1", -EINVAL, "not of the peers' kind");
	refuses(b, "vxlan://10.0.0.1?vni=1&local=239.1.1.1", -EINVAL, "no address of a host");
	refuses(b, "vxlan://10.0.0.1?vni=1&device=none0", -ENODEV, "no interface \"none0\"");
	refuses(b, "vxlan://239.1.1.1?vni=1", -EINVAL, "a group needs option");
	refuses(b, "vxlan://239.1.1.1,239.1.1.2?vni=1&device=lo", -EINVAL, "more than one group");
	refuses(b, "vxlan://127.0.0.1?vni=1&local=192.0.2.77", -EADDRNOTAVAIL, "no address of");
	refuses(b, "vxlan://127.0.0.1?vni=1&group=1", -EINVAL, "group");
}

/* A port listens at every address of the device, and has a socket that is bound to the group. */
static void joins_groups_of_a_device(void **state)
{
	static const struct {
		int family;
		const char *any, *group;
	} kinds[] = { { AF_INET, "0.0.0.0", "239.255.7.7" }, { AF_INET6, "::", "[ff15::77]" } };
	struct bed *b = *state;

	for (unsigned i = 0; i < ARRAY_LENGTH(kinds); i++) {
		uint16_t port = free_port(kinds[i].family, kinds[i].any);
		char uri[128];

		snprintf(uri, sizeof(uri), "vxlan://%s?vni=7&device=lo&port=%u", kinds[i].group,
			 port);
		side_open(b, &b->a, 2, uri);
		assert_int_equal(b->a.queue_count, 2);
		side_close(&b->a);
	}
}

static void refuses_what_is_taken(void **state)
{
	struct bed *b = *state;
	struct hand h;
	char uri[256];
	uint16_t port = 0;
	int fd;

	open_hand(b, &h, "");
	snprintf(uri, sizeof(uri), "vxlan://127.0.0.2?vni=66051&local=127.0.0.1&port=%u", h.port);
	refuses(b, uri, -EEXIST, "vni 66051 is port net");
	fd = peer_open(AF_INET, "127.0.0.1", &port);
	snprintf(uri, sizeof(uri), "vxlan://127.0.0.2?vni=1&local=127.0.0.1&port=%u", port);
	refuses(b, uri, -EADDRINUSE, "in use by another process");
	close(fd);
	close_hand(&h);
}

/* ---- what a guest leaves undone ---- */

static uint64_t segment_sum(const uint8_t *ip, size_t tcp_bytes)
{
	uint8_t rest[4] = { 0, IPPROTO_TCP };

	store_be16(rest + 2, tcp_bytes);
	return frame_sum(ip + 20, tcp_bytes, frame_sum(rest, 4, frame_sum(ip + 12, 8, 0)));
}

/* One TCP segment of IPv4 with its checksum begun over the pseudo header, as a guest leaves it. */
static size_t large_segment(uint8_t *to, size_t payload)
{
	uint8_t *ip = to + 14, *tcp = ip + 20, rest[4] = { 0, IPPROTO_TCP };
	uint16_t sum;

	frame_fill(to, 54 + payload, mac_b, mac_a);
	store_be16(to + 12, 0x0800);
	memset(ip, 0, 40);
	ip[0] = 0x45;
	store_be16(ip + 2, 40 + payload);
	ip[8] = 64;
	ip[9] = IPPROTO_TCP;
	store_be32(ip + 12, 0x0a000001);
	store_be32(ip + 16, 0x0a000002);
	store_be32(tcp + 4, 1000);
	tcp[12] = 5 << 4;
	store_be16(rest + 2, 20 + payload);
	sum = frame_sum_fold(frame_sum(rest, 4, frame_sum(ip + 12, 8, 0)));
	memcpy(tcp + 16, &sum, 2);
	return 54 + payload;
}

/* Cut here, sent in one call, and whole with their checksums at the other end. */
static void cuts_large_segments(void **state)
{
	static const struct virtio_net_hdr header = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						      .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
						      .hdr_len = 54,
						      .gso_size = 1400,
						      .csum_start = 34,
						      .csum_offset = 16 };
	uint8_t *bytes = calloc(1, 20000);
	struct iovec iov = { bytes, large_segment(bytes, 14100) };
	struct bed *b = *state;

	open_pair(b, AF_INET, 1, "");
	assert_int_equal(network_send(b->a.queues[0], &header, &iov, 1, iov.iov_len), 0);
	network_flush(b->a.queues[0]);
	bed_await_b(b, 11);
	assert_int_equal(side_counts(&b->a, "sent_calls"), 1);
	for (unsigned i = 0; i < 11; i++) {
		const struct frame *f = &b->b.frames[i];
		size_t payload = i < 10 ? 1400 : 100;

		assert_int_equal(f->length, 54 + payload);
		assert_int_equal(load_be32(f->bytes + 38), 1000 + i * 1400);
		assert_int_equal(frame_sum_fold(segment_sum(f->bytes + 14, 20 + payload)), 0xffff);
		assert_memory_equal(f->bytes + 54, bytes + 54 + i * 1400, payload);
	}
	free(bytes);
}

/* ---- what is too large ---- */

static void knows_the_largest_packet(void **state)
{
	struct bed *b = *state;

	open_pair(b, AF_INET, 1, "");
	/* of loopback: IP's own limit, 65535 */
	assert_int_equal(network_port_limits(b->a.port)->mtu, 65535 - 50);
	side_close(&b->a);
	side_close(&b->b);
	b->a.count = b->b.count = 0;
	open_pair(b, AF_INET6, 1, "&mtu=1500");
	assert_int_equal(network_port_limits(b->a.port)->mtu, 1500);
	refuses(b, "vxlan://127.0.0.1?vni=1&mtu=65500", -EMSGSIZE,
		"65500 and 50 bytes around it, but the way to the peers takes 65535");
}

static void counts_what_is_too_large(void **state)
{
	static const struct virtio_net_hdr nothing_undone;
	struct bed *b = *state;
	uint8_t *bytes = calloc(1, NETWORK_FRAME_MAX);
	struct iovec iov = { bytes, NETWORK_FRAME_MAX };

	open_pair(b, AF_INET, 1, "");
	memcpy(bytes, mac_b, 6);
	memcpy(bytes + 6, mac_a, 6);
	assert_int_equal(network_send(b->a.queues[0], &nothing_undone, &iov, 1, iov.iov_len), 0);
	network_flush(b->a.queues[0]);
	assert_int_equal(side_counts(&b->a, "sent_too_large"), 1);
	exchange(b);
	free(bytes);
}

/* Stopped for a migration: what waits is counted as lost, and does not come later. */
static void counts_what_waits_at_a_stop(void **state)
{
	struct bed *b = *state;

	open_pair(b, AF_INET, 1, "");
	b->b.idle = true;
	for (unsigned i = 0; i < 5; i++)
		side_send_new(&b->a, 60, mac_all, mac_a);
	bed_settle(b);
	for (unsigned i = 0; i < 2; i++) /* these wait in the kernel */
		side_send_new(&b->a, 60, mac_all, mac_a);
	network_queue_close(b->b.queues[--b->b.queue_count]);
	assert_int_equal(counter_sum("network", b->b.name, "come_lost_stopping"), 7);
	side_send_new(&b->a, 60, mac_all, mac_a); /* to nobody */
	b->b.idle = false;
	side_open_queues(&b->b, 1);
	bed_settle(b);
	assert_int_equal(b->b.count, 0);
	exchange(b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, bed_create, bed_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(counts_what_waits_at_a_stop),
		TEST(carries_frames_both_ways),
		TEST(carries_frames_over_ipv6),
		TEST(carries_frames_without_checksums),
		TEST(carries_frames_over_ipv6_without_checksums),
		TEST(keeps_order_and_size),
		TEST(serves_several_queues),
		TEST(writes_the_header),
		TEST(spreads_flows_over_source_ports),
		TEST(learns_who_is_where),
		TEST(learns_of_unknown_peers),
		TEST(learns_nothing_when_told_so),
		TEST(forgets_with_time),
		TEST(drops_what_is_malformed),
		TEST(survives_a_guest_that_takes_nothing),
		TEST(survives_a_flood_of_addresses),
		TEST(tells_segments_apart),
		TEST(opens_again_at_once),
		TEST(answers_arp_for_others),
		TEST(answers_solicitations_for_others),
		TEST(says_what_is_wrong_with_a_uri),
		TEST(joins_groups_of_a_device),
		TEST(refuses_what_is_taken),
		TEST(cuts_large_segments),
		TEST(knows_the_largest_packet),
		TEST(counts_what_is_too_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
