/* guest_pci.c - the driver's side of a virtio device behind PCI (virtio 1.3, 4.1). */
#include "driver/guest_pci.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "driver/guest_queue.h"
#include "driver/vfio_user_client.h"

enum {
	VIRTIO_VENDOR = 0x1af4,
	MODERN_FIRST = 0x1040,
	MODERN_LAST = 0x107f,
	CAPABILITIES_MAX = 64,
	RESET_MS = 20000,
	COMMON_NOTIFY_DATA = VIRTIO_PCI_COMMON_Q_NDATA,
	COMMON_QUEUE_RESET = VIRTIO_PCI_COMMON_Q_RESET,
	COMMON_LENGTH = 56,
	TABLE_ENTRY = 16,
};

#define BIT(n)              (UINT64_C(1) << (n))
#define FEATURE_CONFIG_DATA 39 /* VIRTIO_F_NOTIF_CONFIG_DATA */
#define FEATURE_RING_RESET  40 /* VIRTIO_F_RING_RESET */
#define BARS_BEGIN          UINT64_C(0xe0000000)

/* ---- registers ---- */

int guest_pci_config_read(struct guest_pci *p, uint16_t offset, void *to, unsigned n,
			  struct error *e)
{
	return vfio_user_client_read(p->client, VFIO_PCI_CONFIG_REGION_INDEX, offset, to, n, e);
}

int guest_pci_config_write(struct guest_pci *p, uint16_t offset, uint32_t value, unsigned n,
			   struct error *e)
{
	value = htole32(value);
	return vfio_user_client_write(p->client, VFIO_PCI_CONFIG_REGION_INDEX, offset, &value, n,
				      e);
}

static int config_get(struct guest_pci *p, uint16_t offset, unsigned n, uint32_t *value,
		      struct error *e)
{
	uint32_t raw = 0;
	int err = guest_pci_config_read(p, offset, &raw, n, e);

	*value = le32toh(raw);
	return err;
}

static int get(struct guest_pci *p, const struct guest_pci_part *part, uint32_t offset, unsigned n,
	       uint32_t *value, struct error *e)
{
	uint32_t raw = 0;
	int err = vfio_user_client_read(p->client, part->bar, part->offset + offset, &raw, n, e);

	*value = le32toh(raw);
	return err;
}

static int set(struct guest_pci *p, const struct guest_pci_part *part, uint32_t offset, unsigned n,
	       uint32_t value, struct error *e)
{
	value = htole32(value);
	return vfio_user_client_write(p->client, part->bar, part->offset + offset, &value, n, e);
}

static int common_get(struct guest_pci *p, uint32_t offset, unsigned n, uint32_t *value,
		      struct error *e)
{
	return get(p, &p->common, offset, n, value, e);
}

static int common_set(struct guest_pci *p, uint32_t offset, unsigned n, uint32_t value,
		      struct error *e)
{
	return set(p, &p->common, offset, n, value, e);
}

/* As two halves (virtio 1.3, 4.1.3.1). */
static int common_set_address(struct guest_pci *p, uint32_t offset, uint64_t value, struct error *e)
{
	int err = common_set(p, offset, 4, (uint32_t)value, e);

	return err ? err : common_set(p, offset + 4, 4, value >> 32, e);
}

/* ---- the bus: BARs ---- */

static int size_bar(struct guest_pci *p, unsigned i, bool high, uint32_t *mask, struct error *e)
{
	uint16_t at = PCI_BASE_ADDRESS_0 + 4 * (i + high);
	uint32_t before;
	int err = config_get(p, at, 4, &before, e);

	if (!err)
		err = guest_pci_config_write(p, at, UINT32_MAX, 4, e);
	if (!err)
		err = config_get(p, at, 4, mask, e);
	return err ? err : guest_pci_config_write(p, at, before, 4, e);
}

static int check_bar(struct guest_pci *p, unsigned i, struct error *e)
{
	struct vfio_client_region r;
	int err = vfio_user_client_region(p->client, i, &r, e);

	if (!err && r.size != p->bar_size[i])
		err = error_set(e, -EPROTO, "BAR %u has 0x%" PRIx64 " bytes, its region 0x%" PRIx64,
				i, p->bar_size[i], r.size);
	vfio_client_region_close(&r);
	return err;
}

