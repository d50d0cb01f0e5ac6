/* If this fails, frames between a guest and a raw interface of the host are lost, changed, or come
 * back to their sender: by AF_PACKET. */
#include "packet_bed.h"

/* More than a batch, with a large frame in between that is not copied, and one of many pieces. */
static void keeps_the_order(void **state)
{
	struct bed *b = *state;

	namespace_set_mtu("left", 9000);
	namespace_set_mtu("right", 9000);
	bed_open(b, "", 1);
	for (unsigned i = 0; i < 100; i++) {
		frame_make(&sent, i % 50 == 20 ? 8000 : 100 + i, i);
		assert_int_equal(port_send(b, 0, &sent, i == 70 ? 100 : 1), 0);
	}
	network_flush(b->queues[0]);
	for (unsigned i = 0; i < 100; i++) {
		frame_make(&sent, i % 50 == 20 ? 8000 : 100 + i, i);
		wire_expect(b, &sent);
	}
}

/* The kernel refuses it, whoever asks: counted. */
static void refuses_what_is_longer_than_the_mtu(void **state)
{
	struct bed *b = *state;
	uint64_t before = counter_sum("packet", "net0", "sent_lost");

	bed_open(b, "", 1);
	frame_make(&sent, 3000, 1);
	assert_int_equal(port_send(b, 0, &sent, 1), -EMSGSIZE);
	frame_make(&sent, 1600, 1);
	assert_int_equal(port_send(b, 0, &sent, 1), 0);
	frame_make(&sent, 60, 1);
	assert_int_equal(port_send(b, 0, &sent, 1), 0);
	network_flush(b->queues[0]);
	wire_expect(b, &sent);
	assert_int_equal(counter_sum("packet", "net0", "sent_lost"), before + 1);
}

/* ---- VLAN tags ---- */

static void carries_vlan_tags(void **state)
{
	static const uint16_t types[] = { ETH_P_8021Q, ETH_P_8021AD };
	struct bed *b = *state;
	uint32_t tag;

	bed_open(b, "", 1);
	for (unsigned i = 0; i < ARRAY_LENGTH(types); i++) {
		frame_make_tagged(&sent, types[i], 0x6123);
		wire_send(b, &sent);
		port_expect(b, 0, &sent);
		assert_int_equal(port_send(b, 0, &sent, 1), 0);
		network_flush(b->queues[0]);
		assert_true(wire_receive(b, &come, &tag, 1000));
		assert_int_equal(tag, (uint32_t)types[i] << 16 | 0x6123);
		assert_int_equal(come.length, 196);
		assert_memory_equal(come.bytes, sent.bytes, 12);
		assert_memory_equal(come.bytes + 12, sent.bytes + 16, 184);
	}
}

/* ---- offloads ---- */

static void headers_equal(const struct virtio_net_hdr *got, const struct virtio_net_hdr *expected)
{
	assert_int_equal(got->flags, expected->flags);
	assert_int_equal(got->gso_type, expected->gso_type);
	assert_int_equal(got->gso_size, expected->gso_size);
	assert_int_equal(got->csum_start, expected->csum_start);
	assert_int_equal(got->csum_offset, expected->csum_offset);
}

static void port_expect_with_header(struct bed *b, const struct frame *f)
{
	struct network_frame got;

	assert_true(port_peek(b, 0, &got));
	headers_equal(&got.header, &f->header);
	assert_int_equal(got.length, f->length);
	assert_memory_equal(got.bytes, f->bytes, f->length);
	network_consume(b->queues[0]);
}

static void leaves_undone_what_is_undone(void **state)
{
	static const size_t sizes[] = { 60, 1000, 30000, 65000 };
	struct bed *b = *state;
	uint32_t tag;

	bed_open(b, "", 1);
	assert_int_equal(network_port_limits(b->port)->offloads & 31, 31);
	for (unsigned i = 0; i < ARRAY_LENGTH(sizes); i++) {
		frame_make_tcp(&sent, 14, sizes[i], 1000);
		if (sizes[i] > 1500)
			frame_segment(&sent, 14);
		wire_send(b, &sent);
		port_expect_with_header(b, &sent);
		assert_int_equal(port_send(b, 0, &sent, 3), 0);
		network_flush(b->queues[0]);
		assert_true(wire_receive(b, &come, &tag, 1000));
		headers_equal(&come.header, &sent.header);
		assert_int_equal(come.length, sent.length);
		assert_memory_equal(come.bytes, sent.bytes, sent.length);
	}
}

