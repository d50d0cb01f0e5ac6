/* pci_intx.c - the interrupt line of a function. */
#include "pci/pci_intx.h"

#include "base/descriptor.h"
#include "pci/pci_signal.h"

static void update(struct pci_intx *x)
{
	if (!x->asserted || x->disabled || x->masked || x->fd < 0)
		return;
	x->masked = true;
	pci_signal(x->fd);
}

void pci_intx_connect(struct pci_intx *x, int fd)
{
	fd_close(&x->fd);
	x->fd = fd;
	x->masked = false;
	update(x);
}

void pci_intx_assert(struct pci_intx *x, bool on)
{
	x->asserted = on;
	update(x);
}

void pci_intx_disable(struct pci_intx *x, bool on)
{
	x->disabled = on;
	update(x);
}

void pci_intx_mask(struct pci_intx *x, bool on)
{
	x->masked = on;
	update(x);
}

void pci_intx_test(struct pci_intx *x)
{
	if (x->fd >= 0)
		pci_signal(x->fd);
}
