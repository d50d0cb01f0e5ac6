/* other_side.c - guest memory as a VMM has it on the other side of a migration, in a simulation. */
#include "sim/other_side.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/dirty_log.h"

enum { PAGE = 4096, QUEUES = 16, RING_PARTS = 3, RING_PART_MAX = 2048, AFTER_MARKS = 4 };

struct image {             /* of a region */
	uint8_t *bytes;    /* owned */
	uint64_t *allowed; /* owned: bit per page that the device may write */
	uint64_t *dirty;   /* owned: bit per page that has to be copied */
	uint64_t pages;
};

struct other_side {
	const struct guest_memory *regions;
	unsigned count;
	struct other_side_sim sim;
	struct image *images;  /* owned: one per region */
	struct dirty_log *log; /* owned */
	int shared_fd;   /* owned: a log that both sides map; shared is NULL: the device's own */
	uint8_t *shared; /* owned mapping */
	size_t shared_bytes;
	/* Rings before a turn of the processors. */
	uint8_t before[QUEUES][RING_PARTS][RING_PART_MAX];
};

static struct other_side *open_side; /* whose log's marks are watched */

static void fail(struct other_side *o, const char *format, ...)
	__attribute__((noreturn, format(printf, 2, 3)));

static void fail(struct other_side *o, const char *format, ...)
{
	char text[200];
	va_list values;

	va_start(values, format);
	vsnprintf(text, sizeof(text), format, values);
	va_end(values);
	o->sim.fail(o->sim.sim, text);
}

