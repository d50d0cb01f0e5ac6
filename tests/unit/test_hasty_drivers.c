/* Broken if this fails: a driver that enables queues first and says what it understands later, or
 * changes its mind under running queues, makes a worker see other features than those that its
 * queues began with, up to the end of the process. */
#include "function_bed.h"

#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

enum { PAIRS = 2, RINGS = 2 * PAIRS + 1, ROOM = 2048, HEADER = 12, FRAME = 60 };

#define WANTED (1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_NET_F_MQ | 1ull << VIRTIO_NET_F_CTRL_VQ)

static const uint8_t address[6] = { 2, 0, 0, 0, 0, 9 };

/* A card alone on its network, and its driver. */
struct stage {
	struct bed bed;
	struct guest_memory memory;
	struct vfio_user_client client;
	struct guest_pci pci;
	struct guest_queue rings[RINGS];
};

static void stage_open(struct stage *s)
{
	struct error e = { 0 };

	bed_prepare(&s->bed, 1);
	bed_open_nic(&s->bed, 0, "hasty", address, PAIRS, "switch:hasty");
	bed_start(&s->bed);
	guest_memory_open(&s->memory, 1 << 20, 1 << 20);
	vfio_user_client_init(&s->client);
	guest_pci_init(&s->pci, &s->client);
	must(vfio_user_client_connect(&s->client, s->bed.functions[0].path, &e), &e);
	must(vfio_user_client_map(&s->client, &s->memory, true, &e), &e);
	must(guest_pci_probe(&s->pci, &e), &e);
	for (unsigned i = 0; i < RINGS; i++)
		guest_queue_open(&s->rings[i], &s->memory, QUEUE_SIZE, false);
}

static void stage_close(struct stage *s)
{
	for (unsigned i = 0; i < RINGS; i++)
		guest_queue_close(&s->rings[i]);
	guest_pci_close(&s->pci);
	vfio_user_client_disconnect(&s->client);
	bed_close(&s->bed);
	guest_memory_close(&s->memory);
}

/* ---- registers, in any order ---- */

static void set_register(struct stage *s, uint32_t offset, uint32_t value, uint32_t bytes)
{
	uint32_t little = htole32(value);
	struct error e = { 0 };

	must(vfio_user_client_write(&s->client, s->pci.common.bar, s->pci.common.offset + offset,
				    &little, bytes, &e),
	     &e);
}

static void set_features(struct stage *s, uint64_t features)
{
	for (unsigned i = 0; i < 2; i++) {
		set_register(s, VIRTIO_PCI_COMMON_GFSELECT, i, 4);
		set_register(s, VIRTIO_PCI_COMMON_GF, features >> 32 * i, 4);
	}
}

static void set_status(struct stage *s, uint8_t more)
{
	set_register(s, VIRTIO_PCI_COMMON_STATUS,
		     VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | more, 1);
}

static void start_queues(struct stage *s)
{
	struct error e = { 0 };

	for (unsigned i = 0; i < RINGS; i++)
		must(guest_pci_start_queue(&s->pci, i, &s->rings[i], &e), &e);
}

/* ---- work ---- */

/* One buffer into each ring; those to receive into stay there. */
static void work(struct stage *s)
{
	uint64_t deadline = now_ms() + DRAIN_SECONDS * 1000;
	uint32_t length;
	void *token;

	for (unsigned i = 0; i < RINGS; i++) {
		const struct guest_segment part = { guest_memory_allocate(&s->memory, ROOM, ROOM),
						    i % 2 ? HEADER + FRAME : ROOM, !(i % 2) };

		assert_true(guest_queue_add(&s->rings[i], &part, 1, NULL, s));
		guest_queue_publish(&s->rings[i]);
		guest_pci_notify(&s->pci, i);
	}
	while (!guest_queue_take(&s->rings[1], &token, &length))
		if (now_ms() > deadline)
			fail_msg("a frame does not leave");
}

static void queues_before_features(void **state)
{
	static struct stage s;
	struct error e = { 0 };

	stage_open(&s);
	must(guest_pci_reset(&s.pci, &e), &e);
	set_status(&s, 0);
	start_queues(&s);
	set_features(&s, WANTED);
	set_status(&s, VIRTIO_CONFIG_S_FEATURES_OK);
	set_status(&s, VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
	work(&s);
	stage_close(&s);
}

static void features_under_running_queues(void **state)
{
	static struct stage s;
	uint8_t status = 0;
	struct error e = { 0 };

	stage_open(&s);
	must(guest_pci_negotiate(&s.pci, 0, &e), &e);
	start_queues(&s);
	must(guest_pci_set_driver_ok(&s.pci, &e), &e);
	set_status(&s, VIRTIO_CONFIG_S_DRIVER_OK); /* takes FEATURES_OK back, as it may think */
	set_features(&s, WANTED);
	set_status(&s, VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
	work(&s);
	must(guest_pci_status(&s.pci, &status, &e), &e);
	assert_int_equal(status & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
	stage_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queues_before_features),
		cmocka_unit_test(features_under_running_queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
