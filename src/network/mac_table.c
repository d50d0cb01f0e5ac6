/* mac_table.c - behind which of some places an Ethernet address was last seen. */
#include "network/mac_table.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/pages.h"

enum { WAYS = 4, SETS = 4096 };

/* The address in the upper 48 bits, the place in the lower 16; 0: free (no address is zero). */
struct entry {
	_Atomic uint64_t word;
	_Atomic uint32_t seen; /* seconds */
};

struct mac_table {
	struct entry *entries; /* owned: SETS sets of WAYS */
	uint64_t key;
	uint32_t age;
};

struct mac_table *mac_table_create(uint32_t age, uint64_t key)
{
	struct mac_table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->age = age;
	t->key = key | 1;
	t->entries = pages_allocate(SETS * WAYS * sizeof(*t->entries));
	if (t->entries)
		return t;
	free(t);
	return NULL;
}

void mac_table_free(struct mac_table *t)
{
	if (!t)
		return;
	pages_free(t->entries, SETS * WAYS * sizeof(*t->entries));
	free(t);
}

static uint64_t address_of(const uint8_t *mac)
{
	return (uint64_t)load_be32(mac) << 16 | load_be16(mac + 4);
}

static struct entry *set_of(const struct mac_table *t, uint64_t address)
{
	uint64_t mixed = (address ^ t->key) * 0x9e3779b97f4a7c15ull;

	mixed = (mixed ^ mixed >> 29) * t->key;
	return &t->entries[(mixed >> 40) % SETS * WAYS];
}

/* Another thread's clock may be ahead of ours: what it has just seen is new, not very old. */
static uint32_t age_of(const struct entry *e, uint32_t now)
{
	int32_t age = now - atomic_load_explicit(&e->seen, memory_order_relaxed);

	return age > 0 ? age : 0;
}

/* The entry of the address, or else the one to give up for it. */
static struct entry *place_for(struct entry *set, uint64_t address, uint32_t now)
{
	struct entry *oldest = set;

	for (unsigned i = 0; i < WAYS; i++) {
		uint64_t word = atomic_load_explicit(&set[i].word, memory_order_relaxed);

		if (word >> 16 == address)
			return &set[i];
		if (!word || age_of(&set[i], now) > age_of(oldest, now))
			oldest = &set[i];
	}
	return oldest;
}

/* Stores only what differs: many threads read these lines. */
void mac_table_learn(struct mac_table *t, const uint8_t *mac, uint16_t place, uint32_t now)
{
	uint64_t address = address_of(mac), word = address << 16 | place;
	struct entry *e;

	if (unlikely((mac[0] & 1) || !address))
		return;
	e = place_for(set_of(t, address), address, now);
	if (unlikely(atomic_load_explicit(&e->word, memory_order_relaxed) != word))
		atomic_store_explicit(&e->word, word, memory_order_relaxed);
	if (unlikely(atomic_load_explicit(&e->seen, memory_order_relaxed) != now))
		atomic_store_explicit(&e->seen, now, memory_order_relaxed);
}

uint16_t mac_table_find(const struct mac_table *t, const uint8_t *mac, uint32_t now)
{
	uint64_t address = address_of(mac);
	const struct entry *set = set_of(t, address);

	for (unsigned i = 0; address && i < WAYS; i++) {
		uint64_t word = atomic_load_explicit(&set[i].word, memory_order_relaxed);

		if (word >> 16 == address)
			return age_of(&set[i], now) < t->age ? word & 0xffff : MAC_TABLE_NONE;
	}
	return MAC_TABLE_NONE;
}

void mac_table_forget(struct mac_table *t, uint16_t place)
{
	for (unsigned i = 0; i < SETS * WAYS; i++)
		if ((atomic_load_explicit(&t->entries[i].word, memory_order_relaxed) & 0xffff) ==
		    place)
			atomic_store_explicit(&t->entries[i].word, 0, memory_order_relaxed);
}
