/* dirty_log.c - which guest pages the device has written. */
#include "link/dirty_log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/error.h"
#include "link/guarded_mapping.h"

struct dirty_log {
	struct guarded_mapping mapping;
	uint8_t *bits;
	uint64_t pages;
};

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

void dirty_log_free(struct dirty_log *log)
{
	if (!log)
		return;
	guarded_mapping_close(&log->mapping);
	free(log);
}

/* A page that is marked already stays in everybody's cache: no store then. */
static void mark_page(struct dirty_log *log, uint64_t page)
{
	uint8_t *byte = &log->bits[page / 8];
	uint8_t bit = 1u << (page % 8);

	if (!(__atomic_load_n(byte, __ATOMIC_RELAXED) & bit))
		__atomic_fetch_or(byte, bit, __ATOMIC_SEQ_CST);
}

void dirty_log_mark(struct dirty_log *log, uint64_t iova, uint64_t length)
{
	uint64_t last;

	if (!length)
		return;
	last = (iova + length - 1) / DIRTY_LOG_PAGE;
	/* A bit that is found set must have been read after our data was stored, or a front-end
	 * that clears it in between copies the page without the data.  Pairs with its atomic
	 * exchange. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (uint64_t page = iova / DIRTY_LOG_PAGE; page <= last && page < log->pages; page++)
		mark_page(log, page);
}
