/* virtio_pci_records.c - the registers of a virtio function as records of a migration's state:
 *
 *	pci.id, pci, msix	pci/pci_state.c
 *	vpci			registers of the function as a whole
 *	vpci.q			those of a queue, one for each
 *
 * and those of the device (virtio_records.h).
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "virtio/virtio_pci_state.h"
#include "virtio/virtio_records.h"

enum { QUEUE_WANTED = 1, QUEUE_FAILED = 2 };

/* ---- writing ---- */

void virtio_pci_save_preview(const struct virtio_pci *v, struct stream_writer *w)
{
	pci_function_save_identity(&v->function, w);
	virtio_save_identity(v->device, w);
}

static void save_queue(const struct virtio_pci *v, unsigned index, struct stream_writer *w)
{
	const struct virtio_pci_queue *q = &v->queues[index];

	stream_begin(w, "vpci.q", 0);
	stream_u32(w, index);
	stream_u8(w, (q->wanted ? QUEUE_WANTED : 0) | (q->failed ? QUEUE_FAILED : 0));
	stream_u16(w, q->size);
	stream_u16(w, q->vector);
	stream_u64(w, q->descriptor_iova);
	stream_u64(w, q->driver_iova);
	stream_u64(w, q->device_iova);
	stream_end(w);
}

void virtio_pci_save(const struct virtio_pci *v, struct stream_writer *w)
{
	pci_function_save_identity(&v->function, w);
	virtio_device_save(v->device, w);
	pci_function_save(&v->function, w);
	stream_begin(w, "vpci", 0);
	stream_u32(w, v->device_feature_select);
	stream_u32(w, v->driver_feature_select);
	stream_u64(w, v->driver_features);
	stream_u16(w, v->config_vector);
	stream_u16(w, v->queue_select);
	stream_u8(w, v->status);
	stream_u8(w, v->generation);
	stream_u8(w, v->isr);
	stream_end(w);
	for (unsigned i = 0; i < v->queue_count; i++)
		save_queue(v, i, w);
}

/* ---- reading ---- */

static bool is_vector(const struct virtio_pci *v, uint16_t vector)
{
	return vector == VIRTIO_MSI_NO_VECTOR || vector < v->function.msix.count;
}

static int load_registers(struct virtio_pci *v, struct stream_reader *r, bool apply,
			  struct error *e)
{
	uint32_t device_select = stream_get_u32(r), driver_select = stream_get_u32(r);
	uint64_t features = stream_get_u64(r);
	uint16_t config_vector = stream_get_u16(r), queue_select = stream_get_u16(r);
	uint8_t status = stream_get_u8(r), generation = stream_get_u8(r), isr = stream_get_u8(r);

	if (!is_vector(v, config_vector))
		return error_set(e, -EINVAL, "state: configuration changes at vector %u of %u",
				 config_vector, v->function.msix.count);
	if (status & VIRTIO_CONFIG_S_FEATURES_OK && features & ~virtio_pci_offered(v))
		return error_set(e, -EINVAL,
				 "the driver has negotiated features 0x%" PRIx64
				 ", which this function does not offer",
				 features & ~virtio_pci_offered(v));
	if (!apply)
		return 0;
	v->device_feature_select = device_select;
	v->driver_feature_select = driver_select;
	v->driver_features = features;
	v->config_vector = config_vector;
	v->queue_select = queue_select;
	v->status = status;
	v->generation = generation;
	v->isr = isr;
	return 0;
}

static int load_queue(struct virtio_pci *v, struct stream_reader *r, bool apply, struct error *e)
{
	uint32_t index = stream_get_u32(r);
	uint8_t flags = stream_get_u8(r);
	struct virtio_pci_queue from = { .size = stream_get_u16(r) };
	struct virtio_pci_queue *q;

	from.vector = stream_get_u16(r);
	from.descriptor_iova = stream_get_u64(r);
	from.driver_iova = stream_get_u64(r);
	from.device_iova = stream_get_u64(r);
	if (index >= v->queue_count || !from.size ||
	    from.size > virtio_device_queue_size_max(v->device) || !is_vector(v, from.vector))
		return error_set(e, -EINVAL,
				 "state: registers of queue %" PRIu32 ": %u descriptors, vector %u",
				 index, from.size, from.vector);
	if (!apply)
		return 0;
	q = &v->queues[index];
	q->size = from.size;
	q->vector = from.vector;
	q->descriptor_iova = from.descriptor_iova;
	q->driver_iova = from.driver_iova;
	q->device_iova = from.device_iova;
	q->wanted = flags & QUEUE_WANTED;
	q->failed = flags & QUEUE_FAILED;
	return 0;
}

static int load_other(struct virtio_loading *l, const char *name, struct stream_reader *r,
		      struct error *e)
{
	struct virtio_pci *v = l->arg;
	int err;

	if (!strcmp(name, "vpci"))
		err = load_registers(v, r, l->apply, e);
	else if (!strcmp(name, "vpci.q"))
		err = load_queue(v, r, l->apply, e);
	else
		return pci_function_load(&v->function, name, r, l->apply, e);
	return err ? err : 1;
}

/* Registers are in place: the eventfds are connected, and the line has its level. */
static void restored(struct virtio_pci *v)
{
	pci_function_restored(&v->function);
	pci_function_assert(&v->function, v->isr && !pci_function_has_msix(&v->function));
	for (unsigned i = 0; i < v->queue_count; i++) {
		v->queues[i].way = WAY_NONE;
		if (v->queues[i].wanted && virtio_pci_connect_kick(v, &v->queues[i]))
			v->queues[i].failed = true;
	}
}

int virtio_pci_load(struct virtio_pci *v, const void *bytes, size_t n, bool preview,
		    struct error *e)
{
	static const char *const needed[] = { "pci.id", "pci", "msix", "vpci", "vpci.q", NULL };
	struct virtio_loading l = { .device = v->device,
				    .other = load_other,
				    .arg = v,
				    .needed = needed,
				    .preview = preview };
	int err = virtio_loading_run(&l, bytes, n, e);

	if (!err && !preview)
		restored(v);
	return err;
}
