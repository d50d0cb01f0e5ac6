/* function_bed.h - guests that work on the disks of function_server.h, for tests of the whole:
 * every byte is checked.
 *
 * A guest and its VMM are one thread, which also answers the device's DMA messages.  guest_pci.h
 * and vfio_user_client.h know nothing of the server's code.
 */
#ifndef TESTS_UNIT_FUNCTION_BED_H
#define TESTS_UNIT_FUNCTION_BED_H

#include "function_server.h"

#include <linux/virtio_config.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "driver/guest_blk.h"
#include "driver/guest_memory.h"
#include "driver/guest_pci.h"
#include "driver/guest_queue.h"
#include "driver/vfio_user_client.h"

enum {
	QUEUES_MAX = 8,
	SLOTS = 8,
	BLOCK = 4096,
	BLOCKS_PER_SLOT = 4, /* each slot has an area of the disk to itself */
	DRAIN_SECONDS = 20,
};

/* ---- a guest's function ---- */

/* How the VMM and the driver behave. */
struct manner {
	const char *name;
	bool shared;    /* the device gets the memory's descriptor */
	bool twin;      /* a second socket for its messages */
	bool like_qemu; /* layout of messages, and deaf while it waits */
	bool indirect;
	bool doorbell_page; /* notifications are stores into mapped memory */
	uint64_t features; /* beside VERSION_1 and what is always wanted */
};

struct block_state {
	uint8_t filled; /* with this byte */
	bool unknown;   /* a write to it met its end before its answer */
};

struct slot_state {
	unsigned block; /* in the slot's area */
	bool reading, busy;
	uint64_t filling;
	struct block_state blocks[BLOCKS_PER_SLOT];
};

struct function {
	const char *path;	    /* borrowed */
	const struct manner *manner; /* borrowed */
	struct vfio_user_client client;
	struct guest_pci pci;
	const struct guest_memory *memory; /* borrowed */
	unsigned queues;
	struct guest_queue rings[QUEUES_MAX];
	struct guest_blk blks[QUEUES_MAX];
	struct slot_state states[QUEUES_MAX][SLOTS];
	uint64_t completed, failed;
	bool may_fail; /* requests may end with VIRTIO_BLK_S_IOERR */
	unsigned random;
};

static inline void must(int err, const struct error *e)
{
	if (err)
		fail_msg("%s", e->text);
}

static inline uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static inline uint64_t feature_bits(const struct manner *m)
{
	return m->features | 1ull << VIRTIO_BLK_F_MQ | 1ull << VIRTIO_BLK_F_FLUSH |
	       (m->indirect ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0);
}

static inline uint32_t function_memory_bytes(unsigned queues)
{
	return queues * ((1 << 16) + SLOTS * 3 * BLOCK);
}

static inline unsigned ring_flags(uint64_t features)
{
	return (features >> VIRTIO_RING_F_EVENT_IDX & 1 ? GUEST_QUEUE_EVENT_INDEX : 0) |
	       (features >> VIRTIO_F_RING_PACKED & 1 ? GUEST_QUEUE_PACKED : 0) |
	       (features >> 35 & 1 ? GUEST_QUEUE_IN_ORDER : 0);
}

/* Lays rings and slots out in m, which others may use too. */
static inline void function_open(struct function *f, const char *path, const struct manner *manner,
				 struct guest_memory *m, unsigned queues, unsigned seed)
{
	memset(f, 0, sizeof(*f));
	f->path = path;
	f->manner = manner;
	f->memory = m;
	f->queues = queues;
	f->random = seed;
	vfio_user_client_init(&f->client);
	guest_pci_init(&f->pci, &f->client);
	if (manner->like_qemu)
		vfio_user_client_like_qemu(&f->client);
	f->client.twin_socket = manner->twin;
	for (unsigned i = 0; i < queues; i++) {
		guest_queue_open_flags(&f->rings[i], m, QUEUE_SIZE, ring_flags(manner->features));
		guest_blk_open(&f->blks[i], &f->rings[i], m, SLOTS, BLOCK, manner->indirect);
	}
}

static inline void function_close(struct function *f)
{
	for (unsigned i = 0; i < f->queues; i++) {
		guest_blk_close(&f->blks[i]);
		guest_queue_close(&f->rings[i]);
	}
	guest_pci_close(&f->pci);
	vfio_user_client_disconnect(&f->client);
}

/* What the device had taken and not answered: it may have been written or not. */
static inline void function_forget(struct function *f)
{
	for (unsigned q = 0; q < f->queues; q++) {
		guest_queue_restart(&f->rings[q], 0);
		for (unsigned i = 0; i < SLOTS; i++) {
			struct slot_state *t = &f->states[q][i];

			if (t->busy && !t->reading)
				t->blocks[t->block].unknown = true;
			t->busy = false;
		}
	}
}

/* The driver: from any state of the device to one that works, with empty rings. */
static inline void function_start_driver(struct function *f)
{
	struct error e = { 0 };

	must(guest_pci_negotiate(&f->pci, feature_bits(f->manner), &e), &e);
	function_forget(f);
	for (unsigned i = 0; i < f->queues; i++)
		must(guest_pci_start_queue(&f->pci, i, &f->rings[i], &e), &e);
	must(guest_pci_set_driver_ok(&f->pci, &e), &e);
}

