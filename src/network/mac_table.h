/* mac_table.h - behind which of some places an Ethernet address was last seen.
 *
 * Of a fixed size: a flood of addresses pushes out the oldest, in a place of the table that nobody
 * outside can foretell.  Any thread, without a lock: an entry is one word.
 */
#ifndef NETWORK_MAC_TABLE_H
#define NETWORK_MAC_TABLE_H

#include <stdint.h>

enum { MAC_TABLE_NONE = 0xffff };

struct mac_table;

/* Addresses not seen for `age` seconds are forgotten.  key: any number that others do not know.
 * NULL: out of memory. */
struct mac_table *mac_table_create(uint32_t age, uint64_t key);
void mac_table_free(struct mac_table *t);		/* NULL is ignored */

/* mac: 6 bytes.  Group addresses are not learned.  now: seconds. */
void mac_table_learn(struct mac_table *t, const uint8_t *mac, uint16_t place, uint32_t now);
uint16_t mac_table_find(const struct mac_table *t, const uint8_t *mac, uint32_t now);
void mac_table_forget(struct mac_table *t, uint16_t place);	/* all that are there */

#endif
