/* Broken if this fails: a guest that moves to another function, and to other memory, finds a byte
 * there as it was earlier, because the device stored it and did not report the page; or a request
 * or a frame is lost, or comes twice, on the way.  The VMM is the shim, the guest works while its
 * memory is copied.  Run it under ThreadSanitizer.
 *
 * OUTBOARD_SEED repeats a run's choices (not its timing). */
#include "nic_bed.h"

#include <fcntl.h>
#include <linux/vfio.h>
#include <linux/virtio_ring.h>
#include <sys/mman.h>

#include "driver/vmm_shim.h"

#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define PACKED    (1ull << 34)
#define IN_ORDER  (1ull << 35)

enum { SIDES = 2, DISK_MEGABYTES = 16, DISK_QUEUES = 2, ROUNDS = 6, MEMORY_AT = 1 << 20 };

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

static unsigned seed;

/* ---- what all guests have ---- */

/* Two functions, and the VMM between them. */
struct stage {
	struct bed bed;
	struct vmm_memory memory;
	struct vmm_shim shim;
	struct vfio_user_client other; /* of the function where the guest is not */
};

/* The first queue's ring goes across the end of a page: of a split one, the used index is before it
 * and most used elements are behind it; of a packed one, half of the descriptors are. */
static void stage_prepare(struct stage *s, const struct manner *m, uint64_t bytes)
{
	vmm_memory_open(&s->memory, MEMORY_AT, align_up(bytes, VMM_PAGE) + (1 << 20));
	vmm_shim_open(&s->shim, &s->memory);
	guest_memory_allocate(&s->memory.view, m->features & PACKED ? 3584 : 2816, 1);
}

/* The function to which the guest goes first is told of its memory and of the guest's vectors. */
static void stage_connect_other(struct stage *s, const struct manner *m, const struct guest_pci *p,
				unsigned vectors)
{
	struct error e = { 0 };

	vfio_user_client_init(&s->other);
	s->other.twin_socket = m->twin;
	must(vfio_user_client_connect(&s->other, s->bed.functions[1].path, &e), &e);
	must(vfio_user_client_map(&s->other, &s->memory.sides[1], m->shared, &e), &e);
	must(vfio_user_client_connect_irqs(&s->other, VFIO_PCI_MSIX_IRQ_INDEX, 0, p->irq, vectors,
					   &e),
	     &e);
}

static void stage_close(struct stage *s)
{
	vfio_user_client_disconnect(&s->other);
	vmm_shim_close(&s->shim);
	vmm_memory_close(&s->memory);
}

/* What the log and its reports are like changes with the round. */
static void stage_begin(struct stage *s, struct vfio_user_client *here, unsigned round)
{
	struct error e = { 0 };

	s->shim.here = here;
	s->shim.there = &s->other;
	s->shim.log_page = round % 3 * VMM_PAGE;
	s->shim.report_page = round % 3 == 2 ? 4 * VMM_PAGE : VMM_PAGE << round % 2;
	must(vmm_shim_begin(&s->shim, &e), &e);
	must(vmm_shim_copy(&s->shim, &e), &e);
}

/* The VMM's ends are exchanged; notifications go by the register from now on. */
static void switch_over(struct stage *s, struct vfio_user_client *here, struct guest_pci *p)
{
	struct vfio_user_client client = *here;

	*here = s->other;
	s->other = client;
	for (unsigned i = 0; i < GUEST_PCI_QUEUES; i++) {
		if (p->queues[i].kick >= 0)
			close(p->queues[i].kick);
		p->queues[i].kick = -1;
	}
}

static void stage_move(struct stage *s, struct vfio_user_client *here, struct guest_pci *p)
{
	struct error e = { 0 };

	must(vmm_shim_stop(&s->shim, &e), &e);
	must(vmm_shim_hand_over(&s->shim, &e), &e);
	switch_over(s, here, p);
}

static void stage_cancel(struct stage *s, bool stopped)
{
	struct error e = { 0 };

	if (stopped)
		must(vmm_shim_stop(&s->shim, &e), &e);
	must(vmm_shim_cancel(&s->shim, &e), &e);
}

static void stage_tell(const struct stage *s)
{
	const struct vmm_shim *m = &s->shim;

	print_message("  down for %6llu us; %llu passes, %llu pages: %llu by processors, %llu "
		      "reported; a state of %llu bytes\n",
		      (unsigned long long)(m->downtime_ns / 1000), (unsigned long long)m->passes,
		      (unsigned long long)m->copied, (unsigned long long)m->written,
		      (unsigned long long)m->reported, (unsigned long long)m->state_bytes);
}

/* ---- disks ---- */

struct disk_stage {
	struct stage stage;
	int disk;
	struct function guest;
};

static void work_on_disk(void *arg)
{
	function_work(arg);
}

static void disk_stage_open(struct disk_stage *d, const struct manner *m, const char *filter)
{
	struct stage *s = &d->stage;
	char uri[160];

	print_message("%s%s\n", filter, m->name);
	d->disk = memfd_create("disk", MFD_CLOEXEC);
	assert_int_equal(ftruncate(d->disk, DISK_MEGABYTES << 20), 0);
	snprintf(uri, sizeof(uri), "%sfile:/proc/self/fd/%d?lock=off&direct=off%s", filter, d->disk,
		 *filter ? "&time=2ms" : "");
	bed_open(&s->bed, SIDES, DISK_QUEUES, uri, false);
	stage_prepare(s, m, function_memory_bytes(DISK_QUEUES));
	function_open(&d->guest, s->bed.functions[0].path, m, &s->memory.view, DISK_QUEUES, seed);
	d->guest.memory = &s->memory.sides[0];
	function_start(&d->guest);
	stage_connect_other(s, m, &d->guest.pci, DISK_QUEUES + 1);
	s->shim.guest = work_on_disk;
	s->shim.arg = &d->guest;
}

