/* pci_state.c - a function's configuration space and MSI-X as records of a migration's state. */
#include <errno.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "pci/pci_function_type.h"
#include "stream/stream.h"

enum { ENTRY_BYTES = 16, VECTOR_WRITTEN = 1, VECTOR_PENDING = 2 };

/* ---- writing ---- */

void pci_function_save_identity(const struct pci_function *f, struct stream_writer *w)
{
	stream_begin(w, "pci.id", 0);
	stream_u32(w, f->msix.count);
	stream_bytes(w, f->config.initial, sizeof(f->config.initial));
	for (unsigned i = 0; i < ARRAY_LENGTH(f->bars); i++)
		stream_u64(w, f->bars[i].size);
	stream_end(w);
}

static void save_msix(const struct pci_msix *m, struct stream_writer *w)
{
	stream_begin(w, "msix", 0);
	stream_u32(w, m->count);
	for (unsigned i = 0; i < m->count; i++) {
		const struct pci_msix_vector *v = &m->vectors[i];

		stream_bytes(w, v->entry, ENTRY_BYTES);
		stream_u8(w, (v->written ? VECTOR_WRITTEN : 0) | (v->pending ? VECTOR_PENDING : 0));
	}
	stream_end(w);
}

void pci_function_save(const struct pci_function *f, struct stream_writer *w)
{
	stream_begin(w, "pci", 0);
	stream_bytes(w, f->config.bytes, sizeof(f->config.bytes));
	stream_end(w);
	save_msix(&f->msix, w);
}

/* ---- reading ---- */

/* Which card it is, and which of its functions, stays what it is here. */
static bool is_identity(const struct pci_function *f, unsigned at)
{
	return at >= f->identity_capability && at < f->identity_end;
}

/* A driver that finds other registers than it has probed goes wrong. */
static int load_identity(const struct pci_function *f, struct stream_reader *r, struct error *e)
{
	uint32_t vectors = stream_get_u32(r);
	uint8_t theirs[PCI_CONFIG_USED];

	stream_get_bytes(r, theirs, sizeof(theirs));
	if (vectors != f->msix.count)
		return error_set(e, -EINVAL,
				 "%u interrupt vectors here, %" PRIu32 " there: --vectors",
				 f->msix.count, vectors);
	for (unsigned i = 0; i < sizeof(theirs); i++)
		if (theirs[i] != f->config.initial[i] && !is_identity(f, i))
			return error_set(e, -EINVAL,
					 "the PCI function's configuration space begins with other "
					 "values there: byte 0x%x is 0x%02x, 0x%02x here",
					 i, theirs[i], f->config.initial[i]);
	for (unsigned i = 0; i < ARRAY_LENGTH(f->bars); i++) {
		uint64_t size = stream_get_u64(r);

		if (size != f->bars[i].size)
			return error_set(e, -EINVAL,
					 "BAR %u has %" PRIu64 " bytes here, %" PRIu64 " there", i,
					 f->bars[i].size, size);
	}
	return 0;
}

static void load_config(struct pci_function *f, struct stream_reader *r, bool apply)
{
	struct pci_config *c = &f->config;
	uint8_t theirs[PCI_CONFIG_USED];

	stream_get_bytes(r, theirs, sizeof(theirs));
	for (unsigned i = 0; apply && i < sizeof(theirs); i++) {
		uint8_t mask = c->writable[i] | c->clearable[i];

		c->bytes[i] = (c->bytes[i] & ~mask) | (theirs[i] & mask);
	}
}

static int load_msix(struct pci_msix *m, struct stream_reader *r, bool apply, struct error *e)
{
	uint32_t count = stream_get_u32(r);

	if (count != m->count)
		return error_set(e, -EINVAL, "state: %" PRIu32 " interrupt vectors of %u", count,
				 m->count);
	for (unsigned i = 0; i < count; i++) {
		uint8_t entry[ENTRY_BYTES], flags;

		stream_get_bytes(r, entry, sizeof(entry));
		flags = stream_get_u8(r);
		if (apply)
			pci_msix_restore(m, i, entry, flags & VECTOR_WRITTEN,
					 flags & VECTOR_PENDING);
	}
	return 0;
}

int pci_function_load(struct pci_function *f, const char *name, struct stream_reader *r, bool apply,
		      struct error *e)
{
	int err = 0;

	if (!strcmp(name, "pci.id"))
		err = load_identity(f, r, e);
	else if (!strcmp(name, "pci"))
		load_config(f, r, apply);
	else if (!strcmp(name, "msix"))
		err = load_msix(&f->msix, r, apply, e);
	else
		return 0;
	return err ? err : 1;
}
