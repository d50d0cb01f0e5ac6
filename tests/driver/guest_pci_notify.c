/* guest_pci_notify.c - how a driver tells a virtio PCI function that there is work (virtio 1.3,
 * 4.1.5.2). */
#include "driver/guest_pci.h"

#include <endian.h>
#include <errno.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "driver/vfio_user_client.h"

static bool has_data(const struct guest_pci *p)
{
	return p->features >> FEATURE_NOTIFY_DATA & 1;
}

/* virtio 1.3, 4.1.5.2: with NOTIFICATION_DATA 32 bits, of which the upper half says how far the
 * driver is; a device must cope with 0 there, since it looks at the ring. */
int guest_pci_notify_register(struct guest_pci *p, unsigned index, struct error *e)
{
	const struct guest_pci_queue *q = &p->queues[index];
	uint32_t value = htole32(q->notify_data);

	return vfio_user_client_write_posted(p->client, p->notify.bar, q->notify_offset, &value,
					     has_data(p) ? 4 : 2, e);
}

int guest_pci_map_notifications(struct guest_pci *p, struct error *e)
{
	struct vfio_client_region r;
	int err = vfio_user_client_region(p->client, p->notify.bar, &r, e);

	if (err)
		return err;
	error_set(e, -ENOENT, "notifications cannot be mapped");
	for (unsigned i = 0; r.fd >= 0 && i < r.area_count && !p->notify_page; i++) {
		if (!range_fits(p->notify.offset - r.areas[i].offset, p->notify.length,
				r.areas[i].size))
			continue;
		p->notify_page = vfio_client_region_map(&r, i, e);
		p->notify_page_offset = r.areas[i].offset;
		p->notify_page_bytes = r.areas[i].size;
	}
	vfio_client_region_close(&r);
	return p->notify_page ? 0 : e->code;
}

static void store_notification(struct guest_pci *p, const struct guest_pci_queue *q)
{
	char *at = (char *)p->notify_page + (q->notify_offset - p->notify_page_offset);

	if (has_data(p))
		__atomic_store_n((uint32_t *)(void *)at, htole32(q->notify_data), __ATOMIC_SEQ_CST);
	else
		__atomic_store_n((uint16_t *)(void *)at, htole16(q->notify_data), __ATOMIC_SEQ_CST);
}

void guest_pci_notify(struct guest_pci *p, unsigned index)
{
	struct error ignored;
	uint64_t one = 1;

	if (p->notify_page)
		store_notification(p, &p->queues[index]);
	else if (p->queues[index].kick < 0)
		guest_pci_notify_register(p, index, &ignored); /* a lost connection shows later */
	else if (write(p->queues[index].kick, &one, sizeof(one)) < 0)
		return; /* a full counter is a notification too */
}
