/* dirty_map.h - a bitmap of which little is ever set, found without looking at all of it.
 *
 * Three levels: a bit of each upper word stands for a word of the level below that may have a bit
 * set.  64 bits of the top stand for 2^18 pages, 1 GiB of pages of 4 KiB, so a terabyte's report
 * begins with 1,024 words.
 *
 * Whoever marks sets the bit at the bottom first, and then those above; whoever collects clears a
 * word above before he reads those below it.  All of that is sequentially consistent, so a mark
 * either finds the bit above cleared, and sets it again for the next collection, or its bit at the
 * bottom was set before this one read it.  No mark is lost, and one that is found is found once.
 */
#ifndef LINK_DIRTY_MAP_H
#define LINK_DIRTY_MAP_H

#include <stddef.h>
#include <stdint.h>

enum { DIRTY_LEVELS = 3 };

struct dirty_map {
	uint64_t bits;				/* how many there are */
	uint64_t *levels[DIRTY_LEVELS];		/* owned, pages.h; the bottom first */
	uint64_t words_read;			/* by collections */
};

int dirty_map_open(struct dirty_map *m, uint64_t bits);		/* 0 or -ENOMEM */
void dirty_map_close(struct dirty_map *m);

/* first <= last < bits.  Any thread. */
void dirty_map_mark(struct dirty_map *m, uint64_t first, uint64_t last);

/* Clears all bits of [first, end), and calls found for each that was set, in order.  One
 * thread at a time. */
void dirty_map_collect(struct dirty_map *m, uint64_t first, uint64_t end,
		       void (*found)(void *arg, uint64_t bit), void *arg);

#endif