static int learn_bar(struct guest_pci *p, unsigned i, struct error *e)
{
	uint32_t low, high = UINT32_MAX;
	uint64_t mask;
	int err = size_bar(p, i, false, &low, e);

	p->bar_wide[i] = !(low & PCI_BASE_ADDRESS_SPACE_IO) &&
			 (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
	if (!err && p->bar_wide[i])
		err = i + 1 < GUEST_PCI_BARS ? size_bar(p, i, true, &high, e)
					     : error_set(e, -EPROTO, "BAR %u is wide", i);
	mask = (uint64_t)high << 32 | (low & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK);
	p->bar_size[i] = low & ~15u ? -mask : 0;
	if (!err && p->bar_size[i] && !is_power_of_two(p->bar_size[i]))
		err = error_set(e, -EPROTO, "BAR %u: mask 0x%" PRIx64, i, mask);
	return err ? err : check_bar(p, i, e);
}

static int learn_bars(struct guest_pci *p, struct error *e)
{
	int err = 0;

	for (unsigned i = 0; !err && i < GUEST_PCI_BARS; i += p->bar_wide[i] ? 2 : 1)
		err = learn_bar(p, i, e);
	return err;
}

/* As firmware does; the addresses have to read back. */
static int place_bars(struct guest_pci *p, struct error *e)
{
	uint64_t next = BARS_BEGIN;
	uint32_t low = 0;
	int err = 0;

	for (unsigned i = 0; !err && i < GUEST_PCI_BARS; i++) {
		uint16_t at = PCI_BASE_ADDRESS_0 + 4 * i;

		if (!p->bar_size[i])
			continue;
		p->bar_address[i] = align_up(next, p->bar_size[i]);
		next = p->bar_address[i] + p->bar_size[i];
		err = guest_pci_config_write(p, at, p->bar_address[i], 4, e);
		if (!err && p->bar_wide[i])
			err = guest_pci_config_write(p, at + 4, p->bar_address[i] >> 32, 4, e);
		if (!err)
			err = config_get(p, at, 4, &low, e);
		if (!err && (low & ~15u) != (uint32_t)p->bar_address[i])
			err = error_set(e, -EPROTO, "BAR %u reads 0x%x", i, low);
	}
	return err;
}

/* ---- the bus: capabilities ---- */

static int take_part(struct guest_pci *p, const struct virtio_pci_cap *cap,
		     struct guest_pci_part *part, uint32_t least, struct error *e)
{
	if (part->length) /* virtio 1.3, 4.1.4: the first one is the one to use */
		return 0;
	*part = (struct guest_pci_part){ .bar = cap->bar,
					 .offset = le32toh(cap->offset),
					 .length = le32toh(cap->length) };
	if (part->length < least || !range_fits(part->offset, part->length, p->bar_size[cap->bar]))
		return error_set(e, -EPROTO, "virtio structure %u: BAR %u, 0x%x at 0x%x",
				 cap->cfg_type, cap->bar, part->length, part->offset);
	return 0;
}

static int take_notify(struct guest_pci *p, uint16_t at, const struct virtio_pci_cap *cap,
		       struct error *e)
{
	int err = config_get(p, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4, &p->notify_multiplier, e);

	if (!err && p->notify_multiplier &&
	    (!is_power_of_two(p->notify_multiplier) || p->notify_multiplier % 2))
		err = error_set(e, -EPROTO, "notify_off_multiplier %u", p->notify_multiplier);
	return err ? err : take_part(p, cap, &p->notify, 2, e);
}

static int take_virtio(struct guest_pci *p, uint16_t at, struct error *e)
{
	struct virtio_pci_cap cap;
	int err = guest_pci_config_read(p, at, &cap, sizeof(cap), e);

	if (err)
		return err;
	if (cap.cfg_type == VIRTIO_PCI_CAP_PCI_CFG) {
		p->access = (struct guest_pci_part){ .offset = at, .length = cap.cap_len };
		return 0;
	}
	if (cap.bar >= GUEST_PCI_BARS || cap.cap_len < sizeof(cap))
		return 0; /* to be ignored */
	switch (cap.cfg_type) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		return take_part(p, &cap, &p->common, COMMON_LENGTH, e);
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		return take_notify(p, at, &cap, e);
	case VIRTIO_PCI_CAP_ISR_CFG:
		return take_part(p, &cap, &p->isr, 1, e);
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		return take_part(p, &cap, &p->config, 4, e);
	}
	return 0;
}

