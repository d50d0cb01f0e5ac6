/* If this fails, frames that come while a device is stopped for a migration are lost and nobody
 * counts them, or come to the guest long after their time. */
#include "network_bed.h"

enum { WAITING = 5, MISSED = 7 };

static struct user *pair(struct bed *b, const char *uri)
{
	user_open(b, 0, uri);
	user_open(b, 1, uri);
	user_take(&b->users[0]);
	user_take(&b->users[1]);
	return b->users;
}

static void send_some(struct user *u, unsigned first, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		user_send(u, 255, 1, first + i, 100);
	network_flush(u->queue);
}

static void reopen(struct user *u)
{
	struct error e = { 0 };

	u->queue = network_queue_open(u->port, 0, u->bed->reactor, user_ready, u, &e);
	assert_non_null(u->queue);
}

static void stop(struct user *u)
{
	network_queue_close(u->queue);
	u->queue = NULL;
}

/* Frames wait, the queue closes, others come, it opens again: only those after that arrive. */
static void check(struct bed *b, const char *uri)
{
	struct user *u = pair(b, uri);

	u[1].idle = true;
	send_some(&u[0], 0, WAITING);
	bed_run(b, ms);
	network_peek(u[1].queue, &(struct network_frame){ .length = 0 });
	stop(&u[1]);
	assert_int_equal(user_counts(&u[1], "come_lost_stopping"), WAITING);
	assert_int_equal(user_counts(&u[1], "come_lost_stopped"), 0);
	send_some(&u[0], 100, MISSED);
	bed_run(b, 100 * ms);
	assert_int_equal(user_counts(&u[1], "come_lost_stopped"), MISSED);
	u[1].idle = false;
	reopen(&u[1]);
	user_take(&u[1]);
	send_some(&u[0], 200, 3);
	bed_run(b, 100 * ms);
	assert_int_equal(u[1].count, 3);
	assert_int_equal(frame_number(&u[1].frames[0]), 200);
	assert_int_equal(user_counts(&u[1], "come_lost_stopping"), WAITING);
	assert_int_equal(user_counts(&u[1], "come_lost_stopped"), MISSED);
}

static void a_switch_counts(void **state)
{
	check(*state, "switch:lan");
}

static void a_full_ring_is_no_stop(void **state)
{
	struct bed *b = *state;
	struct user *u = pair(b, "switch:lan");

	u[1].idle = true;
	send_some(&u[0], 0, 5000);
	assert_int_equal(user_counts(&u[1], "come_lost_stopped"), 0);
	stop(&u[1]);
	assert_int_equal(user_counts(&u[1], "come_lost_stopping"), 4096);
}

/* What a filter holds for later is lost, too, both ways. */
static void a_filter_counts(void **state)
{
	struct bed *b = *state;
	struct user *u;

	user_open(b, 0, "switch:lan");
	u = user_open(b, 1, "delay+switch:lan?ms=50") - 1;
	user_take(&u[0]);
	u[1].idle = true;
	send_some(&u[0], 0, WAITING);
	network_peek(u[1].queue, &(struct network_frame){ .length = 0 });
	send_some(&u[0], 0, 2);
	send_some(&u[1], 0, 3);
	stop(&u[1]);
	assert_int_equal(user_counts(&u[1], "come_lost_stopping"), WAITING + 2);
	assert_int_equal(user_counts(&u[1], "sent_dropped"), 3);
	send_some(&u[0], 100, MISSED);
	assert_int_equal(user_counts(&u[1], "come_lost_stopped"), MISSED);
}

static void null_has_nothing_to_lose(void **state)
{
	struct user *u = user_open(*state, 0, "null:?frame=100");

	u->taken_max = 10;
	user_take(u);
	stop(u);
	assert_int_equal(user_counts(u, "come_lost_stopping"), 0);
	assert_int_equal(user_counts(u, "come_lost_stopped"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_switch_counts, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(a_full_ring_is_no_stop, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(a_filter_counts, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(null_has_nothing_to_lose, bed_create, bed_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
