/* Broken if this fails: a guest whose disk is a PCI function moves to another function, by VFIO's
 * second migration protocol over vfio-user, without losing a request or a byte.  The VMM's part is
 * a client and a driver that know nothing of the server's code.  Run it under ThreadSanitizer.
 *
 * OUTBOARD_SEED repeats a run's choices (not its timing). */
#include "function_bed.h"

#include <fcntl.h>
#include <linux/vfio.h>
#include <linux/virtio_ring.h>
#include <sys/mman.h>

#include "base/counter.h"
#include "driver/vfio_client_migration.h"

#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define PACKED    (1ull << 34)
#define IN_ORDER  (1ull << 35)

enum { SIDES = 2, DISK_MEGABYTES = 16, STATE_MAX = 1 << 20, CHUNK = 333, PAGE = 4096 };

static const struct manner manners[] = {
	{ .name = "shared", .shared = true, .features = EVENT_IDX },
	{ .name = "shared, packed, indirect",
	  .shared = true,
	  .indirect = true,
	  .features = EVENT_IDX | PACKED },
	{ .name = "shared, in order", .shared = true, .features = IN_ORDER },
	{ .name = "messages", .features = EVENT_IDX },
	{ .name = "messages, packed", .features = PACKED },
	{ .name = "messages, twin, packed, in order", .twin = true, .features = PACKED | IN_ORDER },
};

/* Two functions of one disk; the guest is at one of them. */
struct stage {
	struct bed bed;
	int disk;
	struct guest_memory memory;
	struct function guest;
	struct vfio_user_client other; /* connected to the function where the guest is not */
	unsigned at;                   /* 0, 1 */
	char state[STATE_MAX];
};

static unsigned seed;

/* ---- the stage ---- */

static void connect_other(struct stage *s)
{
	struct error e = { 0 };

	vfio_user_client_init(&s->other);
	s->other.twin_socket = s->guest.manner->twin;
	must(vfio_user_client_connect(&s->other, s->bed.functions[!s->at].path, &e), &e);
	must(vfio_user_client_map(&s->other, &s->memory, s->guest.manner->shared, &e), &e);
	must(vfio_user_client_connect_irqs(&s->other, VFIO_PCI_MSIX_IRQ_INDEX, 0, s->guest.pci.irq,
					   s->guest.queues + 1, &e),
	     &e);
}

static void stage_open(struct stage *s, const struct manner *m, unsigned queues,
		       const char *filters)
{
	char uri[160];

	print_message("%s\n", m->name);
	s->at = 0;
	s->disk = memfd_create("disk", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->disk, DISK_MEGABYTES << 20), 0);
	snprintf(uri, sizeof(uri), "%sfile:/proc/self/fd/%d?lock=off&direct=off%s", filters,
		 s->disk, *filters ? "&time=5s" : "");
	bed_open(&s->bed, SIDES, queues, uri, false);
	guest_memory_open(&s->memory, 0x100000, function_memory_bytes(queues) + (1 << 20));
	function_open(&s->guest, s->bed.functions[0].path, m, &s->memory, queues, seed);
	function_start(&s->guest);
	connect_other(s);
}

static void stage_close(struct stage *s)
{
	function_close(&s->guest);
	vfio_user_client_disconnect(&s->other);
	bed_close(&s->bed);
	guest_memory_close(&s->memory);
	close(s->disk);
}

static struct vfio_user_client *here(struct stage *s)
{
	return &s->guest.client;
}

static void expect_state(struct vfio_user_client *c, uint32_t expected)
{
	struct error e = { 0 };
	uint32_t state;

	must(vfio_client_get_state(c, &state, &e), &e);
	assert_int_equal(state, expected);
}

static void set_state(struct vfio_user_client *c, uint32_t state)
{
	struct error e = { 0 };

	must(vfio_client_set_state(c, state, &e), &e);
	expect_state(c, state);
}

/* ---- a migration ---- */

static size_t read_state(struct stage *s)
{
	struct error e = { 0 };
	size_t length = 0;
	ssize_t n;

	do {
		assert_in_range(length, 0, STATE_MAX - CHUNK);
		n = vfio_client_mig_read(here(s), s->state + length, CHUNK, &e);
		if (n < 0)
			fail_msg("%s", e.text);
		length += n;
	} while (n == CHUNK);
	return length;
}

static int write_state(struct stage *s, size_t length, struct error *e)
{
	for (size_t at = 0; at < length; at += CHUNK) {
		uint32_t n = minimum_u64(CHUNK, length - at);
		int err = vfio_client_mig_write(&s->other, s->state + at, n, e);

		if (err)
			return err;
	}
	return 0;
}

