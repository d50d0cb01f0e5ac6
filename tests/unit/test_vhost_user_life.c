/* If this failed, a connection that comes or goes at a bad moment would harm the device, the next
 * connection, or the guest's memory. */
#include "vhost_user_peer.h"

#define SECOND UINT64_C(1000000000)

static void fail_open(struct stage *s, const struct host_address *address, int code)
{
	struct error e = { 0 };

	assert_null(vhost_user_transport.open(address, s->device, &e));
	assert_int_equal(e.code, code);
	assert_non_null(strstr(e.text, "vhost-user: "));
}

static void touch(const char *path)
{
	close(open(path, O_CREAT | O_WRONLY, 0600));
}

/* ---- the socket's path ---- */

static void a_path_in_use_is_not_taken(void **state)
{
	struct host_address address;
	struct stage s;
	char longer[200];

	stage_open(&s);
	address = (struct host_address){ .path = s.path, .fd = -1 };
	fail_open(&s, &address, -EADDRINUSE);
	peer_start(&s);
	guest_works(&s, 0);
	stage_close_endpoint(&s);
	assert_int_equal(access(s.path, F_OK), -1); /* removed at close */
	touch(s.path);
	fail_open(&s, &address, -EADDRINUSE); /* somebody's file */
	assert_int_equal(access(s.path, F_OK), 0);
	unlink(s.path);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	fail_open(&s, &(struct host_address){ .path = longer, .fd = -1 }, -ENAMETOOLONG);
	fail_open(&s, &(struct host_address){ .path = "/nonexistent/x", .fd = -1 }, -ENOENT);
	stage_free(&s);
}

static int listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static void a_dead_socket_is_replaced(void **state)
{
	struct stage s;

	stage_prepare(&s);
	close(listen_at(s.path));
	stage_open_address(&s, &(struct host_address){ .path = s.path, .fd = -1 });
	peer_start(&s);
	guest_works(&s, 0);
	/* and at close, a path that is somebody else's by now is left alone */
	unlink(s.path);
	touch(s.path);
	stage_close(&s);
	assert_int_equal(unlink(s.path), 0);
}

