/* virtio_pci.c - a virtio device behind PCI registers (virtio 1.3, 4.1). */
#include "virtio/virtio_pci.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "link/dirty_log.h"
#include "link/memory_map.h"
#include "pci/pci_signal.h"
#include "virtio/virtio_pci_state.h"

enum { VENDOR = 0x1af4, MODERN_DEVICE = 0x1040, REVISION = 1 }; /* virtio 1.3, 4.1.2 */

static struct virtio_pci *of(const struct pci_function *f)
{
	return CONTAINER_OF(f, struct virtio_pci, function);
}

/* ---- registers ---- */

/* virtio 1.3, 4.1.4.4: the place tells the queue; with NOTIFICATION_DATA the value says more, which
 * a device that looks at the ring itself does not need. */
static void notify(struct virtio_pci *v, uint64_t offset)
{
	uint64_t index = offset / NOTIFY_BYTES;

	if (index >= v->queue_count)
		return;
	if (v->doorbells)
		__atomic_store_n(&v->doorbells[index], (uint32_t)index, __ATOMIC_RELEASE);
	else if (virtio_pci_kick(&v->queues[index]) >= 0)
		pci_signal(v->queues[index].kick);
}

/* The part of [offset, offset + n) that a structure has, at most; the rest is nobody's. */
static size_t part_of(uint64_t offset, size_t n, uint64_t bytes)
{
	return offset < bytes ? minimum_u64(n, bytes - offset) : 0;
}

static void structure_read(struct virtio_pci *v, uint64_t offset, char *to, size_t n)
{
	uint64_t within = offset % STRUCTURE_BYTES;
	size_t part;

	switch (offset - within) {
	case COMMON_OFFSET:
		part = part_of(within, n, COMMON_BYTES);
		if (part)
			virtio_pci_common_read(v, within, to, part);
		break;
	case ISR_OFFSET:
		if (!within)
			*to = virtio_pci_take_isr(v);
		break;
	case DEVICE_OFFSET:
		part = part_of(within, n, virtio_device_config_size(v->device));
		if (part)
			virtio_device_config_read(v->device, within, to, part);
		break;
	}
}

static void structure_write(struct virtio_pci *v, uint64_t offset, const char *from, size_t n)
{
	uint64_t within = offset % STRUCTURE_BYTES;
	size_t part;

	switch (offset - within) {
	case COMMON_OFFSET:
		part = part_of(within, n, COMMON_BYTES);
		if (part)
			virtio_pci_common_write(v, within, from, part);
		break;
	case DEVICE_OFFSET:
		part = part_of(within, n, virtio_device_config_size(v->device));
		if (part)
			virtio_device_config_write(v->device, within, from, part);
		break;
	case NOTIFY_OFFSET:
		notify(v, within);
		break;
	}
}

/* How much of an access lies in the structure that it begins in. */
static size_t step_of(uint64_t offset, size_t n)
{
	return minimum_u64(n, STRUCTURE_BYTES - offset % STRUCTURE_BYTES);
}

static void bar_read(struct pci_function *f, unsigned bar, uint64_t offset, void *to, size_t n)
{
	char *at = to;

	memset(to, 0, n);
	for (size_t step; n && bar == VIRTIO_BAR; n -= step, offset += step, at += step) {
		step = step_of(offset, n);
		structure_read(of(f), offset, at, step);
	}
}

static void bar_write(struct pci_function *f, unsigned bar, uint64_t offset, const void *from,
		      size_t n)
{
	const char *at = from;

	for (size_t step; n && bar == VIRTIO_BAR; n -= step, offset += step, at += step) {
		step = step_of(offset, n);
		structure_write(of(f), offset, at, step);
	}
}

static bool area(const struct pci_function *f, unsigned bar, unsigned index, struct pci_area *to)
{
	if (bar != VIRTIO_BAR || index || of(f)->doorbell_fd < 0)
		return false;
	*to = (struct pci_area){ .offset = NOTIFY_OFFSET,
				 .size = STRUCTURE_BYTES,
				 .fd = of(f)->doorbell_fd };
	return true;
}

static bool doorbell(const struct pci_function *f, unsigned bar, unsigned index,
		     struct pci_doorbell *to)
{
	struct virtio_pci *v = of(f);

	if (bar != VIRTIO_BAR || index >= v->queue_count || v->doorbells ||
	    virtio_pci_kick(&v->queues[index]) < 0)
		return false;
	*to = (struct pci_doorbell){ .offset = NOTIFY_OFFSET + NOTIFY_BYTES * index,
				     .size = NOTIFY_BYTES,
				     .fd = v->queues[index].kick };
	return true;
}

/* ---- access through configuration space (virtio 1.3, 4.1.4.9) ---- */

enum { ACCESS_DATA = sizeof(struct virtio_pci_cap) };

