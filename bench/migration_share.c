/* migration_share.c - what a PCI disk adds to a guest's downtime when it migrates: the time from
 * the order to stop until its state is read, and from the state's first byte until it runs
 * elsewhere.
 *
 * Both ends are servers that somebody else has started; the VMM and the guest are one thread here,
 * so that each figure includes the messages.  The guest's memory is one memfd that both ends map:
 * how long copying it takes is the VMM's affair. */
#include <errno.h>
#include <getopt.h>
#include <linux/vfio.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "driver/guest_blk.h"
#include "driver/guest_memory.h"
#include "driver/guest_pci.h"
#include "driver/guest_queue.h"
#include "driver/vfio_client_migration.h"
#include "driver/vfio_user_client.h"

enum {
	QUEUE_SIZE = 64,
	BLOCK = 4096,
	PAGE = 4096,
	STATE_MAX = 1 << 20,
	ROUNDS_MAX = 1000,
	MEMORY_MAX = 64 << 20,
	DRAIN_SECONDS = 20
};

#define VERSION_1 (1ull << 32)
#define PACKED    (1ull << 34)

enum { STOP, SAVE, REPORT, LOAD, RUN, FIRST, FIGURES };

static const char *const names[FIGURES] = {
	"stop (to STOP_COPY)",    "state read",
	"last report of pages",   "state written, checked",
	"applied, running again", "first request back",
};

struct share {
	const char *paths[2];
	unsigned queues, requests, rounds; /* requests: of all queues */
	bool packed;
	struct vfio_user_client clients[2];
	unsigned at; /* where the guest is */
	struct guest_memory memory;
	struct guest_pci pci;
	struct guest_queue rings[GUEST_PCI_QUEUES];
	struct guest_blk blks[GUEST_PCI_QUEUES];
	char state[STATE_MAX];
	uint64_t bitmap[MEMORY_MAX / PAGE / 64];
	uint64_t figures[FIGURES][ROUNDS_MAX]; /* ns */
	uint64_t bytes, out; /* of the last state; requests out at the stop, in sum */
};