static void inherited_sockets_are_served(void **state)
{
	struct stage s;
	int fds[2];

	stage_prepare(&s);
	fail_open(&s, &(struct host_address){ .fd = s.memory }, -ENOTSOCK);
	fds[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
	fail_open(&s, &(struct host_address){ .fd = fds[0] }, -EINVAL);
	close(fds[0]);
	stage_open_address(&s, &(struct host_address){ .fd = listen_at(s.path) });
	peer_start(&s);
	guest_works(&s, 0);
	stage_close_endpoint(&s);
	assert_int_equal(unlink(s.path), 0); /* not ours to remove */

	/* connected already */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	stage_open_address(&s, &(struct host_address){ .fd = fds[0] });
	close(s.client);
	s.client = fds[1];
	s.is_closed = false;
	assert_int_equal(peer_get(&s, VHOST_USER_GET_PROTOCOL_FEATURES), ALL_PROTOCOL_FEATURES);
	stage_close(&s);
}

static void a_client_connects_whenever_it_is_not(void **state)
{
	struct stage s;
	int listener = -1;

	stage_prepare(&s);
	stage_open_address(&s, &(struct host_address){ .path = s.path, .fd = -1, .connect = true });
	steps(&s, 50); /* nobody is there: it tries again and again */
	for (unsigned round = 0; round < 3; round++) {
		unlink(s.path);
		listener = listen_at(s.path);
		for (unsigned i = 0; i < STEPS_MAX && s.client < 0; i++) {
			s.client = accept(listener, NULL, NULL);
			steps(&s, 1);
		}
		assert_true(s.client >= 0);
		peer_negotiate(&s);
		peer_share_memory(&s);
		peer_start_ring(&s, 0, s.available[0]);
		guest_works(&s, 0);
		close(listener);
		close(s.client);
		s.client = -1;
		steps(&s, 300);
	}
	stage_close(&s);
	unlink(s.path);
}

/* ---- one after the other ---- */

static void front_ends_come_and_go(void **state)
{
	struct stage s;

	stage_open(&s);
	for (unsigned i = 0; i < 50; i++) {
		peer_start(&s);
		guest_works(&s, 0);
		if (i % 3 == 0)
			guest_submit(&s, 0); /* and nobody waits for it */
		close(s.client);
		steps(&s, i);
		if (i % 3 == 0)
			assert_true(s.available[0] - guest_used(&s, 0) <= 1);
		s.available[0] = guest_used(&s, 0);
		*(uint16_t *)(s.ram + 0x1002) = s.available[0];
	}
	stage_close(&s);
}

static void a_second_front_end_waits(void **state)
{
	struct stage s;
	int first;

	stage_open(&s);
	peer_start(&s);
	first = s.client;
	peer_connect(&s);
	peer_send_flags(&s, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0);
	steps(&s, 500);
	assert_int_equal(recv(s.client, &(char){ 0 }, 1, MSG_DONTWAIT), -1);
	guest_works(&s, 0);
	close(first);
	assert_int_equal(peer_reply_number(&s, VHOST_USER_GET_FEATURES),
			 virtio_device_features(s.device) | LOG_ALL | PROTOCOL);
	stage_close(&s);
}

/* ---- with requests in flight ---- */

static void do_nothing(void *arg)
{
}

static void stage_pass_time(struct stage *s, uint64_t ns)
{
	struct reactor_timer t = { .fn = do_nothing };
	uint64_t end = reactor_world_now(s->world) + ns;

	assert_int_equal(reactor_timer_set(s->control, &t, end), 0);
	for (unsigned i = 0; i < STEPS_MAX && reactor_world_now(s->world) < end; i++)
		steps(s, 1);
	assert_true(reactor_world_now(s->world) >= end);
	reactor_timer_cancel(&t);
}

static void release_held(struct stage *s)
{
	reactor_world_enter(s->world, s->worker);
	s->fake.hold = false;
	fake_return(&s->fake, s->fake.held_by, s->fake.held);
	reactor_world_enter(s->world, s->control);
}

static void hold_one(struct stage *s)
{
	peer_start(s);
	s->fake.hold = true;
	guest_submit(s, 0);
	for (unsigned i = 0; i < 1000 && !s->fake.held; i++)
		steps(s, 1);
	assert_non_null(s->fake.held);
}

/* If it failed, the front-end would believe that nothing touches its memory while something does.
 */
static void a_ring_stops_after_its_last_request(void **state)
{
	struct vhost_user_vring_state where = { 0, 0 };
	struct stage s;

	stage_open(&s);
	hold_one(&s);
	peer_send_flags(&s, VHOST_USER_GET_VRING_BASE, 0, &where, 8, NULL, 0);
	peer_send_flags(&s, VHOST_USER_GET_FEATURES, 0, NULL, 0, NULL, 0); /* waits behind it */
	steps(&s, 500);
	assert_int_equal(recv(s.client, &(char){ 0 }, 1, MSG_DONTWAIT), -1);
	release_held(&s);
	peer_reply_fd(&s, VHOST_USER_GET_VRING_BASE, &where, NULL);
	assert_int_equal(where.num, 1);
	assert_int_equal(guest_used(&s, 0), 1);
	peer_reply_number(&s, VHOST_USER_GET_FEATURES);
	stage_close(&s);
}

static void a_lost_connection_drains(void **state)
{
	struct stage s;

	stage_open(&s);
	hold_one(&s);
	close(s.client);
	steps(&s, 500);
	assert_int_equal(guest_used(&s, 0), 0);
	release_held(&s);
	assert_true(guest_is_served(&s, 0));
	peer_start(&s);
	guest_works(&s, 0);
	stage_close(&s);
}

static void closing_drains(void **state)
{
	struct stage s;

	stage_open(&s);
	hold_one(&s);
	vhost_user_transport.close(s.endpoint, &s.closed);
	steps(&s, 500);
	assert_false(s.is_closed);
	assert_int_equal(access(s.path, F_OK), -1); /* nobody else comes */
	release_held(&s);
	for (unsigned i = 0; i < STEPS_MAX && !s.is_closed; i++)
		steps(&s, 1);
	assert_true(s.is_closed);
	assert_int_equal(guest_used(&s, 0), 1);
	stage_free(&s);
}

static void closing_in_the_middle_of_a_change_waits_for_it(void **state)
{
	struct vhost_user_vring_state where = { 0, 0 };
	struct stage s;

	stage_open(&s);
	hold_one(&s);
	peer_send_flags(&s, VHOST_USER_GET_VRING_BASE, 0, &where, 8, NULL, 0);
	steps(&s, 500);
	vhost_user_transport.close(s.endpoint, &s.closed);
	steps(&s, 500);
	assert_false(s.is_closed);
	release_held(&s);
	for (unsigned i = 0; i < STEPS_MAX && !s.is_closed; i++)
		steps(&s, 1);
	assert_true(s.is_closed);
	stage_free(&s);
}

/* ---- a front-end that does not read ---- */

static void unread_answers_cost_the_connection(void **state)
{
	struct vhost_user_header h = { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0 };
	struct stage s;
	uint64_t begun;

	stage_open(&s);
	peer_connect(&s);
	begun = reactor_world_now(s.world);
	for (unsigned i = 0; i < 100000; i++) {
		ssize_t n = send(s.client, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EPIPE)
			break;
		steps(&s, 1);
	}
	assert_int_equal(send(s.client, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	assert_in_range(reactor_world_now(s.world) - begun, 5 * SECOND, 60 * SECOND);
	close(s.client);
	peer_start(&s);
	guest_works(&s, 0);
	stage_close(&s);
}

/* If it failed, a front-end could take a connection for ever: what it has sent of its message holds
 * its own end of the socket. */
static void half_a_message_costs_the_connection(void **state)
{
	struct vhost_user_header h = { VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 8 };
	struct stage s;
	uint64_t begun;

	stage_open(&s);
	peer_connect(&s);
	peer_get(&s, VHOST_USER_GET_FEATURES);
	begun = reactor_world_now(s.world);
	peer_send_raw(&s, &h, sizeof(h), &s.client, 1);
	close(s.client);
	s.client = -1;
	for (unsigned i = 0; i < 1000; i++)
		steps(&s, 1);
	assert_in_range(reactor_world_now(s.world) - begun, 5 * SECOND, 60 * SECOND);
	peer_start(&s);
	guest_works(&s, 0);
	/* saying nothing at all is no fault: see whether it is still there an hour later */
	stage_pass_time(&s, 3600 * SECOND);
	guest_works(&s, 0);
	stage_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_path_in_use_is_not_taken),
		cmocka_unit_test(a_dead_socket_is_replaced),
		cmocka_unit_test(inherited_sockets_are_served),
		cmocka_unit_test(a_client_connects_whenever_it_is_not),
		cmocka_unit_test(front_ends_come_and_go),
		cmocka_unit_test(a_second_front_end_waits),
		cmocka_unit_test(a_ring_stops_after_its_last_request),
		cmocka_unit_test(a_lost_connection_drains),
		cmocka_unit_test(closing_drains),
		cmocka_unit_test(closing_in_the_middle_of_a_change_waits_for_it),
		cmocka_unit_test(unread_answers_cost_the_connection),
		cmocka_unit_test(half_a_message_costs_the_connection),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
