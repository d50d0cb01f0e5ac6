/* pci_function_type.h - what stands behind a PCI function: the face for who implements one.  Host
 * transports include pci_function.h.
 *
 * pci/ serves configuration space, MSI-X and the interrupt line; the implementer its own BARs, and
 * the device.  All on the control reactor.
 */
#ifndef PCI_PCI_FUNCTION_TYPE_H
#define PCI_PCI_FUNCTION_TYPE_H

#include "pci/pci_config.h"
#include "pci/pci_function.h"
#include "pci/pci_intx.h"
#include "pci/pci_msix.h"
#include "reactor/reactor.h"

struct pci_function_type {
	/* Ranges lie inside the BAR. */
	void (*bar_read)(struct pci_function *f, unsigned bar, uint64_t offset, void *to, size_t n);
	void (*bar_write)(struct pci_function *f, unsigned bar, uint64_t offset, const void *from,
			  size_t n);
	/* See pci_function.h. */
	bool (*area)(const struct pci_function *f, unsigned bar, unsigned index,
		     struct pci_area *area);
	bool (*doorbell)(const struct pci_function *f, unsigned bar, unsigned index,
			 struct pci_doorbell *doorbell);

	/* Before configuration space is read in this range, and after it was written. */
	void (*config_read)(struct pci_function *f, uint16_t offset, unsigned n);
	void (*config_written)(struct pci_function *f, uint16_t offset, unsigned n);

	/* pci_function_vector() may answer otherwise now. */
	void (*interrupts_changed)(struct pci_function *f);
	/* Whether the function may address memory: bus master is on, and power is D0. */
	void (*bus_master)(struct pci_function *f, bool on);

	/* Power-on state of everything but configuration space and MSI-X: of registers at once, of
	 * what is in flight when done runs.  done is NULL if an earlier reset is still under
	 * way, whose done then stands for both. */
	void (*reset)(struct pci_function *f, struct reactor_task *done);
	void (*set_memory)(struct pci_function *f, struct memory_map *m,
			   struct reactor_task *applied);
};

struct error;
struct stream_reader;
struct stream_writer;

enum { PCI_RESET_WAITERS = 4 };

struct pci_bar {
	uint64_t size;		/* bytes, power of two; 0: none */
};

/* Embedded in its implementer. */
struct pci_function {
	const struct pci_function_type *type;
	struct reactor *control;	/* borrowed */
	struct pci_config config;
	struct pci_bar bars[6];
	struct pci_msix msix;
	struct pci_intx intx;
	unsigned msix_bar;
	uint16_t msix_capability, express_capability, power_capability;
	uint16_t identity_capability, identity_end;	/* bytes that tell which function it is */
	bool may_address;		/* what bus_master() was told last */

	struct reactor_task reset_done;
	bool resetting;
	struct reactor_task *reset_waiters[PCI_RESET_WAITERS];
};

struct pci_function_options {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code;		/* 24 bits */
	uint8_t revision;
	unsigned vectors;		/* of MSI-X; 0: the function has none */
	unsigned msix_bar;		/* a BAR of 32 bits for its tables */
	const struct pci_identity *identity;	/* copied */
	struct reactor *control;	/* borrowed for the function's life */
};

/* Lays out configuration space but for the implementer's own BARs and capabilities, which follow;
 * pci_function_ready() ends it.  0 or -ENOMEM with *e. */
int pci_function_open(struct pci_function *f, const struct pci_function_type *type,
		      const struct pci_function_options *options, struct error *e);
/* A memory BAR; wide: of 64 bits and prefetchable, takes the next one's place too. */
void pci_function_add_bar(struct pci_function *f, unsigned bar, uint64_t size, bool wide);
void pci_function_ready(struct pci_function *f);
void pci_function_close(struct pci_function *f);

/* Records of a migration's state: what cannot change; what can.  load: 1 it was one of them, 0 it
 * was not, or -EINVAL with *e; called for each record to check it and, when all are good, to apply
 * it: registers only, until pci_function_restored(). */
void pci_function_save_identity(const struct pci_function *f, struct stream_writer *w);
void pci_function_save(const struct pci_function *f, struct stream_writer *w);
int pci_function_load(struct pci_function *f, const char *name, struct stream_reader *r, bool apply,
		      struct error *e);
/* What was loaded takes effect: bus master, MSI-X; pending interrupts are sent, if they may be. */
void pci_function_restored(struct pci_function *f);

/* An interrupt of the vector: by MSI-X if that is on (masked: pending), else nothing. */
void pci_function_interrupt(struct pci_function *f, unsigned vector);
bool pci_function_has_msix(const struct pci_function *f);	/* the driver has switched it on */
/* The eventfd that the vector's interrupts may be written to directly, borrowed, and what tells
 * it from earlier ones of the same number; -1: use pci_function_interrupt(). */
int pci_function_vector(const struct pci_function *f, unsigned vector, uint32_t *connection);
/* The level of the interrupt line. */
void pci_function_assert(struct pci_function *f, bool on);

#endif
