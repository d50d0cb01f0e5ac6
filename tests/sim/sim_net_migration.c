/* sim_net_migration.c - a VMM that moves the guest: memory by pre-copy, then the network device.
 *
 * As in sim_migration.c: the image of the other side gets what the guest's processors store byte by
 * byte, and what the device stores by copies of pages alone: all once, then those that the dirty
 * log names.  At the end the image equals the guest's memory; no page is named that the device had
 * no business in.  The commands that the driver has given still count on the other side.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/dirty_log.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "sim_net.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

enum { PAGE = 4096, ROUNDS = 4, RING_PARTS = 3, RING_PART_MAX = 16 * RING };

struct migration {
	uint64_t pages;        /* of guest memory that is in use */
	uint8_t *image;        /* owned */
	uint64_t *allowed;     /* owned: bit per page that the device may write */
	uint64_t *dirty;       /* owned: bit per page that has to be copied */
	struct dirty_log *log; /* owned */
	int shared_fd;   /* owned: a log that both sides map; shared is NULL: the device's own */
	uint8_t *shared; /* owned mapping */
	size_t shared_bytes;
	/* Before a turn of the processors. */
	uint8_t before[QUEUES_MAX][RING_PARTS][RING_PART_MAX];
	bool busy[QUEUES_MAX][BUFFERS];
};

/* ---- pages ---- */

static bool is_set(const uint64_t *bits, uint64_t n)
{
	return bits[n / 64] >> n % 64 & 1;
}

static void set(uint64_t *bits, uint64_t n)
{
	bits[n / 64] |= UINT64_C(1) << n % 64;
}

static void allow(struct sim *s, uint64_t iova, uint64_t length)
{
	uint64_t at = iova - s->memory.iova;

	for (uint64_t i = at / PAGE; i <= (at + length - 1) / PAGE; i++)
		set(s->migration->allowed, i);
}

/* What the processors have stored there is there on the other side, too. */
static void mirror(struct sim *s, uint64_t iova, uint64_t length)
{
	memcpy(s->migration->image + (iova - s->memory.iova), guest_memory_at(&s->memory, iova),
	       length);
}

static void copy_page(struct sim *s, uint64_t page)
{
	s->migration->dirty[page / 64] &= ~(UINT64_C(1) << page % 64);
	memcpy(s->migration->image + page * PAGE, s->memory.bytes + page * PAGE, PAGE);
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

static void processors_begin(struct sim *s)
{
	struct part parts[RING_PARTS];

	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		ring_parts(&s->queues[i].ring, parts);
		for (unsigned j = 0; j < RING_PARTS; j++)
			memcpy(s->migration->before[i][j],
			       guest_memory_at(&s->memory, parts[j].iova), parts[j].length);
		for (unsigned j = 0; j < BUFFERS; j++)
			s->migration->busy[i][j] = s->queues[i].buffers[j].busy;
	}
}

static void mirror_ring(struct sim *s, unsigned index)
{
	struct part parts[RING_PARTS];

	ring_parts(&s->queues[index].ring, parts);
	for (unsigned i = 0; i < RING_PARTS; i++) {
		const uint8_t *now = guest_memory_at(&s->memory, parts[i].iova);

		for (uint64_t j = 0; j < parts[i].length; j++)
			if (s->migration->before[index][i][j] != now[j])
				mirror(s, parts[i].iova + j, 1);
	}
}

static bool is_receiving(struct sim *s, unsigned index)
{
	return !(index % 2) && &s->queues[index] != control_queue(s);
}

/* The driver fills a buffer and gives it away at once, so one that has gone was written. */
static void mirror_buffers(struct sim *s, unsigned index)
{
	const struct queue *q = &s->queues[index];

	for (unsigned i = 0; i < BUFFERS; i++)
		if (q->buffers[i].busy && !s->migration->busy[index][i])
			mirror(s, q->buffers[i].iova,
			       is_receiving(s, index) ? q->buffers[i].room : ROOM);
}

static void allow_buffers(struct sim *s, unsigned index)
{
	const struct queue *q = &s->queues[index];
	bool receiving = is_receiving(s, index);

	for (unsigned i = 0; !(index % 2) && i < BUFFERS; i++)
		if (q->buffers[i].busy)
			allow(s, q->buffers[i].iova, receiving ? q->buffers[i].room : ROOM);
}

static void processors_end(struct sim *s)
{
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		mirror_ring(s, i);
		mirror_buffers(s, i);
		allow_buffers(s, i);
	}
}

static void allow_all_there_is(struct sim *s)
{
	struct part parts[RING_PARTS];

	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		ring_parts(&s->queues[i].ring, parts);
		allow(s, parts[2].iova, parts[2].length);
		if (s->packed)
			allow(s, parts[0].iova, parts[0].length);
		allow_buffers(s, i);
	}
}

/* The guest does something, then the device. */
static void go_on(struct sim *s)
{
	processors_begin(s);
	traffic(s);
	processors_end(s);
	for (uint64_t n = pick(s, 12); n; n--)
		reactor_world_step(s->world);
	reactor_world_enter(s->world, s->control);
}

/* ---- the log ---- */

static void set_log(struct sim *s, struct dirty_log *log)
{
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };

	virtio_device_set_dirty_log(s->device, log, &task);
	wait_for(s, &over, "a dirty log is not taken");
}

static void open_own_log(struct sim *s, struct migration *m)
{
	const struct dirty_log_range range = { s->memory.iova, s->memory.size };
	struct error e = { 0 };

	m->log = dirty_log_create(&range, 1, PAGE, &e);
	if (!m->log)
		fail(s, "%s", e.text);
}

