/* If this fails, frames between a guest and a raw interface of the host are lost, changed, or come
 * back to their sender: by AF_XDP. */
#include "packet_bed.h"

/* More than the kernel takes at one request, and than there are chunks. */
static void sends_many(void **state)
{
	enum { ROUNDS = 30, COUNT = 100 };
	struct bed *b = *state;

	bed_open(b, "", 1);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < COUNT; i++) {
			frame_make(&sent, 60 + i, i);
			assert_int_equal(port_send(b, 0, &sent, 1), 0);
		}
		network_flush(b->queues[0]);
		for (unsigned i = 0; i < COUNT; i++) {
			frame_make(&sent, 60 + i, i);
			wire_expect(b, &sent);
		}
	}
}

static void receives_many(void **state)
{
	enum { ROUNDS = 30, COUNT = 100 };
	struct bed *b = *state;

	bed_open(b, "", 1);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < COUNT; i++) {
			frame_make(&sent, 60 + i, i);
			wire_send(b, &sent);
		}
		for (unsigned i = 0; i < COUNT; i++) {
			frame_make(&sent, 60 + i, i);
			port_expect(b, 0, &sent);
		}
	}
}

static void carries_a_tag_inside(void **state)
{
	struct bed *b = *state;
	uint32_t tag;

	bed_open(b, "", 1);
	frame_make_tagged(&sent, ETH_P_8021Q, 42);
	wire_send(b, &sent);
	port_expect(b, 0, &sent);
	assert_int_equal(port_send(b, 0, &sent, 1), 0);
	network_flush(b->queues[0]);
	assert_true(wire_receive(b, &come, &tag, 1000));
	assert_int_equal(tag, (uint32_t)ETH_P_8021Q << 16 | 42);
}

static void refuses_what_is_longer_than_a_chunk(void **state)
{
	struct bed *b = *state;

	uint64_t before = counter_sum("network", "net0", "sent_dropped");

	bed_open(b, "", 1);
	frame_make(&sent, 1523, 1);
	assert_int_equal(port_send(b, 0, &sent, 1), -EMSGSIZE);
	assert_int_equal(counter_sum("network", "net0", "sent_dropped"), before + 1);
}

/* The kernel's own network does no segmentation here, so it is done before. */
static void does_in_software_what_is_undone(void **state)
{
	struct bed *b = *state;
	uint32_t tag;

	bed_open(b, "", 1);
	assert_int_equal(network_port_limits(b->port)->offloads, 0);
	frame_make_tcp(&sent, 14, 3000, 1000);
	frame_segment(&sent, 14);
	assert_int_equal(port_send(b, 0, &sent, 1), 0);
	network_flush(b->queues[0]);
	assert_true(wire_receive(b, &come, &tag, 1000));
	assert_int_equal(come.length, 54 + 1400);
	assert_true(wire_receive(b, &come, &tag, 1000));
	assert_true(wire_receive(b, &come, &tag, 1000));
	assert_int_equal(come.length, 3000 - 2 * 1400);
}

/* A channel that no active queue has is served by one that is. */
static void serves_all_channels_with_few_queues(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", QUEUES);
	for (unsigned turn = 0; turn < 3 * QUEUES; turn++) {
		unsigned active = turn % QUEUES + 1;

		set_active(b, active);
		for (unsigned i = 0; i < 40; i++) {
			frame_make_tcp(&sent, 14, 100, i);
			sent.header = (struct virtio_net_hdr){ 0 };
			wire_send(b, &sent);
			assert_in_range(queue_of(b, &sent), 0, active - 1);
		}
		for (unsigned i = 0; i < active; i++) {
			frame_make(&sent, 100, i);
			assert_int_equal(port_send(b, i, &sent, 1), 0);
			network_flush(b->queues[i]);
			wire_expect(b, &sent);
		}
	}
}

