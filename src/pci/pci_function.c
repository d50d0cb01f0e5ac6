/* pci_function.c - the funnel between host transports and what stands behind a function. */
#include "pci/pci_function.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "pci/pci_function_type.h"

/* ---- for the implementer ---- */

void pci_function_interrupt(struct pci_function *f, unsigned vector)
{
	pci_msix_raise(&f->msix, vector);
}

bool pci_function_has_msix(const struct pci_function *f)
{
	return f->msix.enabled;
}

int pci_function_vector(const struct pci_function *f, unsigned vector, uint32_t *connection)
{
	*connection = f->msix.vectors[vector].connection;
	return pci_msix_direct(&f->msix, vector);
}

/* PCI 3.0, 6.2.3: the status bit shows the level, whatever the command register says. */
void pci_function_assert(struct pci_function *f, bool on)
{
	uint16_t status = pci_config_get(&f->config, PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT;

	pci_config_set(&f->config, PCI_STATUS, 2, status | (on ? PCI_STATUS_INTERRUPT : 0));
	pci_intx_assert(&f->intx, on);
}

/* ---- what registers of ours do ---- */

static uint16_t command(const struct pci_function *f)
{
	return pci_config_get(&f->config, PCI_COMMAND, 2);
}

static bool is_awake(const struct pci_function *f)
{
	return !(pci_config_get(&f->config, f->power_capability + PCI_PM_CTRL, 2) &
		 PCI_PM_CTRL_STATE_MASK);
}

/* Command, power and MSI-X control have changed, perhaps. */
static void take_effect(struct pci_function *f)
{
	uint16_t at = f->msix_capability + PCI_MSIX_FLAGS;
	uint16_t flags = f->msix_capability ? pci_config_get(&f->config, at, 2) : 0;
	bool enabled = flags & PCI_MSIX_FLAGS_ENABLE, masked = flags & PCI_MSIX_FLAGS_MASKALL;
	bool may_address = command(f) & PCI_COMMAND_MASTER && is_awake(f);

	if (enabled != f->msix.enabled || masked != f->msix.masked) {
		pci_msix_control(&f->msix, enabled, masked);
		f->type->interrupts_changed(f);
	}
	pci_intx_disable(&f->intx, enabled || command(f) & PCI_COMMAND_INTX_DISABLE);
	if (may_address != f->may_address) {
		f->may_address = may_address;
		f->type->bus_master(f, may_address);
	}
}

void pci_function_restored(struct pci_function *f)
{
	take_effect(f);
}

/* States 1 and 2 are not offered: writing them changes nothing. */
static void check_power(struct pci_function *f, uint32_t old)
{
	uint16_t at = f->power_capability + PCI_PM_CTRL;
	unsigned state = pci_config_get(&f->config, at, 2) & PCI_PM_CTRL_STATE_MASK;

	if (state == 1 || state == 2)
		pci_config_set(&f->config, at, 2, old);
}

/* A write of ones to the bit that begins a function level reset, which always reads zero. */
static bool asks_for_reset(const struct pci_function *f, uint64_t offset, const void *from,
			   size_t n)
{
	uint64_t at = f->express_capability + PCI_EXP_DEVCTL + 1;

	return offset <= at && at - offset < n &&
	       ((const uint8_t *)from)[at - offset] & PCI_EXP_DEVCTL_BCR_FLR >> 8;
}

static void config_write(struct pci_function *f, uint64_t offset, const void *from, size_t n)
{
	uint32_t power = pci_config_get(&f->config, f->power_capability + PCI_PM_CTRL, 2);

	if (asks_for_reset(f, offset, from, n)) {
		pci_function_reset(f, NULL);
		return;
	}
	pci_config_write(&f->config, offset, from, n);
	check_power(f, power);
	take_effect(f);
	f->type->config_written(f, offset, n);
}

/* ---- the MSI-X BAR ---- */

static uint64_t pending_offset(const struct pci_function *f)
{
	return align_up(pci_msix_table_bytes(&f->msix), 4096);
}

/* The part of an access that lies in [start, start + bytes): where in it, and how much. */
static size_t part_of(uint64_t offset, size_t n, uint64_t start, uint64_t bytes, uint64_t *at,
		      size_t *skip)
{
	uint64_t first = maximum_u64(offset, start), end = minimum_u64(offset + n, start + bytes);

	*at = first - start;
	*skip = first - offset;
	return first < end ? end - first : 0;
}

static void msix_read(struct pci_function *f, uint64_t offset, char *to, size_t n)
{
	uint64_t at;
	size_t skip, part;

	memset(to, 0, n);
	part = part_of(offset, n, 0, pci_msix_table_bytes(&f->msix), &at, &skip);
	if (part)
		pci_msix_table_read(&f->msix, at, to + skip, part);
	part = part_of(offset, n, pending_offset(f), pci_msix_pending_bytes(&f->msix), &at, &skip);
	if (part)
		pci_msix_pending_read(&f->msix, at, to + skip, part);
}

static void msix_write(struct pci_function *f, uint64_t offset, const char *from, size_t n)
{
	uint64_t at;
	size_t skip, part;

	part = part_of(offset, n, 0, pci_msix_table_bytes(&f->msix), &at, &skip);
	if (!part)
		return;
	pci_msix_table_write(&f->msix, at, from + skip, part);
	f->type->interrupts_changed(f);
}

/* ---- regions ---- */

uint64_t pci_region_size(const struct pci_function *f, enum pci_region region)
{
	if (region <= PCI_REGION_BAR5)
		return f->bars[region].size;
	return region == PCI_REGION_CONFIG ? PCI_CONFIG_BYTES : 0;
}

bool pci_region_area(const struct pci_function *f, enum pci_region region, unsigned index,
		     struct pci_area *area)
{
	return region <= PCI_REGION_BAR5 && f->type->area(f, region, index, area);
}

bool pci_region_doorbell(const struct pci_function *f, enum pci_region region, unsigned index,
			 struct pci_doorbell *doorbell)
{
	return region <= PCI_REGION_BAR5 && f->type->doorbell(f, region, index, doorbell);
}

/* PCI 3.0, 6.2.2: registers in memory answer only while memory space is enabled. */
static bool bar_answers(const struct pci_function *f)
{
	return command(f) & PCI_COMMAND_MEMORY && is_awake(f);
}

int pci_region_read(struct pci_function *f, enum pci_region region, uint64_t offset, void *to,
		    size_t n)
{
	if (!n || !range_fits(offset, n, pci_region_size(f, region)))
		return -EINVAL;
	if (region == PCI_REGION_CONFIG) {
		f->type->config_read(f, offset, n);
		pci_config_read(&f->config, offset, to, n);
	} else if (!bar_answers(f)) {
		memset(to, 0xff, n);
	} else if (region == f->msix_bar) {
		msix_read(f, offset, to, n);
	} else {
		f->type->bar_read(f, region, offset, to, n);
	}
	return 0;
}

int pci_region_write(struct pci_function *f, enum pci_region region, uint64_t offset,
		     const void *from, size_t n)
{
	if (!n || !range_fits(offset, n, pci_region_size(f, region)))
		return -EINVAL;
	if (region == PCI_REGION_CONFIG)
		config_write(f, offset, from, n);
	else if (!bar_answers(f))
		return 0;
	else if (region == f->msix_bar)
		msix_write(f, offset, from, n);
	else
		f->type->bar_write(f, region, offset, from, n);
	return 0;
}

/* ---- interrupts ---- */

unsigned pci_irq_count(const struct pci_function *f, enum pci_irq kind)
{
	if (kind == PCI_IRQ_MSIX)
		return f->msix.count;
	return kind == PCI_IRQ_INTX ? 1 : 0;
}

void pci_irq_connect(struct pci_function *f, enum pci_irq kind, unsigned vector, int fd)
{
	assert(vector < pci_irq_count(f, kind));
	if (kind == PCI_IRQ_INTX) {
		pci_intx_connect(&f->intx, fd);
		return;
	}
	pci_msix_connect(&f->msix, vector, fd);
	f->type->interrupts_changed(f);
}

void pci_irq_mask(struct pci_function *f, enum pci_irq kind, unsigned vector, bool masked)
{
	assert(vector < pci_irq_count(f, kind));
	if (kind == PCI_IRQ_INTX) {
		pci_intx_mask(&f->intx, masked);
		return;
	}
	pci_msix_host_mask(&f->msix, vector, masked);
	f->type->interrupts_changed(f);
}

void pci_irq_disconnect(struct pci_function *f, enum pci_irq kind)
{
	for (unsigned i = 0; i < pci_irq_count(f, kind); i++) {
		pci_irq_mask(f, kind, i, false);
		pci_irq_connect(f, kind, i, -1);
	}
}

void pci_irq_raise(struct pci_function *f, enum pci_irq kind, unsigned vector)
{
	assert(vector < pci_irq_count(f, kind));
	if (kind == PCI_IRQ_INTX)
		pci_intx_test(&f->intx);
	else
		pci_msix_test(&f->msix, vector);
}

/* ---- life ---- */

static void reset_is_done(void *arg)
{
	struct pci_function *f = arg;

	f->resetting = false;
	for (unsigned i = 0; i < PCI_RESET_WAITERS; i++) {
		struct reactor_task *t = f->reset_waiters[i];

		f->reset_waiters[i] = NULL;
		if (t)
			reactor_defer(f->control, t);
	}
}

static void wait_for_reset(struct pci_function *f, struct reactor_task *done)
{
	unsigned i = 0;

	while (i < PCI_RESET_WAITERS && f->reset_waiters[i])
		i++;
	assert(i < PCI_RESET_WAITERS); /* a transport waits for one at a time */
	f->reset_waiters[i] = done;
}

void pci_function_reset(struct pci_function *f, struct reactor_task *done)
{
	pci_config_restore(&f->config);
	pci_msix_reset(&f->msix);
	pci_function_assert(f, false);
	take_effect(f);
	f->type->interrupts_changed(f);
	wait_for_reset(f, done);
	if (f->resetting) {
		f->type->reset(f, NULL);
		return;
	}
	f->resetting = true;
	f->reset_done = (struct reactor_task){ .fn = reset_is_done, .arg = f };
	f->type->reset(f, &f->reset_done);
}

void pci_function_set_memory(struct pci_function *f, struct memory_map *m,
			     struct reactor_task *applied)
{
	f->type->set_memory(f, m, applied);
}

void pci_function_ready(struct pci_function *f)
{
	pci_config_seal(&f->config);
}

void pci_function_close(struct pci_function *f)
{
	assert(!f->resetting);
	fd_close(&f->intx.fd);
	pci_msix_close(&f->msix);
}
