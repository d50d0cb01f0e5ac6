/* dirty_log.c - which guest pages the device has written: a bitmap of the front-end's, or maps of
 * our own, one per range. */
#include "link/dirty_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/dirty_map.h"
#include "link/guarded_mapping.h"

struct dirty_range {
	uint64_t iova, last; /* bytes; last: of the range, included */
	struct dirty_map map;
};

struct dirty_log {
	/* Shared. */
	struct guarded_mapping mapping;
	uint8_t *bits; /* NULL: the log is our own */
	uint64_t pages;

	/* Our own. */
	unsigned page_shift, range_count;
	struct dirty_range ranges[]; /* in order */
};

/* ---- shared ---- */

struct dirty_log *dirty_log_share(int fd, uint64_t fd_offset, uint64_t bytes, struct error *e)
{
	struct dirty_log *log = calloc(1, sizeof(*log));

	if (!log) {
		error_set(e, -ENOMEM, "dirty log: out of memory");
		return NULL;
	}
	if (guarded_mapping_open(&log->mapping, fd, fd_offset, bytes, PROT_READ | PROT_WRITE, e)) {
		error_wrap(e, "dirty log");
		free(log);
		return NULL;
	}
	log->bits = guarded_mapping_start(&log->mapping);
	log->pages = bytes * 8;
	return log;
}

/* A page that is marked already stays in everybody's cache: no store then. */
static void mark_page(struct dirty_log *log, uint64_t page)
{
	uint8_t *byte = &log->bits[page / 8];
	uint8_t bit = 1u << (page % 8);

	if (!(__atomic_load_n(byte, __ATOMIC_RELAXED) & bit))
		__atomic_fetch_or(byte, bit, __ATOMIC_SEQ_CST);
}

/* ---- our own ---- */

static int by_iova(const void *a, const void *b)
{
	const struct dirty_log_range *x = a, *y = b;

	return x->iova < y->iova ? -1 : x->iova > y->iova;
}

static int range_open(struct dirty_log *log, const struct dirty_log_range *from, struct error *e)
{
	struct dirty_range *r = &log->ranges[log->range_count];
	uint64_t first = from->iova >> log->page_shift;

	if (!from->length || from->iova > UINT64_MAX - (from->length - 1))
		return error_set(e, -EINVAL,
				 "dirty log: range 0x%" PRIx64 " + 0x%" PRIx64 " is none",
				 from->iova, from->length);
	r->iova = from->iova;
	r->last = from->iova + (from->length - 1);
	if (log->range_count && r[-1].last >= r->iova)
		return error_set(e, -EINVAL, "dirty log: ranges overlap at 0x%" PRIx64, r->iova);
	if (dirty_map_open(&r->map, (r->last >> log->page_shift) - first + 1))
		return error_set(e, -ENOMEM, "dirty log: out of memory");
	log->range_count++;
	return 0;
}

static int ranges_open(struct dirty_log *log, const struct dirty_log_range *ranges, unsigned count,
		       struct error *e)
{
	struct dirty_log_range sorted[DIRTY_LOG_RANGES_MAX];

	memcpy(sorted, ranges, count * sizeof(sorted[0]));
	qsort(sorted, count, sizeof(sorted[0]), by_iova);
	for (unsigned i = 0; i < count; i++)
		if (range_open(log, &sorted[i], e))
			return e ? e->code : -EINVAL;
	return 0;
}

struct dirty_log *dirty_log_create(const struct dirty_log_range *ranges, unsigned count,
				   uint64_t page_size, struct error *e)
{
	struct dirty_log *log;

	if (!count || count > DIRTY_LOG_RANGES_MAX) {
		error_set(e, -EINVAL, "dirty log: %u ranges, not from 1 to %d", count,
			  DIRTY_LOG_RANGES_MAX);
		return NULL;
	}
	if (!is_power_of_two(page_size) || page_size < DIRTY_LOG_PAGE) {
		error_set(e, -EINVAL, "dirty log: pages of %" PRIu64 " bytes", page_size);
		return NULL;
	}
	log = calloc(1, sizeof(*log) + count * sizeof(log->ranges[0]));
	if (!log) {
		error_set(e, -ENOMEM, "dirty log: out of memory");
		return NULL;
	}
	log->page_shift = __builtin_ctzll(page_size);
	if (ranges_open(log, ranges, count, e)) {
		dirty_log_free(log);
		return NULL;
	}
	return log;
}

static uint64_t bit_of(const struct dirty_log *log, const struct dirty_range *r, uint64_t iova)
{
	return (iova >> log->page_shift) - (r->iova >> log->page_shift);
}

