/* Broken if this fails: a PCI function as a whole, from the socket to the disk and back.  A driver
 * and a VMM that know nothing of the server's code work on it and check every byte, with memory
 * that is shared or reached by messages, while functions are reset, queues are reset, memory goes
 * away and VMMs vanish.  Run it under ThreadSanitizer.
 *
 * OUTBOARD_SEED repeats a run's choices (not its timing). */
#include "function_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <linux/virtio_ring.h>
#include <sys/eventfd.h>

#define EVENT_IDX   (1ull << VIRTIO_RING_F_EVENT_IDX)
#define RING_RESET  (1ull << 40)
#define PACKED      (1ull << 34)
#define IN_ORDER    (1ull << 35)
#define NOTIFY_DATA (1ull << 38)
#define CONFIG_DATA (1ull << 39)

static const struct manner manners[] = {
	{ .name = "shared", .shared = true, .features = EVENT_IDX | RING_RESET },
	{ .name = "shared, like QEMU, indirect",
	  .shared = true,
	  .like_qemu = true,
	  .indirect = true,
	  .features = RING_RESET },
	{ .name = "messages", .features = EVENT_IDX | RING_RESET | NOTIFY_DATA },
	{ .name = "messages, twin, indirect",
	  .twin = true,
	  .indirect = true,
	  .features = EVENT_IDX | RING_RESET },
	{ .name = "messages, like QEMU", .like_qemu = true, .features = EVENT_IDX | RING_RESET },
	{ .name = "shared, packed", .shared = true, .features = EVENT_IDX | RING_RESET | PACKED },
	{ .name = "messages, packed, in order, indirect",
	  .indirect = true,
	  .features = EVENT_IDX | RING_RESET | PACKED | IN_ORDER },
	{ .name = "messages, packed", .features = RING_RESET | PACKED },
	{ .name = "shared, in order",
	  .shared = true,
	  .features = RING_RESET | IN_ORDER | CONFIG_DATA },
	{ .name = "shared, doorbell page",
	  .shared = true,
	  .doorbell_page = true,
	  .features = EVENT_IDX | RING_RESET },
	{ .name = "messages, doorbell page, packed",
	  .doorbell_page = true,
	  .features = RING_RESET | PACKED | NOTIFY_DATA | CONFIG_DATA },
};

static unsigned seed;

/* One guest with one function, which works. */
struct alone {
	struct bed bed;
	struct guest_memory memory;
	struct function function;
};

static struct function *alone_open(struct alone *a, const struct manner *m, unsigned queues,
				   const char *disk)
{
	print_message("%s\n", m->name);
	bed_open(&a->bed, 1, queues, disk, m->doorbell_page);
	guest_memory_open(&a->memory, 0x100000, function_memory_bytes(queues) + (1 << 20));
	function_open(&a->function, a->bed.functions[0].path, m, &a->memory, queues, seed);
	function_start(&a->function);
	return &a->function;
}

static void alone_close(struct alone *a)
{
	function_check_messages(&a->function);
	function_close(&a->function);
	bed_close(&a->bed);
	guest_memory_close(&a->memory);
}

/* ---- the plain way ---- */

static void every_byte_arrives(void **state)
{
	static struct alone a;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		struct function *f = alone_open(&a, &manners[i], 2, "memory:?size=16M");
		struct vfio_client_counters c;

		assert_int_equal(f->pci.device, 0x1042);
		assert_int_equal(f->pci.class_code >> 16, 0x01 /* mass storage */);
		assert_int_equal(f->pci.queue_max, 2);
		assert_int_equal(f->pci.features & feature_bits(&manners[i]),
				 feature_bits(&manners[i]));
		function_work_for(f, manners[i].shared ? 5000 : 1000);
		c = vfio_client_channel_counters(&f->client.channel);
		assert_int_equal(c.errors, 0);
		assert_true(manners[i].shared || c.read_bytes + c.write_bytes > 1000ull * BLOCK);
		alone_close(&a);
	}
}

/* Those that the transport adds, too. */
static void features_can_be_left_out(void **state)
{
	static const struct manner manner = { .name = "masked", .shared = true };
	const uint64_t left_out = EVENT_IDX | RING_RESET | PACKED |
				  1ull << 38 /* NOTIFICATION_DATA */;
	static struct alone a;
	struct function *f;

	bed_masked = left_out;
	f = alone_open(&a, &manner, 2, "memory:?size=16M");
	bed_masked = 0;
	assert_true((f->pci.offered & left_out) == 0);
	assert_true(f->pci.offered & 1ull << 39 /* NOTIF_CONFIG_DATA */);
	function_work_for(f, 200);
	alone_close(&a);
}

