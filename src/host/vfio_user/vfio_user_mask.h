/* vfio_user_mask.h - interrupts that a client masks and unmasks by eventfds of its own
 * (DEVICE_SET_IRQS with DATA_EVENTFD, and ACTION_MASK or ACTION_UNMASK; linux/vfio.h).  A VMM
 * unmasks an interrupt line so at the end of its handling, without a message.  Control thread. */
#ifndef HOST_VFIO_USER_VFIO_USER_MASK_H
#define HOST_VFIO_USER_VFIO_USER_MASK_H

#include <stdbool.h>

#include "pci/pci_function.h"

struct error;
struct vfio_user_connection;

/* Whether a descriptor of the client's can be signalled and read without a wait: an eventfd, which
 * is made non-blocking, here and in the client.  0, -EINVAL, or -errno. */
int vfio_user_check_eventfd(int fd, struct error *e);

/* From now on a signal on *fd (an eventfd, which moves: then *fd is -1) masks or unmasks the
 * vector.  It replaces the one set before; -1: none.  0 or -errno. */
int vfio_user_mask_set(struct vfio_user_connection *c, enum pci_irq kind, unsigned vector,
		       bool masks, int *fd, struct error *e);

/* Of all vectors of the kind. */
void vfio_user_mask_forget(struct vfio_user_connection *c, enum pci_irq kind);

#endif