/* What the capability's registers select; false: nothing, or nothing that may be reached so. */
static bool access_target(const struct virtio_pci *v, uint64_t *offset, unsigned *n)
{
	const struct pci_config *c = &v->function.config;
	uint16_t at = v->access_capability;

	*offset = pci_config_get(c, at + offsetof(struct virtio_pci_cap, offset), 4);
	*n = pci_config_get(c, at + offsetof(struct virtio_pci_cap, length), 4);
	return pci_config_get(c, at + offsetof(struct virtio_pci_cap, bar), 1) == VIRTIO_BAR &&
	       (*n == 1 || *n == 2 || *n == 4) && range_fits(*offset, *n, VIRTIO_BAR_BYTES);
}

static bool touches_data(const struct virtio_pci *v, uint16_t offset, unsigned n)
{
	unsigned data = v->access_capability + ACCESS_DATA;

	return offset < data + 4 && data < offset + n;
}

static void config_read(struct pci_function *f, uint16_t offset, unsigned n)
{
	struct virtio_pci *v = of(f);
	uint8_t word[4] = { 0 };
	uint64_t target;
	unsigned bytes;

	if (!touches_data(v, offset, n) || !access_target(v, &target, &bytes))
		return;
	bar_read(f, VIRTIO_BAR, target, word, bytes);
	pci_config_set(&f->config, v->access_capability + ACCESS_DATA, 4, load_le32(word));
}

static void config_written(struct pci_function *f, uint16_t offset, unsigned n)
{
	struct virtio_pci *v = of(f);
	uint8_t word[4];
	uint64_t target;
	unsigned bytes;

	if (!touches_data(v, offset, n) || !access_target(v, &target, &bytes))
		return;
	store_le32(word, pci_config_get(&f->config, v->access_capability + ACCESS_DATA, 4));
	bar_write(f, VIRTIO_BAR, target, word, bytes);
}

/* ---- life ---- */

static void interrupts_changed(struct pci_function *f)
{
	if (!of(f)->reset_wanted)
		virtio_pci_route(of(f));
}

static void bus_master(struct pci_function *f, bool on)
{
	of(f)->may_address = on;
	virtio_pci_follow(of(f));
}

static void reset(struct pci_function *f, struct reactor_task *done)
{
	struct virtio_pci *v = of(f);

	virtio_pci_reset_registers(v);
	if (done)
		v->reset_done = done;
	if (!v->emptying)
		migrate_was_reset(v->migrate);
	virtio_pci_follow(v);
}

static void set_memory(struct pci_function *f, struct memory_map *m, struct reactor_task *applied)
{
	virtio_device_set_memory(of(f)->device, m, applied);
}

static const struct pci_function_type virtio_function = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.area = area,
	.doorbell = doorbell,
	.config_read = config_read,
	.config_written = config_written,
	.interrupts_changed = interrupts_changed,
	.bus_master = bus_master,
	.reset = reset,
	.set_memory = set_memory,
};

static void config_changed(void *arg)
{
	virtio_pci_config_interrupt(arg);
}

/* ---- making one ---- */

static uint16_t add_structure(struct virtio_pci *v, uint8_t type, uint8_t bytes, uint32_t offset,
			      uint32_t length)
{
	struct pci_config *c = &v->function.config;
	uint16_t at = pci_config_add(c, PCI_CAP_ID_VNDR, bytes);

	pci_config_set(c, at + VIRTIO_PCI_CAP_LEN, 1, bytes);
	pci_config_set(c, at + VIRTIO_PCI_CAP_CFG_TYPE, 1, type);
	pci_config_set(c, at + VIRTIO_PCI_CAP_BAR, 1, VIRTIO_BAR);
	pci_config_set(c, at + VIRTIO_PCI_CAP_OFFSET, 4, offset);
	pci_config_set(c, at + VIRTIO_PCI_CAP_LENGTH, 4, length);
	return at;
}

static void add_structures(struct virtio_pci *v)
{
	struct pci_config *c = &v->function.config;
	const uint8_t plain = sizeof(struct virtio_pci_cap);
	uint16_t notify_at, at;

	add_structure(v, VIRTIO_PCI_CAP_COMMON_CFG, plain, COMMON_OFFSET, COMMON_BYTES);
	add_structure(v, VIRTIO_PCI_CAP_ISR_CFG, plain, ISR_OFFSET, 1);
	add_structure(v, VIRTIO_PCI_CAP_DEVICE_CFG, plain, DEVICE_OFFSET,
		      virtio_device_config_size(v->device));
	notify_at = add_structure(v, VIRTIO_PCI_CAP_NOTIFY_CFG, plain + 4, NOTIFY_OFFSET,
				  STRUCTURE_BYTES);
	pci_config_set(c, notify_at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4, NOTIFY_BYTES);
	at = add_structure(v, VIRTIO_PCI_CAP_PCI_CFG, plain + 4, 0, 0);
	pci_config_set(c, at + VIRTIO_PCI_CAP_BAR, 1, 0);
	pci_config_allow(c, at + VIRTIO_PCI_CAP_BAR, 1, 0xff);
	pci_config_allow(c, at + VIRTIO_PCI_CAP_OFFSET, 4, ~0u);
	pci_config_allow(c, at + VIRTIO_PCI_CAP_LENGTH, 4, ~0u);
	pci_config_allow(c, at + ACCESS_DATA, 4, ~0u);
	v->access_capability = at;
}

