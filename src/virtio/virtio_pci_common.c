/* virtio_pci_common.c - the common configuration structure (virtio 1.3, 4.1.4.3).
 *
 * A read makes an image of all registers and copies the part that is asked for; a write goes
 * through the fields that it touches, each with the bytes that it had and those that are new.  So
 * accesses of any size and place do what a driver can expect of them.
 */
#include <string.h>

#include "base/bytes.h"
#include "virtio/virtio_pci_state.h"

enum { ADMIN_QUEUE_BYTES = 4 };

struct field {
	uint8_t offset, bytes;
	void (*write)(struct virtio_pci *v, uint32_t value);
};

/* NULL: there is no such queue; its registers read as zero and writes are ignored. */
static struct virtio_pci_queue *selected(const struct virtio_pci *v)
{
	return v->queue_select < v->queue_count
		       ? (struct virtio_pci_queue *)&v->queues[v->queue_select]
		       : NULL;
}

/* ---- reading ---- */

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? features >> (32 * select) : 0;
}

static void queue_image(const struct virtio_pci *v, const struct virtio_pci_queue *q, uint8_t *to)
{
	store_le16(to + VIRTIO_PCI_COMMON_Q_SIZE, q->size);
	store_le16(to + VIRTIO_PCI_COMMON_Q_MSIX, q->vector);
	store_le16(to + VIRTIO_PCI_COMMON_Q_ENABLE, q->wanted);
	store_le16(to + VIRTIO_PCI_COMMON_Q_NOFF, v->queue_select);
	store_le64(to + VIRTIO_PCI_COMMON_Q_DESCLO, q->descriptor_iova);
	store_le64(to + VIRTIO_PCI_COMMON_Q_AVAILLO, q->driver_iova);
	store_le64(to + VIRTIO_PCI_COMMON_Q_USEDLO, q->device_iova);
	store_le16(to + VIRTIO_PCI_COMMON_Q_NDATA, v->queue_select);
	store_le16(to + VIRTIO_PCI_COMMON_Q_RESET, q->resetting);
}

/* No administration queue: its two registers at the end stay zero. */
static void image(const struct virtio_pci *v, uint8_t to[COMMON_BYTES])
{
	memset(to, 0, COMMON_BYTES);
	store_le32(to + VIRTIO_PCI_COMMON_DFSELECT, v->device_feature_select);
	store_le32(to + VIRTIO_PCI_COMMON_DF,
		   feature_word(virtio_pci_offered(v), v->device_feature_select));
	store_le32(to + VIRTIO_PCI_COMMON_GFSELECT, v->driver_feature_select);
	store_le32(to + VIRTIO_PCI_COMMON_GF,
		   feature_word(v->driver_features, v->driver_feature_select));
	store_le16(to + VIRTIO_PCI_COMMON_MSIX, v->config_vector);
	store_le16(to + VIRTIO_PCI_COMMON_NUMQ, v->queue_count);
	to[VIRTIO_PCI_COMMON_STATUS] = virtio_pci_status(v);
	to[VIRTIO_PCI_COMMON_CFGGENERATION] = v->generation;
	store_le16(to + VIRTIO_PCI_COMMON_Q_SELECT, v->queue_select);
	if (selected(v))
		queue_image(v, selected(v), to);
}

void virtio_pci_common_read(struct virtio_pci *v, unsigned offset, void *to, unsigned n)
{
	uint8_t bytes[COMMON_BYTES];

	image(v, bytes);
	memcpy(to, bytes + offset, n);
}

/* ---- writing ---- */

static void write_device_feature_select(struct virtio_pci *v, uint32_t value)
{
	v->device_feature_select = value;
}

static void write_driver_feature_select(struct virtio_pci *v, uint32_t value)
{
	v->driver_feature_select = value;
}

