/* If this fails, a guest that sends from ever new addresses makes the switch's memory grow. */
#include "network_bed.h"

#include <malloc.h>

#include "network/mac_table.h"

enum {
	TABLE_ENTRIES = 16384, /* what mac_table.c has room for */
	ADDRESSES = 200000,
	GROWTH_MAX = 1 << 20, /* bytes; an entry per address would be more */
};

/* splitmix64: addresses that no hash foresees, the same in every run. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Of no group, and never the one that plain_frame() makes. */
static void random_address(uint64_t *state, uint8_t *mac)
{
	uint64_t bits = next_random(state);

	memcpy(mac, &bits, 6);
	mac[0] = (mac[0] & 0xfc) | 6;
}

/* Bytes: what malloc() gave out, and all that is mapped. */
static size_t allocated(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

static size_t mapped(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return 0; /* they map memory of their own, as much as they like */
#else
	FILE *f = fopen("/proc/self/statm", "re");
	size_t pages = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%zu", &pages), 1);
	fclose(f);
	return pages * 4096;
#endif
}

static unsigned count_known(const struct mac_table *t, uint64_t seed)
{
	unsigned known = 0;
	uint8_t mac[6];

	for (unsigned i = 0; i < ADDRESSES; i++) {
		random_address(&seed, mac);
		known += mac_table_find(t, mac, 1000) != MAC_TABLE_NONE;
	}
	return known;
}

static void table_has_a_bound(void **state)
{
	struct mac_table *t = mac_table_create(300, 12345);
	size_t before = allocated(), before_mapped = mapped();
	uint64_t random = 1;
	unsigned known;
	uint8_t mac[6];

	(void)state;
	assert_non_null(t);
	for (unsigned i = 0; i < ADDRESSES; i++) {
		random_address(&random, mac);
		mac_table_learn(t, mac, i % 7, 1000);
		assert_int_equal(mac_table_find(t, mac, 1000), i % 7);
	}
	assert_true(allocated() < before + GROWTH_MAX);
	assert_true(mapped() < before_mapped + GROWTH_MAX);
	known = count_known(t, 1);
	assert_in_range(known, TABLE_ENTRIES * 3 / 4, TABLE_ENTRIES);
	mac_table_free(t);
}

static void send_from_anywhere(struct user *u, uint64_t *random, unsigned count)
{
	static const struct virtio_net_hdr nothing;
	uint8_t bytes[60];

	for (unsigned i = 0; i < count; i++) {
		plain_frame(bytes, sizeof(bytes), 1, 0, i);
		random_address(random, bytes + 6);
		user_send_raw(u, &nothing, bytes, sizeof(bytes));
	}
	network_flush(u->queue);
}

/* Receivers that take nothing, so that what waits for them is bounded, too. */
static void switch_stays_as_large(void **state)
{
	struct bed *b = *state;
	uint64_t random = 2;
	size_t before, before_mapped;

	for (unsigned i = 0; i < 3; i++)
		user_open(b, i, "switch:flood")->idle = i > 0;
	send_from_anywhere(&b->users[0], &random, 50000); /* fills what there is */
	before = allocated();
	before_mapped = mapped();
	send_from_anywhere(&b->users[0], &random, ADDRESSES);
	assert_int_equal(allocated(), before);
	bed_run(b, ms);
	assert_true(mapped() < before_mapped + GROWTH_MAX);
	for (unsigned i = 1; i < 3; i++)
		user_take(&b->users[i]);
	assert_true(b->users[1].count > 0 && b->users[2].count > 0);
}

/* After the flood the switch still learns: a frame goes to one port only. */
static void switch_learns_after_a_flood(void **state)
{
	struct bed *b = *state;
	uint64_t random = 3;

	for (unsigned i = 0; i < 3; i++)
		user_open(b, i, "switch:flood")->idle = i > 0;
	send_from_anywhere(&b->users[0], &random, ADDRESSES);
	bed_run(b, ms);
	for (unsigned i = 1; i < 3; i++) {
		struct network_frame f;

		while (network_peek(b->users[i].queue, &f))
			network_consume(b->users[i].queue);
		b->users[i].idle = false;
	}
	user_send(&b->users[1], 255, 1, 7, 60);
	bed_run(b, ms);
	assert_int_equal(b->users[2].count, 1);
	user_send(&b->users[0], 1, 0, 8, 60);
	bed_run(b, ms);
	assert_int_equal(b->users[1].count, 1);
	assert_int_equal(frame_number(&b->users[1].frames[0]), 8);
	assert_int_equal(b->users[2].count, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_has_a_bound),
		cmocka_unit_test_setup_teardown(switch_stays_as_large, bed_create, bed_free),
		cmocka_unit_test_setup_teardown(switch_learns_after_a_flood, bed_create, bed_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