/* The kernel's offsets count without the tag, ours with it. */
static void shifts_the_header_behind_a_tag(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", 1);
	frame_make_tcp(&sent, 18, 20000, 1000);
	frame_segment(&sent, 18);
	store_be16(sent.bytes + 12, ETH_P_8021Q);
	store_be16(sent.bytes + 14, 42);
	wire_send(b, &sent);
	port_expect_with_header(b, &sent);
}

/* ---- queues ---- */

static void spreads_frames_over_active_queues(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", QUEUES);
	for (unsigned active = 1; active <= QUEUES; active++) {
		unsigned hits[QUEUES] = { 0 };

		network_port_set_active(b->port, active);
		for (unsigned i = 0; i < 64; i++) {
			int first;

			frame_make_tcp(&sent, 14, 100, i);
			wire_send(b, &sent);
			first = queue_of(b, &sent);
			assert_in_range(first, 0, active - 1);
			wire_send(b, &sent);
			assert_int_equal(queue_of(b, &sent), first);
			hits[first]++;
		}
		for (unsigned i = 0; i < active; i++)
			assert_in_range(hits[i], 64 / active / 4, 64);
	}
}

/* ---- refusals ---- */

static void says_what_is_wrong(void **state)
{
	struct bed *b = *state;

	refuse(b, "packet:nowhere", -ENODEV, "there is no interface of this name");
	refuse(b, "packet:", -EINVAL, "not the name of an interface");
	refuse(b, "packet:a-name-that-is-too-long", -EINVAL, "not the name of an interface");
	refuse(b, "packet:lo", -EINVAL, "not an Ethernet interface");
	refuse(b, "packet:left?queues=0", -EINVAL, "queues");
	refuse(b, "packet:left?queues=17", -EINVAL, "queues");
	refuse(b, "packet:left?promiscuous=2", -EINVAL, "promiscuous");
}

/* What comes from a veth may lack its checksum, which AF_XDP would not say. */
static void falls_back_to_sockets(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", 1);
	assert_int_equal(namespace_xdp("left"), 0);
	frame_make_tcp(&sent, 14, 60, 1000);
	wire_send(b, &sent);
	port_expect_with_header(b, &sent);
}

static void needs_a_privilege(void **state)
{
	struct bed *b = *state;

	if (seteuid(65534))
		skip(); /* in a user namespace, which has one user */
	refuse(b, "packet:left", -EPERM, "CAP_NET_RAW");
	assert_int_equal(seteuid(0), 0);
}

static void counts_what_the_guest_misses(void **state)
{
	struct bed *b = *state;

	uint64_t before = counter_sum("network", "net0", "come_lost_stopped");
	struct error e;

	assert_int_equal(bed_try(b, "packet:left?mode=packet", 1, &e), 0);
	wire_send_some(b, 0, 9);
	b->queues[0] = network_queue_open(b->port, 0, b->r, ready, &b->ready[0], &e);
	assert_non_null(b->queues[0]);
	assert_int_equal(counter_sum("network", "net0", "come_lost_stopped") - before, 9);
	for (unsigned i = 0; i < 3; i++)
		check_stop(b, 0);
}

/* A TAP interface: the kernel keeps what comes meanwhile, as many as its queue is long. */
static void a_tap_keeps_what_comes(void **state)
{
	struct bed *b = *state;
	struct error e;

	if (bed_try(b, "tap:tap0", 1, &e)) {
		print_message("no TAP here: %s\n", e.text);
		skip();
	}
	b->queues[0] = network_queue_open(b->port, 0, b->r, ready, &b->ready[0], &e);
	assert_non_null(b->queues[0]);
	close(b->wire);
	b->wire = wire_open("tap0");
	for (unsigned i = 0; i < 3; i++)
		check_stop(b, 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_EACH(packet),
		ON(packet, keeps_the_order),
		ON(packet, refuses_what_is_longer_than_the_mtu),
		ON(packet, carries_vlan_tags),
		ON(packet, counts_what_the_guest_misses),
		ON(tap, a_tap_keeps_what_comes),
		ON(packet, leaves_undone_what_is_undone),
		ON(packet, shifts_the_header_behind_a_tag),
		ON(packet, spreads_frames_over_active_queues),
		ON(auto, falls_back_to_sockets),
		ON(auto, says_what_is_wrong),
		ON(auto, needs_a_privilege),
	};

	namespace_enter();
	namespace_silence();
	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
