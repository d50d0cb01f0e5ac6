/* If this failed, a migration would miss pages, a restarted back-end would lose or repeat requests,
 * or a guest would not hear that its disk has grown. */
#include "vhost_user_peer.h"

#include "link/dirty_log.h"

enum { LOG_BYTES = 4096 };

/* ---- the dirty log ---- */

static uint64_t share_log(struct stage *s, int fd, uint64_t size, uint64_t offset)
{
	struct vhost_user_log_area area = { size, offset };

	peer_send_flags(s, VHOST_USER_SET_LOG_BASE, 0, &area, sizeof(area), &fd, 1);
	return peer_reply_number(s, VHOST_USER_SET_LOG_BASE);
}

static bool is_marked(const uint8_t *log, uint64_t address)
{
	uint64_t page = address / DIRTY_LOG_PAGE;

	return log[page / 8] >> (page % 8) & 1;
}

static void set_features(struct stage *s, uint64_t features)
{
	assert_int_equal(peer_set(s, VHOST_USER_SET_FEATURES, features), 0);
}

static void pages_are_marked_while_the_log_is_on(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	uint8_t *log;
	struct stage s;

	assert_int_equal(ftruncate(fd, 2 * LOG_BYTES), 0);
	log = mmap(NULL, 2 * LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	stage_open(&s);
	peer_start(&s);
	guest_works(&s, 0);
	assert_int_equal(share_log(&s, fd, LOG_BYTES, LOG_BYTES), 0);
	guest_works(&s, 0);
	assert_false(is_marked(log + LOG_BYTES, GUEST_BASE + 0x4000)); /* shared, not in use */
	set_features(&s, VERSION_1 | PROTOCOL | LOG_ALL);
	guest_works(&s, 0);
	assert_true(is_marked(log + LOG_BYTES, GUEST_BASE + 0x4000));
	assert_true(is_marked(log + LOG_BYTES, GUEST_BASE + 0x2000)); /* the used ring */
	assert_false(is_marked(log + LOG_BYTES, GUEST_BASE + 0x1000));
	/* another log takes its place */
	memset(log, 0, 2 * LOG_BYTES);
	assert_int_equal(share_log(&s, fd, LOG_BYTES, 0), 0);
	guest_works(&s, 0);
	assert_true(is_marked(log, GUEST_BASE + 0x4000));
	assert_false(is_marked(log + LOG_BYTES, GUEST_BASE + 0x4000));
	set_features(&s, VERSION_1 | PROTOCOL);
	memset(log, 0, 2 * LOG_BYTES);
	guest_works(&s, 0);
	assert_false(is_marked(log, GUEST_BASE + 0x4000));
	stage_close(&s);
	munmap(log, 2 * LOG_BYTES);
	close(fd);
}

static void a_log_without_room_is_refused(void **state)
{
	struct vhost_user_single_region r = {
		.region = { .guest_address = 1 << 30, .size = 4096, .user_address = 1 << 30 }
	};
	int fd = memfd_create("log", MFD_CLOEXEC);
	struct stage s;

	assert_int_equal(ftruncate(fd, LOG_BYTES), 0);
	stage_open(&s);
	peer_start(&s);
	assert_int_not_equal(share_log(&s, fd, 63, 0), 0); /* memory ends at 64 * 8 pages */
	assert_int_not_equal(share_log(&s, fd, 0, 0), 0);
	assert_int_not_equal(share_log(&s, fd, LOG_BYTES, 1), 0);
	assert_int_not_equal(share_log(&s, fd, UINT64_MAX, 0), 0);
	assert_int_not_equal(share_log(&s, fd, LOG_BYTES, UINT64_MAX), 0);
	assert_int_equal(share_log(&s, fd, 64, 0), 0);
	set_features(&s, VERSION_1 | PROTOCOL | LOG_ALL);
	/* memory that the log in use cannot describe */
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &s.memory, 1), 0);
	guest_works(&s, 0);
	assert_int_equal(peer_ask_fds(&s, VHOST_USER_SET_LOG_FD, NULL, 0, &s.kick[1], 1), 0);
	/* a reset takes VHOST_F_LOG_ALL back: the log is not in use any more */
	assert_int_equal(peer_ask(&s, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(peer_ask_fds(&s, VHOST_USER_ADD_MEM_REG, &r, 40, &s.memory, 1), 0);
	stage_close(&s);
	close(fd);
}

/* A log that is cut off under us loses the migration, not the process. */
static void a_log_that_shrinks_is_survived(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	struct stage s;

	assert_int_equal(ftruncate(fd, LOG_BYTES), 0);
	stage_open(&s);
	peer_start(&s);
	assert_int_equal(share_log(&s, fd, LOG_BYTES, 0), 0);
	set_features(&s, VERSION_1 | PROTOCOL | LOG_ALL);
	assert_int_equal(ftruncate(fd, 0), 0);
	guest_works(&s, 0);
	close(s.client);
	peer_start(&s);
	guest_works(&s, 0);
	stage_close(&s);
	close(fd);
}

/* ---- the in-flight buffer ---- */

static int get_buffer(struct stage *s, struct vhost_user_inflight_area *a, uint32_t size)
{
	int fd = -1;

	a->queue_count = QUEUES;
	a->queue_size = QUEUE_SIZE;
	peer_send_flags(s, VHOST_USER_GET_INFLIGHT_FD, 0, a, size, NULL, 0);
	assert_int_equal(peer_reply_fd(s, VHOST_USER_GET_INFLIGHT_FD, a, &fd), size);
	return fd;
}

static uint64_t set_buffer(struct stage *s, const struct vhost_user_inflight_area *a, int fd)
{
	return peer_ask_fds(s, VHOST_USER_SET_INFLIGHT_FD, a, sizeof(*a), &fd, 1);
}

/* vhost-user.rst: features 8, version 2, desc_num 2, last_batch_head 2, used_idx 2, then 16 bytes a
 * descriptor of which the first says that it is in flight. */
static void requests_in_flight_are_noted(void **state)
{
	struct vhost_user_inflight_area a = { 0 };
	uint8_t *buffer;
	struct stage s;
	int fd;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	fd = get_buffer(&s, &a, 20);
	assert_true(fd >= 0);
	close(fd);
	fd = get_buffer(&s, &a, 24);
	assert_int_equal(a.mmap_offset, 0);
	assert_true(a.mmap_size >= QUEUES * (16 + 16 * QUEUE_SIZE));
	buffer = mmap(NULL, a.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(buffer, MAP_FAILED);
	assert_int_equal(set_buffer(&s, &a, fd), 0);
	peer_share_memory(&s);
	peer_start_ring(&s, 1, 0);
	s.fake.hold = true;
	guest_submit(&s, 1);
	steps(&s, 500);
	buffer += a.mmap_size / QUEUES; /* queue 1 */
	assert_int_equal(load_le16(buffer + 8), 1);
	assert_int_equal(load_le16(buffer + 10), QUEUE_SIZE);
	assert_int_equal(buffer[16], 1);
	assert_int_not_equal(set_buffer(&s, &a, fd), 0); /* the queue is started */
	reactor_world_enter(s.world, s.worker);
	fake_return(&s.fake, s.fake.held_by, s.fake.held);
	reactor_world_enter(s.world, s.control);
	assert_true(guest_is_served(&s, 1));
	assert_int_equal(buffer[16], 0);
	stage_close(&s);
	close(fd);
}

static void wrong_buffers_are_refused(void **state)
{
	struct vhost_user_inflight_area good = { 0 }, a;
	struct stage s;
	int fd;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	fd = get_buffer(&s, &good, 24);
	a = good;
	a.queue_count = QUEUES + 1;
	assert_int_not_equal(set_buffer(&s, &a, fd), 0);
	a = good;
	a.queue_size = 0;
	assert_int_not_equal(set_buffer(&s, &a, fd), 0);
	a.queue_size = 32768;
	assert_int_not_equal(set_buffer(&s, &a, fd), 0);
	a = good;
	a.mmap_offset = 64;
	assert_int_not_equal(set_buffer(&s, &a, fd), 0);
	a.mmap_size = UINT64_MAX;
	assert_int_not_equal(set_buffer(&s, &a, fd), 0);
	/* a number of queues that we do not have gets no buffer: a size of zero */
	a = (struct vhost_user_inflight_area){ .queue_count = 9, .queue_size = 16 };
	peer_send_flags(&s, VHOST_USER_GET_INFLIGHT_FD, 0, &a, 24, NULL, 0);
	peer_reply_fd(&s, VHOST_USER_GET_INFLIGHT_FD, &a, NULL);
	assert_int_equal(a.mmap_size, 0);
	stage_close(&s);
	close(fd);
}

/* QEMU 10 under SeaBIOS: the ring is larger than what QEMU made the buffer for. */
static void a_ring_beyond_its_buffer_is_served_without(void **state)
{
	struct vhost_user_inflight_area a = { 0 };
	uint8_t *buffer, *untouched;
	struct stage s;
	int fd;

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	fd = get_buffer(&s, &a, 24);
	buffer = mmap(NULL, a.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(buffer, MAP_FAILED);
	untouched = calloc(1, a.mmap_size);
	assert_non_null(untouched);
	a.queue_size = QUEUE_SIZE / 2;
	assert_int_equal(set_buffer(&s, &a, fd), 0);
	peer_share_memory(&s);
	peer_start_ring(&s, 0, 0);
	guest_works(&s, 0);
	assert_memory_equal(buffer, untouched, a.mmap_size);
	stage_close(&s);
	free(untouched);
	munmap(buffer, a.mmap_size);
	close(fd);
}

static void a_buffer_that_shrinks_costs_the_connection(void **state)
{
	struct vhost_user_inflight_area a = { 0 };
	struct stage s;
	int fd = memfd_create("inflight", MFD_CLOEXEC);

	stage_open(&s);
	peer_connect(&s);
	peer_negotiate(&s);
	close(get_buffer(&s, &a, 24));
	assert_int_equal(ftruncate(fd, a.mmap_size), 0);
	assert_int_equal(set_buffer(&s, &a, fd), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	peer_share_memory(&s);
	peer_describe_ring(&s, 0, 0);
	peer_send_flags(&s, VHOST_USER_SET_VRING_KICK, 0, &(uint64_t){ 0 }, 8, &s.kick[0], 1);
	peer_send_flags(&s, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	peer_expect_end(&s);
	peer_start(&s);
	guest_works(&s, 0);
	stage_close(&s);
	close(fd);
}

/* ---- the back-end channel ---- */

static void open_channel(struct stage *s, int channel[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, channel), 0);
	assert_int_equal(peer_ask_fds(s, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &channel[1], 1),
			 0);
	close(channel[1]);
}

static bool is_told(struct stage *s, int channel)
{
	struct vhost_user_header h;

	steps(s, 200);
	if (recv(channel, &h, sizeof(h), MSG_DONTWAIT) < 0)
		return false;
	assert_int_equal(h.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_int_equal(h.flags, VHOST_USER_VERSION);
	assert_int_equal(h.size, 0);
	return true;
}

static void configuration_changes_are_told(void **state)
{
	struct vhost_user_vring_state where = { 0, 0 };
	struct vhost_user_config config = { .size = 8 };
	struct stage s;
	int channel[2];

	stage_open(&s);
	peer_start(&s);
	assert_int_not_equal(peer_ask_fds(&s, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &s.memory, 1),
			     0);
	open_channel(&s, channel);
	assert_false(is_told(&s, channel[0]));
	virtio_device_config_changed(s.device);
	assert_true(is_told(&s, channel[0]));
	assert_false(is_told(&s, channel[0]));
	/* "Suspended device state": not a word while every ring is stopped, but afterwards */
	peer_send_flags(&s, VHOST_USER_GET_VRING_BASE, 0, &where, 8, NULL, 0);
	peer_reply_fd(&s, VHOST_USER_GET_VRING_BASE, &where, NULL);
	virtio_device_config_changed(s.device);
	assert_false(is_told(&s, channel[0]));
	peer_start_ring(&s, 0, where.num);
	assert_true(is_told(&s, channel[0]));
	/* a change between two connections is told in the next, unless that has read it */
	for (unsigned reads = 0; reads < 2; reads++) {
		close(s.client);
		close(channel[0]);
		steps(&s, 500);
		virtio_device_config_changed(s.device);
		steps(&s, 50);
		peer_connect(&s);
		peer_negotiate(&s);
		open_channel(&s, channel);
		if (reads) {
			peer_send_flags(&s, VHOST_USER_GET_CONFIG, 0, &config, 20, NULL, 0);
			peer_reply_fd(&s, VHOST_USER_GET_CONFIG, &config, NULL);
		}
		peer_share_memory(&s);
		peer_start_ring(&s, 0, s.available[0]);
		assert_int_equal(is_told(&s, channel[0]), !reads);
	}
	/* nobody reads the channel any more */
	close(channel[0]);
	virtio_device_config_changed(s.device);
	steps(&s, 50);
	guest_works(&s, 0);
	stage_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_marked_while_the_log_is_on),
		cmocka_unit_test(a_log_without_room_is_refused),
		cmocka_unit_test(a_log_that_shrinks_is_survived),
		cmocka_unit_test(requests_in_flight_are_noted),
		cmocka_unit_test(a_ring_beyond_its_buffer_is_served_without),
		cmocka_unit_test(wrong_buffers_are_refused),
		cmocka_unit_test(a_buffer_that_shrinks_costs_the_connection),
		cmocka_unit_test(configuration_changes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
