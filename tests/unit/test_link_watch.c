/* If this fails, a guest is not told that the interface under its port has lost its carrier. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "namespace_bed.h"
#include "network/link_watch.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"

struct bed {
	struct reactor_world *world;
	struct reactor *control;
	struct link_watch *watch;
	unsigned changes;
	bool closes; /* itself, at the next change */
};

static void changed(void *arg)
{
	struct bed *b = arg;

	b->changes++;
	if (!b->closes)
		return;
	link_watch_close(b->watch);
	b->watch = NULL;
}

static int bed_create(void **state)
{
	struct bed *b = calloc(1, sizeof(*b));

	b->world = reactor_world_create(1);
	b->control = reactor_virtual_create(b->world, "control");
	*state = b;
	return namespace_add_veth("left", "right", 0);
}

static int bed_free(void **state)
{
	struct bed *b = *state;

	reactor_world_enter(b->world, b->control);
	link_watch_close(b->watch);
	reactor_free(b->control);
	reactor_world_free(b->world);
	free(b);
	namespace_delete("left");
	return 0;
}

static void bed_watch(struct bed *b)
{
	struct error e = { 0 };

	b->watch = link_watch_open(b->control, namespace_index("left"), changed, b, &e);
	if (!b->watch)
		print_error("%s\n", e.text);
	assert_non_null(b->watch);
	assert_int_equal(b->changes, 0);
}

/* Until there have been so many changes; a change of the carrier takes the kernel a moment. */
static void bed_await(struct bed *b, unsigned changes)
{
	for (unsigned i = 0; i < 3000 && b->changes < changes; i++)
		if (!reactor_world_step(b->world))
			usleep(1000);
	assert_int_equal(b->changes, changes);
}

static void knows_the_state_at_open(void **state)
{
	struct bed *b = *state;

	bed_watch(b);
	assert_false(link_watch_up(b->watch));
	link_watch_close(b->watch);
	assert_int_equal(namespace_set_up("left", true), 0);
	assert_int_equal(namespace_set_up("right", true), 0);
	bed_watch(b);
	assert_true(link_watch_up(b->watch));
	assert_false(link_watch_gone(b->watch));
}

/* Up alone is no carrier. */
static void follows_the_carrier(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_set_up("left", true), 0);
	bed_watch(b);
	assert_false(link_watch_up(b->watch));
	assert_int_equal(namespace_set_up("right", true), 0);
	bed_await(b, 1);
	assert_true(link_watch_up(b->watch));
	assert_int_equal(namespace_set_up("right", false), 0);
	bed_await(b, 2);
	assert_false(link_watch_up(b->watch));
}

static void follows_the_administrator(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_set_up("right", true), 0);
	bed_watch(b);
	assert_int_equal(namespace_set_up("left", true), 0);
	bed_await(b, 1);
	assert_true(link_watch_up(b->watch));
	assert_int_equal(namespace_set_up("left", false), 0);
	bed_await(b, 2);
	assert_false(link_watch_up(b->watch));
	assert_false(link_watch_gone(b->watch));
}

static void sees_the_interface_go(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_set_up("left", true), 0);
	assert_int_equal(namespace_set_up("right", true), 0);
	bed_watch(b);
	assert_int_equal(namespace_delete("left"), 0);
	bed_await(b, 1);
	assert_false(link_watch_up(b->watch));
	for (unsigned i = 0; i < 1000 && !link_watch_gone(b->watch); i++)
		if (!reactor_world_step(b->world))
			usleep(1000);
	assert_true(link_watch_gone(b->watch));
	assert_int_equal(b->changes, 1);
}

/* More notices than the socket holds, while nobody reads them: the last state is found out. */
static void survives_a_flood(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_set_up("right", true), 0);
	bed_watch(b);
	for (unsigned i = 0; i < 2000; i++)
		assert_int_equal(namespace_set_mtu("right", 1000 + i % 2), 0);
	assert_int_equal(namespace_set_up("left", true), 0);
	bed_await(b, 1);
	assert_true(link_watch_up(b->watch));
}

static void may_be_closed_by_its_listener(void **state)
{
	struct bed *b = *state;

	assert_int_equal(namespace_set_up("right", true), 0);
	bed_watch(b);
	b->closes = true;
	assert_int_equal(namespace_set_up("left", true), 0);
	bed_await(b, 1);
	assert_null(b->watch);
}

static void refuses_what_is_not_there(void **state)
{
	struct bed *b = *state;
	struct error e = { 0 };

	assert_null(link_watch_open(b->control, 12345, changed, b, &e));
	assert_int_equal(e.code, -ENODEV);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, bed_create, bed_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(knows_the_state_at_open),   TEST(follows_the_carrier),
		TEST(follows_the_administrator), TEST(sees_the_interface_go),
		TEST(survives_a_flood),          TEST(may_be_closed_by_its_listener),
		TEST(refuses_what_is_not_there),
	};

	namespace_enter();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
