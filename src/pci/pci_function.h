/* pci_function.h - a PCI function as a host reaches it: configuration space, BARs, interrupts,
 * reset and the memory that it may address.  For host transports; who implements a function (virtio
 * over PCI) includes pci_function_type.h.
 *
 * All functions run on the control reactor.  Reads and writes are carried out before they return;
 * what takes longer (a reset that waits for a disk) goes on by itself and shows in registers, as in
 * a real function, so that a transport can always answer at once.
 */
#ifndef PCI_PCI_FUNCTION_H
#define PCI_PCI_FUNCTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct memory_map;
struct pci_function;
struct reactor_task;

/* Which function of which card it is: in the Device Serial Number and the vendor capability. */
struct pci_identity {
	uint64_t card_serial;	/* EUI-64; the same for all functions of one card */
	uint16_t index;		/* of this function on its card, from 0 */
	uint16_t count;		/* functions of the card, >= 1 */
};

enum { PCI_VECTORS_MAX = 2048 };	/* of MSI-X */

enum pci_region { /* numbered as VFIO numbers the regions of a PCI device */
	PCI_REGION_BAR0, PCI_REGION_BAR1, PCI_REGION_BAR2,
	PCI_REGION_BAR3, PCI_REGION_BAR4, PCI_REGION_BAR5,
	PCI_REGION_ROM, PCI_REGION_CONFIG, PCI_REGION_VGA, PCI_REGIONS
};

/* A part of a region that the client may map; the descriptor is borrowed. */
struct pci_area {
	uint64_t offset, size;	/* bytes, within the region; page aligned */
	int fd;
	uint64_t fd_offset;
};

/* 0: the region does not exist. */
uint64_t pci_region_size(const struct pci_function *f, enum pci_region region);
/* The index-th mappable area; false: there are no more. */
bool pci_region_area(const struct pci_function *f, enum pci_region region, unsigned index,
		     struct pci_area *area);

/* 0, or -EINVAL for a range outside the region.  Any size and alignment inside it: what a register
 * does not support reads as zero and ignores the write. */
int pci_region_read(struct pci_function *f, enum pci_region region, uint64_t offset, void *to,
		    size_t n);
int pci_region_write(struct pci_function *f, enum pci_region region, uint64_t offset,
		     const void *from, size_t n);

/* A register that only rings a bell: writing 1 to fd (borrowed, an eventfd) does what writing the
 * register does. */
struct pci_doorbell {
	uint64_t offset;	/* bytes, within the region */
	uint32_t size;		/* bytes that a write may have */
	int fd;
};
/* The index-th doorbell of the region; false: there are no more. */
bool pci_region_doorbell(const struct pci_function *f, enum pci_region region, unsigned index,
			 struct pci_doorbell *doorbell);

/* ---- interrupts ---- */

enum pci_irq { /* numbered as VFIO does */
	PCI_IRQ_INTX, PCI_IRQ_MSI, PCI_IRQ_MSIX, PCI_IRQ_ERR, PCI_IRQ_REQ, PCI_IRQS
};

/* Vectors of one kind; 0: the function has none of that kind. */
unsigned pci_irq_count(const struct pci_function *f, enum pci_irq kind);

/* Where the vector's interrupts go: an eventfd that moves to the function; -1: nowhere.
 * vector < pci_irq_count(). */
void pci_irq_connect(struct pci_function *f, enum pci_irq kind, unsigned vector, int fd);
/* All vectors of the kind go nowhere and are unmasked. */
void pci_irq_disconnect(struct pci_function *f, enum pci_irq kind);
/* The host's mask, beside the guest's own in the MSI-X table: what happens meanwhile is pending and
 * sent when the mask goes. */
void pci_irq_mask(struct pci_function *f, enum pci_irq kind, unsigned vector, bool masked);
/* Sends the interrupt as if the function had raised it (loopback test). */
void pci_irq_raise(struct pci_function *f, enum pci_irq kind, unsigned vector);

/* ---- life ---- */

/* Back to power-on: configuration space, MSI-X, device.  Connected eventfds and memory stay.  done
 * runs when nothing of the device is in flight any more.  A reset during a reset joins it. */
void pci_function_reset(struct pci_function *f, struct reactor_task *done);

/* What the function may address, held by it; NULL: nothing.  applied runs when nothing new begins
 * with the old map; requests under way keep it, see memory_map_on_release().  One change at a time,
 * but also while a reset is under way. */
void pci_function_set_memory(struct pci_function *f, struct memory_map *m,
			     struct reactor_task *applied);

#endif