/* A file, not anonymous memory: the client maps it too.  A doorbell that nobody rings holds ones.
 */
static int make_doorbells(struct virtio_pci *v, struct error *e)
{
	void *page;

	v->doorbell_fd = memfd_create("outboard-doorbells", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (v->doorbell_fd < 0 || ftruncate(v->doorbell_fd, STRUCTURE_BYTES) ||
	    fcntl(v->doorbell_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return error_set(e, -errno, "doorbell page: %s", strerror(errno));
	page = mmap(NULL, STRUCTURE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, v->doorbell_fd, 0);
	if (page == MAP_FAILED)
		return error_set(e, -errno, "doorbell page: %s", strerror(errno));
	memset(page, 0xff, STRUCTURE_BYTES);
	v->doorbells = page;
	return 0;
}

static int open_function(struct virtio_pci *v, const struct virtio_pci_options *o, struct error *e)
{
	uint32_t id = virtio_device_id(v->device);
	struct pci_function_options options = {
		.vendor = VENDOR,
		.device = MODERN_DEVICE + id,
		.subsystem_vendor = VENDOR,
		.subsystem = 0x40 + id,
		.class_code = virtio_device_pci_class(v->device),
		.revision = REVISION,
		.vectors = o->vectors,
		.msix_bar = MSIX_BAR,
		.identity = o->identity,
		.control = virtio_device_control(v->device),
	};
	int err = pci_function_open(&v->function, &virtio_function, &options, e);

	if (err)
		return err;
	pci_function_add_bar(&v->function, VIRTIO_BAR, VIRTIO_BAR_BYTES, true);
	add_structures(v);
	pci_function_ready(&v->function);
	return 0;
}

static void queues_init(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->queue_count; i++) {
		v->queues[i].pci = v;
		v->queues[i].kick = v->queues[i].catcher = -1;
		v->queues[i].size = virtio_device_queue_size_max(v->device);
		v->queues[i].vector = VIRTIO_MSI_NO_VECTOR;
	}
}

static void close_doorbells(struct virtio_pci *v)
{
	if (v->doorbells)
		munmap(v->doorbells, STRUCTURE_BYTES);
	fd_close(&v->doorbell_fd);
}

struct virtio_pci *virtio_pci_create(struct virtio_device *d, const struct virtio_pci_options *o,
				     struct error *e)
{
	unsigned queues = virtio_device_queue_count(d);
	struct virtio_pci *v = NULL;

	if (queues > QUEUES_MAX) {
		error_set(e, -EINVAL, "%u queues: a PCI function has at most %u", queues,
			  QUEUES_MAX);
		return NULL;
	}
	v = calloc(1, sizeof(*v) + queues * sizeof(v->queues[0]));
	if (!v) {
		error_set(e, -ENOMEM, "PCI function: out of memory");
		return NULL;
	}
	v->device = d;
	v->queue_count = queues;
	v->doorbell_fd = -1;
	v->config_vector = VIRTIO_MSI_NO_VECTOR;
	queues_init(v);
	v->migrate = migrate_create(v);
	if (!v->migrate)
		error_set(e, -ENOMEM, "PCI function: out of memory");
	if (!v->migrate || (o->doorbell_page && make_doorbells(v, e)) || open_function(v, o, e)) {
		close_doorbells(v);
		migrate_free(v->migrate);
		free(v);
		return NULL;
	}
	virtio_device_set_listener(d, config_changed, v);
	return v;
}

void virtio_pci_free(struct virtio_pci *v)
{
	if (!v)
		return;
	virtio_device_set_listener(v->device, NULL, NULL);
	for (unsigned i = 0; i < v->queue_count; i++) {
		virtio_pci_interrupt_close(&v->queues[i]);
		fd_close(&v->queues[i].kick);
	}
	pci_function_close(&v->function);
	close_doorbells(v);
	migrate_free(v->migrate);
	if (v->log_wanted != v->log)
		dirty_log_free(v->log_wanted);
	dirty_log_free(v->log);
	free(v);
}

struct pci_function *virtio_pci_function(struct virtio_pci *v)
{
	return &v->function;
}
