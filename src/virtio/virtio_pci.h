/* virtio_pci.h - a virtio device behind PCI registers (virtio 1.3, 4.1), for any transport that
 * carries PCI functions.  Control reactor. */
#ifndef VIRTIO_VIRTIO_PCI_H
#define VIRTIO_VIRTIO_PCI_H

#include <stdbool.h>

struct error;
struct pci_function;
struct pci_identity;
struct virtio_device;
struct virtio_pci;

struct virtio_pci_options {
	const struct pci_identity *identity;	/* copied */
	/* The notification page may be mapped by the client, and is polled: no exit of the guest
	 * per notification, but a worker that never sleeps while a queue is enabled. */
	bool doorbell_page;
	/* Of MSI-X, <= PCI_VECTORS_MAX; as many as queues and one more: each may have its own.
	 * 0: no MSI-X, the interrupt line only. */
	unsigned vectors;
};

/* Takes over the device's listener.  The device is borrowed.  NULL with *e. */
struct virtio_pci *virtio_pci_create(struct virtio_device *d,
				     const struct virtio_pci_options *options, struct error *e);
/* After a pci_function_reset() that is done, with no memory set. */
void virtio_pci_free(struct virtio_pci *v);
struct pci_function *virtio_pci_function(struct virtio_pci *v);

#endif
