/* fuzz_pci.c - accesses of any kind to a function's configuration space and BARs, with what a host
 * may do beside: interrupts connected, masked and raised, memory given and taken away, resets.
 * Whatever happens, the function can be reset and everything is given back.
 *
 * The input: a byte of options, a list of actions, and at its end what the guest's memory holds.
 * An action: what to do, the region (or vector) and the size in one byte each, the offset in two,
 * then as many bytes as a write has. */
#include <assert.h>
#include <linux/pci_regs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "device/blk.h"
#include "driver/guest_memory.h"
#include "fuzz.h"
#include "link/memory_map.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_pci.h"

enum {
	ACTIONS_MAX = 256,
	STEPS = 100,
	PREFIX = 5,
	SIZE_MAX_BYTES = 32,
	VECTORS = 3,
	MEMORY_BYTES = 64 << 10,
	MEMORY_END = 4096, /* of the input: what lies at the memory's start */
};

/* Others only let time pass. */
enum action { READ, WRITE, WRITE_ALSO, CONNECT, MASK, RAISE, RESET, GIVE_MEMORY, RING, ACTIONS };

struct bed {
	struct reactor_world *world;
	struct reactor *reactor;
	struct storage *storage;
	struct blk *blk;
	struct virtio_pci *pci;
	struct pci_function *function;
	struct guest_memory memory;
	struct memory_map *map;
	struct reactor_task applied;
	bool changing, given; /* the function's memory */
	bool reset;
};

static void steps(struct bed *b, unsigned n)
{
	while (n-- && reactor_world_step(b->world))
		;
}

/* options: a bit for the doorbell page, one for interrupts by the line only. */
static void open_function(struct bed *b, uint8_t options)
{
	const struct pci_identity identity = { .card_serial = 1, .count = 1 };
	const struct virtio_pci_options pci = { .identity = &identity,
						.doorbell_page = options & 1,
						.vectors = options & 2 ? 0 : VECTORS };
	struct virtio_device_options o = {
		.name = "fuzz", .queues = 2, .queue_size = 16, .packed = true, .worker_count = 1
	};
	struct blk_options blk = { 0 };
	struct error e;

	b->world = reactor_world_create(1);
	b->reactor = reactor_virtual_create(b->world, "fuzz");
	reactor_world_enter(b->world, b->reactor);
	b->storage = storage_open("fuzz", "memory:?size=64K", false, b->reactor, &e);
	blk.storage = b->storage;
	o.control = b->reactor;
	o.workers = &b->reactor;
	b->blk = blk_create(&blk, &o, &e);
	b->pci = b->blk ? virtio_pci_create(blk_device(b->blk), &pci, &e) : NULL;
	if (!b->pci)
		abort();
	b->function = virtio_pci_function(b->pci);
}

static void open_memory(struct bed *b, const uint8_t *bytes, size_t n)
{
	size_t held = minimum_u64(n, MEMORY_END);
	struct memory_region region = { .length = MEMORY_BYTES,
					.access = MEMORY_READ | MEMORY_WRITE };
	struct memory_map *empty = memory_map_create(NULL);

	guest_memory_open(&b->memory, 0, MEMORY_BYTES);
	memcpy(b->memory.bytes, bytes + n - held, held);
	region.fd = b->memory.fd;
	b->map = memory_map_add(empty, &region, NULL);
	memory_map_release(empty);
	if (!b->map)
		abort();
}

static void memory_is_applied(void *arg)
{
	((struct bed *)arg)->changing = false;
}

static void give_memory(struct bed *b, bool give)
{
	for (unsigned i = 0; i < STEPS && b->changing; i++)
		steps(b, STEPS);
	assert(!b->changing);
	b->changing = true;
	b->given = give;
	b->applied = (struct reactor_task){ .fn = memory_is_applied, .arg = b };
	pci_function_set_memory(b->function, give ? b->map : NULL, &b->applied);
}

/* Otherwise hardly an input would find out that the BARs do not answer before this. */
static void enable(struct bed *b)
{
	const uint8_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

	pci_region_write(b->function, PCI_REGION_CONFIG, PCI_COMMAND, &command, 1);
}