/* What the user has is his until he gives it back, and then the channel goes. */
static void keeps_a_channel_while_its_frame_is_used(void **state)
{
	struct bed *b = *state;
	struct network_frame got, other;
	int owner = -1;

	bed_open(b, "", QUEUES);
	set_active(b, QUEUES);
	for (unsigned i = 0; i < 200 && owner < 1; i++) {
		frame_make_tcp(&sent, 14, 100, i);
		sent.header = (struct virtio_net_hdr){ 0 };
		wire_send(b, &sent);
		owner = queue_of(b, &sent);
	}
	assert_in_range(owner, 1, QUEUES - 1);
	wire_send(b, &sent);
	assert_true(port_peek(b, owner, &got));
	set_active(b, 1);
	assert_int_equal(network_peek(b->queues[0], &other), 0);
	assert_memory_equal(got.bytes, sent.bytes, sent.length);
	assert_int_equal(network_peek(b->queues[owner], &got), 1);
	network_consume(b->queues[owner]);
	wire_send(b, &sent);
	assert_int_equal(queue_of(b, &sent), 0);
}

static void takes_away_its_program(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_xdp("left"), 0);
	bed_open(b, "", 1);
	assert_int_not_equal(namespace_xdp("left"), 0);
	bed_close(b);
	assert_int_equal(namespace_xdp("left"), 0);
}

/* A bridge has no XDP of its own: the kernel has, in front of its network. */
static void does_without_the_driver(void **state)
{
	struct bed *b = *state;
	struct error e;

	if (namespace_add_bridge("hub", "left") == -EOPNOTSUPP)
		skip(); /* a kernel without bridges */
	assert_int_equal(namespace_set_up("hub", true), 0);
	assert_int_equal(bed_try(b, "packet:hub?mode=xdp", 1, &e), 0);
	b->queues[0] = network_queue_open(b->port, 0, b->r, ready, &b->ready[0], &e);
	assert_non_null(b->queues[0]);
	bed_await_link(b, true);
	frame_make(&sent, 100, 1);
	port_expect_at_last(b, &sent);
	frame_make(&sent, 200, 2);
	assert_int_equal(port_send(b, 0, &sent, 1), 0);
	network_flush(b->queues[0]);
	wire_expect(b, &sent);
	bed_close(b);
	refuse(b, "packet:hub?mode=xdp&zero-copy=on", -EOPNOTSUPP, "bridge has no zero-copy");
	namespace_delete("hub");
}

static void says_what_xdp_cannot_do(void **state)
{
	struct bed *b = *state;

	refuse(b, "packet:left?mode=xdp&zero-copy=on", -EOPNOTSUPP, "has no zero-copy");
	refuse(b, "packet:left?mode=packet&zero-copy=on", -EINVAL, "zero-copy");
	refuse(b, "packet:left?mode=pcap", -EINVAL, "is not auto, xdp or packet");
	refuse(b, "packet:left?zero-copy=pcap", -EINVAL, "is not auto, on or off");
	assert_int_equal(namespace_set_mtu("left", 9000), 0);
	refuse(b, "packet:left?mode=xdp", -EMSGSIZE, "MTU");
	assert_int_equal(namespace_xdp("left"), 0);
}

static void counts_what_the_guest_misses(void **state)
{
	struct bed *b = *state;

	bed_open(b, "", 1);
	bed_await_link(b, true);
	frame_make(&sent, 100, 1);
	port_expect_at_last(b, &sent);
	port_expect_nothing(b, 0);
	for (unsigned i = 0; i < 3; i++)
		check_stop(b, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_EACH(xdp),
		ON(xdp, sends_many),
		ON(xdp, receives_many),
		ON(xdp, carries_a_tag_inside),
		ON(xdp, refuses_what_is_longer_than_a_chunk),
		ON(xdp, does_in_software_what_is_undone),
		ON(xdp, serves_all_channels_with_few_queues),
		ON(xdp, keeps_a_channel_while_its_frame_is_used),
		ON(xdp, takes_away_its_program),
		ON(xdp, counts_what_the_guest_misses),
		ON(xdp, does_without_the_driver),
		ON(xdp, says_what_xdp_cannot_do),
	};

	if (!namespace_enter()) {
		printf("unavailable: AF_XDP without privileges\n");
		return 77;
	}
	namespace_silence();
	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