/* The first range that does not end before iova; range_count: there is none. */
static unsigned find(const struct dirty_log *log, uint64_t iova)
{
	unsigned first = 0, end = log->range_count;

	while (first < end) {
		unsigned middle = (first + end) / 2;

		if (log->ranges[middle].last < iova)
			first = middle + 1;
		else
			end = middle;
	}
	return first;
}

static void mark_ranges(struct dirty_log *log, uint64_t iova, uint64_t last)
{
	for (unsigned i = find(log, iova); i < log->range_count && log->ranges[i].iova <= last;
	     i++) {
		struct dirty_range *r = &log->ranges[i];

		dirty_map_mark(&r->map, bit_of(log, r, maximum_u64(iova, r->iova)),
			       bit_of(log, r, minimum_u64(last, r->last)));
	}
}

/* ---- reports ---- */

struct report {
	uint64_t *bitmap;
	uint64_t first; /* bit of the log that the bitmap begins with */
	unsigned shift; /* from the log's bits to the bitmap's */
};

static void found(void *arg, uint64_t bit)
{
	const struct report *r = arg;
	uint64_t at = (bit - r->first) >> r->shift;

	r->bitmap[at / 64] |= htole64(UINT64_C(1) << at % 64);
}

static int check_report(const struct dirty_log *log, uint64_t iova, uint64_t length,
			uint64_t page_size, size_t bytes, struct error *e)
{
	unsigned i = find(log, iova);

	if (!is_power_of_two(page_size) || page_size < UINT64_C(1) << log->page_shift)
		return error_set(e, -EINVAL,
				 "report of pages of %" PRIu64 " bytes, the log's have %" PRIu64,
				 page_size, UINT64_C(1) << log->page_shift);
	if (!length || iova % page_size || iova > UINT64_MAX - (length - 1) ||
	    i == log->range_count || align_down(log->ranges[i].iova, page_size) > iova ||
	    iova + (length - 1) > (log->ranges[i].last | (page_size - 1)))
		return error_set(e, -EINVAL,
				 "report of 0x%" PRIx64 " + 0x%" PRIx64
				 ", which lies in no range that is logged",
				 iova, length);
	if (bytes / 8 < ((length - 1) / page_size) / 64 + 1)
		return error_set(e, -EINVAL,
				 "report of 0x%" PRIx64 " bytes of memory into %zu bytes", length,
				 bytes);
	return 0;
}

int dirty_log_report(struct dirty_log *log, uint64_t iova, uint64_t length, uint64_t page_size,
		     uint64_t *bitmap, size_t bytes, struct error *e)
{
	int err = check_report(log, iova, length, page_size, bytes, e);
	struct dirty_range *r;
	struct report report;
	uint64_t from, last;

	if (err)
		return err;
	r = &log->ranges[find(log, iova)];
	from = maximum_u64(iova, r->iova);
	last = minimum_u64(iova + (length - 1), r->last);
	report = (struct report){
		.bitmap = bitmap,
		/* wraps where the first page of the report lies before the range */
		.first = (iova >> log->page_shift) - (r->iova >> log->page_shift),
		.shift = __builtin_ctzll(page_size) - log->page_shift
	};
	memset(bitmap, 0, (((length - 1) / page_size) / 64 + 1) * sizeof(*bitmap));
	dirty_map_collect(&r->map, bit_of(log, r, from), bit_of(log, r, last) + 1, found, &report);
	return 0;
}

uint64_t dirty_log_words_read(const struct dirty_log *log)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < log->range_count; i++)
		sum += log->ranges[i].map.words_read;
	return sum;
}

/* ---- both ---- */

void dirty_log_free(struct dirty_log *log)
{
	if (!log)
		return;
	if (log->bits)
		guarded_mapping_close(&log->mapping);
	for (unsigned i = 0; i < log->range_count; i++)
		dirty_map_close(&log->ranges[i].map);
	free(log);
}

void dirty_log_mark(struct dirty_log *log, uint64_t iova, uint64_t length)
{
	uint64_t last;

	if (!length)
		return;
	last = iova > UINT64_MAX - (length - 1) ? UINT64_MAX : iova + (length - 1);
	/* A bit that is found set must have been read after our data was stored, or a reader that
	 * clears it in between copies the page without the data.  Pairs with its atomic exchange.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!log->bits) {
		mark_ranges(log, iova, last);
		return;
	}
	for (uint64_t page = iova / DIRTY_LOG_PAGE;
	     page <= last / DIRTY_LOG_PAGE && page < log->pages; page++)
		mark_page(log, page);
}
