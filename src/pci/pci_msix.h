/* pci_msix.h - MSI-X: a function's vectors, their table and their pending bits (PCI 3.0, 6.8.2).
 *
 * An interrupt of a vector goes to the eventfd that the host has connected, unless one of four
 * masks holds it back: MSI-X is off, the function mask, the guest's mask bit in the table, the
 * host's own.  What is held back while MSI-X is on is pending, and sent when the last mask goes.
 *
 * A VMM that shows its guest a table of its own never writes ours: an entry that was not written
 * since the reset does not count as masked, though it reads so.
 *
 * Control reactor.
 */
#ifndef PCI_PCI_MSIX_H
#define PCI_PCI_MSIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pci_msix_vector {
	int fd;			/* owned eventfd; -1: not connected */
	uint32_t connection;	/* counts what was connected: tells one fd from another */
	bool host_masked, pending, written;
	uint8_t entry[16];	/* the table's, little-endian */
};

struct pci_msix {
	struct pci_msix_vector *vectors;	/* owned */
	unsigned count;
	bool enabled, masked;			/* of the capability's control word */
};

/* 0 or -ENOMEM. */
int pci_msix_open(struct pci_msix *m, unsigned vectors);
void pci_msix_close(struct pci_msix *m);
/* Power-on: what is connected stays. */
void pci_msix_reset(struct pci_msix *m);

/* Sizes in bytes of the two tables. */
uint32_t pci_msix_table_bytes(const struct pci_msix *m);
uint32_t pci_msix_pending_bytes(const struct pci_msix *m);
/* Ranges lie inside the table. */
void pci_msix_table_read(const struct pci_msix *m, uint32_t offset, void *to, size_t n);
void pci_msix_table_write(struct pci_msix *m, uint32_t offset, const void *from, size_t n);
void pci_msix_pending_read(const struct pci_msix *m, uint32_t offset, void *to, size_t n);

/* As another function's vector was: nothing is sent. */
void pci_msix_restore(struct pci_msix *m, unsigned vector, const uint8_t entry[16], bool written,
		      bool pending);

void pci_msix_control(struct pci_msix *m, bool enabled, bool masked);
void pci_msix_connect(struct pci_msix *m, unsigned vector, int fd); /* fd moves; -1: none */
void pci_msix_host_mask(struct pci_msix *m, unsigned vector, bool masked);

/* Where the vector's interrupts may be written directly; borrowed.  -1: they have to be raised. */
int pci_msix_direct(const struct pci_msix *m, unsigned vector);
/* Sends the interrupt, or remembers it. */
void pci_msix_raise(struct pci_msix *m, unsigned vector);
/* Sends it whatever masks it: the host tests its connection. */
void pci_msix_test(struct pci_msix *m, unsigned vector);

#endif