static void must(int err, const struct error *e)
{
	if (!err)
		return;
	fprintf(stderr, "outboard-migration-share: %s\n", e->text);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static struct vfio_user_client *here(struct share *s)
{
	return &s->clients[s->at];
}

static struct vfio_user_client *there(struct share *s)
{
	return &s->clients[!s->at];
}

/* ---- the guest ---- */

static void connect_to(struct share *s, unsigned side)
{
	struct error e = { 0 };

	vfio_user_client_init(&s->clients[side]);
	must(vfio_user_client_connect(&s->clients[side], s->paths[side], &e), &e);
	must(vfio_user_client_map(&s->clients[side], &s->memory, true, &e), &e);
}

static void open_queues(struct share *s)
{
	unsigned slots = s->requests / s->queues;
	struct error e = { 0 };

	for (unsigned i = 0; i < s->queues; i++) {
		guest_queue_open_flags(&s->rings[i], &s->memory, QUEUE_SIZE,
				       s->packed ? GUEST_QUEUE_PACKED : 0);
		guest_blk_open(&s->blks[i], &s->rings[i], &s->memory, slots, BLOCK, false);
		must(guest_pci_start_queue(&s->pci, i, &s->rings[i], &e), &e);
	}
}

static void open_all(struct share *s)
{
	uint64_t wanted = VERSION_1 | 1ull << VIRTIO_BLK_F_MQ | (s->packed ? PACKED : 0);
	struct error e = { 0 };

	guest_memory_open(&s->memory, 0x100000, MEMORY_MAX);
	connect_to(s, 0);
	connect_to(s, 1);
	guest_pci_init(&s->pci, here(s));
	must(guest_pci_probe(&s->pci, &e), &e);
	must(guest_pci_enable_vectors(&s->pci, &e), &e);
	must(guest_pci_negotiate(&s->pci, wanted, &e), &e);
	if (s->pci.queue_max < s->queues)
		must(error_set(&e, -EINVAL, "the device has %u queues", s->pci.queue_max), &e);
	open_queues(s);
	must(guest_pci_set_driver_ok(&s->pci, &e), &e);
	must(vfio_user_client_connect_irqs(there(s), VFIO_PCI_MSIX_IRQ_INDEX, 0, s->pci.irq,
					   s->queues + 1, &e),
	     &e);
}

static void close_all(struct share *s)
{
	for (unsigned i = 0; i < s->queues; i++) {
		guest_blk_close(&s->blks[i]);
		guest_queue_close(&s->rings[i]);
	}
	guest_pci_close(&s->pci);
	vfio_user_client_disconnect(&s->clients[0]);
	vfio_user_client_disconnect(&s->clients[1]);
	guest_memory_close(&s->memory);
}

static void submit(struct share *s)
{
	for (unsigned i = 0; i < s->queues; i++) {
		struct guest_blk *b = &s->blks[i];

		for (unsigned j = 0; j < b->slot_count; j++)
			guest_blk_add(b, &b->slots[j], VIRTIO_BLK_T_IN, 8 * j, BLOCK);
		if (guest_queue_publish(&s->rings[i]))
			guest_pci_notify(&s->pci, i);
	}
}

/* Takes what is back; how many are still out. */
static unsigned collect(struct share *s, unsigned *taken)
{
	struct guest_blk_slot *slot;
	unsigned out = 0;

	for (unsigned i = 0; i < s->queues; i++) {
		while (guest_blk_take(&s->blks[i], &slot) == 1)
			++*taken;
		out += guest_queue_outstanding(&s->rings[i]);
	}
	return out;
}

static void drain(struct share *s, uint64_t since, uint64_t *first)
{
	uint64_t deadline = now_ns() + DRAIN_SECONDS * 1000000000ull;
	struct error e = { 0 };
	unsigned taken = 0, out;

	while ((out = collect(s, &taken))) {
		if (taken && !*first)
			*first = now_ns() - since;
		if (now_ns() > deadline)
			must(error_set(&e, -ETIMEDOUT, "%u requests do not come back", out), &e);
	}
	if (!*first)
		*first = now_ns() - since;
}

/* ---- the VMM ---- */

static uint32_t read_state(struct share *s)
{
	struct error e = { 0 };
	uint32_t bytes = 0;
	ssize_t n;

	do {
		n = vfio_client_mig_read(here(s), s->state + bytes, STATE_MAX - bytes, &e);
		must(n < 0 ? (int)n : 0, &e);
		bytes += n;
	} while (n > 0 && bytes < STATE_MAX);
	return bytes;
}

/* What is done while the guest still runs. */
static void prepare(struct share *s)
{
	struct error e = { 0 };
	uint64_t page = PAGE;

	must(vfio_client_log_start(here(s), NULL, 0, &page, &e), &e);
	must(vfio_client_set_state(there(s), CLIENT_RESUMING, &e), &e);
	must(vfio_client_set_state(here(s), CLIENT_PRE_COPY, &e), &e);
	must(vfio_client_mig_write(there(s), s->state, read_state(s), &e), &e);
}

static void stop(struct share *s, unsigned round)
{
	struct error e = { 0 };
	uint64_t start = now_ns();
	unsigned taken = 0;

	must(vfio_client_set_state(here(s), CLIENT_STOP_COPY, &e), &e);
	s->figures[STOP][round] = now_ns() - start;
	start = now_ns();
	s->bytes = read_state(s);
	s->figures[SAVE][round] = now_ns() - start;
	start = now_ns();
	must(vfio_client_log_report(here(s), s->memory.iova, s->memory.size, PAGE, s->bitmap,
				    sizeof(s->bitmap), &e),
	     &e);
	s->figures[REPORT][round] = now_ns() - start;
	s->out += collect(s, &taken);
}

static void start_there(struct share *s, unsigned round)
{
	struct error e = { 0 };
	uint64_t start = now_ns();

	must(vfio_client_mig_write(there(s), s->state, s->bytes, &e), &e);
	s->figures[LOAD][round] = now_ns() - start;
	start = now_ns();
	must(vfio_client_set_state(there(s), CLIENT_RUNNING, &e), &e);
	s->figures[RUN][round] = now_ns() - start;
	s->figures[FIRST][round] = 0;
	drain(s, start, &s->figures[FIRST][round]);
}

/* The one left behind is free; notifications go to the other, by its register. */
static void switch_over(struct share *s)
{
	struct error e = { 0 };

	must(vfio_client_log_stop(here(s), &e), &e);
	must(vfio_client_set_state(here(s), CLIENT_STOP, &e), &e);
	s->at = !s->at;
	s->pci.client = here(s);
	for (unsigned i = 0; i < s->queues; i++) {
		if (s->pci.queues[i].kick >= 0)
			close(s->pci.queues[i].kick);
		s->pci.queues[i].kick = -1;
	}
}

static void run(struct share *s)
{
	for (unsigned round = 0; round < s->rounds; round++) {
		prepare(s);
		submit(s);
		stop(s, round);
		start_there(s, round);
		switch_over(s);
	}
}

/* ---- figures ---- */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_figures(struct share *s)
{
	printf("%u queues%s, %u requests submitted before the stop, on average %.0f not back at "
	       "it; "
	       "state: %llu bytes; %u migrations\n\n",
	       s->queues, s->packed ? ", packed" : "", s->requests / s->queues * s->queues,
	       (double)s->out / s->rounds, (unsigned long long)s->bytes, s->rounds);
	printf("| us | median | best | worst |\n|---|---|---|---|\n");
	for (unsigned i = 0; i < FIGURES; i++) {
		qsort(s->figures[i], s->rounds, sizeof(s->figures[i][0]), compare);
		printf("| %s | %.0f | %.0f | %.0f |\n", names[i],
		       s->figures[i][s->rounds / 2] / 1e3, s->figures[i][0] / 1e3,
		       s->figures[i][s->rounds - 1] / 1e3);
	}
}

static int usage(void)
{
	fprintf(stderr, "Usage: outboard-migration-share [--queues N] [--requests N] [--rounds N] "
			"[--packed] SOCKET SOCKET\n");
	return 2;
}

static bool read_options(struct share *s, int argc, char **argv)
{
	static const struct option options[] = { { "queues", required_argument, NULL, 'q' },
						 { "requests", required_argument, NULL, 'n' },
						 { "rounds", required_argument, NULL, 'r' },
						 { "packed", no_argument, NULL, 'p' },
						 { 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'q')
			s->queues = strtoul(optarg, NULL, 10);
		else if (c == 'n')
			s->requests = strtoul(optarg, NULL, 10);
		else if (c == 'r')
			s->rounds = strtoul(optarg, NULL, 10);
		else if (c == 'p')
			s->packed = true;
		else
			return false;
	}
	/* A request has three descriptors. */
	return optind == argc - 2 && s->queues && s->queues <= GUEST_PCI_QUEUES && s->rounds &&
	       s->rounds <= ROUNDS_MAX && s->requests >= s->queues &&
	       s->requests / s->queues <= QUEUE_SIZE / 3;
}

int main(int argc, char **argv)
{
	static struct share s = { .queues = 64, .requests = 1024, .rounds = 51 };

	if (!read_options(&s, argc, argv))
		return usage();
	s.paths[0] = argv[optind];
	s.paths[1] = argv[optind + 1];
	open_all(&s);
	run(&s);
	print_figures(&s);
	close_all(&s);
	return 0;
}