static void *need(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

/* ---- pages ---- */

static bool is_set(const uint64_t *bits, uint64_t n)
{
	return bits[n / 64] >> n % 64 & 1;
}

static void set(uint64_t *bits, uint64_t n)
{
	bits[n / 64] |= UINT64_C(1) << n % 64;
}

static unsigned region_at(struct other_side *o, uint64_t iova)
{
	for (unsigned i = 0; i < o->count; i++)
		if (iova - o->regions[i].iova < o->regions[i].size)
			return i;
	fail(o, "address 0x%llx is in no region", (unsigned long long)iova);
}

void other_side_allow(struct other_side *o, uint64_t iova, uint64_t length)
{
	uint64_t end = iova + length;

	for (uint64_t at = align_down(iova, PAGE); at < end; at += PAGE) {
		unsigned i = region_at(o, at);

		set(o->images[i].allowed, (at - o->regions[i].iova) / PAGE);
	}
}

void other_side_mirror(struct other_side *o, uint64_t iova, uint64_t length)
{
	for (uint64_t part; length; iova += part, length -= part) {
		unsigned i = region_at(o, iova);
		const struct guest_memory *m = &o->regions[i];

		part = minimum_u64(length, m->iova + m->size - iova);
		memcpy(o->images[i].bytes + (iova - m->iova), guest_memory_at(m, iova), part);
	}
}

static void copy_page(struct other_side *o, unsigned region, uint64_t page)
{
	struct image *image = &o->images[region];

	image->dirty[page / 64] &= ~(UINT64_C(1) << page % 64);
	memcpy(image->bytes + page * PAGE, o->regions[region].bytes + page * PAGE, PAGE);
}

/* ---- rings ---- */

struct part {
	uint64_t iova, length;
};

static void ring_parts(const struct guest_queue *q, struct part parts[RING_PARTS])
{
	parts[0] = (struct part){ q->descriptor_iova, 16ull * q->size };
	parts[1] = (struct part){ q->driver_iova, q->packed ? 4 : 6 + 2ull * q->size };
	parts[2] = (struct part){ q->device_iova, q->packed ? 4 : 6 + 8ull * q->size };
}

void other_side_allow_ring(struct other_side *o, const struct guest_queue *q)
{
	struct part parts[RING_PARTS];

	ring_parts(q, parts);
	other_side_allow(o, parts[2].iova, parts[2].length);
	if (q->packed)
		other_side_allow(o, parts[0].iova, parts[0].length);
}

static const uint8_t *bytes_at(struct other_side *o, uint64_t iova)
{
	return guest_memory_at(&o->regions[region_at(o, iova)], iova);
}

void other_side_ring_begin(struct other_side *o, unsigned index, const struct guest_queue *q)
{
	struct part parts[RING_PARTS];

	ring_parts(q, parts);
	for (unsigned i = 0; i < RING_PARTS; i++)
		memcpy(o->before[index][i], bytes_at(o, parts[i].iova), parts[i].length);
}

void other_side_ring_end(struct other_side *o, unsigned index, const struct guest_queue *q)
{
	struct part parts[RING_PARTS];

	ring_parts(q, parts);
	for (unsigned i = 0; i < RING_PARTS; i++) {
		const uint8_t *now = bytes_at(o, parts[i].iova);

		for (uint64_t j = 0; j < parts[i].length; j++)
			if (o->before[index][i][j] != now[j])
				other_side_mirror(o, parts[i].iova + j, 1);
	}
}

/* ---- the log ---- */

static void open_own_log(struct other_side *o)
{
	struct dirty_log_range ranges[DIRTY_LOG_RANGES_MAX];
	struct error e = { 0 };

	for (unsigned i = 0; i < o->count; i++)
		ranges[i] = (struct dirty_log_range){ o->regions[i].iova, o->regions[i].size };
	o->log = dirty_log_create(ranges, o->count, PAGE, &e);
	if (!o->log)
		fail(o, "%s", e.text);
}

/* As vhost-user has it: a bitmap from address 0 on. */
static void open_shared_log(struct other_side *o)
{
	const struct guest_memory *last = &o->regions[o->count - 1];
	struct error e = { 0 };

	o->shared_bytes = align_up((last->iova + last->size) / PAGE / 8 + 1, PAGE);
	o->shared_fd = memfd_create("log", MFD_CLOEXEC);
	if (o->shared_fd < 0 || ftruncate(o->shared_fd, (off_t)o->shared_bytes))
		fail(o, "no memory for a log");
	o->shared = mmap(NULL, o->shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, o->shared_fd,
			 0);
	o->log = dirty_log_share(o->shared_fd, 0, o->shared_bytes, &e);
	if (o->shared == MAP_FAILED || !o->log)
		fail(o, "%s", e.text);
}

struct dirty_log *other_side_log(struct other_side *o)
{
	return o->log;
}

static void named(struct other_side *o, unsigned region, uint64_t page)
{
	struct image *image = &o->images[region];

	if (!is_set(image->allowed, page))
		fail(o, "page %llu of region %u was named, and never written",
		     (unsigned long long)page, region);
	set(image->dirty, page);
}

static void read_own_log(struct other_side *o, unsigned region, uint64_t first, uint64_t count)
{
	uint64_t words = count / 64 + 1;
	uint64_t *bitmap = need(calloc(words, 8));
	struct error e = { 0 };

	if (dirty_log_report(o->log, o->regions[region].iova + first * PAGE, count * PAGE, PAGE,
			     bitmap, 8 * words, &e))
		fail(o, "%s", e.text);
	for (uint64_t i = 0; i < count; i++)
		if (is_set(bitmap, i))
			named(o, region, first + i);
	free(bitmap);
}

static void read_shared_log(struct other_side *o, unsigned region, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++) {
		uint64_t page = o->regions[region].iova / PAGE + i;
		uint8_t bit = 1 << page % 8;

		if (__atomic_fetch_and(&o->shared[page / 8], ~bit, __ATOMIC_SEQ_CST) & bit)
			named(o, region, i);
	}
}

static void read_log(struct other_side *o, unsigned region, uint64_t first, uint64_t count)
{
	(o->shared ? read_shared_log : read_own_log)(o, region, first, count);
}

/* ---- right after a mark ---- */

