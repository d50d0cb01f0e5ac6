/* guest_pci.h - the driver's side of a virtio device behind PCI (virtio 1.3, 4.1), over a vfio-user
 * client, which is the bus here: what firmware, the PCI core and the virtio driver do in a guest.
 *
 * Blocking, one thread.  0 or -errno with *e; -EPROTO: the device is not as the specification says.
 */
#ifndef DRIVER_GUEST_PCI_H
#define DRIVER_GUEST_PCI_H

#include <linux/virtio_pci.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct guest_queue;
struct vfio_user_client;

enum { GUEST_PCI_QUEUES = 64, GUEST_PCI_VECTORS = 72, GUEST_PCI_BARS = 6 };

struct guest_pci_part { /* where a virtio structure is */
	uint8_t bar;
	uint32_t offset, length;	/* bytes; length 0: there is none */
};

struct guest_pci_queue {
	uint64_t notify_offset;		/* bytes, in the notification BAR */
	uint16_t notify_data;		/* what to write there */
	int kick;			/* owned eventfd that does the same; -1: none */
	uint16_t size;			/* as started */
	bool enabled;
};

enum { FEATURE_NOTIFY_DATA = 38 };	/* VIRTIO_F_NOTIFICATION_DATA */

struct guest_pci {
	struct vfio_user_client *client;	/* borrowed */
	uint16_t vendor, device;
	uint8_t revision;
	uint32_t class_code;		/* 24 bits */
	uint64_t bar_size[GUEST_PCI_BARS], bar_address[GUEST_PCI_BARS];	/* bytes; 0: none */
	bool bar_wide[GUEST_PCI_BARS];	/* of 64 bits: takes the next one's register too */
	/* offsets in configuration space; 0: none */
	uint16_t power, express, msix, advanced_errors, serial_number, vendor_specific;
	struct guest_pci_part common, notify, isr, config, access;
	uint32_t notify_multiplier;
	void *notify_page;		/* owned mapping of a part of the notify BAR; NULL: none */
	uint64_t notify_page_offset, notify_page_bytes;
	unsigned vectors;		/* in the MSI-X table */
	struct guest_pci_part table, pending;
	int irq[GUEST_PCI_VECTORS];	/* owned eventfds, by vector; -1: none */
	bool has_vectors;		/* MSI-X is on */
	uint64_t offered, features;
	unsigned queue_max;
	struct guest_pci_queue queues[GUEST_PCI_QUEUES];
};

/* ---- the bus ---- */

void guest_pci_init(struct guest_pci *p, struct vfio_user_client *client);
/* Closes all descriptors; the device is left as it is.  Idempotent, and again after
 * guest_pci_probe(). */
void guest_pci_close(struct guest_pci *p);
/* Walks configuration space, sizes the BARs and gives them addresses, lets the function address
 * memory.  Checks what any virtio function has to have. */
int guest_pci_probe(struct guest_pci *p, struct error *e);
/* Connects an eventfd to each vector, unmasks all of them, and MSI-X as such. */
int guest_pci_enable_vectors(struct guest_pci *p, struct error *e);
int guest_pci_mask_vector(struct guest_pci *p, unsigned vector, bool masked, struct error *e);
/* 1 the vector's pending bit is set, 0 it is not. */
int guest_pci_is_pending(struct guest_pci *p, unsigned vector, struct error *e);
int guest_pci_config_read(struct guest_pci *p, uint16_t offset, void *to, unsigned n,
			  struct error *e);
int guest_pci_config_write(struct guest_pci *p, uint16_t offset, uint32_t value, unsigned n,
			   struct error *e);
/* Function level reset by the PCIe capability; what was configured is gone. */
int guest_pci_reset_function(struct guest_pci *p, struct error *e);

/* ---- the driver ---- */

/* Writes status 0 and waits until it reads 0. */
int guest_pci_reset(struct guest_pci *p, struct error *e);
/* From reset to FEATURES_OK with the wanted features as far as offered (p->features). */
int guest_pci_negotiate(struct guest_pci *p, uint64_t wanted, struct error *e);
int guest_pci_set_driver_ok(struct guest_pci *p, struct error *e);
int guest_pci_status(struct guest_pci *p, uint8_t *status, struct error *e);
/* Between negotiation and DRIVER_OK, or after guest_pci_reset_queue().  Vector index + 1, vector 0
 * when there are not so many, no vector without MSI-X. */
int guest_pci_start_queue(struct guest_pci *p, unsigned index, const struct guest_queue *q,
			  struct error *e);
/* VIRTIO_F_RING_RESET: returns when the queue is reset. */
int guest_pci_reset_queue(struct guest_pci *p, unsigned index, struct error *e);
/* The largest size that the queue may have. */
int guest_pci_queue_size(struct guest_pci *p, unsigned index, uint16_t *size, struct error *e);
/* Device configuration, read consistently (virtio 1.3, 2.5.1). */
int guest_pci_read_config(struct guest_pci *p, uint32_t offset, void *to, unsigned n,
			  struct error *e);

/* Maps what the device lets a client map of its notifications, as a VMM does: from now on a
 * notification is a store.  -ENOENT: nothing. */
int guest_pci_map_notifications(struct guest_pci *p, struct error *e);
/* By the mapping, else by eventfd if the device gave one, else by a write that is not waited
 * for. */
void guest_pci_notify(struct guest_pci *p, unsigned index);
/* Always by the register. */
int guest_pci_notify_register(struct guest_pci *p, unsigned index, struct error *e);
/* The descriptor that a queue's interrupts arrive at; -1 without MSI-X. */
int guest_pci_irq(const struct guest_pci *p, unsigned index);

#endif