static inline void function_connect(struct function *f)
{
	struct error e = { 0 };

	must(vfio_user_client_connect(&f->client, f->path, &e), &e);
	assert_int_equal(f->client.has_twin, f->manner->twin);
	must(vfio_user_client_map(&f->client, f->memory, f->manner->shared, &e), &e);
	must(guest_pci_probe(&f->pci, &e), &e);
	must(guest_pci_enable_vectors(&f->pci, &e), &e);
	if (f->manner->doorbell_page)
		must(guest_pci_map_notifications(&f->pci, &e), &e);
	else
		assert_int_equal(guest_pci_map_notifications(&f->pci, &e), -ENOENT);
}

static inline void function_start(struct function *f)
{
	function_connect(f);
	function_start_driver(f);
}

/* ---- requests ---- */

static inline unsigned next_random(struct function *f)
{
	return rand_r(&f->random);
}

static inline uint64_t sector_of(unsigned queue, unsigned slot, unsigned block)
{
	return ((queue * SLOTS + slot) * BLOCKS_PER_SLOT + block) * (BLOCK / 512);
}

static inline void function_submit(struct function *f, unsigned queue, unsigned slot)
{
	struct guest_blk_slot *s = &f->blks[queue].slots[slot];
	struct slot_state *t = &f->states[queue][slot];

	t->block = next_random(f) % BLOCKS_PER_SLOT;
	t->reading = next_random(f) % 2;
	t->busy = true;
	t->filling = next_random(f) & 0xff;
	memset(s->buffer, t->reading ? 0xa5 : (int)t->filling, BLOCK);
	assert_true(guest_blk_add(&f->blks[queue], s,
				  t->reading ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
				  sector_of(queue, slot, t->block), BLOCK));
}

static inline void check_read(const struct slot_state *t, const uint8_t *buffer)
{
	const struct block_state *b = &t->blocks[t->block];

	for (unsigned i = 0; i < BLOCK; i++)
		if (buffer[i] != (b->unknown ? buffer[0] : b->filled))
			fail_msg("byte %u is %u, not %u", i, buffer[i], b->filled);
}

static inline void function_account(struct function *f, struct slot_state *t,
				    const struct guest_blk_slot *s)
{
	struct block_state *b = &t->blocks[t->block];

	assert_true(t->busy);
	t->busy = false;
	if (f->may_fail && s->record->status == VIRTIO_BLK_S_IOERR) {
		b->unknown |= !t->reading;
		f->failed++;
		return;
	}
	assert_int_equal(s->record->status, VIRTIO_BLK_S_OK);
	if (t->reading)
		check_read(t, s->buffer);
	else
		*b = (struct block_state){ .filled = t->filling };
	f->completed++;
}

static inline void function_fill(struct function *f, unsigned queue)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (!f->states[queue][i].busy && next_random(f) % 4)
			function_submit(f, queue, i);
	if (guest_queue_publish(&f->rings[queue]))
		guest_pci_notify(&f->pci, queue);
}

/* Takes what has come back; the number of requests still out. */
static inline unsigned function_collect(struct function *f, unsigned queue)
{
	struct guest_blk *b = &f->blks[queue];
	struct guest_blk_slot *s;
	int answer;

	while ((answer = guest_blk_take(b, &s)) == 1)
		function_account(f, &f->states[queue][s - b->slots], s);
	assert_int_equal(answer, 0);
	return guest_queue_outstanding(b->queue);
}

static inline void function_serve(struct function *f)
{
	if (!f->manner->shared)
		assert_true(vfio_client_channel_serve(&f->client.channel, 0) >= 0);
}

static inline void function_work(struct function *f)
{
	for (unsigned i = 0; i < f->queues; i++) {
		function_fill(f, i);
		function_serve(f);
		function_collect(f, i);
	}
}

static inline void function_drain(struct function *f)
{
	uint64_t deadline = now_ms() + DRAIN_SECONDS * 1000;

	for (unsigned i = 0; i < f->queues; i++)
		while (function_collect(f, i)) {
			function_serve(f);
			if (now_ms() > deadline)
				fail_msg("%s, queue %u: %u requests do not come back",
					 f->manner->name, i,
					 guest_queue_outstanding(&f->rings[i]));
		}
}

/* Works until so many more requests have come back, all of them. */
static inline void function_work_for(struct function *f, uint64_t requests)
{
	uint64_t end = f->completed + requests, deadline = now_ms() + DRAIN_SECONDS * 1000;

	while (f->completed < end) {
		function_work(f);
		if (now_ms() > deadline)
			fail_msg("%s: stuck", f->manner->name);
	}
	function_drain(f);
}

/* Nothing that the specification forbids has come from the device. */
static inline void function_check_messages(struct function *f)
{
	struct vfio_client_counters c = vfio_client_channel_counters(&f->client.channel);

	assert_int_equal(c.malformed, 0);
	if (!f->may_fail)
		assert_int_equal(c.strays, 0);
	if (f->manner->shared)
		assert_int_equal(c.reads + c.writes, 0);
}

#endif
