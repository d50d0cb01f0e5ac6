/* instance.h - one device: its disk, the virtio device in front of it, and the socket.
 * All functions on the control thread. */
#ifndef CONTROL_INSTANCE_H
#define CONTROL_INSTANCE_H

#include <stdio.h>

struct device_settings;
struct error;
struct instance;
struct pci_identity;
struct reactor;
struct reactor_task;

/* Opens the disk, which may take the disk's connect timeout; nothing is shown to anybody yet.
 * settings: borrowed until instance_free(), and complete (settings_complete_device()).
 * NULL with *e. */
struct instance *instance_open(const struct device_settings *settings, struct reactor *control,
			       struct error *e);

/* Makes the device and its socket.  workers: borrowed until instance_free().  identity: as a PCI
 * function, where it is one.  0 or -errno. */
int instance_serve(struct instance *i, struct reactor **workers, unsigned count,
		   const struct pci_identity *identity, struct error *e);

/* Ends the connection and drains the queues; then runs done on the control reactor.  Once. */
void instance_stop(struct instance *i, struct reactor_task *done);

/* Stopped or never served.  NULL is ignored. */
void instance_free(struct instance *i);

const char *instance_name(const struct instance *i);
void instance_refresh(struct instance *i); /* looks whether the disk's size has changed */
void instance_print_latencies(struct instance *i, FILE *to);

#endif