static int take_msix(struct guest_pci *p, uint16_t at, struct error *e)
{
	uint32_t control, table, pending;
	int err = config_get(p, at + PCI_MSIX_FLAGS, 2, &control, e);

	if (!err)
		err = config_get(p, at + PCI_MSIX_TABLE, 4, &table, e);
	if (!err)
		err = config_get(p, at + PCI_MSIX_PBA, 4, &pending, e);
	if (err)
		return err;
	p->msix = at;
	p->vectors = (control & PCI_MSIX_FLAGS_QSIZE) + 1;
	p->table = (struct guest_pci_part){ table & PCI_MSIX_TABLE_BIR,
					    table & PCI_MSIX_TABLE_OFFSET,
					    p->vectors * TABLE_ENTRY };
	p->pending = (struct guest_pci_part){ pending & PCI_MSIX_PBA_BIR,
					      pending & PCI_MSIX_PBA_OFFSET,
					      (p->vectors + 63) / 64 * 8 };
	if (p->vectors > GUEST_PCI_VECTORS || p->table.bar >= GUEST_PCI_BARS ||
	    p->pending.bar >= GUEST_PCI_BARS ||
	    !range_fits(p->table.offset, p->table.length, p->bar_size[p->table.bar]) ||
	    !range_fits(p->pending.offset, p->pending.length, p->bar_size[p->pending.bar]))
		return error_set(e, -EPROTO, "MSI-X: %u vectors, table 0x%x, pending 0x%x",
				 p->vectors, table, pending);
	return 0;
}

static int take_capability(struct guest_pci *p, uint8_t id, uint16_t at, struct error *e)
{
	switch (id) {
	case PCI_CAP_ID_PM:
		p->power = at;
		return 0;
	case PCI_CAP_ID_EXP:
		p->express = at;
		return 0;
	case PCI_CAP_ID_MSIX:
		return take_msix(p, at, e);
	case PCI_CAP_ID_VNDR:
		return take_virtio(p, at, e);
	}
	return 0;
}

static int walk_capabilities(struct guest_pci *p, struct error *e)
{
	uint32_t status, at, entry;
	int err = config_get(p, PCI_STATUS, 2, &status, e);

	if (!err && !(status & PCI_STATUS_CAP_LIST))
		return error_set(e, -EPROTO, "no capabilities");
	if (!err)
		err = config_get(p, PCI_CAPABILITY_LIST, 1, &at, e);
	for (unsigned i = 0; !err && at; i++) {
		if (i == CAPABILITIES_MAX || at < PCI_STD_HEADER_SIZEOF || at % 4)
			return error_set(e, -EPROTO, "a capability at 0x%x", at);
		err = config_get(p, at, 2, &entry, e);
		if (!err)
			err = take_capability(p, entry & 0xff, at, e);
		at = entry >> 8;
	}
	return err;
}

static int walk_extended(struct guest_pci *p, struct error *e)
{
	uint32_t at = PCI_CFG_SPACE_SIZE, entry;
	int err = 0;

	for (unsigned i = 0; !err && at; i++) {
		if (i == CAPABILITIES_MAX || at < PCI_CFG_SPACE_SIZE || at % 4)
			return error_set(e, -EPROTO, "an extended capability at 0x%x", at);
		err = config_get(p, at, 4, &entry, e);
		if (PCI_EXT_CAP_ID(entry) == PCI_EXT_CAP_ID_ERR)
			p->advanced_errors = at;
		if (PCI_EXT_CAP_ID(entry) == PCI_EXT_CAP_ID_DSN)
			p->serial_number = at;
		if (PCI_EXT_CAP_ID(entry) == PCI_EXT_CAP_ID_VNDR)
			p->vendor_specific = at;
		at = entry ? PCI_EXT_CAP_NEXT(entry) : 0;
	}
	return err;
}

static int learn_identity(struct guest_pci *p, struct error *e)
{
	uint32_t id, class_revision, header;
	int err = config_get(p, PCI_VENDOR_ID, 4, &id, e);

	if (!err)
		err = config_get(p, PCI_CLASS_REVISION, 4, &class_revision, e);
	if (!err)
		err = config_get(p, PCI_HEADER_TYPE, 1, &header, e);
	if (err)
		return err;
	p->vendor = id & 0xffff;
	p->device = id >> 16;
	p->revision = class_revision & 0xff;
	p->class_code = class_revision >> 8;
	if (p->vendor != VIRTIO_VENDOR || p->device < MODERN_FIRST || p->device > MODERN_LAST ||
	    (header & PCI_HEADER_TYPE_MASK) != PCI_HEADER_TYPE_NORMAL)
		return error_set(e, -EPROTO, "%04x:%04x, header type 0x%x, is not virtio",
				 p->vendor, p->device, header);
	return 0;
}

