/* pci_signal.h - an interrupt on its way to the host. */
#ifndef PCI_PCI_SIGNAL_H
#define PCI_PCI_SIGNAL_H

/* Adds one to an eventfd that the host gave us.  Whether a write to it waits is the host's choice,
 * so a full counter is left alone: its reader has an interrupt to take already. */
void pci_signal(int fd);

#endif
