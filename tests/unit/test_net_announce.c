/* If this fails, after its move a VM cannot be reached until it happens to send: nobody was told
 * where it is now, or it was not asked to say so; or it is told an MTU that does not pass. */
#include "network_bed.h"

#include <linux/virtio_config.h>
#include <sys/eventfd.h>

#include "device/net.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "link/memory_map.h"
#include "virtio/virtio_device.h"

enum { RING = 8, STEPS = 100000 };

static const uint8_t mac[8] = { 2, 0, 0, 0, 0, 9 };

/* A device on a switch, of which the bed's first user hears everything. */
struct machine {
	struct bed bed;
	struct user *far;
	struct reactor *worker;
	struct network_port *port;
	struct net *net;
	struct virtio_device *device;
	struct guest_memory memory;
	struct memory_map *map;
	struct guest_queue rings[3];
	unsigned config_changes;
};

static void done(void *arg)
{
	*(bool *)arg = true;
}

static void wait_for(struct machine *m, const bool *flag)
{
	for (unsigned i = 0; !*flag; i++) {
		assert_true(i < STEPS);
		reactor_world_step(m->bed.world);
	}
	reactor_world_enter(m->bed.world, m->bed.reactor);
}

static void config_changed(void *arg)
{
	((struct machine *)arg)->config_changes++;
}

static void start_queue(struct machine *m, unsigned index)
{
	struct guest_queue *ring = &m->rings[index];
	const struct virtio_queue_setup setup = {
		RING, 0, 0, ring->descriptor_iova, ring->driver_iova, ring->device_iova
	};
	bool over = false;
	struct reactor_task task = { .fn = done, .arg = &over };
	struct error e = { 0 };
	int status = 0;

	virtio_queue_enable(m->device, index, true);
	assert_int_equal(virtio_queue_configure(m->device, index, &setup, &e), 0);
	virtio_queue_start(m->device, index, &status, &task);
	wait_for(m, &over);
	assert_int_equal(status, 0);
}

static void start_driver(struct machine *m, uint64_t features)
{
	struct error e = { 0 };

	assert_int_equal(virtio_device_accept(m->device, features | 1ull << VIRTIO_F_VERSION_1, &e),
			 0);
	for (unsigned i = 0; i < 2; i++)
		start_queue(m, i);
}

static void open_memory(struct machine *m)
{
	struct memory_map *empty = memory_map_create(NULL);

	guest_memory_open(&m->memory, 1 << 30, 1 << 20);
	for (unsigned i = 0; i < 3; i++)
		guest_queue_open(&m->rings[i], &m->memory, RING, false);
	m->map = memory_map_add(empty,
				&(struct memory_region){ m->memory.iova, m->memory.size,
							 m->memory.fd, 0,
							 MEMORY_READ | MEMORY_WRITE },
				NULL);
	memory_map_release(empty);
}

static int machine_open(void **state)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct virtio_device_options device_options = { .name = "net0", .queue_size = RING };
	struct net_options options = { .mac = { 2, 0, 0, 0, 0, 9 }, .pairs = 1 };
	bool over = false;
	struct reactor_task task = { .fn = done, .arg = &over };
	struct error e = { 0 };

	bed_create_seeded(&m->bed, 1);
	m->far = user_open(&m->bed, 0, "switch:lan");
	m->worker = reactor_virtual_create(m->bed.world, "worker");
	m->port = options.port = network_port_open("own", "switch:lan", 1, m->bed.reactor, &e);
	device_options.control = m->bed.reactor;
	device_options.workers = &m->worker;
	device_options.worker_count = 1;
	m->net = net_create(&options, &device_options, &e);
	assert_non_null(m->net);
	m->device = net_device(m->net);
	virtio_device_set_listener(m->device, config_changed, m);
	open_memory(m);
	virtio_device_set_memory(m->device, m->map, &task);
	wait_for(m, &over);
	*state = m;
	return 0;
}

static int machine_close(void **state)
{
	struct machine *m = *state;
	bool over = false;
	struct reactor_task task = { .fn = done, .arg = &over };

	virtio_device_reset(m->device, &task);
	wait_for(m, &over);
	net_free(m->net);
	network_port_close(m->port);
	memory_map_release(m->map);
	for (unsigned i = 0; i < 3; i++)
		guest_queue_close(&m->rings[i]);
	guest_memory_close(&m->memory);
	bed_run(&m->bed, ms);
	reactor_free(m->worker);
	bed_destroy(&m->bed);
	free(m);
	return 0;
}

