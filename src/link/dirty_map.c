/* dirty_map.c - a bitmap of which little is ever set, found without looking at all of it. */
#include "link/dirty_map.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/pages.h"

enum { SHIFT = 6, WORD = 1 << SHIFT };

/* Of a level; whole words. */
static uint64_t words_of(uint64_t bits, unsigned level)
{
	for (unsigned i = 0; i <= level; i++)
		bits = bits / WORD + (bits % WORD != 0);
	return bits;
}

int dirty_map_open(struct dirty_map *m, uint64_t bits)
{
	*m = (struct dirty_map){ .bits = bits };
	for (unsigned i = 0; i < DIRTY_LEVELS; i++) {
		m->levels[i] = pages_allocate(words_of(bits, i) * sizeof(uint64_t));
		if (!m->levels[i]) {
			dirty_map_close(m);
			return -ENOMEM;
		}
	}
	return 0;
}

void dirty_map_close(struct dirty_map *m)
{
	for (unsigned i = 0; i < DIRTY_LEVELS; i++)
		if (m->levels[i])
			pages_free(m->levels[i], words_of(m->bits, i) * sizeof(uint64_t));
}

/* A bit that is set already stays in everybody's cache: no store then. */
static void set(uint64_t *word, uint64_t mask)
{
	if ((__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask) != mask)
		__atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);
}

/* The bits of word number `word` that lie in [first, end). */
static uint64_t mask_of(uint64_t word, uint64_t first, uint64_t end)
{
	uint64_t from = maximum_u64(first, word << SHIFT) - (word << SHIFT);
	uint64_t to = minimum_u64(end, (word + 1) << SHIFT) - (word << SHIFT);

	return (to == WORD ? ~UINT64_C(0) : (UINT64_C(1) << to) - 1) & ~((UINT64_C(1) << from) - 1);
}

void dirty_map_mark(struct dirty_map *m, uint64_t first, uint64_t last)
{
	for (unsigned level = 0; level < DIRTY_LEVELS; level++) {
		for (uint64_t w = first >> SHIFT; w <= last >> SHIFT; w++)
			set(&m->levels[level][w], mask_of(w, first, last + 1));
		first >>= SHIFT;
		last >>= SHIFT;
	}
}

struct collection {
	struct dirty_map *map;
	uint64_t first, end;
	void (*found)(void *arg, uint64_t bit);
	void *arg;
};

/* Of a word at a level, the bits that stand for anything of [first, end). */
static uint64_t wanted(const struct collection *c, unsigned level, uint64_t word)
{
	unsigned shift = SHIFT * level;

	return mask_of(word, c->first >> shift, ((c->end - 1) >> shift) + 1);
}

/* Above the bottom only words that are collected as a whole are cleared: what is outside of the
 * range stays for another report. */
static bool is_covered(const struct collection *c, unsigned level, uint64_t bit)
{
	unsigned shift = SHIFT * level;

	return bit << shift >= c->first && ((bit + 1) << shift <= c->end || c->end == c->map->bits);
}

static uint64_t take(const struct collection *c, unsigned level, uint64_t word)
{
	uint64_t *at = &c->map->levels[level][word];
	uint64_t mask = wanted(c, level, word), clear = mask;

	c->map->words_read++;
	if (!(__atomic_load_n(at, __ATOMIC_SEQ_CST) & mask))
		return 0;
	for (unsigned i = 0; level && i < WORD; i++)
		if (clear >> i & 1 && !is_covered(c, level, (word << SHIFT) + i))
			clear &= ~(UINT64_C(1) << i);
	return (mask & ~clear & __atomic_load_n(at, __ATOMIC_SEQ_CST)) |
	       (__atomic_fetch_and(at, ~clear, __ATOMIC_SEQ_CST) & clear);
}

/* From a word of the top down to the bottom; as deep as there are levels. */
static void collect(const struct collection *c, unsigned level, uint64_t word)
{
	for (uint64_t bits = take(c, level, word); bits; bits &= bits - 1) {
		uint64_t bit = (word << SHIFT) + __builtin_ctzll(bits);

		if (level)
			collect(c, level - 1, bit);
		else
			c->found(c->arg, bit);
	}
}

void dirty_map_collect(struct dirty_map *m, uint64_t first, uint64_t end,
		       void (*found)(void *arg, uint64_t bit), void *arg)
{
	const struct collection c = { m, first, end, found, arg };
	const unsigned top = DIRTY_LEVELS - 1, shift = SHIFT * DIRTY_LEVELS;

	if (first >= end)
		return;
	for (uint64_t w = first >> shift; w <= (end - 1) >> shift; w++)
		collect(&c, top, w);
}