/* virtio 1.3, 3.1.1: what the driver accepted is settled by FEATURES_OK. */
static void write_driver_feature(struct virtio_pci *v, uint32_t value)
{
	unsigned shift = 32 * v->driver_feature_select;

	if (v->driver_feature_select > 1 || v->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	v->driver_features &= ~(0xffffffffull << shift);
	v->driver_features |= (uint64_t)value << shift;
}

/* virtio 1.3, 4.1.5.1.2: a vector that does not exist reads back as none. */
static uint16_t checked_vector(const struct virtio_pci *v, uint32_t value)
{
	return value < v->function.msix.count ? value : VIRTIO_MSI_NO_VECTOR;
}

static void write_config_vector(struct virtio_pci *v, uint32_t value)
{
	v->config_vector = checked_vector(v, value);
}

static void write_status(struct virtio_pci *v, uint32_t value)
{
	virtio_pci_set_status(v, value);
}

static void write_queue_select(struct virtio_pci *v, uint32_t value)
{
	v->queue_select = value;
}

/* What is checked, is checked when the queue starts; virtio 1.3, 4.1.4.3.2: the driver does not
 * change an enabled queue's registers. */
static struct virtio_pci_queue *writable_queue(struct virtio_pci *v)
{
	struct virtio_pci_queue *q = selected(v);

	return q && !q->wanted ? q : NULL;
}

static void write_queue_size(struct virtio_pci *v, uint32_t value)
{
	struct virtio_pci_queue *q = writable_queue(v);

	if (q)
		q->size = value;
}

static void write_queue_vector(struct virtio_pci *v, uint32_t value)
{
	struct virtio_pci_queue *q = selected(v);

	if (!q)
		return;
	q->vector = checked_vector(v, value);
	virtio_pci_route(v);
}

/* virtio 1.3, 4.1.4.3.2: never written with 0; disabling is by a reset. */
static void write_queue_enable(struct virtio_pci *v, uint32_t value)
{
	struct virtio_pci_queue *q = writable_queue(v);

	if (!q || value != 1 || q->resetting)
		return;
	q->wanted = true;
	q->failed = false;
	virtio_pci_follow(v);
}

static void write_half(uint64_t *address, bool high, uint32_t value)
{
	*address = high ? (*address & 0xffffffff) | (uint64_t)value << 32
			: (*address & ~0xffffffffull) | value;
}

static void write_descriptor_low(struct virtio_pci *v, uint32_t value)
{
	if (writable_queue(v))
		write_half(&writable_queue(v)->descriptor_iova, false, value);
}

static void write_descriptor_high(struct virtio_pci *v, uint32_t value)
{
	if (writable_queue(v))
		write_half(&writable_queue(v)->descriptor_iova, true, value);
}

static void write_driver_low(struct virtio_pci *v, uint32_t value)
{
	if (writable_queue(v))
		write_half(&writable_queue(v)->driver_iova, false, value);
}

static void write_driver_high(struct virtio_pci *v, uint32_t value)
{
	if (writable_queue(v))
		write_half(&writable_queue(v)->driver_iova, true, value);
}

static void write_device_low(struct virtio_pci *v, uint32_t value)
{
	if (writable_queue(v))
		write_half(&writable_queue(v)->device_iova, false, value);
}

static void write_device_high(struct virtio_pci *v, uint32_t value)
{
	if (writable_queue(v))
		write_half(&writable_queue(v)->device_iova, true, value);
}

/* virtio 1.3, 2.6.1: for drivers that have accepted VIRTIO_F_RING_RESET. */
static void write_queue_reset(struct virtio_pci *v, uint32_t value)
{
	struct virtio_pci_queue *q = selected(v);

	if (q && value == 1 && v->driver_features & 1ull << VIRTIO_F_RING_RESET)
		virtio_pci_reset_queue(v, q);
}

static const struct field fields[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, write_device_feature_select },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, write_driver_feature_select },
	{ VIRTIO_PCI_COMMON_GF, 4, write_driver_feature },
	{ VIRTIO_PCI_COMMON_MSIX, 2, write_config_vector },
	{ VIRTIO_PCI_COMMON_STATUS, 1, write_status },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, write_queue_select },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, write_queue_size },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, write_queue_vector },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, write_queue_enable },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 4, write_descriptor_low },
	{ VIRTIO_PCI_COMMON_Q_DESCHI, 4, write_descriptor_high },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 4, write_driver_low },
	{ VIRTIO_PCI_COMMON_Q_AVAILHI, 4, write_driver_high },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 4, write_device_low },
	{ VIRTIO_PCI_COMMON_Q_USEDHI, 4, write_device_high },
	{ VIRTIO_PCI_COMMON_Q_RESET, 2, write_queue_reset },
};

static void write_field(struct virtio_pci *v, const struct field *f, unsigned offset,
			const uint8_t *from, unsigned n)
{
	uint8_t bytes[COMMON_BYTES], word[4] = { 0 };

	if (offset >= f->offset + (unsigned)f->bytes || f->offset >= offset + n)
		return;
	image(v, bytes);
	for (unsigned i = 0; i < f->bytes; i++) {
		unsigned at = f->offset + i;

		word[i] = at >= offset && at < offset + n ? from[at - offset] : bytes[at];
	}
	f->write(v, load_le32(word));
}

void virtio_pci_common_write(struct virtio_pci *v, unsigned offset, const void *from, unsigned n)
{
	for (unsigned i = 0; i < ARRAY_LENGTH(fields); i++)
		write_field(v, &fields[i], offset, from, n);
}
