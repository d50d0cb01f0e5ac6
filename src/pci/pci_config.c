/* pci_config.c - a function's configuration space. */
#include "pci/pci_config.h"

#include <assert.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/bytes.h"

void pci_config_init(struct pci_config *c)
{
	*c = (struct pci_config){ .free = 0x40, .free_extended = 0x100 };
}

uint16_t pci_config_add(struct pci_config *c, uint8_t id, uint8_t bytes)
{
	uint16_t at = c->free;

	c->free = align_up(at + bytes, 4);
	assert(c->free <= 0x100);
	c->bytes[at] = id;
	c->bytes[c->last ? c->last + 1 : PCI_CAPABILITY_LIST] = at;
	c->bytes[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	c->last = at;
	return at;
}

/* The list begins at 0x100 by definition; each header names the next one in its upper bits. */
uint16_t pci_config_add_extended(struct pci_config *c, uint16_t id, uint8_t version, uint16_t bytes)
{
	uint16_t at = c->free_extended;

	c->free_extended = align_up(at + bytes, 4);
	assert(c->free_extended <= PCI_CONFIG_USED);
	store_le32(c->bytes + at, id | (uint32_t)version << 16);
	if (c->last_extended)
		store_le16(c->bytes + c->last_extended + 2,
			   (load_le16(c->bytes + c->last_extended + 2) & 0xf) | at << 4);
	c->last_extended = at;
	return at;
}

uint32_t pci_config_get(const struct pci_config *c, uint16_t offset, unsigned n)
{
	uint8_t word[4] = { 0 };

	pci_config_read(c, offset, word, n);
	return load_le32(word);
}

static void put(uint8_t *array, uint16_t offset, unsigned n, uint32_t value)
{
	uint8_t word[4];

	assert(n <= 4 && range_fits(offset, n, PCI_CONFIG_USED));
	store_le32(word, value);
	memcpy(array + offset, word, n);
}

void pci_config_set(struct pci_config *c, uint16_t offset, unsigned n, uint32_t value)
{
	put(c->bytes, offset, n, value);
}

void pci_config_allow(struct pci_config *c, uint16_t offset, unsigned n, uint32_t mask)
{
	put(c->writable, offset, n, mask);
}

void pci_config_allow_clear(struct pci_config *c, uint16_t offset, unsigned n, uint32_t mask)
{
	put(c->clearable, offset, n, mask);
}

void pci_config_seal(struct pci_config *c)
{
	memcpy(c->initial, c->bytes, sizeof(c->initial));
}

void pci_config_restore(struct pci_config *c)
{
	memcpy(c->bytes, c->initial, sizeof(c->bytes));
}

void pci_config_read(const struct pci_config *c, uint16_t offset, void *to, unsigned n)
{
	uint8_t *at = to;

	assert(range_fits(offset, n, PCI_CONFIG_BYTES));
	for (unsigned i = 0; i < n; i++)
		at[i] = offset + i < PCI_CONFIG_USED ? c->bytes[offset + i] : 0;
}

static uint8_t merge(const struct pci_config *c, unsigned at, uint8_t value)
{
	uint8_t old = c->bytes[at] & ~(value & c->clearable[at]);

	return (old & ~c->writable[at]) | (value & c->writable[at]);
}

void pci_config_write(struct pci_config *c, uint16_t offset, const void *from, unsigned n)
{
	const uint8_t *value = from;

	assert(range_fits(offset, n, PCI_CONFIG_BYTES));
	for (unsigned i = 0; i < n && offset + i < PCI_CONFIG_USED; i++)
		c->bytes[offset + i] = merge(c, offset + i, value[i]);
}