static void disk_stage_close(struct disk_stage *d)
{
	function_close(&d->guest);
	stage_close(&d->stage);
	bed_close(&d->stage.bed);
	close(d->disk);
}

static void disk_begin(struct disk_stage *d, unsigned round)
{
	stage_begin(&d->stage, &d->guest.client, round);
	for (unsigned i = 0; i < d->guest.queues; i++)
		function_fill(&d->guest, i);
}

/* Each third time the first attempt is given up, before the stop or after it. */
static void disk_round(struct disk_stage *d, unsigned round)
{
	if (round % 3 == 2) {
		disk_begin(d, round);
		stage_cancel(&d->stage, round % 2);
		function_work_for(&d->guest, 20);
	}
	disk_begin(d, round);
	stage_move(&d->stage, &d->guest.client, &d->guest.pci);
	stage_tell(&d->stage);
	function_drain(&d->guest);
	function_work_for(&d->guest, 50);
	function_check_messages(&d->guest);
}

static void disks_move(void **state)
{
	static struct disk_stage d;

	for (unsigned i = 0; i < 2 * ARRAY_LENGTH(manners); i++) {
		disk_stage_open(&d, &manners[i / 2], i % 2 ? "delay+" : "");
		for (unsigned round = 0; round < ROUNDS; round++)
			disk_round(&d, round);
		disk_stage_close(&d);
	}
}

/* ---- a network card ---- */

static const char *const ports[] = { "nic-a", "nic-b", "far" };

struct nic_stage {
	struct stage stage;
	struct far_end far;
	struct nic guest;
	uint64_t lost; /* at the begin: what other stages' ports have counted */
};

static void work_on_nic(void *arg)
{
	nic_work(arg);
}

static void nic_stage_open(struct nic_stage *n, const struct manner *m)
{
	struct stage *s = &n->stage;

	print_message("network, %s\n", m->name);
	bed_prepare(&s->bed, SIDES);
	for (unsigned i = 0; i < SIDES; i++)
		bed_open_nic(&s->bed, i, ports[i], nic_address, 1, "switch:shim");
	far_open(&n->far, &s->bed, "switch:shim");
	n->lost = nic_count_lost(ports, ARRAY_LENGTH(ports));
	bed_start(&s->bed);
	stage_prepare(s, m, NIC_RINGS * (NIC_BUFFERS * NIC_ROOM + (1 << 16)));
	nic_open(&n->guest, m, &s->memory.view);
	nic_start(&n->guest, s->bed.functions[0].path, &s->memory.sides[0]);
	stage_connect_other(s, m, &n->guest.pci, NIC_RINGS + 1);
	s->shim.guest = work_on_nic;
	s->shim.arg = &n->guest;
}

static void nic_stage_close(struct nic_stage *n)
{
	nic_close(&n->guest);
	stage_close(&n->stage);
	bed_stop(&n->stage.bed);
	far_close(&n->far);
	bed_free(&n->stage.bed);
}

/* Each frame has come back, or ports have counted it as lost: one that is flooded, or refused by
 * the port that it was for, may be counted by two of them. */
static void nic_settle(struct nic_stage *n)
{
	uint64_t deadline = now_ms() + DRAIN_SECONDS * 1000, lost = 0;
	struct nic *g = &n->guest;

	while (g->returned < g->sent || g->come + lost < g->sent) {
		nic_collect(g);
		nic_fill(g);
		lost = nic_count_lost(ports, ARRAY_LENGTH(ports)) - n->lost;
		if (now_ms() > deadline)
			fail_msg("%llu sent, %llu returned, %llu come, %llu lost",
				 (unsigned long long)g->sent, (unsigned long long)g->returned,
				 (unsigned long long)g->come, (unsigned long long)lost);
	}
	assert_int_equal(g->returned, g->sent);
	assert_in_range(g->come, 1, g->sent);
}

static void nic_round(struct nic_stage *n, unsigned round)
{
	nic_work_for(&n->guest, 50);
	stage_begin(&n->stage, &n->guest.client, round);
	if (round % 3 == 2) {
		stage_cancel(&n->stage, round % 2);
		nic_work_for(&n->guest, 50);
		stage_begin(&n->stage, &n->guest.client, round);
	}
	stage_move(&n->stage, &n->guest.client, &n->guest.pci);
	stage_tell(&n->stage);
	nic_work_for(&n->guest, 100);
	nic_settle(n);
}

static void network_cards_move(void **state)
{
	static struct nic_stage n;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		if (manners[i].features & IN_ORDER)
			continue;
		nic_stage_open(&n, &manners[i]);
		for (unsigned round = 0; round < ROUNDS; round++)
			nic_round(&n, round);
		print_message("  %llu frames sent, %llu came back\n",
			      (unsigned long long)n.guest.sent, (unsigned long long)n.guest.come);
		nic_stage_close(&n);
	}
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
		cmocka_unit_test(disks_move),
		cmocka_unit_test(network_cards_move),
	};

	choose_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