static int check_layout(const struct guest_pci *p, struct error *e)
{
	if (!p->common.length || !p->notify.length || !p->isr.length || !p->access.length ||
	    !p->msix || !p->express)
		return error_set(e, -EPROTO, "a capability is missing");
	if (p->common.offset % 4 || p->config.offset % 4 || p->notify.offset % 4)
		return error_set(e, -EPROTO, "a structure is not aligned");
	return 0;
}

/* ---- the bus: life ---- */

void guest_pci_init(struct guest_pci *p, struct vfio_user_client *client)
{
	*p = (struct guest_pci){ .client = client };
	for (unsigned i = 0; i < GUEST_PCI_VECTORS; i++)
		p->irq[i] = -1;
	for (unsigned i = 0; i < GUEST_PCI_QUEUES; i++)
		p->queues[i].kick = -1;
}

void guest_pci_close(struct guest_pci *p)
{
	for (unsigned i = 0; i < GUEST_PCI_VECTORS; i++)
		fd_close(&p->irq[i]);
	for (unsigned i = 0; i < GUEST_PCI_QUEUES; i++)
		fd_close(&p->queues[i].kick);
	if (p->notify_page)
		munmap(p->notify_page, p->notify_page_bytes);
	p->notify_page = NULL;
}

int guest_pci_probe(struct guest_pci *p, struct error *e)
{
	int err;

	guest_pci_close(p);
	guest_pci_init(p, p->client);
	err = learn_identity(p, e);
	if (!err) /* virtio or not, a function that is being sized must not decode */
		err = guest_pci_config_write(p, PCI_COMMAND, 0, 2, e);
	if (!err)
		err = learn_bars(p, e);
	if (!err)
		err = place_bars(p, e);
	if (!err)
		err = walk_capabilities(p, e);
	if (!err)
		err = walk_extended(p, e);
	if (!err)
		err = check_layout(p, e);
	if (!err)
		err = guest_pci_config_write(p, PCI_COMMAND,
					     PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2, e);
	return err ? error_wrap(e, "probe") : 0;
}

/* ---- the bus: interrupts ---- */

int guest_pci_mask_vector(struct guest_pci *p, unsigned vector, bool masked, struct error *e)
{
	return set(p, &p->table, vector * TABLE_ENTRY + PCI_MSIX_ENTRY_VECTOR_CTRL, 4,
		   masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0, e);
}

/* The address and data mean nothing here, but real drivers write them. */
static int fill_entry(struct guest_pci *p, unsigned vector, struct error *e)
{
	uint32_t at = vector * TABLE_ENTRY;
	int err = set(p, &p->table, at + PCI_MSIX_ENTRY_LOWER_ADDR, 4, 0xfee00000, e);

	if (!err)
		err = set(p, &p->table, at + PCI_MSIX_ENTRY_UPPER_ADDR, 4, 0, e);
	if (!err)
		err = set(p, &p->table, at + PCI_MSIX_ENTRY_DATA, 4, 0x30 + vector, e);
	return err ? err : guest_pci_mask_vector(p, vector, false, e);
}

static int check_vectors(struct guest_pci *p, struct error *e)
{
	uint32_t flags, count;
	int err = vfio_user_client_irq_info(p->client, VFIO_PCI_MSIX_IRQ_INDEX, &flags, &count, e);

	if (!err && (count != p->vectors || !(flags & VFIO_IRQ_INFO_EVENTFD)))
		err = error_set(e, -EPROTO, "%u vectors (flags 0x%x), the table has %u", count,
				flags, p->vectors);
	return err;
}

