/* If this fails, a device offers what its user forbade, so that a VM cannot go back to the device
 * that it came from, or a mismatch is refused without saying of what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "base/error.h"
#include "virtio/virtio_features.h"

#define BIT(n) (UINT64_C(1) << (n))

enum {
	BLK_FLUSH = 9,
	BLK_MQ = 12,
	NET_CSUM = 0,
	NET_GUEST_CSUM = 1,
	NET_GUEST_TSO4 = 7,
	NET_GUEST_TSO6 = 8,
	NET_GUEST_ECN = 9,
	NET_HOST_TSO4 = 11,
	NET_HOST_TSO6 = 12,
	NET_HOST_ECN = 13,
	NET_CTRL_VQ = 17,
	NET_CTRL_RX = 18,
	NET_MQ = 22,
	NET_RSS = 60,
	EVENT_IDX = 29,
	VERSION_1 = 32,
	PACKED = 34,
	RING_RESET = 40
};

static uint64_t masked(uint32_t device, const char *text)
{
	struct error e = { 0 };
	uint64_t mask = 1;

	if (virtio_features_parse(device, text, &mask, &e))
		fail_msg("%s: %s", text, e.text);
	return mask;
}

static void test_masks(void **state)
{
	assert_true(masked(VIRTIO_ID_BLOCK, NULL) == 0);
	assert_true(masked(VIRTIO_ID_BLOCK, "") == 0);
	assert_true(masked(VIRTIO_ID_BLOCK, "-packed,-event_idx,-mq") ==
		    (BIT(PACKED) | BIT(EVENT_IDX) | BIT(BLK_MQ)));
	assert_true(masked(VIRTIO_ID_NET, "-mq") == BIT(NET_MQ));
	assert_true(masked(VIRTIO_ID_NET, "-ring_packed,-ring_reset") ==
		    (BIT(PACKED) | BIT(RING_RESET)));
	assert_true(masked(VIRTIO_ID_BLOCK, "only:flush,mq") ==
		    ~(BIT(BLK_FLUSH) | BIT(BLK_MQ) | BIT(VERSION_1)));
	assert_true(masked(VIRTIO_ID_BLOCK, "only:version_1") == ~BIT(VERSION_1));
}

static void refuses(uint32_t device, const char *text, const char *reason)
{
	struct error e = { 0 };
	uint64_t mask;

	assert_int_equal(virtio_features_parse(device, text, &mask, &e), -EINVAL);
	if (!strstr(e.text, reason))
		fail_msg("%s: \"%s\" lacks \"%s\"", text, e.text, reason);
}

static void test_refusals(void **state)
{
	refuses(VIRTIO_ID_BLOCK, "-nosuch", "\"nosuch\" is no feature of this device; known: ");
	refuses(VIRTIO_ID_BLOCK, "-nosuch", "packed, in_order");
	refuses(VIRTIO_ID_BLOCK, "-nosuch", "admin_vq");
	refuses(VIRTIO_ID_NET, "-nosuch", "speed_duplex");
	refuses(VIRTIO_ID_NET, "-flush", "\"flush\" is no feature");
	refuses(VIRTIO_ID_BLOCK, "-guest_tso4", "\"guest_tso4\" is no feature");
	refuses(VIRTIO_ID_BLOCK, "mq", "write -NAME");
	refuses(VIRTIO_ID_BLOCK, "-mq,flush", "write -NAME");
	refuses(VIRTIO_ID_BLOCK, "-", "\"\" is no feature");
	refuses(VIRTIO_ID_BLOCK, "-mq,", "\"\"");
	refuses(VIRTIO_ID_BLOCK, "only:", "\"\" is no feature");
	refuses(VIRTIO_ID_BLOCK, "only:-mq", "\"-mq\" is no feature");
	refuses(VIRTIO_ID_BLOCK, "-version_1", "version_1 cannot be left out");
	refuses(VIRTIO_ID_NET, "only:mq,mac", "only: mq: requires");
	refuses(VIRTIO_ID_NET, "only:csum,host_ecn", "only: host_ecn: requires");
}

/* virtio 1.3, 5.1.3.1. */
static void test_requirements(void **state)
{
	uint64_t host = BIT(NET_HOST_TSO4) | BIT(NET_HOST_TSO6) | BIT(NET_HOST_ECN);
	uint64_t guest = BIT(NET_GUEST_TSO4) | BIT(NET_GUEST_TSO6) | BIT(NET_GUEST_ECN);
	uint64_t control = BIT(NET_CTRL_RX) | BIT(NET_MQ) | BIT(NET_RSS);
	uint64_t all = BIT(NET_CSUM) | BIT(NET_GUEST_CSUM) | BIT(NET_CTRL_VQ) | host | guest |
		       control | BIT(VERSION_1);

	assert_true(virtio_features_close(VIRTIO_ID_NET, all) == all);
	assert_true(virtio_features_close(VIRTIO_ID_NET, all & ~BIT(NET_CSUM)) ==
		    (all & ~host & ~BIT(NET_CSUM)));
	assert_true(virtio_features_close(VIRTIO_ID_NET, all & ~BIT(NET_GUEST_CSUM)) ==
		    (all & ~guest & ~BIT(NET_GUEST_CSUM)));
	assert_true(virtio_features_close(VIRTIO_ID_NET, all & ~BIT(NET_CTRL_VQ)) ==
		    (all & ~control & ~BIT(NET_CTRL_VQ)));
	assert_true(virtio_features_close(VIRTIO_ID_NET, all & ~BIT(NET_HOST_TSO4)) ==
		    (all & ~BIT(NET_HOST_TSO4)));
	/* The same bits of a disk are other features. */
	assert_true(virtio_features_close(VIRTIO_ID_BLOCK, host) == host);
}

static void test_names(void **state)
{
	struct error e = { 0 };
	char text[40];

	virtio_features_describe(VIRTIO_ID_BLOCK, BIT(PACKED) | BIT(BLK_FLUSH) | BIT(63), text,
				 sizeof(text));
	assert_string_equal(text, "flush, packed, bit 63");
	virtio_features_describe(VIRTIO_ID_NET, 0, text, sizeof(text));
	assert_string_equal(text, "");
	virtio_features_describe(VIRTIO_ID_NET, ~UINT64_C(0), text, sizeof(text));
	assert_string_equal(text, "csum, guest_csum ...");
	assert_int_equal(virtio_features_refuse(VIRTIO_ID_BLOCK, BIT(PACKED), &e), -EINVAL);
	assert_string_equal(e.text, "the driver has negotiated packed, which this device does not "
				    "offer (see --features)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_masks),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_requirements),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