void __real_dirty_log_mark(struct dirty_log *log, uint64_t iova, uint64_t length);
void __wrap_dirty_log_mark(struct dirty_log *log, uint64_t iova, uint64_t length);

static void copy_at_once(struct other_side *o, uint64_t iova)
{
	unsigned region = region_at(o, iova);
	uint64_t page = (iova - o->regions[region].iova) / PAGE;

	read_log(o, region, page, 1);
	if (is_set(o->images[region].dirty, page))
		copy_page(o, region, page);
}

void __wrap_dirty_log_mark(struct dirty_log *log, uint64_t iova, uint64_t length)
{
	struct other_side *o = open_side;

	__real_dirty_log_mark(log, iova, length);
	if (!o || o->log != log || o->sim.pick(o->sim.sim, AFTER_MARKS))
		return;
	for (uint64_t at = align_down(iova, PAGE); at < iova + length; at += PAGE)
		copy_at_once(o, at);
}

/* ---- from begin to end ---- */

static void open_image(struct image *image, const struct guest_memory *m)
{
	image->pages = m->size / PAGE;
	image->bytes = need(malloc(m->size));
	image->allowed = need(calloc(image->pages / 64 + 1, 8));
	image->dirty = need(calloc(image->pages / 64 + 1, 8));
	memset(image->bytes, 0xee, m->size);
}

struct other_side *other_side_open(const struct guest_memory *regions, unsigned count,
				   const struct other_side_sim *sim)
{
	struct other_side *o = need(calloc(1, sizeof(*o)));

	o->regions = regions;
	o->count = count;
	o->sim = *sim;
	o->images = need(calloc(count, sizeof(*o->images)));
	for (unsigned i = 0; i < count; i++)
		open_image(&o->images[i], &regions[i]);
	(sim->pick(sim->sim, 2) ? open_own_log : open_shared_log)(o);
	open_side = o;
	return o;
}

void other_side_close(struct other_side *o)
{
	open_side = NULL;
	dirty_log_free(o->log);
	if (o->shared) {
		munmap(o->shared, o->shared_bytes);
		close(o->shared_fd);
	}
	for (unsigned i = 0; i < o->count; i++) {
		free(o->images[i].bytes);
		free(o->images[i].allowed);
		free(o->images[i].dirty);
	}
	free(o->images);
	free(o);
}

static void go_on(struct other_side *o, unsigned one_in)
{
	if (one_in && !o->sim.pick(o->sim.sim, one_in))
		o->sim.go_on(o->sim.sim);
}

/* From any page on: the order is the VMM's. */
void other_side_copy_all(struct other_side *o, unsigned one_in)
{
	for (unsigned i = 0; i < o->count; i++) {
		uint64_t pages = o->images[i].pages, first = o->sim.pick(o->sim.sim, pages);

		for (uint64_t j = 0; j < pages; j++) {
			copy_page(o, i, (first + j) % pages);
			go_on(o, one_in);
		}
	}
}

void other_side_copy_dirty(struct other_side *o, unsigned one_in)
{
	for (unsigned i = 0; i < o->count; i++)
		read_log(o, i, 0, o->images[i].pages);
	for (unsigned i = 0; i < o->count; i++)
		for (uint64_t j = 0; j < o->images[i].pages; j++) {
			if (!is_set(o->images[i].dirty, j))
				continue;
			copy_page(o, i, j);
			go_on(o, one_in);
		}
}

void other_side_compare(struct other_side *o, unsigned region)
{
	const uint8_t *there = o->images[region].bytes;
	const uint8_t *here = (const uint8_t *)o->regions[region].bytes;

	for (uint64_t i = 0; i < o->regions[region].size; i++)
		if (there[i] != here[i])
			fail(o, "byte 0x%llx is 0x%02x here and 0x%02x there",
			     (unsigned long long)(o->regions[region].iova + i), here[i], there[i]);
}
