/* If this failed, a front-end that keeps to the protocol would not get what the protocol promises,
 * or one that breaks it would cost more than its connection. */
#include "vhost_user_peer.h"

/* A front-end that keeps to the protocol is served, whatever was done before. */
static void still_serves(struct stage *s)
{
	if (s->client >= 0)
		close(s->client);
	peer_start(s);
	guest_works(s, 0);
}

/* ---- negotiation ---- */

static void features_are_negotiated(void **state)
{
	struct stage s;
	uint64_t offered;

	stage_open(&s);
	peer_connect(&s);
	offered = peer_get(&s, VHOST_USER_GET_FEATURES);
	assert_int_equal(offered, virtio_device_features(s.device) | LOG_ALL | PROTOCOL);
	assert_int_equal(peer_get(&s, VHOST_USER_GET_PROTOCOL_FEATURES), ALL_PROTOCOL_FEATURES);
	peer_negotiate(&s);
	assert_int_equal(virtio_device_accepted(s.device), VERSION_1);
	assert_int_equal(peer_get(&s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
	assert_int_equal(peer_get(&s, VHOST_USER_GET_MAX_MEM_SLOTS), 256);
	/* what was not offered is refused, and the connection goes on: it said need_reply */
	assert_int_not_equal(peer_set(&s, VHOST_USER_SET_FEATURES, UINT64_C(1) << 50), 0);
	assert_int_not_equal(peer_set(&s, VHOST_USER_SET_PROTOCOL_FEATURES, 1 << 14), 0);
	assert_int_equal(peer_get(&s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
	stage_close(&s);
}

static void refusals_without_an_answer_end_the_connection(void **state)
{
	uint64_t strange = UINT64_C(1) << 50;
	struct stage s;

	stage_open(&s);
	peer_connect(&s);
	/* REPLY_ACK is not negotiated yet: the flag means nothing */
	peer_send_flags(&s, VHOST_USER_SET_FEATURES, VHOST_USER_FLAG_NEED_REPLY, &strange, 8, NULL,
			0);
	peer_expect_end(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	peer_send_flags(&s, VHOST_USER_SET_FEATURES, 0, &strange, 8, NULL, 0);
	peer_expect_end(&s);
	/* part of a protocol feature that was not negotiated */
	peer_connect(&s);
	peer_send_flags(&s, VHOST_USER_GET_STATUS, 0, NULL, 0, NULL, 0);
	peer_expect_end(&s);
	still_serves(&s);
	stage_close(&s);
}

static void unknown_requests_get_an_error_when_they_can(void **state)
{
	struct stage s;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	assert_int_not_equal(peer_set(&s, 19, 1), 0);
	assert_int_not_equal(peer_set(&s, 4711, 1), 0);
	peer_send_flags(&s, 4711, 0, NULL, 0, NULL, 0);
	peer_expect_end(&s);
	still_serves(&s);
	stage_close(&s);
}

static void configuration_is_read_and_written(void **state)
{
	struct vhost_user_config config = { .size = 32 }, got;
	struct stage s;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	peer_send_flags(&s, VHOST_USER_GET_CONFIG, 0, &config, 12 + 32, NULL, 0);
	assert_int_equal(peer_reply_fd(&s, VHOST_USER_GET_CONFIG, &got, NULL), 12 + 32);
	assert_memory_equal(got.bytes, s.fake.config, 16);
	for (unsigned i = 16; i < 32; i++) /* longer than ours: the rest is zero */
		assert_int_equal(got.bytes[i], 0);
	config = (struct vhost_user_config){ .offset = 4, .size = 1, .bytes = { 0xee } };
	assert_int_equal(peer_ask(&s, VHOST_USER_SET_CONFIG, &config, 13), 0);
	assert_int_equal(s.fake.config[4], 0xee);
	config.offset = 5; /* may not be written */
	assert_int_not_equal(peer_ask(&s, VHOST_USER_SET_CONFIG, &config, 13), 0);
	config.offset = 250; /* beyond the end */
	assert_int_not_equal(peer_ask(&s, VHOST_USER_SET_CONFIG, &config, 13), 0);
	stage_close(&s);
}

/* ---- rings ---- */

static void a_started_ring_is_served_and_stopped(void **state)
{
	struct vhost_user_vring_state where = { 0, 0 };
	uint64_t interrupts;
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	for (unsigned i = 0; i < 40; i++)
		guest_works(&s, 0);
	assert_int_equal(read(s.call[0], &interrupts, 8), 8);
	peer_send_flags(&s, VHOST_USER_GET_VRING_BASE, 0, &where, 8, NULL, 0);
	assert_int_equal(peer_reply_fd(&s, VHOST_USER_GET_VRING_BASE, &where, NULL), 8);
	assert_int_equal(where.num, 40);
	assert_false(virtio_queue_is_started(s.device, 0));
	/* stopped: a request waits until the ring is started again where it stood */
	guest_submit(&s, 0);
	assert_false(guest_is_served(&s, 0));
	peer_start_ring(&s, 0, where.num);
	assert_true(guest_is_served(&s, 0));
	stage_close(&s);
}

static void a_ring_that_never_ran_has_the_base_it_was_given(void **state)
{
	struct vhost_user_vring_state where = { 1, 0 };
	struct stage s;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	assert_int_equal(peer_set_state(&s, VHOST_USER_SET_VRING_BASE, 1, 77), 0);
	peer_send_flags(&s, VHOST_USER_GET_VRING_BASE, 0, &where, 8, NULL, 0);
	assert_int_equal(peer_reply_fd(&s, VHOST_USER_GET_VRING_BASE, &where, NULL), 8);
	assert_int_equal(where.index, 1);
	assert_int_equal(where.num, 77);
	stage_close(&s);
}

static void rings_are_enabled_as_the_features_say(void **state)
{
	struct stage s;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	peer_share_memory(&s);
	peer_describe_ring(&s, 0, 0);
	assert_int_equal(peer_kick_ring(&s, 0), 0);
	guest_submit(&s, 0);
	assert_false(guest_is_served(&s, 0));
	assert_int_equal(peer_set_state(&s, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_true(guest_is_served(&s, 0));
	assert_int_equal(peer_set_state(&s, VHOST_USER_SET_VRING_ENABLE, 0, 0), 0);
	guest_submit(&s, 0);
	assert_false(guest_is_served(&s, 0));
	assert_int_equal(peer_set_state(&s, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_true(guest_is_served(&s, 0));
	close(s.client);

	/* what the one front-end enabled is not enabled for the next */
	peer_connect(&s);
	peer_negotiate(&s);
	peer_share_memory(&s);
	peer_describe_ring(&s, 0, s.available[0]);
	assert_int_equal(peer_kick_ring(&s, 0), 0);
	guest_submit(&s, 0);
	assert_false(guest_is_served(&s, 0));
	/* without VHOST_USER_F_PROTOCOL_FEATURES there is no SET_VRING_ENABLE: SET_FEATURES does it
	 */
	assert_int_equal(peer_set(&s, VHOST_USER_SET_FEATURES, VERSION_1), 0);
	assert_true(guest_is_served(&s, 0));
	stage_close(&s);
}

static void a_kick_descriptor_may_come_before_the_rest(void **state)
{
	struct stage s;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	peer_share_memory(&s);
	assert_int_equal(peer_kick_ring(&s, 0), 0);
	assert_false(virtio_queue_is_started(s.device, 0));
	peer_describe_ring(&s, 0, 0);
	assert_true(virtio_queue_is_started(s.device, 0));
	stage_close(&s);
}

static void wrong_ring_settings_are_refused(void **state)
{
	struct vhost_user_vring_address a;
	int file = open("/proc/self/exe", O_RDONLY);
	uint64_t index = 0;
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, QUEUES, 16), 0);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, UINT32_MAX, 16), 0);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, 1, 0), 0);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, 1, 32), 0);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_BASE, 1, 0x10000), 0);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_ENABLE, QUEUES, 1), 0);
	/* of a running ring */
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, 0, 16), 0);
	assert_int_not_equal(peer_set_state(&s, VHOST_USER_SET_VRING_BASE, 0, 0), 0);
	a = peer_address(0);
	a.flags = 1;
	assert_int_equal(peer_ask(&s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	a.used += 64;
	assert_int_not_equal(peer_ask(&s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	/* outside of memory */
	assert_int_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, 1, 16), 0);
	a = peer_address(1);
	a.used = USER_BASE + MEMORY - 131;
	assert_int_not_equal(peer_ask(&s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	a.used = USER_BASE - 1;
	assert_int_not_equal(peer_ask(&s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	a = peer_address(1);
	a.available = UINT64_MAX - 1;
	assert_int_not_equal(peer_ask(&s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	/* a kick that is always readable */
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_SET_VRING_KICK, &index, 8, &file, 1), 0);
	/* a size that the ring's owner would not know */
	assert_int_equal(peer_set_state(&s, VHOST_USER_SET_VRING_NUM, 1, 15), 0);
	a = peer_address(1);
	assert_int_equal(peer_ask(&s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_not_equal(peer_kick_ring(&s, 1), 0);
	guest_works(&s, 0);
	close(file);
	stage_close(&s);
}

/* ---- memory ---- */

static struct vhost_user_single_region second_region(void)
{
	return (struct vhost_user_single_region){ .region = { .guest_address = GUEST_BASE * 16,
							      .size = 0x10000,
							      .user_address = USER_BASE * 2,
							      .mmap_offset = 0x80000 } };
}

static void memory_is_plugged_and_unplugged_under_a_running_ring(void **state)
{
	struct vhost_user_single_region r = second_region();
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	guest_works(&s, 0);
	assert_int_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &s.memory, 1), 0);
	guest_submit_at(&s, 0, GUEST_BASE * 16 + 0x100);
	assert_true(guest_is_served(&s, 0));
	assert_int_equal(s.ram[0x80100], 0x5a);
	/* twice the same, or one that was never there */
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &s.memory, 1), 0);
	r.region.size /= 2;
	assert_int_not_equal(peer_ask(&s, VHOST_USER_REM_MEM_REG, &r, 40), 0);
	r.region.size *= 2;
	/* "MAY accept messages with one file descriptor" */
	assert_int_equal(peer_ask_fds(&s, VHOST_USER_REM_MEM_REG, &r, 40, &s.memory, 1), 0);
	assert_int_not_equal(peer_ask(&s, VHOST_USER_REM_MEM_REG, &r, 40), 0);
	guest_works(&s, 0);
	peer_share_memory(&s); /* the whole table again */
	guest_works(&s, 0);
	stage_close(&s);
}

/* The table is not in the order of addresses, and shrinks in the middle. */
static void regions_are_removed_in_any_order(void **state)
{
	struct vhost_user_single_region r[3];
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	for (unsigned i = 0; i < 3; i++) {
		r[i] = second_region();
		r[i].region.guest_address += (2 - i) << 20;
		r[i].region.user_address += i << 20;
		assert_int_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r[i], 40, &s.memory, 1),
				 0);
	}
	assert_int_equal(peer_ask(&s, VHOST_USER_REM_MEM_REG, &r[0], 40), 0);
	assert_int_equal(peer_ask(&s, VHOST_USER_REM_MEM_REG, &r[2], 40), 0);
	assert_int_equal(peer_ask(&s, VHOST_USER_REM_MEM_REG, &r[1], 40), 0);
	assert_int_not_equal(peer_ask(&s, VHOST_USER_REM_MEM_REG, &r[1], 40), 0);
	guest_works(&s, 0);
	stage_close(&s);
}

static void impossible_memory_is_refused(void **state)
{
	struct vhost_user_memory_table t = { .count = 2,
					     .regions = { peer_region(), peer_region() } };
	struct vhost_user_single_region r = second_region();
	int fds[2], device = open("/dev/null", O_RDWR);
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	fds[0] = fds[1] = s.memory;
	t.regions[1].guest_address += MEMORY - 1; /* overlap by a byte */
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_SET_MEM_TABLE, &t, 8 + 64, fds, 2), 0);
	r.region.mmap_offset = MEMORY - 0x8000; /* beyond the end of the file */
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &s.memory, 1), 0);
	r = second_region();
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &device, 1), 0);
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &s.client, 1), 0);
	guest_works(&s, 0); /* with the table as it was */
	close(device);
	stage_close(&s);
}

