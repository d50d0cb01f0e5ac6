/* If this fails, frames get lost or go to the wrong place between the funnel, null: and switch:, or
 * a user gets a frame with something undone that it did not ask for. */
#include "network_bed.h"

#include "network/mac_table.h"

static const struct virtio_net_hdr nothing;

/* ---- opening ---- */

static void refuse(struct bed *b, const char *uri, const char *wanted)
{
	struct error e = { 0 };

	assert_null(network_port_open("net0", uri, 1, b->reactor, &e));
	if (!strstr(e.text, wanted) || !strstr(e.text, "net0"))
		fail_msg("\"%s\" lacks \"%s\"", e.text, wanted);
	assert_int_equal(e.code, -EINVAL);
}

static void refuses_what_it_does_not_know(void **state)
{
	struct bed *b = *state;

	refuse(b, "nulk:", "nulk");
	refuse(b, "nulk+null:", "nulk");
	refuse(b, "null", "scheme");
	refuse(b, "", "scheme");
	refuse(b, "null:?frames=1", "\"frames\"");
	refuse(b, "null:?frame=64&frame=65", "frame");
	refuse(b, "null:?frame=13", "\"frame\"");
	refuse(b, "null:?frame=65601", "\"frame\"");
	refuse(b, "null:?frame=big", "\"frame\"");
	refuse(b, "null:?frame=64&vni=3", "\"vni\"");
	refuse(b, "switch:", "name");
	refuse(b, "switch:lan?frame=64", "\"frame\"");
}

static void help_tells_of_all(void **state)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	network_print_help(f);
	fclose(f);
	assert_non_null(strstr(text, "null:"));
	assert_non_null(strstr(text, "switch:"));
	assert_non_null(strstr(text, "frame=BYTES"));
	free(text);
}

/* ---- null: ---- */

static void null_forgets(void **state)
{
	struct user *u = user_open(*state, 0, "null:");
	struct network_frame f;

	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(user_send(u, 2, 1, i, 100), 0);
	assert_int_equal(network_peek(u->queue, &f), 0);
	assert_int_equal(user_counts(u, "sent_frames"), 10);
	assert_int_equal(user_counts(u, "sent_bytes"), 1000);
	assert_int_equal(network_port_limits(u->port)->offloads, NETWORK_ALL);
	assert_true(network_port_link(u->port));
}

static void null_gives(void **state)
{
	struct user *u = user_open(*state, 0, "null:?frame=1514");

	u->taken_max = 100;
	user_take(u);
	assert_int_equal(u->count, 100);
	assert_int_equal(u->frames[99].length, 1514);
	assert_int_equal(u->frames[99].bytes[0], 255);
	assert_int_equal(load_be16(u->frames[99].bytes + 12), 0x88b5);
	assert_int_equal(user_counts(u, "come_frames"), 100);
	assert_int_equal(user_counts(u, "come_bytes"), 151400);
}

static void refuses_frames_that_lie(void **state)
{
	struct user *u = user_open(*state, 0, "null:");
	struct virtio_net_hdr h = { .flags = 1, .csum_start = 99, .csum_offset = 0 };
	uint8_t bytes[100] = { 0 };

	assert_int_equal(user_send_raw(u, &h, bytes, 100), -EINVAL);
	h = (struct virtio_net_hdr){ .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 10 };
	assert_int_equal(user_send_raw(u, &h, bytes, 100), -EINVAL);
	assert_int_equal(user_send_raw(u, &nothing, bytes, 13), -EINVAL);
	assert_int_equal(user_counts(u, "sent_refused"), 3);
	assert_int_equal(user_counts(u, "sent_frames"), 0);
}

/* ---- switch: ---- */

static struct user *three(struct bed *b, const char *name)
{
	for (unsigned i = 0; i < 3; i++)
		user_open(b, i, name);
	for (unsigned i = 0; i < 3; i++)
		user_take(&b->users[i]);
	return b->users;
}

static void assert_counts(const struct user *u, unsigned a, unsigned b, unsigned c)
{
	assert_int_equal(u[0].count, a);
	assert_int_equal(u[1].count, b);
	assert_int_equal(u[2].count, c);
}

static void switch_floods_then_learns(void **state)
{
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");

	user_send(&u[0], 2, 1, 7, 100); /* nobody has heard of 2 */
	bed_run(b, ms);
	assert_counts(u, 0, 1, 1);
	assert_frame(&u[1].frames[0], 100, 2, 1, 7);
	assert_frame(&u[2].frames[0], 100, 2, 1, 7);
	user_send(&u[1], 1, 2, 8, 60); /* of 1 it has */
	bed_run(b, ms);
	assert_counts(u, 1, 1, 1);
	assert_frame(&u[0].frames[0], 60, 1, 2, 8);
	user_send(&u[0], 2, 1, 9, 9000);
	bed_run(b, ms);
	assert_counts(u, 1, 2, 1);
	assert_frame(&u[1].frames[1], 9000, 2, 1, 9);
	user_send(&u[2], 255, 3, 10, 60);
	bed_run(b, ms);
	assert_counts(u, 2, 3, 1);
	user_send(&u[0], 1, 4, 11, 60); /* to one on its own side */
	bed_run(b, ms);
	assert_counts(u, 2, 3, 1);
}