static uint16_t status_of(struct machine *m)
{
	uint8_t word[2];

	assert_int_equal(virtio_device_config_read(m->device, 6, word, 2), 0);
	return load_le16(word);
}

/* RFC 903, with the address in all places where one looks for it. */
static void assert_rarp(const struct frame *f)
{
	static const uint8_t head[] = { 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3 };

	assert_true(f->length >= 60);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(f->bytes[i], 255);
	assert_memory_equal(f->bytes + 6, mac, 6);
	assert_memory_equal(f->bytes + 12, head, sizeof(head));
	assert_memory_equal(f->bytes + 22, mac, 6);
	assert_memory_equal(f->bytes + 32, mac, 6);
}

static void says_so_for_the_driver(void **state)
{
	struct machine *m = *state;

	start_driver(m, 0);
	virtio_device_announce(m->device, mac);
	virtio_device_announce(m->device, mac);
	bed_run(&m->bed, ms);
	assert_in_range(m->far->count, 1, 2);
	assert_rarp(&m->far->frames[0]);
	assert_int_equal(m->config_changes, 0);
	assert_int_equal(status_of(m), VIRTIO_NET_S_LINK_UP);
}

/* A VMM announces when it has the state, which may be before the queues run. */
static void says_so_when_it_can(void **state)
{
	struct machine *m = *state;

	virtio_device_announce(m->device, mac);
	bed_run(&m->bed, ms);
	assert_int_equal(m->far->count, 0);
	start_driver(m, 0);
	bed_run(&m->bed, ms);
	assert_int_equal(m->far->count, 1);
	assert_rarp(&m->far->frames[0]);
}

/* The driver says with a command that it has announced itself. */
static void acknowledge(struct machine *m)
{
	uint64_t iova = guest_memory_allocate(&m->memory, 16, 1);
	struct guest_segment segments[2] = { { iova, 2, false }, { iova + 2, 1, true } };
	uint8_t *bytes = guest_memory_at(&m->memory, iova);
	int kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	uint32_t length;
	void *token;

	memcpy(bytes, (uint8_t[]){ VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 0xee },
	       3);
	virtio_queue_give_kick(m->device, 2, kick);
	start_queue(m, 2);
	assert_true(guest_queue_add(&m->rings[2], segments, 2, NULL, bytes));
	guest_queue_publish(&m->rings[2]);
	eventfd_write(kick, 1);
	bed_run(&m->bed, ms);
	assert_int_equal(guest_queue_take(&m->rings[2], &token, &length), 1);
	assert_int_equal(bytes[2], VIRTIO_NET_OK);
}

static void asks_the_driver_that_knows_how(void **state)
{
	struct machine *m = *state;

	start_driver(m, 1ull << VIRTIO_NET_F_GUEST_ANNOUNCE | 1ull << VIRTIO_NET_F_STATUS |
				1ull << VIRTIO_NET_F_CTRL_VQ);
	virtio_device_announce(m->device, mac);
	bed_run(&m->bed, ms);
	assert_int_equal(m->far->count, 0);
	assert_int_equal(m->config_changes, 1);
	assert_int_equal(status_of(m), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	acknowledge(m);
	assert_int_equal(status_of(m), VIRTIO_NET_S_LINK_UP);
}

static void knows_what_passes(void **state)
{
	struct machine *m = *state;
	struct error e = { 0 };

	assert_int_equal(virtio_device_set_mtu(m->device, 1500, &e), 0);
	assert_int_equal(virtio_device_set_mtu(m->device, 67, &e), -EINVAL);
	assert_int_equal(virtio_device_set_mtu(m->device, 65536, &e), -EINVAL);
}

#define MACHINE(test) cmocka_unit_test_setup_teardown(test, machine_open, machine_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		MACHINE(says_so_for_the_driver),
		MACHINE(says_so_when_it_can),
		MACHINE(asks_the_driver_that_knows_how),
		MACHINE(knows_what_passes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