/* The VMM's ends are exchanged; notifications go by the register from now on. */
static void switch_over(struct stage *s)
{
	struct vfio_user_client client = s->guest.client;

	s->guest.client = s->other;
	s->other = client;
	s->at = !s->at;
	for (unsigned i = 0; i < GUEST_PCI_QUEUES; i++) {
		if (s->guest.pci.queues[i].kick >= 0)
			close(s->guest.pci.queues[i].kick);
		s->guest.pci.queues[i].kick = -1;
	}
}

static unsigned count_marks(struct stage *s)
{
	uint64_t words[16] = { 0 };
	struct error e = { 0 };
	unsigned sum = 0;

	assert_in_range(s->memory.size / PAGE, 1, 16 * 64);
	must(vfio_client_log_report(here(s), s->memory.iova, s->memory.size, PAGE, words,
				    sizeof(words), &e),
	     &e);
	for (unsigned i = 0; i < 16; i++)
		sum += __builtin_popcountll(words[i]);
	return sum;
}

static void start_log(struct stage *s)
{
	struct error e = { 0 };
	uint64_t page = PAGE;

	must(vfio_client_log_start(here(s), NULL, 0, &page, &e), &e);
	assert_int_equal(page, PAGE);
}

/* By the preview or without it; requests are out when it stops. */
static void migrate(struct stage *s, bool preview)
{
	struct error e = { 0 };
	uint64_t bound;
	size_t n;

	start_log(s);
	function_work_for(&s->guest, 50);
	assert_in_range(count_marks(s), 2, s->memory.size / PAGE);
	set_state(&s->other, CLIENT_RESUMING);
	if (preview) {
		set_state(here(s), CLIENT_PRE_COPY);
		must(write_state(s, read_state(s), &e), &e);
		function_work_for(&s->guest, 50);
	}
	must(vfio_client_data_size(here(s), &bound, &e), &e);
	for (unsigned i = 0; i < s->guest.queues; i++)
		function_fill(&s->guest, i);
	set_state(here(s), CLIENT_STOP_COPY);
	count_marks(s);
	n = read_state(s);
	assert_in_range(n, 1000, bound);
	must(vfio_client_log_stop(here(s), &e), &e);
	must(write_state(s, n, &e), &e);
	set_state(&s->other, CLIENT_STOP);
	set_state(&s->other, CLIENT_RUNNING);
	set_state(here(s), CLIENT_STOP);
	switch_over(s);
	function_drain(&s->guest);
}

static void guests_move_back_and_forth(void **state)
{
	static struct stage s;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		stage_open(&s, &manners[i], 2, "");
		for (unsigned round = 0; round < 4; round++) {
			migrate(&s, round % 2);
			function_work_for(&s.guest, 200);
		}
		assert_int_equal(counter_sum("migration", "vda", "saves"), 4 * (i + 1));
		assert_int_equal(counter_sum("migration", "vda", "loads"), 4 * (i + 1));
		stage_close(&s);
	}
}

/* ---- arcs ---- */

/* As <linux/vfio.h> has it: whether a user may go from one to the other. */
static bool is_legal(uint32_t from, uint32_t to)
{
	if (to == CLIENT_ERROR || to >= CLIENT_STATES)
		return false;
	return from != CLIENT_STOP_COPY || (to != CLIENT_PRE_COPY && to != CLIENT_PRE_COPY_P2P);
}

/* RESUMING is left with an error here, for nothing was written. */
static void every_pair_of_states(void **state)
{
	static struct stage s;
	struct error e = { 0 };

	stage_open(&s, &manners[0], 1, "");
	for (uint32_t from = CLIENT_STOP; from < CLIENT_STATES; from++)
		for (uint32_t to = 0; to <= CLIENT_STATES; to++) {
			bool stays = from == CLIENT_RESUMING && to != from;
			int err;

			must(vfio_user_client_reset(&s.other, &e), &e);
			expect_state(&s.other, CLIENT_RUNNING);
			set_state(&s.other, from);
			err = vfio_client_set_state(&s.other, to, &e);
			if (is_legal(from, to) && !stays)
				assert_int_equal(err, 0);
			else if (is_legal(from, to))
				assert_int_equal(err, -EBADMSG);
			else
				assert_int_equal(err, -EINVAL);
			expect_state(&s.other, err ? from : to);
		}
	function_work_for(&s.guest, 100); /* the one beside it has noticed nothing */
	stage_close(&s);
}

/* ---- what does not fit ---- */

