/* pci_config.h - a function's configuration space: bytes, and which of them the host may change.
 *
 * Only the first PCI_CONFIG_USED bytes exist; the rest of the 4 KiB reads as zero.
 * Control reactor.
 */
#ifndef PCI_PCI_CONFIG_H
#define PCI_PCI_CONFIG_H

#include <stdint.h>

enum { PCI_CONFIG_BYTES = 4096, PCI_CONFIG_USED = 512 };

struct pci_config {
	uint8_t bytes[PCI_CONFIG_USED];
	uint8_t initial[PCI_CONFIG_USED];	/* after power-on: see pci_config_seal() */
	uint8_t writable[PCI_CONFIG_USED];	/* bits that a write changes ... */
	uint8_t clearable[PCI_CONFIG_USED];	/* ... and those that writing 1 clears */
	uint16_t free, last;			/* where the next capability goes; the last one */
	uint16_t free_extended, last_extended;
};

/* An empty space whose capability lists end at once. */
void pci_config_init(struct pci_config *c);

/* Adds a capability of so many bytes, its header included, at the end of the list: its offset.
 * There is room: what a function is made of is known when it is built. */
uint16_t pci_config_add(struct pci_config *c, uint8_t id, uint8_t bytes);
uint16_t pci_config_add_extended(struct pci_config *c, uint16_t id, uint8_t version,
				 uint16_t bytes);

/* For the function itself: masks do not matter.  n is 1, 2 or 4. */
uint32_t pci_config_get(const struct pci_config *c, uint16_t offset, unsigned n);
void pci_config_set(struct pci_config *c, uint16_t offset, unsigned n, uint32_t value);
void pci_config_allow(struct pci_config *c, uint16_t offset, unsigned n, uint32_t mask);
void pci_config_allow_clear(struct pci_config *c, uint16_t offset, unsigned n, uint32_t mask);

/* What is there now is the state after power-on, to which restore goes back. */
void pci_config_seal(struct pci_config *c);
void pci_config_restore(struct pci_config *c);

/* For the host: any range inside PCI_CONFIG_BYTES. */
void pci_config_read(const struct pci_config *c, uint16_t offset, void *to, unsigned n);
void pci_config_write(struct pci_config *c, uint16_t offset, const void *from, unsigned n);

#endif
