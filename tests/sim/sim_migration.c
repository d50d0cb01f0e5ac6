/* sim_migration.c - a VMM that moves the guest: memory by pre-copy, then the device.
 *
 * The other side's memory is an image that gets bytes in two ways only.  What the guest's
 * processors store arrives by itself, byte by byte.  What the device stores arrives when the VMM
 * copies a page: every page once, then those that the dirty log names.  So at the end, with the
 * device stopped, the image equals the guest's memory, or a mark was missing, or came too early. No
 * page may be named that the device had no business in.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/dirty_log.h"
#include "sim.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

enum { PAGE = 4096, ROUNDS = 4, RING_PARTS = 3, RING_PART_MAX = 2048 };

struct image {             /* of a region */
	uint8_t *bytes;    /* owned */
	uint64_t *allowed; /* owned: bit per page that the device may write */
	uint64_t *dirty;   /* owned: bit per page that has to be copied */
	uint64_t pages;
};

struct sim_migration {
	struct image images[REGIONS];
	struct dirty_log *log; /* owned */
	int shared_fd;         /* owned: a log that both sides map; -1: the device's own */
	uint8_t *shared;       /* owned mapping */
	size_t shared_bytes;
	/* Rings before a turn of the processors. */
	uint8_t before[QUEUES_MAX][RING_PARTS][RING_PART_MAX];
};

/* ---- pages ---- */

static struct guest_memory *region_at(struct sim *s, uint64_t iova, unsigned *index)
{
	for (*index = 0; *index < REGIONS; ++*index)
		if (iova - s->regions[*index].iova < s->regions[*index].size)
			return &s->regions[*index];
	sim_fail(s, "address 0x%llx is in no region", (unsigned long long)iova);
}

static bool is_set(const uint64_t *bits, uint64_t n)
{
	return bits[n / 64] >> n % 64 & 1;
}

static void set(uint64_t *bits, uint64_t n, bool on)
{
	if (on)
		bits[n / 64] |= UINT64_C(1) << n % 64;
	else
		bits[n / 64] &= ~(UINT64_C(1) << n % 64);
}

static void allow(struct sim *s, uint64_t iova, uint64_t length)
{
	uint64_t end = iova + length;

	for (uint64_t at = align_down(iova, PAGE); at < end; at += PAGE) {
		unsigned i;
		struct guest_memory *m = region_at(s, at, &i);

		set(s->migration->images[i].allowed, (at - m->iova) / PAGE, true);
	}
}

/* What the processors have stored there is there on the other side, too. */
static void mirror(struct sim *s, uint64_t iova, uint64_t length)
{
	for (uint64_t part; length; iova += part, length -= part) {
		unsigned i;
		struct guest_memory *m = region_at(s, iova, &i);

		part = minimum_u64(length, m->iova + m->size - iova);
		memcpy(s->migration->images[i].bytes + (iova - m->iova), guest_memory_at(m, iova),
		       part);
	}
}

static void copy_page(struct sim *s, unsigned region, uint64_t page)
{
	struct image *image = &s->migration->images[region];

	set(image->dirty, page, false);
	memcpy(image->bytes + page * PAGE, s->regions[region].bytes + page * PAGE, PAGE);
}

/* ---- what the processors do ---- */

struct part {
	uint64_t iova, length;
};

static void ring_parts(const struct guest_queue *q, struct part parts[RING_PARTS])
{
	parts[0] = (struct part){ q->descriptor_iova, 16ull * q->size };
	parts[1] = (struct part){ q->driver_iova, q->packed ? 4 : 6 + 2ull * q->size };
	parts[2] = (struct part){ q->device_iova, q->packed ? 4 : 6 + 8ull * q->size };
}

static void *ring_at(struct sim *s, uint64_t iova)
{
	return guest_memory_at(&s->regions[0], iova);
}

void sim_migration_processors_begin(struct sim *s)
{
	struct part parts[RING_PARTS];

	for (unsigned i = 0; s->migration && i < s->plan.queues; i++) {
		ring_parts(&s->queues[i].ring, parts);
		for (unsigned j = 0; j < RING_PARTS; j++)
			memcpy(s->migration->before[i][j], ring_at(s, parts[j].iova),
			       parts[j].length);
	}
}

void sim_migration_processors_end(struct sim *s)
{
	struct part parts[RING_PARTS];

	for (unsigned i = 0; s->migration && i < s->plan.queues; i++) {
		ring_parts(&s->queues[i].ring, parts);
		for (unsigned j = 0; j < RING_PARTS; j++)
			for (uint64_t k = 0; k < parts[j].length; k++)
				if (s->migration->before[i][j][k] !=
				    ((uint8_t *)ring_at(s, parts[j].iova))[k])
					mirror(s, parts[j].iova + k, 1);
	}
}