static void eight_queues(void **state)
{
	static struct alone a;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i += 2) {
		struct function *f = alone_open(&a, &manners[i], 8, "memory:?size=16M");

		function_work_for(f, manners[i].shared ? 5000 : 1000);
		alone_close(&a);
	}
}

/* Sleeps for the queue's eventfd whenever there is nothing to do: a lost interrupt would be one
 * that never comes. */
static void interrupts_arrive(void **state)
{
	static struct alone a;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		struct function *f = alone_open(&a, &manners[i], 1, "memory:?size=16M");

		for (unsigned round = 0; round < 300; round++) {
			uint64_t deadline = now_ms() + 10000, count;
			bool told = false;

			function_fill(f, 0);
			if (!guest_queue_outstanding(&f->rings[0]))
				continue;
			while (!told && now_ms() < deadline) {
				function_serve(f);
				told = read(guest_pci_irq(&f->pci, 0), &count, sizeof(count)) > 0;
			}
			assert_true(told);
			do { /* and then nothing is left that nobody was told of */
				function_drain(f);
			} while (!guest_queue_listen(&f->rings[0]));
			while (read(guest_pci_irq(&f->pci, 0), &count, sizeof(count)) > 0)
				;
		}
		alone_close(&a);
	}
}

static void serve_for(struct function *f, unsigned ms)
{
	uint64_t end = now_ms() + ms;

	do {
		function_serve(f);
		usleep(100);
	} while (now_ms() < end);
}

static bool irq_comes(struct function *f, unsigned ms)
{
	uint64_t end = now_ms() + ms, count;

	do {
		function_serve(f);
		if (read(guest_pci_irq(&f->pci, 0), &count, sizeof(count)) > 0)
			return true;
	} while (now_ms() < end);
	return false;
}

/* What happens behind a mask is pending, and comes when the mask goes. */
static void masked_vectors_are_pending(void **state)
{
	static struct alone a;
	struct error e = { 0 };

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i += 2) {
		struct function *f = alone_open(&a, &manners[i], 1, "memory:?size=16M");

		irq_comes(f, 50); /* a queue that starts may interrupt once for nothing */
		must(guest_pci_mask_vector(&f->pci, 1, true, &e), &e);
		serve_for(f, 20); /* the worker hears of it */
		function_fill(f, 0);
		function_drain(f);
		assert_false(irq_comes(f, 50));
		assert_int_equal(guest_pci_is_pending(&f->pci, 1, &e), 1);
		must(guest_pci_mask_vector(&f->pci, 1, false, &e), &e);
		assert_true(irq_comes(f, 5000));
		assert_int_equal(guest_pci_is_pending(&f->pci, 1, &e), 0);
		guest_queue_listen(&f->rings[0]);
		function_submit(f, 0, 0);
		guest_queue_publish(&f->rings[0]);
		guest_pci_notify(&f->pci, 0);
		function_drain(f);
		assert_true(irq_comes(f, 5000));
		alone_close(&a);
	}
}

static int mask_by(struct function *f, int fd, uint32_t action)
{
	struct error e = { 0 };

	return vfio_user_client_set_irqs(&f->client, VFIO_IRQ_SET_DATA_EVENTFD | action,
					 VFIO_PCI_MSIX_IRQ_INDEX, 1, 1, NULL, &fd, fd >= 0, &e);
}

static void signal_fd(int fd)
{
	assert_int_equal(eventfd_write(fd, 1), 0);
}

/* The client masks and unmasks without a message. */
static void eventfds_mask(void **state)
{
	int mask = eventfd(0, EFD_CLOEXEC), unmask = eventfd(0, EFD_CLOEXEC);
	int file = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	static struct alone a;
	struct function *f = alone_open(&a, &manners[0], 1, "memory:?size=16M");

	assert_int_equal(mask_by(f, file, VFIO_IRQ_SET_ACTION_MASK), -EINVAL);
	assert_int_equal(mask_by(f, mask, VFIO_IRQ_SET_ACTION_MASK), 0);
	assert_int_equal(mask_by(f, unmask, VFIO_IRQ_SET_ACTION_UNMASK), 0);
	irq_comes(f, 50);
	for (unsigned round = 0; round < 5; round++) {
		signal_fd(mask);
		serve_for(f, 20);
		function_fill(f, 0);
		function_drain(f);
		assert_false(irq_comes(f, 50));
		signal_fd(unmask);
		assert_true(irq_comes(f, 5000));
		guest_queue_listen(&f->rings[0]);
	}
	assert_int_equal(mask_by(f, -1, VFIO_IRQ_SET_ACTION_MASK), 0);
	signal_fd(mask);
	serve_for(f, 20);
	function_fill(f, 0);
	function_drain(f);
	assert_true(irq_comes(f, 5000));
	alone_close(&a);
	close(mask);
	close(unmask);
	close(file);
}

