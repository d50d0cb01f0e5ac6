/* pci_intx.h - the interrupt line of a function (PCI 3.0, 2.2.6), as VFIO carries it.
 *
 * The line is a level.  Each signal to the host masks it there, until the host says that the
 * guest has served it; if the level is still there then, it is signalled again.  Control reactor.
 */
#ifndef PCI_PCI_INTX_H
#define PCI_PCI_INTX_H

#include <stdbool.h>

struct pci_intx {
	int fd;			/* owned eventfd; -1: not connected */
	bool asserted;		/* by the function */
	bool disabled;		/* by the command register, or because MSI-X is on */
	bool masked;		/* by the host, or because a signal is on its way */
};

void pci_intx_connect(struct pci_intx *x, int fd);	/* fd moves; -1: none */
void pci_intx_assert(struct pci_intx *x, bool on);
void pci_intx_disable(struct pci_intx *x, bool on);
void pci_intx_mask(struct pci_intx *x, bool on);
void pci_intx_test(struct pci_intx *x);	/* sends it, whatever the level */

#endif