int guest_pci_enable_vectors(struct guest_pci *p, struct error *e)
{
	int err = check_vectors(p, e);

	for (unsigned i = 0; !err && i < p->vectors; i++) {
		fd_close(&p->irq[i]);
		p->irq[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (p->irq[i] < 0)
			err = error_set(e, -errno, "eventfd: %s", strerror(errno));
	}
	if (!err)
		err = vfio_user_client_connect_irqs(p->client, VFIO_PCI_MSIX_IRQ_INDEX, 0, p->irq,
						    p->vectors, e);
	for (unsigned i = 0; !err && i < p->vectors; i++)
		err = fill_entry(p, i, e);
	if (!err)
		err = guest_pci_config_write(p, p->msix + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2,
					     e);
	p->has_vectors = !err;
	return err ? error_wrap(e, "MSI-X") : 0;
}

int guest_pci_is_pending(struct guest_pci *p, unsigned vector, struct error *e)
{
	uint32_t bits;
	int err = get(p, &p->pending, vector / 32 * 4, 4, &bits, e);

	return err ? err : (int)(bits >> vector % 32 & 1);
}

int guest_pci_irq(const struct guest_pci *p, unsigned index)
{
	return p->has_vectors ? p->irq[index + 1 < p->vectors ? index + 1 : 0] : -1;
}

/* ---- resets ---- */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

/* Until the register of common configuration reads 0; the server is answered meanwhile. */
static int wait_zero(struct guest_pci *p, uint32_t offset, unsigned n, struct error *e)
{
	uint64_t end = now_ms() + RESET_MS;
	uint32_t value;
	int err;

	while (!(err = common_get(p, offset, n, &value, e)) && value) {
		if (now_ms() > end)
			return error_set(e, -ETIMEDOUT, "register %u still reads %u", offset,
					 value);
		if (p->client->channel.wake < 0)
			vfio_client_channel_serve(&p->client->channel, 1);
		else
			usleep(1000);
	}
	return err;
}

int guest_pci_reset(struct guest_pci *p, struct error *e)
{
	int err = common_set(p, VIRTIO_PCI_COMMON_STATUS, 1, 0, e);

	if (!err)
		err = wait_zero(p, VIRTIO_PCI_COMMON_STATUS, 1, e);
	for (unsigned i = 0; i < GUEST_PCI_QUEUES; i++)
		p->queues[i].enabled = false;
	return err ? error_wrap(e, "reset") : 0;
}

int guest_pci_reset_function(struct guest_pci *p, struct error *e)
{
	uint32_t capability, control;
	int err = config_get(p, p->express + PCI_EXP_DEVCAP, 4, &capability, e);

	if (!err && !(capability & PCI_EXP_DEVCAP_FLR))
		return error_set(e, -EOPNOTSUPP, "no function level reset");
	if (!err)
		err = config_get(p, p->express + PCI_EXP_DEVCTL, 2, &control, e);
	if (!err)
		err = guest_pci_config_write(p, p->express + PCI_EXP_DEVCTL,
					     control | PCI_EXP_DEVCTL_BCR_FLR, 2, e);
	p->has_vectors = false;
	if (!err) /* PCIe: 100 ms after which the function answers; the bit reads 0 */
		err = config_get(p, p->express + PCI_EXP_DEVCTL, 2, &control, e);
	if (!err && control & PCI_EXP_DEVCTL_BCR_FLR)
		err = error_set(e, -EPROTO, "the reset bit reads 1");
	return err;
}

/* ---- the driver ---- */

int guest_pci_status(struct guest_pci *p, uint8_t *status, struct error *e)
{
	uint32_t value;
	int err = common_get(p, VIRTIO_PCI_COMMON_STATUS, 1, &value, e);

	*status = value;
	return err;
}

static int add_status(struct guest_pci *p, uint8_t bits, struct error *e)
{
	uint8_t status;
	int err = guest_pci_status(p, &status, e);

	if (!err)
		err = common_set(p, VIRTIO_PCI_COMMON_STATUS, 1, status | bits, e);
	if (!err)
		err = guest_pci_status(p, &status, e);
	if (!err && (status & bits) != bits)
		err = error_set(e, -EPROTO, "status 0x%x after setting 0x%x", status, bits);
	return err;
}

static int learn_features(struct guest_pci *p, struct error *e)
{
	uint32_t half[2] = { 0 };
	int err = 0;

	for (unsigned i = 0; !err && i < 2; i++) {
		err = common_set(p, VIRTIO_PCI_COMMON_DFSELECT, 4, i, e);
		if (!err)
			err = common_get(p, VIRTIO_PCI_COMMON_DF, 4, &half[i], e);
	}
	p->offered = (uint64_t)half[1] << 32 | half[0];
	if (!err && !(p->offered & BIT(VIRTIO_F_VERSION_1)))
		err = error_set(e, -EPROTO, "VERSION_1 is not offered");
	return err;
}

static int accept_features(struct guest_pci *p, struct error *e)
{
	int err = 0;

	for (unsigned i = 0; !err && i < 2; i++) {
		err = common_set(p, VIRTIO_PCI_COMMON_GFSELECT, 4, i, e);
		if (!err)
			err = common_set(p, VIRTIO_PCI_COMMON_GF, 4, p->features >> 32 * i, e);
	}
	return err ? err : add_status(p, VIRTIO_CONFIG_S_FEATURES_OK, e);
}

int guest_pci_negotiate(struct guest_pci *p, uint64_t wanted, struct error *e)
{
	uint32_t queues = 0;
	int err = guest_pci_reset(p, e);

	if (!err)
		err = add_status(p, VIRTIO_CONFIG_S_ACKNOWLEDGE, e);
	if (!err)
		err = add_status(p, VIRTIO_CONFIG_S_DRIVER, e);
	if (!err)
		err = learn_features(p, e);
	p->features = p->offered & (wanted | BIT(VIRTIO_F_VERSION_1));
	if (!err)
		err = accept_features(p, e);
	if (!err)
		err = common_get(p, VIRTIO_PCI_COMMON_NUMQ, 2, &queues, e);
	p->queue_max = queues;
	if (!err && (!queues || queues > GUEST_PCI_QUEUES))
		err = error_set(e, -EPROTO, "%u queues", queues);
	return err ? error_wrap(e, "negotiation") : 0;
}

int guest_pci_set_driver_ok(struct guest_pci *p, struct error *e)
{
	return add_status(p, VIRTIO_CONFIG_S_DRIVER_OK, e);
}

static int select_queue(struct guest_pci *p, unsigned index, struct error *e)
{
	return common_set(p, VIRTIO_PCI_COMMON_Q_SELECT, 2, index, e);
}

int guest_pci_queue_size(struct guest_pci *p, unsigned index, uint16_t *size, struct error *e)
{
	uint32_t value = 0;
	int err = select_queue(p, index, e);

	if (!err)
		err = common_get(p, VIRTIO_PCI_COMMON_Q_SIZE, 2, &value, e);
	*size = value;
	return err;
}

static int set_size(struct guest_pci *p, unsigned index, uint16_t size, struct error *e)
{
	uint16_t most;
	int err = guest_pci_queue_size(p, index, &most, e);

	if (!err && size > most)
		err = error_set(e, -EINVAL, "a queue of %u, at most %u", size, most);
	if (!err)
		err = common_set(p, VIRTIO_PCI_COMMON_Q_SIZE, 2, size, e);
	if (!err)
		err = guest_pci_queue_size(p, index, &most, e);
	if (!err && most != size)
		err = error_set(e, -EPROTO, "the size reads %u, not %u", most, size);
	return err;
}

static int set_vector(struct guest_pci *p, unsigned index, struct error *e)
{
	uint16_t vector = p->has_vectors ? (index + 1 < p->vectors ? index + 1 : 0)
					 : VIRTIO_MSI_NO_VECTOR;
	uint32_t answer;
	int err = common_set(p, VIRTIO_PCI_COMMON_Q_MSIX, 2, vector, e);

	if (!err)
		err = common_get(p, VIRTIO_PCI_COMMON_Q_MSIX, 2, &answer, e);
	if (!err && answer != vector)
		err = error_set(e, -EPROTO, "vector %u, not %u", answer, vector);
	return err;
}

/* The eventfd for a queue's notifications, out of those that the device offers for the BAR. */
static int find_kick(struct guest_pci *p, struct guest_pci_queue *q, struct error *e)
{
	struct vfio_client_doorbell list[VFIO_USER_DOORBELLS];
	unsigned count = VFIO_USER_DOORBELLS;
	struct error unsupported = { 0 };

	if (vfio_user_client_doorbells(p->client, p->notify.bar, list, &count, &unsupported)) {
		for (unsigned i = 0; i < count; i++)
			fd_close(&list[i].fd);
		if (unsupported.code == -EPROTO)
			return error_set(e, -EPROTO, "%s", unsupported.text);
		return 0; /* it is optional */
	}
	fd_close(&q->kick);
	for (unsigned i = 0; i < count; i++) {
		if (list[i].offset == q->notify_offset && q->kick < 0)
			q->kick = fd_take(&list[i].fd);
		fd_close(&list[i].fd);
	}
	return 0;
}

static int learn_notification(struct guest_pci *p, unsigned index, struct error *e)
{
	struct guest_pci_queue *q = &p->queues[index];
	uint32_t offset, data = index;
	int err = common_get(p, VIRTIO_PCI_COMMON_Q_NOFF, 2, &offset, e);

	if (!err && p->features & BIT(FEATURE_CONFIG_DATA))
		err = common_get(p, COMMON_NOTIFY_DATA, 2, &data, e);
	if (err)
		return err;
	q->notify_data = data;
	q->notify_offset = p->notify.offset + (uint64_t)offset * p->notify_multiplier;
	if (!range_fits(q->notify_offset - p->notify.offset, 2, p->notify.length))
		return error_set(e, -EPROTO, "queue_notify_off %u", offset);
	/* with NOTIFICATION_DATA the value counts, which an eventfd does not carry */
	return p->features & BIT(FEATURE_NOTIFY_DATA) ? 0 : find_kick(p, q, e);
}

static int enable(struct guest_pci *p, struct error *e)
{
	uint32_t enabled;
	int err = common_set(p, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1, e);

	if (!err)
		err = common_get(p, VIRTIO_PCI_COMMON_Q_ENABLE, 2, &enabled, e);
	if (!err && enabled != 1)
		err = error_set(e, -EPROTO, "queue_enable reads %u", enabled);
	return err;
}

int guest_pci_start_queue(struct guest_pci *p, unsigned index, const struct guest_queue *q,
			  struct error *e)
{
	int err = set_size(p, index, q->size, e);

	if (!err)
		err = set_vector(p, index, e);
	if (!err)
		err = common_set_address(p, VIRTIO_PCI_COMMON_Q_DESCLO, q->descriptor_iova, e);
	if (!err)
		err = common_set_address(p, VIRTIO_PCI_COMMON_Q_AVAILLO, q->driver_iova, e);
	if (!err)
		err = common_set_address(p, VIRTIO_PCI_COMMON_Q_USEDLO, q->device_iova, e);
	if (!err)
		err = learn_notification(p, index, e);
	if (!err)
		err = enable(p, e);
	p->queues[index].size = q->size;
	p->queues[index].enabled = !err;
	return err ? error_wrap(e, "queue %u", index) : 0;
}

int guest_pci_reset_queue(struct guest_pci *p, unsigned index, struct error *e)
{
	uint32_t enabled = 0;
	int err = 0;

	if (!(p->features & BIT(FEATURE_RING_RESET)))
		return error_set(e, -EOPNOTSUPP, "RING_RESET is not negotiated");
	err = select_queue(p, index, e);
	if (!err)
		err = common_set(p, COMMON_QUEUE_RESET, 2, 1, e);
	if (!err)
		err = wait_zero(p, COMMON_QUEUE_RESET, 2, e);
	if (!err)
		err = common_get(p, VIRTIO_PCI_COMMON_Q_ENABLE, 2, &enabled, e);
	if (!err && enabled)
		err = error_set(e, -EPROTO, "still enabled after its reset");
	p->queues[index].enabled = false;
	return err ? error_wrap(e, "queue %u: reset", index) : 0;
}

/* virtio 1.3, 4.1.3.1: at most 32 bits at once. */
static int read_words(struct guest_pci *p, uint32_t offset, char *to, unsigned n, struct error *e)
{
	int err = 0;

	for (unsigned i = 0; !err && i < n; i += 4)
		err = vfio_user_client_read(p->client, p->config.bar, p->config.offset + offset + i,
					    to + i, minimum_u64(n - i, 4), e);
	return err;
}

int guest_pci_read_config(struct guest_pci *p, uint32_t offset, void *to, unsigned n,
			  struct error *e)
{
	uint32_t before, after;
	int err;

	for (unsigned i = 0; i < 1000; i++) {
		err = common_get(p, VIRTIO_PCI_COMMON_CFGGENERATION, 1, &before, e);
		if (!err)
			err = read_words(p, offset, to, n, e);
		if (!err)
			err = common_get(p, VIRTIO_PCI_COMMON_CFGGENERATION, 1, &after, e);
		if (err || before == after)
			return err;
	}
	return error_set(e, -EPROTO, "the configuration never rests");
}