/* ---- resets ---- */

static void work_a_little(struct function *f)
{
	for (unsigned i = next_random(f) % 20; i--;)
		function_work(f);
}

static void resets_under_load(void **state)
{
	static struct alone a;
	struct error e = { 0 };

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		struct function *f = alone_open(&a, &manners[i], 2, "memory:?size=16M");

		for (unsigned round = 0; round < 60; round++) {
			work_a_little(f);
			switch (round % 3) {
			case 0: /* by the driver's status register */
				break;
			case 1:
				must(vfio_user_client_reset(&f->client, &e), &e);
				must(guest_pci_probe(&f->pci, &e), &e);
				must(guest_pci_enable_vectors(&f->pci, &e), &e);
				break;
			case 2:
				must(guest_pci_reset_function(&f->pci, &e), &e);
				must(guest_pci_probe(&f->pci, &e), &e);
				must(guest_pci_enable_vectors(&f->pci, &e), &e);
				break;
			}
			function_start_driver(f);
		}
		function_work_for(f, 200);
		alone_close(&a);
	}
}

static void reset_queue(struct function *f, unsigned queue)
{
	struct error e = { 0 };

	must(guest_pci_reset_queue(&f->pci, queue, &e), &e);
	function_collect(f, queue); /* what it had answered before */
	guest_queue_restart(&f->rings[queue], 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot_state *t = &f->states[queue][i];

		if (t->busy && !t->reading)
			t->blocks[t->block].unknown = true;
		t->busy = false;
	}
	must(guest_pci_start_queue(&f->pci, queue, &f->rings[queue], &e), &e);
}

static void queue_resets_under_load(void **state)
{
	static struct alone a;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		struct function *f = alone_open(&a, &manners[i], 2, "memory:?size=16M");

		if (f->pci.features & RING_RESET)
			for (unsigned round = 0; round < 60; round++) {
				work_a_little(f);
				reset_queue(f, round % 2);
			}
		function_work_for(f, 200);
		alone_close(&a);
	}
}

/* ---- a VMM that vanishes ---- */

static void clients_vanish_under_load(void **state)
{
	static struct alone a;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		struct function *f = alone_open(&a, &manners[i], 2, "memory:?size=16M");

		for (unsigned round = 0; round < 40; round++) {
			work_a_little(f);
			function_check_messages(f);
			vfio_user_client_disconnect(&f->client);
			function_start(f);
		}
		function_work_for(f, 200);
		alone_close(&a);
	}
}

/* ---- memory that goes away ---- */

/* The rings stay, the buffers' memory goes while requests are under way.  Afterwards nobody may
 * touch it. */
static void submit_into(struct function *f, struct guest_memory *m, bool reading)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct guest_blk_slot *s = &f->blks[0].slots[i];

		s->buffer_iova = m->iova + i * BLOCK;
		s->buffer = m->bytes + i * BLOCK;
		assert_true(guest_blk_add(&f->blks[0], s,
					  reading ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
					  sector_of(0, i, 0), BLOCK));
	}
	if (guest_queue_publish(&f->rings[0]))
		guest_pci_notify(&f->pci, 0);
}

static void check_untouched(const struct guest_memory *m)
{
	for (uint64_t i = 0; i < m->size; i++)
		if (m->bytes[i] != 0x77)
			fail_msg("byte %llu was written after the unmap", (unsigned long long)i);
}

static void tear(struct alone *a, const struct manner *m, bool reading, unsigned wait_us)
{
	struct function *f = alone_open(a, m, 1, "delay+memory:?size=16M&time=3ms&jitter=3ms");
	struct guest_memory buffers;
	struct error e = { 0 };

	guest_memory_open(&buffers, 1ull << 32, 1 << 20);
	must(vfio_user_client_map(&f->client, &buffers, m->shared, &e), &e);
	submit_into(f, &buffers, reading);
	usleep(wait_us);
	function_serve(f);
	must(vfio_user_client_unmap(&f->client, &buffers, &e), &e);
	memset(buffers.bytes, 0x77, buffers.size);
	serve_for(f, 20);
	check_untouched(&buffers);
	/* whatever became of the requests, the function can be used again */
	f->may_fail = true;
	function_start_driver(f);
	f->may_fail = false;
	for (unsigned i = 0; i < SLOTS; i++) {
		struct guest_blk_slot *s = &f->blks[0].slots[i];

		s->buffer_iova = guest_memory_allocate(&a->memory, BLOCK, BLOCK);
		s->buffer = guest_memory_at(&a->memory, s->buffer_iova);
		f->states[0][i].blocks[0].unknown = true;
	}
	function_work_for(f, 100);
	f->may_fail = true;
	alone_close(a);
	guest_memory_close(&buffers);
}

