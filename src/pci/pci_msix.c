/* pci_msix.c - MSI-X: vectors, table and pending bits. */
#include "pci/pci_msix.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "pci/pci_signal.h"

enum { ENTRY_BYTES = 16 };

int pci_msix_open(struct pci_msix *m, unsigned vectors)
{
	*m = (struct pci_msix){ .count = vectors };
	if (!vectors)
		return 0;
	m->vectors = calloc(vectors, sizeof(*m->vectors));
	if (!m->vectors)
		return -ENOMEM;
	for (unsigned i = 0; i < vectors; i++)
		m->vectors[i].fd = -1;
	pci_msix_reset(m);
	return 0;
}

void pci_msix_close(struct pci_msix *m)
{
	for (unsigned i = 0; i < m->count && m->vectors; i++)
		fd_close(&m->vectors[i].fd);
	free(m->vectors);
	m->vectors = NULL;
}

void pci_msix_reset(struct pci_msix *m)
{
	m->enabled = m->masked = false;
	for (unsigned i = 0; i < m->count; i++) {
		struct pci_msix_vector *v = &m->vectors[i];

		memset(v->entry, 0, sizeof(v->entry));
		store_le32(v->entry + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
		v->pending = v->written = false;
	}
}

void pci_msix_restore(struct pci_msix *m, unsigned vector, const uint8_t entry[16], bool written,
		      bool pending)
{
	struct pci_msix_vector *v = &m->vectors[vector];

	memcpy(v->entry, entry, sizeof(v->entry));
	v->written = written;
	v->pending = pending;
}

uint32_t pci_msix_table_bytes(const struct pci_msix *m)
{
	return m->count * ENTRY_BYTES;
}

/* In words of 64 bits. */
uint32_t pci_msix_pending_bytes(const struct pci_msix *m)
{
	return align_up(m->count, 64) / 8;
}

static bool guest_masks(const struct pci_msix_vector *v)
{
	return v->written && v->entry[PCI_MSIX_ENTRY_VECTOR_CTRL] & PCI_MSIX_ENTRY_CTRL_MASKBIT;
}

int pci_msix_direct(const struct pci_msix *m, unsigned vector)
{
	const struct pci_msix_vector *v = &m->vectors[vector];

	assert(vector < m->count);
	return !m->enabled || m->masked || v->host_masked || guest_masks(v) ? -1 : v->fd;
}

void pci_msix_test(struct pci_msix *m, unsigned vector)
{
	if (m->vectors[vector].fd >= 0)
		pci_signal(m->vectors[vector].fd);
}

void pci_msix_raise(struct pci_msix *m, unsigned vector)
{
	assert(vector < m->count);
	m->vectors[vector].pending = m->enabled && pci_msix_direct(m, vector) < 0;
	if (m->enabled && !m->vectors[vector].pending)
		pci_msix_test(m, vector);
}

/* A mask may have gone. */
static void send_pending(struct pci_msix *m, unsigned vector)
{
	if (m->vectors[vector].pending)
		pci_msix_raise(m, vector);
}

void pci_msix_control(struct pci_msix *m, bool enabled, bool masked)
{
	m->enabled = enabled;
	m->masked = masked;
	for (unsigned i = 0; i < m->count; i++)
		send_pending(m, i);
}

void pci_msix_connect(struct pci_msix *m, unsigned vector, int fd)
{
	assert(vector < m->count);
	fd_close(&m->vectors[vector].fd);
	m->vectors[vector].fd = fd;
	m->vectors[vector].connection++;
	send_pending(m, vector);
}

void pci_msix_host_mask(struct pci_msix *m, unsigned vector, bool masked)
{
	assert(vector < m->count);
	m->vectors[vector].host_masked = masked;
	send_pending(m, vector);
}

void pci_msix_table_read(const struct pci_msix *m, uint32_t offset, void *to, size_t n)
{
	uint8_t *at = to;

	assert(range_fits(offset, n, pci_msix_table_bytes(m)));
	for (size_t i = 0; i < n; i++, offset++)
		at[i] = m->vectors[offset / ENTRY_BYTES].entry[offset % ENTRY_BYTES];
}

/* The address's two lowest bits and all but the mask bit of the control word are reserved. */
static uint8_t writable_bits(unsigned at)
{
	if (at == PCI_MSIX_ENTRY_LOWER_ADDR)
		return 0xfc;
	if (at == PCI_MSIX_ENTRY_VECTOR_CTRL)
		return PCI_MSIX_ENTRY_CTRL_MASKBIT;
	return at > PCI_MSIX_ENTRY_VECTOR_CTRL ? 0 : 0xff;
}

void pci_msix_table_write(struct pci_msix *m, uint32_t offset, const void *from, size_t n)
{
	const uint8_t *value = from;

	assert(range_fits(offset, n, pci_msix_table_bytes(m)));
	for (size_t i = 0; i < n; i++, offset++) {
		struct pci_msix_vector *v = &m->vectors[offset / ENTRY_BYTES];
		unsigned at = offset % ENTRY_BYTES;

		v->entry[at] = value[i] & writable_bits(at);
		v->written = true;
		send_pending(m, offset / ENTRY_BYTES);
	}
}

void pci_msix_pending_read(const struct pci_msix *m, uint32_t offset, void *to, size_t n)
{
	uint8_t *at = to;

	assert(range_fits(offset, n, pci_msix_pending_bytes(m)));
	for (size_t i = 0; i < n; i++, offset++) {
		at[i] = 0;
		for (unsigned bit = 0; bit < 8 && offset * 8 + bit < m->count; bit++)
			at[i] |= m->vectors[offset * 8 + bit].pending << bit;
	}
}
