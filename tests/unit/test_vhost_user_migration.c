/* If this failed, a guest that migrates by vhost-user would lose requests, see some of them done
 * twice, or find another device on the other side. */
#include "vhost_user_peer.h"

#include <signal.h>

#define DRAIN_STEPS 300

static uint32_t get_base(struct stage *s, unsigned queue)
{
	struct vhost_user_vring_state state = { .index = queue };

	peer_send_flags(s, VHOST_USER_GET_VRING_BASE, 0, &state, sizeof(state), NULL, 0);
	assert_int_equal(peer_reply_fd(s, VHOST_USER_GET_VRING_BASE, &state, NULL), sizeof(state));
	assert_int_equal(state.index, queue);
	return state.num;
}

static uint64_t inflight_feature(void)
{
	return UINT64_C(1) << VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT;
}

/* As peer_start(), and the front-end does or does not take in-flight requests along. */
static void start(struct stage *s, bool takes_inflight)
{
	uint64_t protocol;

	peer_connect(s);
	protocol = peer_get(s, VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_true(protocol & inflight_feature());
	if (!takes_inflight)
		protocol &= ~inflight_feature();
	peer_send_flags(s, VHOST_USER_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	assert_int_equal(peer_set(s, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL), 0);
	peer_share_memory(s);
}

/* ---- stops ---- */

static void what_has_not_left_goes_back_into_the_ring(void **state)
{
	struct stage s;

	stage_open(&s);
	start(&s, false);
	peer_start_ring(&s, 0, 0);
	guest_works(&s, 0);
	s.fake.hold = s.fake.withdraws = true;
	guest_submit(&s, 0);
	steps(&s, 100);
	assert_non_null(s.fake.held);
	assert_int_equal(get_base(&s, 0), 1); /* of two */
	s.fake.hold = false;
	peer_start_ring(&s, 0, 1);
	assert_true(guest_is_served(&s, 0));
	assert_int_equal(s.fake.served, 2);
	stage_close(&s);
}

/* The region that was handed out, as the front-end keeps it. */
static int get_inflight(struct stage *s, struct vhost_user_inflight_area *a)
{
	int fd = -1;

	*a = (struct vhost_user_inflight_area){ .queue_count = QUEUES, .queue_size = QUEUE_SIZE };
	peer_send_flags(s, VHOST_USER_GET_INFLIGHT_FD, 0, a, VHOST_USER_INFLIGHT_AREA_SIZE, NULL,
			0);
	assert_int_equal(peer_reply_fd(s, VHOST_USER_GET_INFLIGHT_FD, a, &fd),
			 VHOST_USER_INFLIGHT_AREA_SIZE);
	assert_true(fd >= 0);
	return fd;
}

static void set_inflight(struct stage *s, const struct vhost_user_inflight_area *a, int fd)
{
	assert_int_equal(peer_ask_fds(s, VHOST_USER_SET_INFLIGHT_FD, a,
				      VHOST_USER_INFLIGHT_AREA_SIZE, &fd, 1),
			 0);
}

/* Another request beside the one of guest_submit(), from other descriptors. */
static void submit_second(struct stage *s)
{
	uint64_t one = 1;

	guest_descriptor(s, 0, 2, GUEST_BASE + 0x3000, 4, 1, 3);
	guest_descriptor(s, 0, 3, GUEST_BASE + 0x5000, 513, 2, 0);
	*ring_u16(s, 0, 0x1004 + 2 * (s->available[0] % QUEUE_SIZE)) = 2;
	__atomic_store_n(ring_u16(s, 0, 0x1002), ++s->available[0], __ATOMIC_SEQ_CST);
	assert_int_equal(write(s->kick[0], &one, sizeof(one)), sizeof(one));
}

/* The first is held, the second comes back: no ring can say so. */
static void leave_one_behind(struct stage *s)
{
	peer_start_ring(s, 0, 0);
	s->fake.hold = s->fake.withdraws = true;
	guest_submit(s, 0);
	steps(s, 100);
	assert_non_null(s->fake.held);
	s->fake.hold = false;
	submit_second(s);
	steps(s, 100);
	assert_int_equal(guest_used(s, 0), 1);
}

static void what_has_not_left_goes_along(void **state)
{
	struct vhost_user_inflight_area a;
	struct stage s;
	int fd;

	stage_open(&s);
	start(&s, true);
	fd = get_inflight(&s, &a);
	set_inflight(&s, &a, fd);
	leave_one_behind(&s);
	assert_int_equal(get_base(&s, 0), 2);
	assert_int_equal(guest_used(&s, 0), 1);
	set_inflight(&s, &a, fd);
	peer_start_ring(&s, 0, 2);
	assert_true(guest_is_served(&s, 0));
	assert_int_equal(s.fake.served, 2);
	close(fd);
	stage_close(&s);
}

static void where_nothing_can_go_along_it_is_done_here(void **state)
{
	struct stage s;

	stage_open(&s);
	start(&s, false);
	leave_one_behind(&s);
	assert_int_equal(get_base(&s, 0), 2);
	assert_int_equal(guest_used(&s, 0), 2);
	assert_int_equal(s.fake.served, 2);
	stage_close(&s);
}

static void what_a_server_has_is_waited_for(void **state)
{
	struct vhost_user_vring_state base = { 0 };
	struct stage s;
	uint8_t byte;

	stage_open(&s);
	start(&s, false);
	peer_start_ring(&s, 0, 0);
	s.fake.hold = true;
	guest_submit(&s, 0);
	steps(&s, 100);
	peer_send_flags(&s, VHOST_USER_GET_VRING_BASE, 0, &base, sizeof(base), NULL, 0);
	steps(&s, DRAIN_STEPS); /* some bounds go by, each with a line in the log */
	assert_int_equal(recv(s.client, &byte, 1, MSG_DONTWAIT), -1);
	assert_true(reactor_world_now(s.world) > 2 * VIRTIO_DRAIN_NS_DEFAULT);
	reactor_world_enter(s.world, s.worker);
	fake_return(&s.fake, s.fake.held_by, s.fake.held);
	reactor_world_enter(s.world, s.control);
	assert_int_equal(peer_reply_fd(&s, VHOST_USER_GET_VRING_BASE, &base, NULL), sizeof(base));
	assert_int_equal(base.num, 1);
	assert_int_equal(guest_used(&s, 0), 1);
	stage_close(&s);
}

/* ---- the device's own state ---- */

static uint64_t set_state_fd(struct stage *s, uint32_t direction, uint32_t phase, int fd)
{
	const struct vhost_user_device_state d = { direction, phase };

	peer_send_flags(s, VHOST_USER_SET_DEVICE_STATE_FD, 0, &d, sizeof(d), &fd, 1);
	close(fd);
	return peer_reply_number(s, VHOST_USER_SET_DEVICE_STATE_FD);
}

static size_t save(struct stage *s, char *to, size_t room)
{
	int ends[2];
	ssize_t n, length = 0;

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(set_state_fd(s, 0, 0, ends[1]), 1 << 8);
	assert_int_equal(peer_get(s, VHOST_USER_CHECK_DEVICE_STATE), 0);
	while ((n = read(ends[0], to + length, room - length)) > 0)
		length += n;
	close(ends[0]);
	return length;
}

static uint64_t load(struct stage *s, const char *from, size_t n)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(set_state_fd(s, 1, 0, ends[0]), 1 << 8);
	assert_int_equal(write(ends[1], from, n), n);
	close(ends[1]);
	return peer_get(s, VHOST_USER_CHECK_DEVICE_STATE);
}

static void the_state_goes_over(void **state)
{
	char bytes[4096];
	uint8_t before[16];
	struct stage s;
	size_t n;

	stage_open(&s);
	start(&s, true);
	memcpy(before, s.fake.config, sizeof(before));
	n = save(&s, bytes, sizeof(bytes));
	assert_in_range(n, 50, sizeof(bytes) - 1);
	memset(s.fake.config, 0, sizeof(s.fake.config));
	for (size_t cut = 0; cut < n; cut += 7)
		assert_int_equal(load(&s, bytes, cut), 1);
	bytes[40] ^= 1;
	assert_int_equal(load(&s, bytes, n), 1);
	bytes[40] ^= 1;
	assert_int_equal(s.fake.config[3], 0); /* nothing of these was taken */
	assert_int_equal(load(&s, bytes, n), 0);
	assert_memory_equal(s.fake.config, before, sizeof(before));
	stage_close(&s);
}

static void transfers_that_make_no_sense_are_refused(void **state)
{
	struct stage s;
	int ends[2];

	stage_open(&s);
	start(&s, true);
	assert_int_equal(peer_get(&s, VHOST_USER_CHECK_DEVICE_STATE), 1); /* there was none */
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(set_state_fd(&s, 2, 0, dup(ends[1])), 1 << 8 | 1);
	assert_int_equal(set_state_fd(&s, 0, 1, dup(ends[1])), 1 << 8 | 1);
	peer_start_ring(&s, 0, 0);
	assert_int_equal(set_state_fd(&s, 0, 0, dup(ends[1])), 1 << 8 | 1);
	guest_works(&s, 0);
	close(ends[0]);
	close(ends[1]);
	stage_close(&s);
}

/* Whoever reads leaves; whoever should write never does, and the connection ends. */
static void transfers_that_break_off_harm_nobody(void **state)
{
	struct stage s;
	int ends[2];

	signal(SIGPIPE, SIG_IGN);
	stage_open(&s);
	start(&s, true);
	assert_int_equal(pipe(ends), 0);
	close(ends[0]);
	set_state_fd(&s, 0, 0, ends[1]);
	assert_int_equal(peer_get(&s, VHOST_USER_CHECK_DEVICE_STATE), 1);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(set_state_fd(&s, 1, 0, ends[0]), 1 << 8);
	steps(&s, 10);
	close(s.client);
	s.client = -1;
	steps(&s, 200);
	s.available[0] = 0;
	memset(s.ram, 0, MEMORY);
	peer_start(&s);
	guest_works(&s, 0);
	close(ends[1]);
	stage_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_has_not_left_goes_back_into_the_ring),
		cmocka_unit_test(what_has_not_left_goes_along),
		cmocka_unit_test(where_nothing_can_go_along_it_is_done_here),
		cmocka_unit_test(what_a_server_has_is_waited_for),
		cmocka_unit_test(the_state_goes_over),
		cmocka_unit_test(transfers_that_make_no_sense_are_refused),
		cmocka_unit_test(transfers_that_break_off_harm_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