static void unmap_under_requests(void **state)
{
	static struct alone a;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++)
		for (unsigned j = 0; j < 6; j++)
			tear(&a, &manners[i], j % 2, j / 2 * 2000);
}

/* A VMM that rearranges memory takes all of it away and gives it back at once, whatever is under
 * way.  Nothing gets lost by that.  (A client that answers us between the two, unlike QEMU, has
 * nothing to answer with.) */
static void memory_goes_and_comes_back(void **state)
{
	static struct alone a;
	struct error e = { 0 };

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		struct function *f;

		if (!manners[i].shared && !manners[i].like_qemu)
			continue;
		f = alone_open(&a, &manners[i], 2,
			       "delay+memory:?size=16M&time=100us&jitter=300us");
		function_work_for(f, 20);
		for (unsigned round = 0; round < 60; round++) {
			work_a_little(f);
			must(vfio_user_client_remap(&f->client, &a.memory, manners[i].shared, &e),
			     &e);
		}
		function_work_for(f, 200);
		alone_close(&a);
	}
}

/* ---- several functions, several guests ---- */

struct machine { /* a guest with some of the bed's functions, in a thread of its own */
	struct bed *bed;
	unsigned first, count, queues;
	const struct manner *manner;
	struct guest_memory memory;
	struct function functions[8];
	uint64_t requests;
	pthread_t thread;
};

static void *machine_run(void *arg)
{
	struct machine *m = arg;
	uint64_t deadline = now_ms() + DRAIN_SECONDS * 1000;
	bool busy = true;

	while (busy && now_ms() < deadline) {
		busy = false;
		for (unsigned i = 0; i < m->count; i++) {
			function_work(&m->functions[i]);
			busy |= m->functions[i].completed < m->requests;
		}
	}
	for (unsigned i = 0; i < m->count; i++)
		function_drain(&m->functions[i]);
	return NULL;
}

static void machine_open(struct machine *m, struct bed *b, unsigned first, unsigned count,
			 unsigned queues, const struct manner *manner)
{
	*m = (struct machine){ .bed = b, .first = first, .count = count, .manner = manner };
	m->requests = manner->shared ? 2000 : 400;
	guest_memory_open(&m->memory, 0x100000, count * function_memory_bytes(queues) + (1 << 20));
	for (unsigned i = 0; i < count; i++) {
		function_open(&m->functions[i], b->functions[first + i].path, manner, &m->memory,
			      queues, seed + i);
		function_start(&m->functions[i]);
	}
}

static void machine_close(struct machine *m)
{
	for (unsigned i = 0; i < m->count; i++) {
		assert_true(m->functions[i].completed >= m->requests);
		function_check_messages(&m->functions[i]);
		function_close(&m->functions[i]);
	}
	guest_memory_close(&m->memory);
}

/* Each machine's functions write what the other's never do, to disks of their own. */
static void run_machines(unsigned functions, unsigned queues, const struct manner *first,
			 const struct manner *second)
{
	static struct machine machines[2];
	static struct bed bed;

	print_message("%s beside %s\n", first->name, second->name);
	bed_open(&bed, 2 * functions, queues, "memory:?size=16M", false);
	machine_open(&machines[0], &bed, 0, functions, queues, first);
	machine_open(&machines[1], &bed, functions, functions, queues, second);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&machines[i].thread, NULL, machine_run, &machines[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(machines[i].thread, NULL);
	for (unsigned i = 0; i < 2; i++)
		machine_close(&machines[i]);
	bed_close(&bed);
}

static void two_functions_of_eight_queues(void **state)
{
	run_machines(1, 8, &manners[0], &manners[2]);
}

static void two_machines_of_eight_functions(void **state)
{
	run_machines(8, 2, &manners[0], &manners[1]);
	run_machines(8, 2, &manners[0], &manners[4]);
}

int main(int argc, char **argv)
{
	const char *text = getenv("OUTBOARD_SEED");
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_arrives),
		cmocka_unit_test(features_can_be_left_out),
		cmocka_unit_test(eight_queues),
		cmocka_unit_test(interrupts_arrive),
		cmocka_unit_test(masked_vectors_are_pending),
		cmocka_unit_test(eventfds_mask),
		cmocka_unit_test(resets_under_load),
		cmocka_unit_test(queue_resets_under_load),
		cmocka_unit_test(clients_vanish_under_load),
		cmocka_unit_test(unmap_under_requests),
		cmocka_unit_test(memory_goes_and_comes_back),
		cmocka_unit_test(two_functions_of_eight_queues),
		cmocka_unit_test(two_machines_of_eight_functions),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	seed = text ? strtoul(text, NULL, 0) : (unsigned)time(NULL);
	print_message("OUTBOARD_SEED=%u\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