static void allow_request(struct sim *s, const struct sim_request *r)
{
	for (unsigned i = 0; i < r->segment_count; i++)
		if (r->segments[i].writable && r->segments[i].length)
			allow(s, r->segments[i].iova, r->segments[i].length);
}

void sim_migration_request_written(struct sim *s, const struct sim_request *r)
{
	if (!s->migration)
		return;
	mirror(s, r->area_iova, AREA);
	if (r->layout.table)
		mirror(s, r->layout.table_iova, SEGMENTS_MAX * sizeof(struct vring_desc));
	allow_request(s, r);
}

static void allow_all_there_is(struct sim *s)
{
	struct part parts[RING_PARTS];

	for (unsigned i = 0; i < s->plan.queues; i++) {
		ring_parts(&s->queues[i].ring, parts);
		allow(s, parts[2].iova, parts[2].length);
		if (s->queues[i].ring.packed)
			allow(s, parts[0].iova, parts[0].length);
		for (unsigned j = 0; j < REQUESTS_MAX; j++)
			if (s->queues[i].requests[j].busy)
				allow_request(s, &s->queues[i].requests[j]);
	}
}

/* ---- the log ---- */

static void set_log(struct sim *s, struct dirty_log *log)
{
	struct sim_order o;

	virtio_device_set_dirty_log(s->device, log, sim_order_task(&o));
	sim_order_wait(s, &o, false, "dirty log");
}

static void open_own_log(struct sim *s, struct sim_migration *m)
{
	struct dirty_log_range ranges[REGIONS];
	struct error e = { 0 };

	for (unsigned i = 0; i < REGIONS; i++)
		ranges[i] = (struct dirty_log_range){ s->regions[i].iova, s->regions[i].size };
	m->log = dirty_log_create(ranges, REGIONS, PAGE, &e);
	if (!m->log)
		sim_fail(s, "%s", e.text);
}

/* As vhost-user has it: a bitmap from address 0 on. */
static void open_shared_log(struct sim *s, struct sim_migration *m)
{
	const struct guest_memory *last = &s->regions[REGIONS - 1];
	struct error e = { 0 };

	m->shared_bytes = align_up((last->iova + last->size) / PAGE / 8 + 1, PAGE);
	m->shared_fd = memfd_create("log", MFD_CLOEXEC);
	if (m->shared_fd < 0 || ftruncate(m->shared_fd, m->shared_bytes))
		sim_fail(s, "no memory for a log");
	m->shared = mmap(NULL, m->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->shared_fd,
			 0);
	m->log = dirty_log_share(m->shared_fd, 0, m->shared_bytes, &e);
	if (m->shared == MAP_FAILED || !m->log)
		sim_fail(s, "%s", e.text);
}

static void named(struct sim *s, unsigned region, uint64_t page)
{
	struct image *image = &s->migration->images[region];

	if (!is_set(image->allowed, page))
		sim_fail(s, "page %llu of region %u was named, and never written",
			 (unsigned long long)page, region);
	set(image->dirty, page, true);
}

static void read_own_log(struct sim *s, unsigned region)
{
	const struct guest_memory *m = &s->regions[region];
	uint64_t words = m->size / PAGE / 64 + 1;
	uint64_t *bitmap = calloc(words, 8);
	struct error e = { 0 };

	if (dirty_log_report(s->migration->log, m->iova, m->size, PAGE, bitmap, 8 * words, &e))
		sim_fail(s, "%s", e.text);
	for (uint64_t i = 0; i < m->size / PAGE; i++)
		if (is_set(bitmap, i))
			named(s, region, i);
	free(bitmap);
}

static void read_shared_log(struct sim *s, unsigned region)
{
	const struct guest_memory *m = &s->regions[region];

	for (uint64_t i = 0; i < m->size / PAGE; i++) {
		uint64_t page = m->iova / PAGE + i;
		uint8_t bit = 1 << page % 8;

		if (__atomic_fetch_and(&s->migration->shared[page / 8], ~bit, __ATOMIC_SEQ_CST) &
		    bit)
			named(s, region, i);
	}
}

static void read_log(struct sim *s)
{
	for (unsigned i = 0; i < REGIONS; i++)
		(s->migration->shared ? read_shared_log : read_own_log)(s, i);
}

/* ---- phases ---- */

static void begin(struct sim *s)
{
	struct sim_migration *m = calloc(1, sizeof(*m));

	m->shared_fd = -1;
	for (unsigned i = 0; i < REGIONS; i++) {
		m->images[i].pages = s->regions[i].size / PAGE;
		m->images[i].bytes = malloc(s->regions[i].size);
		m->images[i].allowed = calloc(m->images[i].pages / 64 + 1, 8);
		m->images[i].dirty = calloc(m->images[i].pages / 64 + 1, 8);
		memset(m->images[i].bytes, 0xee, s->regions[i].size);
	}
	(sim_chance(s, 2) ? open_own_log : open_shared_log)(s, m);
	s->migration = m;
	allow_all_there_is(s);
	set_log(s, m->log);
}

