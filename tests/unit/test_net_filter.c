/* Broken if this fails: which frames a guest gets to see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "device/net_filter.h"

static const uint8_t own[6] = { 0x52, 0x54, 0, 0, 0, 1 };
static const uint8_t other[6] = { 0x52, 0x54, 0, 0, 0, 2 };
static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
static const uint8_t group[6] = { 0x01, 0, 0x5e, 0, 0, 1 };

static bool passes_tagged(const struct net_filter *f, const uint8_t *to, int vlan)
{
	uint8_t frame[60] = { 0 };

	memcpy(frame, to, 6);
	if (vlan >= 0) {
		frame[12] = 0x81;
		frame[14] = 0xe0 | vlan >> 8; /* urgent, which is nobody's business */
		frame[15] = vlan;
	}
	return net_filter_passes(f, frame, sizeof(frame));
}

static bool passes(const struct net_filter *f, const uint8_t *to)
{
	return passes_tagged(f, to, -1);
}

static void filter_open(struct net_filter *f)
{
	net_filter_reset(f, own);
	net_filter_set_flag(f, NET_PROMISCUOUS, false);
}

static void all_pass_at_first(void **state)
{
	static struct net_filter f;

	net_filter_reset(&f, own);
	assert_true(passes(&f, own) && passes(&f, other) && passes(&f, group));
	assert_true(passes(&f, broadcast) && passes_tagged(&f, other, 7));
}

static void without_a_list_the_own_address_and_broadcasts_pass(void **state)
{
	static struct net_filter f;

	filter_open(&f);
	assert_true(passes(&f, own) && passes(&f, broadcast));
	assert_false(passes(&f, other) || passes(&f, group));
}

static void flags_let_a_kind_pass_or_none_of_it(void **state)
{
	static struct net_filter f;

	filter_open(&f);
	net_filter_set_flag(&f, NET_ALL_MULTICAST, true);
	assert_true(passes(&f, group) && !passes(&f, other));
	net_filter_set_flag(&f, NET_ALL_UNICAST, true);
	assert_true(passes(&f, other));
	net_filter_set_flag(&f, NET_NO_UNICAST, true);
	assert_false(passes(&f, other) || passes(&f, own));
	net_filter_set_flag(&f, NET_NO_MULTICAST, true);
	assert_true(!passes(&f, group) && passes(&f, broadcast));
	net_filter_set_flag(&f, NET_NO_BROADCAST, true);
	assert_false(passes(&f, broadcast));
	net_filter_set_flag(&f, NET_PROMISCUOUS, true);
	assert_true(passes(&f, broadcast) && passes(&f, group) && passes(&f, own));
}

static void lists_are_replaced_and_may_overflow(void **state)
{
	static uint8_t many[6 * (NET_FILTER_ADDRESSES + 1)];
	static struct net_filter f;

	filter_open(&f);
	net_filter_set_addresses(&f, false, other, 1);
	net_filter_set_addresses(&f, true, group, 1);
	assert_true(passes(&f, other) && passes(&f, group) && passes(&f, own));
	net_filter_set_addresses(&f, false, own, 0);
	net_filter_set_addresses(&f, true, own, 0);
	assert_false(passes(&f, other) || passes(&f, group));
	net_filter_set_addresses(&f, false, many, NET_FILTER_ADDRESSES + 1);
	assert_true(passes(&f, other) && !passes(&f, group));
	net_filter_set_addresses(&f, true, many, NET_FILTER_ADDRESSES + 1);
	assert_true(passes(&f, group));
	net_filter_set_addresses(&f, false, many, NET_FILTER_ADDRESSES);
	assert_false(passes(&f, other));
}

static void tagged_frames_pass_by_their_number(void **state)
{
	static struct net_filter f;

	net_filter_reset(&f, own);
	atomic_store(&f.by_vlan, true);
	assert_true(passes(&f, own) && passes_tagged(&f, own, 0));
	assert_false(passes_tagged(&f, own, 7) || passes_tagged(&f, own, 4095));
	net_filter_set_vlan(&f, 7, true);
	net_filter_set_vlan(&f, 4095, true);
	assert_true(passes_tagged(&f, own, 7) && passes_tagged(&f, own, 4095));
	assert_false(passes_tagged(&f, own, 8) || passes_tagged(&f, own, 71));
	net_filter_set_vlan(&f, 7, false);
	assert_false(passes_tagged(&f, own, 7));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_pass_at_first),
		cmocka_unit_test(without_a_list_the_own_address_and_broadcasts_pass),
		cmocka_unit_test(flags_let_a_kind_pass_or_none_of_it),
		cmocka_unit_test(lists_are_replaced_and_may_overflow),
		cmocka_unit_test(tagged_frames_pass_by_their_number),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
