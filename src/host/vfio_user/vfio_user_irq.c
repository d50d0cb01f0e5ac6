/* vfio_user_irq.c - interrupts: what there are, where they go, masks, and tests of them. */
#include <errno.h>
#include <inttypes.h>
#include <linux/vfio.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_command.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "host/vfio_user/vfio_user_mask.h"
#include "pci/pci_function.h"

static const uint32_t irq_flags[PCI_IRQS] = {
	[PCI_IRQ_INTX] = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE,
	[PCI_IRQ_MSI] = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE,
	[PCI_IRQ_MSIX] = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE,
	[PCI_IRQ_ERR] = VFIO_IRQ_INFO_EVENTFD,
	[PCI_IRQ_REQ] = VFIO_IRQ_INFO_EVENTFD,
};

static int check_kind(uint32_t index, struct error *e)
{
	return index < PCI_IRQS ? 0 : error_set(e, -EINVAL, "no interrupt type %" PRIu32, index);
}

int vfio_user_get_irq_info(struct vfio_user_connection *c, struct vfio_user_message *m,
			   struct error *e)
{
	const struct vfio_user_indexed *asked = m->payload;
	struct vfio_user_indexed info = { .argsz = sizeof(info), .index = asked->index };

	if (check_kind(asked->index, e))
		return e->code;
	info.flags = irq_flags[asked->index];
	info.count = pci_irq_count(c->function, asked->index);
	vfio_user_connection_reply(c, &m->header, &(struct iovec){ &info, sizeof(info) }, 1, NULL,
				   0);
	return VFIO_USER_REPLIED;
}

/* An eventfd for each, or all go nowhere. */
static int connect(struct vfio_user_connection *c, const struct vfio_user_irq_set *set,
		   struct vfio_user_message *m, struct error *e)
{
	for (unsigned i = 0; i < m->fd_count; i++)
		if (vfio_user_check_eventfd(m->fds[i], e))
			return e->code;
	for (uint32_t i = 0; i < set->count; i++)
		pci_irq_connect(c->function, set->index, set->start + i,
				m->fd_count ? fd_take(&m->fds[i]) : -1);
	return 0;
}

/* So for what masks and unmasks. */
static int connect_masks(struct vfio_user_connection *c, const struct vfio_user_irq_set *set,
			 struct vfio_user_message *m, struct error *e)
{
	bool masks = set->flags & VFIO_IRQ_SET_ACTION_MASK;
	int none = -1, err = 0;

	for (uint32_t i = 0; !err && i < set->count; i++)
		err = vfio_user_mask_set(c, set->index, set->start + i, masks,
					 m->fd_count ? &m->fds[i] : &none, e);
	return err;
}

static void act_on(struct vfio_user_connection *c, const struct vfio_user_irq_set *set,
		   unsigned vector)
{
	if (set->flags & VFIO_IRQ_SET_ACTION_TRIGGER)
		pci_irq_raise(c->function, set->index, vector);
	else
		pci_irq_mask(c->function, set->index, vector,
			     set->flags & VFIO_IRQ_SET_ACTION_MASK);
}

static int act(struct vfio_user_connection *c, const struct vfio_user_irq_set *set)
{
	const uint8_t *bools = (const uint8_t *)(set + 1);

	for (uint32_t i = 0; i < set->count; i++)
		if (!(set->flags & VFIO_IRQ_SET_DATA_BOOL) || bools[i])
			act_on(c, set, set->start + i);
	return 0;
}

int vfio_user_set_irqs(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	const struct vfio_user_irq_set *set = m->payload;
	bool eventfd = set->flags & VFIO_IRQ_SET_DATA_EVENTFD;

	if (check_kind(set->index, e))
		return e->code;
	if (!range_fits(set->start, set->count, pci_irq_count(c->function, set->index)))
		return error_set(e, -EINVAL, "no vectors %" PRIu32 " + %" PRIu32, set->start,
				 set->count);
	if (eventfd && !(set->flags & VFIO_IRQ_SET_ACTION_TRIGGER))
		return connect_masks(c, set, m, e);
	if (!set->count) {
		vfio_user_mask_forget(c, set->index);
		pci_irq_disconnect(c->function, set->index);
	}
	return eventfd ? connect(c, set, m, e) : act(c, set);
}