static void switch_follows_who_moves(void **state)
{
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");

	user_send(&u[1], 255, 2, 0, 60);
	user_send(&u[0], 2, 1, 0, 60);
	bed_run(b, ms);
	assert_counts(u, 1, 1, 1);
	user_send(&u[2], 255, 2, 0, 60); /* 2 is there now */
	user_send(&u[0], 2, 1, 0, 60);
	bed_run(b, ms);
	assert_counts(u, 2, 2, 2);
	user_close(&u[2]); /* and gone */
	user_send(&u[0], 2, 1, 0, 60);
	bed_run(b, ms);
	assert_int_equal(u[1].count, 3);
	user_open(b, 2, "switch:lan"); /* who comes instead is another */
	user_send(&u[0], 2, 1, 0, 60);
	bed_run(b, ms);
	assert_counts(u, 2, 4, 1);
}

/* IEEE 802.1Q, 8.8.3: after 300 s. */
static void switch_forgets_with_time(void **state)
{
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");

	user_send(&u[1], 255, 2, 0, 60);
	bed_run(b, 290 * second);
	user_send(&u[0], 2, 1, 0, 60);
	bed_run(b, ms);
	assert_counts(u, 1, 1, 1);
	bed_run(b, 20 * second);
	user_send(&u[0], 2, 1, 0, 60);
	bed_run(b, ms);
	assert_counts(u, 1, 2, 2);
}

static void switches_have_names(void **state)
{
	struct bed *b = *state;

	user_open(b, 0, "switch:lan");
	user_open(b, 1, "switch:lan");
	user_open(b, 2, "switch:other");
	user_send(&b->users[0], 255, 1, 0, 60);
	bed_run(b, ms);
	assert_counts(b->users, 0, 1, 0);
}

/* A user that takes nothing costs others nothing, and memory within a bound. */
static void switch_is_bounded(void **state)
{
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");
	unsigned lost = 0;

	u[1].idle = true;
	user_send(&u[1], 255, 2, 0, 60);
	bed_run(b, ms);
	for (unsigned i = 0; i < 10000; i++)
		lost += user_send(&u[0], 2, 1, i, 1000) == -ENOBUFS;
	assert_int_equal(lost, user_counts(&u[0], "sent_dropped"));
	assert_in_range(lost, 10000 - (1 << 20) / 1000, 10000 - 500);
	user_send(&u[0], 255, 1, 0, 60);
	bed_run(b, ms);
	assert_int_equal(u[2].count, 2);
}

/* ---- the table ---- */

static void a_table_of_addresses(void **state)
{
	static const uint8_t a[6] = { 2, 0, 0, 0, 0, 1 }, c[6] = { 2, 0, 0, 0, 0, 2 };
	static const uint8_t group[6] = { 1, 0, 0, 0, 0, 1 }, none[6];
	struct mac_table *t = mac_table_create(300, 12345);

	mac_table_learn(t, a, 7, 1000);
	mac_table_learn(t, c, 0, 1000);
	mac_table_learn(t, group, 8, 1000);
	mac_table_learn(t, none, 8, 1000);
	assert_int_equal(mac_table_find(t, a, 1000), 7);
	assert_int_equal(mac_table_find(t, c, 1299), 0);
	assert_int_equal(mac_table_find(t, c, 1300), MAC_TABLE_NONE);
	assert_int_equal(mac_table_find(t, group, 1000), MAC_TABLE_NONE);
	assert_int_equal(mac_table_find(t, none, 1000), MAC_TABLE_NONE);
	/* Another thread's clock may be behind. */
	assert_int_equal(mac_table_find(t, a, 999), 7);
	mac_table_learn(t, a, 7, 999);
	assert_int_equal(mac_table_find(t, a, 1298), 7);
	mac_table_forget(t, 7);
	assert_int_equal(mac_table_find(t, a, 1000), MAC_TABLE_NONE);
	assert_int_equal(mac_table_find(t, c, 1000), 0);
	mac_table_free(t);
	mac_table_free(NULL);
}

/* ---- what is left undone ---- */

static void send_recipe(struct user *u, const struct recipe *r, uint8_t gso, unsigned size)
{
	static uint8_t bytes[NETWORK_FRAME_MAX];
	struct virtio_net_hdr h;
	size_t n = bake(r, bytes, &h, gso, size);

	assert_int_equal(user_send_raw(u, &h, bytes, n), 0);
}