/* If it failed, a guest's memory file that shrinks would kill the process, or cost others. */
static void a_file_that_shrinks_costs_the_connection(void **state)
{
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	guest_works(&s, 0);
	assert_int_equal(ftruncate(s.memory, 0), 0);
	assert_int_equal(write(s.kick[0], &(uint64_t){ 1 }, 8), 8);
	steps(&s, 1000);
	peer_send_flags(&s, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	peer_expect_end(&s);
	assert_int_equal(ftruncate(s.memory, MEMORY), 0);
	s.available[0] = 0;
	still_serves(&s);
	stage_close(&s);
}

/* ---- reset, status ---- */

static void status_is_kept_and_zero_resets(void **state)
{
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	assert_int_equal(peer_set(&s, VHOST_USER_SET_STATUS, 0x0f), 0);
	assert_int_equal(peer_get(&s, VHOST_USER_GET_STATUS), 0x0f);
	assert_int_equal(peer_set(&s, VHOST_USER_SET_STATUS, 0), 0);
	assert_int_equal(peer_get(&s, VHOST_USER_GET_STATUS), 0);
	assert_false(virtio_queue_is_started(s.device, 0));
	/* memory stays: the front-end starts again with the features */
	assert_int_equal(peer_set(&s, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL), 0);
	peer_start_ring(&s, 0, 0);
	guest_works(&s, 0);
	assert_int_equal(peer_ask(&s, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_false(virtio_queue_is_started(s.device, 0));
	assert_int_equal(virtio_device_accepted(s.device), 0);
	stage_close(&s);
}

static uint32_t peer_base(struct stage *s, unsigned queue)
{
	struct vhost_user_vring_state where = { .index = queue };

	peer_send_flags(s, VHOST_USER_GET_VRING_BASE, 0, &where, 8, NULL, 0);
	assert_int_equal(peer_reply_fd(s, VHOST_USER_GET_VRING_BASE, &where, NULL), 8);
	return where.num;
}

/* If it failed, a VM would arrive with rings that begin anew, or not at all: QEMU 7.2 stops a
 * device that way round. */
static void a_ring_that_status_zero_stopped_tells_where_it_stood(void **state)
{
	struct vhost_user_vring_state base = { .index = 0, .num = 0 };
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	for (unsigned i = 0; i < 3; i++)
		guest_works(&s, 0);
	assert_int_equal(peer_set(&s, VHOST_USER_SET_STATUS, 0), 0);
	assert_int_equal(peer_base(&s, 0), 3);
	assert_int_equal(peer_ask(&s, VHOST_USER_SET_VRING_BASE, &base, 8), 0);
	assert_int_equal(peer_base(&s, 0), 0);
	assert_int_equal(peer_ask(&s, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(peer_base(&s, 0), 0);
	stage_close(&s);
}

static void reset_owner_disables_the_rings(void **state)
{
	struct stage s;

	stage_open(&s);
	peer_start(&s);
	assert_int_equal(peer_ask(&s, VHOST_USER_RESET_OWNER, NULL, 0), 0);
	guest_submit(&s, 0);
	assert_false(guest_is_served(&s, 0));
	stage_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(features_are_negotiated),
		cmocka_unit_test(refusals_without_an_answer_end_the_connection),
		cmocka_unit_test(unknown_requests_get_an_error_when_they_can),
		cmocka_unit_test(configuration_is_read_and_written),
		cmocka_unit_test(a_started_ring_is_served_and_stopped),
		cmocka_unit_test(a_ring_that_never_ran_has_the_base_it_was_given),
		cmocka_unit_test(rings_are_enabled_as_the_features_say),
		cmocka_unit_test(a_kick_descriptor_may_come_before_the_rest),
		cmocka_unit_test(wrong_ring_settings_are_refused),
		cmocka_unit_test(memory_is_plugged_and_unplugged_under_a_running_ring),
		cmocka_unit_test(regions_are_removed_in_any_order),
		cmocka_unit_test(impossible_memory_is_refused),
		cmocka_unit_test(a_file_that_shrinks_costs_the_connection),
		cmocka_unit_test(status_is_kept_and_zero_resets),
		cmocka_unit_test(a_ring_that_status_zero_stopped_tells_where_it_stood),
		cmocka_unit_test(reset_owner_disables_the_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
