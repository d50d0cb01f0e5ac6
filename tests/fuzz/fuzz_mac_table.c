/* fuzz_mac_table.c - what the switch's table answers is what it last learned, or nothing: commands
 * of four bytes each. */
#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "fuzz.h"
#include "network/mac_table.h"

enum { ADDRESSES = 4096, AGE = 300, COMMAND = 4 /* bytes */ };

static struct known {
	uint16_t place;
	uint32_t seen; /* seconds */
} known[ADDRESSES];

static void check(const struct mac_table *t, const uint8_t *mac, const struct known *k,
		  uint32_t now)
{
	uint16_t place = mac_table_find(t, mac, now);

	assert(place == MAC_TABLE_NONE || (place == k->place && now - k->seen < AGE));
}

static void learn(struct mac_table *t, const uint8_t *mac, struct known *k, uint16_t place,
		  uint32_t now)
{
	mac_table_learn(t, mac, place, now);
	if (mac[0] & 1) {
		assert(mac_table_find(t, mac, now) == MAC_TABLE_NONE);
		return;
	}
	*k = (struct known){ place, now };
	assert(mac_table_find(t, mac, now) == place);
}

static void forget(struct mac_table *t, uint16_t place)
{
	mac_table_forget(t, place);
	for (unsigned i = 0; i < ADDRESSES; i++)
		if (known[i].place == place)
			known[i].place = MAC_TABLE_NONE;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct mac_table *t = mac_table_create(AGE, 0x1234567);
	uint32_t now = 1000;

	assert(t);
	memset(known, 0xff, sizeof(known));
	for (; n >= COMMAND; bytes += COMMAND, n -= COMMAND) {
		unsigned index = load_be16(bytes + 1) % ADDRESSES;
		uint8_t mac[6] = { 2 | bytes[0] >> 7, 0, 0, 0, index >> 8, index };

		now += bytes[3];
		if (bytes[0] % 8 < 5)
			learn(t, mac, &known[index], bytes[1] >> 4, now);
		else if (bytes[0] % 8 < 7)
			check(t, mac, &known[index], now);
		else
			forget(t, bytes[1] >> 4);
	}
	mac_table_free(t);
	return 0;
}