static void assert_done(const struct frame *f, unsigned payload)
{
	struct packet p = take_apart(f->bytes, f->length);

	assert_memory_equal(&f->header, &nothing, sizeof(nothing));
	assert_int_equal(p.length - p.payload, payload);
}

static void offloads_pass_who_asks_for_them(void **state)
{
	static const struct recipe r = { .version = 4, .protocol = BED_TCP, .payload = 2500 };
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");

	network_port_set_offloads(u[1].port, NETWORK_CHECKSUM | NETWORK_TSO4);
	network_port_set_offloads(u[2].port, NETWORK_CHECKSUM);
	send_recipe(&u[0], &r, VIRTIO_NET_HDR_GSO_TCPV4, 1000);
	bed_run(b, ms);
	assert_counts(u, 0, 1, 3);
	assert_int_equal(u[1].frames[0].header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(u[1].frames[0].length, 54 + 2500);
	for (unsigned i = 0; i < 3; i++)
		assert_done(&u[2].frames[i], i < 2 ? 1000 : 500);
	assert_int_equal(user_counts(&u[1], "come_by_software"), 0);
	assert_int_equal(user_counts(&u[2], "come_by_software"), 1);
	assert_int_equal(user_counts(&u[2], "come_frames"), 3);
	assert_int_equal(user_counts(&u[2], "come_bytes"), 2 * 1054 + 554);
}

static void checksums_are_done_for_who_does_not(void **state)
{
	static const struct recipe r = { .version = 6, .protocol = BED_UDP, .payload = 333 };
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");

	network_port_set_offloads(u[1].port, NETWORK_CHECKSUM);
	send_recipe(&u[0], &r, 0, 0);
	bed_run(b, ms);
	assert_counts(u, 0, 1, 1);
	assert_int_equal(u[1].frames[0].header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
	assert_done(&u[2].frames[0], 333);
	send_recipe(&u[0], &r, GSO_UDP_L4, 100);
	send_recipe(&u[0], &r, 0, 0);
	bed_run(b, ms);
	assert_counts(u, 0, 6, 6);
	for (unsigned i = 1; i < 5; i++)
		assert_done(&u[1].frames[i], i < 4 ? 100 : 33);
	assert_done(&u[2].frames[5], 333);
}

/* Nor is it told that somebody has looked at them. */
static void good_checksums_are_news_for_who_asks(void **state)
{
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_DATA_VALID };
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");
	uint8_t bytes[60];

	network_port_set_offloads(u[1].port, NETWORK_CHECKSUM);
	user_send_raw(&u[0], &h, bytes, plain_frame(bytes, sizeof(bytes), 255, 1, 0));
	bed_run(b, ms);
	assert_counts(u, 0, 1, 1);
	assert_memory_equal(&u[1].frames[0].header, &h, sizeof(h));
	assert_memory_equal(&u[2].frames[0].header, &nothing, sizeof(h));
}

/* A frame that was half cut when it was asked for again, and one that is no good. */
static void segments_wait_for_who_takes_them(void **state)
{
	struct recipe r = { .version = 4, .protocol = BED_TCP, .payload = 3000 };
	struct bed *b = *state;
	struct user *u = three(b, "switch:lan");
	uint8_t bytes[100] = { 0 };
	struct virtio_net_hdr h = { .flags = 1, .gso_type = 1, .gso_size = 10, .csum_start = 34 };
	struct network_frame f, again;

	assert_int_equal(user_send_raw(&u[0], &h, bytes, 100), 0);
	send_recipe(&u[0], &r, VIRTIO_NET_HDR_GSO_TCPV4, 1000);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(network_peek(u[1].queue, &f), 1);
		assert_int_equal(network_peek(u[1].queue, &again), 1);
		assert_memory_equal(&f, &again, sizeof(f));
		assert_int_equal(take_apart(f.bytes, f.length).sequence, 1000 * i);
		network_consume(u[1].queue);
	}
	assert_int_equal(network_peek(u[1].queue, &f), 0);
	assert_int_equal(user_counts(&u[1], "come_dropped"), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(refuses_what_it_does_not_know, bed_create,
						bed_free),
		cmocka_unit_test(help_tells_of_all),
		cmocka_unit_test_setup_teardown(null_forgets, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(null_gives, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(refuses_frames_that_lie, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(switch_floods_then_learns, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(switch_follows_who_moves, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(switch_forgets_with_time, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(switches_have_names, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(switch_is_bounded, bed_create, bed_free),
		cmocka_unit_test(a_table_of_addresses),
		cmocka_unit_test_setup_teardown(offloads_pass_who_asks_for_them, bed_create,
						bed_free),
		cmocka_unit_test_setup_teardown(checksums_are_done_for_who_does_not, bed_create,
						bed_free),
		cmocka_unit_test_setup_teardown(good_checksums_are_news_for_who_asks, bed_create,
						bed_free),
		cmocka_unit_test_setup_teardown(segments_wait_for_who_takes_them, bed_create,
						bed_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