/* The device, if there is one, has let go of the log. */
static void end(struct sim *s)
{
	struct sim_migration *m = s->migration;

	s->migration = NULL;
	dirty_log_free(m->log);
	if (m->shared) {
		munmap(m->shared, m->shared_bytes);
		close(m->shared_fd);
	}
	for (unsigned i = 0; i < REGIONS; i++) {
		free(m->images[i].bytes);
		free(m->images[i].allowed);
		free(m->images[i].dirty);
	}
	free(m);
}

static void copy_all(struct sim *s)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		uint64_t pages = s->migration->images[i].pages, first = sim_pick(s, pages);

		for (uint64_t j = 0; j < pages; j++) {
			copy_page(s, i, (first + j) % pages);
			if (sim_chance(s, 4))
				sim_step(s);
		}
	}
}

static void copy_dirty(struct sim *s, bool while_it_runs)
{
	read_log(s);
	for (unsigned i = 0; i < REGIONS; i++)
		for (uint64_t j = 0; j < s->migration->images[i].pages; j++) {
			if (!is_set(s->migration->images[i].dirty, j))
				continue;
			copy_page(s, i, j);
			if (while_it_runs && sim_chance(s, 2))
				sim_step(s);
		}
}

static uint64_t patience(struct sim *s)
{
	static const uint64_t some[] = { 0, 20000, 1000000, UINT64_MAX, UINT64_MAX };

	return some[sim_pick(s, ARRAY_LENGTH(some))];
}

/* False: refused. */
static bool quiesce(struct sim *s)
{
	struct virtio_quiesce how = { .patience_ns = patience(s), .park = sim_chance(s, 2) };
	struct sim_order o;

	virtio_device_quiesce(s->device, &how, sim_order_task(&o));
	sim_order_wait(s, &o, false, "quiesce");
	sim_trace(s, "quiesce with %lld ns%s: %s", (long long)how.patience_ns,
		  how.park ? ", parking" : "", how.status ? how.reason : "stopped");
	if (how.status && how.patience_ns == UINT64_MAX)
		sim_fail(s, "a stop that waits for ever was refused");
	return !how.status;
}

static void resume(struct sim *s)
{
	struct sim_order o;
	int status;

	virtio_device_resume(s->device, &status, sim_order_task(&o));
	sim_order_wait(s, &o, sim_chance(s, 2), "resume");
	if (status && !s->needs_reset)
		sim_fail(s, "resume: %d", status);
}

static void compare(struct sim *s)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		const uint8_t *there = s->migration->images[i].bytes;
		const uint8_t *here = (const uint8_t *)s->regions[i].bytes;

		for (uint64_t j = 0; s->present[i] && j < s->regions[i].size; j++)
			if (there[j] != here[j])
				sim_fail(s, "byte 0x%llx is 0x%02x here and 0x%02x there",
					 (unsigned long long)(s->regions[i].iova + j), here[j],
					 there[j]);
	}
}

/* A packed ring that is tracked over there must stay mapped: some of it is remote then. */
static void choose_kinds(struct sim *s)
{
	bool any = s->plan.packed && !s->plan.untracked;

	s->plan.remote_regions = any + sim_pick(s, (1 << REGIONS) - any);
	s->remote.regions |= s->plan.remote_regions;
}

/* To another process, with the memory of the other side. */
static void hand_over(struct sim *s)
{
	struct stream_writer w;
	struct error e = { 0 };

	stream_writer_begin(&w);
	virtio_device_save(s->device, &w);
	if (stream_writer_end(&w, &e))
		sim_fail(s, "save: %s", e.text);
	set_log(s, NULL);
	end(s);
	sim_device_end(s);
	if (s->plan.kinds_change)
		choose_kinds(s);
	sim_device_receive(s, w.bytes, w.length);
	stream_writer_free(&w);
}

static void stop_here(struct sim *s)
{
	set_log(s, NULL);
	end(s);
}

void sim_migrate(struct sim *s)
{
	sim_trap_disarm(s);
	sim_trace(s, "a migration begins");
	begin(s);
	copy_all(s);
	for (unsigned i = sim_pick(s, ROUNDS); i; i--)
		copy_dirty(s, true);
	if (s->needs_reset || !quiesce(s)) {
		stop_here(s);
		return;
	}
	copy_dirty(s, false);
	compare(s);
	if (s->needs_reset || sim_chance(s, 4)) {
		resume(s);
		stop_here(s);
	} else {
		hand_over(s);
	}
}