static void states_that_are_wrong_change_nothing(void **state)
{
	static struct stage s;
	struct error e = { 0 };
	size_t n;

	stage_open(&s, &manners[1], 2, "");
	function_work_for(&s.guest, 100);
	set_state(here(&s), CLIENT_STOP_COPY);
	n = read_state(&s);
	set_state(&s.other, CLIENT_RESUMING);
	s.state[n / 2] ^= 4;
	assert_int_equal(write_state(&s, n, &e), -EBADMSG); /* seen with its last byte */
	s.state[n / 2] ^= 4;
	must(write_state(&s, n - 1, &e), &e);
	assert_int_equal(vfio_client_set_state(&s.other, CLIENT_STOP, &e), -EBADMSG);
	expect_state(&s.other, CLIENT_RESUMING);
	memcpy(s.state, "QEVM", 4);
	assert_int_equal(write_state(&s, n, &e), -EBADMSG); /* seen at once */
	set_state(here(&s), CLIENT_STOP);
	set_state(here(&s), CLIENT_STOP_COPY);
	must(write_state(&s, read_state(&s), &e), &e);
	set_state(&s.other, CLIENT_RUNNING);
	switch_over(&s);
	function_work_for(&s.guest, 100);
	stage_close(&s);
}

/* A destination of other features says so before a byte of memory is copied. */
static void previews_that_do_not_fit_are_refused(void **state)
{
	static struct stage s;
	struct error e = { 0 };

	bed_masked = PACKED;
	bed_masked_from = 1;
	stage_open(&s, &manners[1], 2, "");
	bed_masked = bed_masked_from = 0;
	set_state(here(&s), CLIENT_PRE_COPY);
	set_state(&s.other, CLIENT_RESUMING);
	assert_int_equal(write_state(&s, read_state(&s), &e), -EINVAL);
	expect_state(&s.other, CLIENT_RESUMING);
	set_state(here(&s), CLIENT_RUNNING);
	function_work_for(&s.guest, 100);
	stage_close(&s);
}

/* ---- stops ---- */

/* 5 s per request, and none has left: the stop does not wait, the other side begins them anew. */
static void parked_requests_go_along(void **state)
{
	static struct stage s;
	uint64_t start;

	stage_open(&s, &manners[0], 2, "delay+");
	for (unsigned i = 0; i < s.guest.queues; i++)
		function_fill(&s.guest, i);
	usleep(50000);
	start = now_ms();
	set_state(here(&s), CLIENT_STOP_COPY);
	assert_in_range(now_ms() - start, 0, 2500);
	set_state(here(&s), CLIENT_RUNNING); /* cancelled: they go on here */
	set_state(here(&s), CLIENT_STOP_COPY);
	read_state(&s);
	set_state(&s.other, CLIENT_RESUMING);
	{
		struct error e = { 0 };

		set_state(here(&s), CLIENT_STOP);
		set_state(here(&s), CLIENT_STOP_COPY);
		must(write_state(&s, read_state(&s), &e), &e);
	}
	set_state(&s.other, CLIENT_RUNNING);
	switch_over(&s);
	function_drain(&s.guest);
	assert_int_equal(s.guest.failed, 0);
	stage_close(&s);
}

/* A client that leaves in the middle leaves a function that is reset, and runs. */
static void clients_may_vanish_in_any_state(void **state)
{
	static struct stage s;

	stage_open(&s, &manners[0], 2, "");
	for (uint32_t at = CLIENT_STOP; at < CLIENT_STATES; at++) {
		function_work_for(&s.guest, 20);
		start_log(&s);
		set_state(here(&s), at);
		vfio_user_client_disconnect(here(&s));
		guest_pci_close(&s.guest.pci);
		guest_pci_init(&s.guest.pci, here(&s));
		function_start(&s.guest);
		expect_state(here(&s), CLIENT_RUNNING);
	}
	function_work_for(&s.guest, 50);
	stage_close(&s);
}

static void choose_seed(void)
{
	const char *given = getenv("OUTBOARD_SEED");

	seed = given ? strtoul(given, NULL, 10) : (unsigned)now_ms();
	print_message("OUTBOARD_SEED=%u\n", seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guests_move_back_and_forth),
		cmocka_unit_test(every_pair_of_states),
		cmocka_unit_test(states_that_are_wrong_change_nothing),
		cmocka_unit_test(previews_that_do_not_fit_are_refused),
		cmocka_unit_test(parked_requests_go_along),
		cmocka_unit_test(clients_may_vanish_in_any_state),
	};

	choose_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