static void access_region(struct bed *b, const uint8_t *bytes, unsigned size, bool write)
{
	unsigned region = bytes[1] % PCI_REGIONS;
	uint64_t offset = load_le16(bytes + 3);
	uint8_t answer[SIZE_MAX_BYTES];

	if (write)
		pci_region_write(b->function, region, offset, bytes + PREFIX, size);
	else
		pci_region_read(b->function, region, offset, answer, size);
}

static void interrupt(struct bed *b, const uint8_t *bytes)
{
	enum pci_irq kind = bytes[2] & 1 ? PCI_IRQ_MSIX : PCI_IRQ_INTX;
	unsigned count = pci_irq_count(b->function, kind);
	unsigned vector = count ? bytes[1] % count : 0;

	if (!count)
		return;
	if (bytes[0] % ACTIONS == CONNECT)
		pci_irq_connect(b->function, kind, vector,
				bytes[2] & 2 ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	else if (bytes[0] % ACTIONS == MASK)
		pci_irq_mask(b->function, kind, vector, bytes[2] & 2);
	else
		pci_irq_raise(b->function, kind, vector);
}

static void ring(struct bed *b, unsigned index)
{
	struct pci_doorbell bell;
	uint64_t one = 1;

	for (unsigned region = 0; region < PCI_REGIONS; region++)
		if (pci_region_doorbell(b->function, region, index, &bell) &&
		    write(bell.fd, &one, sizeof(one)) < 0)
			abort();
}

static void act(struct bed *b, const uint8_t *bytes, unsigned size)
{
	switch ((enum action)(bytes[0] % ACTIONS)) {
	case READ:
	case WRITE:
	case WRITE_ALSO:
		access_region(b, bytes, size, bytes[0] % ACTIONS != READ);
		break;
	case CONNECT:
	case MASK:
	case RAISE:
		interrupt(b, bytes);
		break;
	case RESET:
		pci_function_reset(b->function, NULL);
		break;
	case GIVE_MEMORY:
		give_memory(b, !b->given);
		break;
	case RING:
		ring(b, bytes[1]);
		break;
	case ACTIONS:
		break;
	}
	if (bytes[0] >= 128)
		steps(b, STEPS);
}

/* Bytes used of the input; 0: no more actions. */
static size_t next_action(struct bed *b, const uint8_t *bytes, size_t n)
{
	unsigned size;
	bool writes;

	if (n < PREFIX)
		return 0;
	size = bytes[2] % (SIZE_MAX_BYTES + 1);
	writes = bytes[0] % ACTIONS == WRITE || bytes[0] % ACTIONS == WRITE_ALSO;
	if (writes && n - PREFIX < size)
		return 0;
	act(b, bytes, size);
	return PREFIX + (writes ? size : 0);
}

static void reset_is_done(void *arg)
{
	((struct bed *)arg)->reset = true;
}

static void close_all(struct bed *b)
{
	struct reactor_task done = { .fn = reset_is_done, .arg = b };

	give_memory(b, false);
	pci_function_reset(b->function, &done);
	for (unsigned i = 0; i < 100000 && !(b->reset && !b->changing); i++)
		reactor_world_step(b->world);
	assert(b->reset && !b->changing);
	steps(b, STEPS);
	virtio_pci_free(b->pci);
	blk_free(b->blk);
	storage_close(b->storage);
	steps(b, STEPS);
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	memory_map_release(b->map);
	guest_memory_close(&b->memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct bed b = { 0 };
	size_t used = 1;

	if (!n)
		return 0;
	log_set_level(LOG_LEVEL_ERROR);
	open_function(&b, bytes[0]);
	open_memory(&b, bytes, n);
	enable(&b);
	give_memory(&b, true);
	steps(&b, STEPS);
	bytes++;
	n--;
	for (unsigned i = 0; i < ACTIONS_MAX && used; i++) {
		used = next_action(&b, bytes, n);
		bytes += used;
		n -= used;
	}
	close_all(&b);
	return 0;
}