/* As vhost-user has it: a bitmap from address 0 on. */
static void open_shared_log(struct sim *s, struct migration *m)
{
	struct error e = { 0 };

	m->shared_bytes = align_up((s->memory.iova + s->memory.size) / PAGE / 8 + 1, PAGE);
	m->shared_fd = memfd_create("log", MFD_CLOEXEC);
	if (m->shared_fd < 0 || ftruncate(m->shared_fd, (off_t)m->shared_bytes))
		fail(s, "no memory for a log");
	m->shared = mmap(NULL, m->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->shared_fd,
			 0);
	m->log = dirty_log_share(m->shared_fd, 0, m->shared_bytes, &e);
	if (m->shared == MAP_FAILED || !m->log)
		fail(s, "%s", e.text);
}

static void named(struct sim *s, uint64_t page)
{
	if (page >= s->migration->pages || !is_set(s->migration->allowed, page))
		fail(s, "page %llu was named, and never written", (unsigned long long)page);
	set(s->migration->dirty, page);
}

static void read_own_log(struct sim *s)
{
	uint64_t bitmap[64] = { 0 };
	struct error e = { 0 };

	if (dirty_log_report(s->migration->log, s->memory.iova, s->memory.size, PAGE, bitmap,
			     sizeof(bitmap), &e))
		fail(s, "%s", e.text);
	for (uint64_t i = 0; i < s->memory.size / PAGE; i++)
		if (is_set(bitmap, i))
			named(s, i);
}

static void read_shared_log(struct sim *s)
{
	for (uint64_t i = 0; i < s->memory.size / PAGE; i++) {
		uint64_t page = s->memory.iova / PAGE + i;
		uint8_t bit = 1 << page % 8;

		if (__atomic_fetch_and(&s->migration->shared[page / 8], ~bit, __ATOMIC_SEQ_CST) &
		    bit)
			named(s, i);
	}
}

/* ---- phases ---- */

static void begin(struct sim *s)
{
	struct migration *m = calloc(1, sizeof(*m));

	if (!m)
		abort();
	m->pages = (s->memory.used + PAGE - 1) / PAGE;
	m->image = malloc(m->pages * PAGE);
	m->allowed = calloc(m->pages / 64 + 1, 8);
	m->dirty = calloc(m->pages / 64 + 1, 8);
	if (!m->image || !m->allowed || !m->dirty)
		abort();
	memset(m->image, 0xdd, m->pages * PAGE);
	(pick(s, 2) ? open_own_log : open_shared_log)(s, m);
	s->migration = m;
	allow_all_there_is(s);
	set_log(s, m->log);
}

static void end(struct sim *s)
{
	struct migration *m = s->migration;

	set_log(s, NULL);
	s->migration = NULL;
	dirty_log_free(m->log);
	if (m->shared) {
		munmap(m->shared, m->shared_bytes);
		close(m->shared_fd);
	}
	free(m->image);
	free(m->allowed);
	free(m->dirty);
	free(m);
}

static void copy_all(struct sim *s)
{
	uint64_t pages = s->migration->pages, first = pick(s, pages);

	for (uint64_t i = 0; i < pages; i++) {
		copy_page(s, (first + i) % pages);
		if (!pick(s, 8))
			go_on(s);
	}
}

static void copy_dirty(struct sim *s, bool while_it_runs)
{
	(s->migration->shared ? read_shared_log : read_own_log)(s);
	for (uint64_t i = 0; i < s->migration->pages; i++) {
		if (!is_set(s->migration->dirty, i))
			continue;
		copy_page(s, i);
		if (while_it_runs && !pick(s, 4))
			go_on(s);
	}
}

/* False: refused. */
static bool quiesce(struct sim *s)
{
	static const uint64_t patience[] = { 0, 20000, UINT64_MAX };
	struct virtio_quiesce how = { .patience_ns = patience[pick(s, 3)], .park = pick(s, 2) };
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };

	virtio_device_quiesce(s->device, &how, &task);
	for (uint64_t n = pick(s, 4); !over && n; n--)
		go_on(s);
	wait_for(s, &over, "a device does not stop");
	if (how.status && how.patience_ns == UINT64_MAX)
		fail(s, "a stop that waits for ever was refused");
	return !how.status;
}

static void compare(struct sim *s)
{
	const uint8_t *here = (const uint8_t *)s->memory.bytes;

	for (uint64_t i = 0; i < s->migration->pages * PAGE; i++)
		if (s->migration->image[i] != here[i])
			fail(s, "byte 0x%llx is 0x%02x here and 0x%02x there",
			     (unsigned long long)(s->memory.iova + i), here[i],
			     s->migration->image[i]);
}

static void hand_over(struct sim *s)
{
	struct stream_writer w;
	struct error e = { 0 };

	stream_writer_begin(&w);
	virtio_device_save(s->device, &w);
	if (stream_writer_end(&w, &e))
		fail(s, "save: %s", e.text);
	end(s);
	device_receive(s, w.bytes, w.length);
	stream_writer_free(&w);
	if (pick(s, 2))
		device_announce(s);
}

void migrate(struct sim *s)
{
	begin(s);
	copy_all(s);
	for (uint64_t i = pick(s, ROUNDS); i; i--)
		copy_dirty(s, true);
	if (s->needs_reset || !quiesce(s)) {
		end(s);
		return;
	}
	copy_dirty(s, false);
	compare(s);
	if (s->needs_reset || !pick(s, 4)) {
		device_resume(s);
		end(s);
	} else {
		hand_over(s);
	}
}
