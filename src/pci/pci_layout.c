/* pci_layout.c - what configuration space of our functions looks like after power-on. */
#include <errno.h>
#include <linux/pci_regs.h>

#include "base/bytes.h"
#include "base/error.h"
#include "pci/pci_card.h"
#include "pci/pci_function_type.h"

enum { EXPRESS_BYTES = 0x3c }; /* version 2 */

/* A link that lspci has nothing to say about: as wide and as fast as it can be. */
enum {
	LINK_SPEED = PCI_EXP_LNKCAP_SLS_16_0GB,
	LINK_WIDTH = 16 << 4,
	LINK_SPEEDS = PCI_EXP_LNKCAP2_SLS_2_5GB | PCI_EXP_LNKCAP2_SLS_5_0GB |
		      PCI_EXP_LNKCAP2_SLS_8_0GB | PCI_EXP_LNKCAP2_SLS_16_0GB,
};

static void add_header(struct pci_config *c, const struct pci_function_options *o)
{
	pci_config_set(c, PCI_VENDOR_ID, 2, o->vendor);
	pci_config_set(c, PCI_DEVICE_ID, 2, o->device);
	pci_config_set(c, PCI_CLASS_REVISION, 4, o->class_code << 8 | o->revision);
	pci_config_set(c, PCI_SUBSYSTEM_VENDOR_ID, 2, o->subsystem_vendor);
	pci_config_set(c, PCI_SUBSYSTEM_ID, 2, o->subsystem);
	pci_config_set(c, PCI_INTERRUPT_PIN, 1, 1);
	pci_config_allow(c, PCI_COMMAND, 2,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
				 PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	pci_config_allow_clear(c, PCI_STATUS, 2,
			       PCI_STATUS_PARITY | PCI_STATUS_SIG_TARGET_ABORT |
				       PCI_STATUS_REC_TARGET_ABORT | PCI_STATUS_REC_MASTER_ABORT |
				       PCI_STATUS_SIG_SYSTEM_ERROR | PCI_STATUS_DETECTED_PARITY);
	pci_config_allow(c, PCI_CACHE_LINE_SIZE, 1, 0xff);
	pci_config_allow(c, PCI_INTERRUPT_LINE, 1, 0xff);
}

/* PCI Power Management 1.2: D0 and D3hot; registers survive D3hot. */
static uint16_t add_power(struct pci_config *c)
{
	uint16_t at = pci_config_add(c, PCI_CAP_ID_PM, PCI_PM_SIZEOF);

	pci_config_set(c, at + PCI_PM_PMC, 2, 3);
	pci_config_set(c, at + PCI_PM_CTRL, 2, PCI_PM_CTRL_NO_SOFT_RESET);
	pci_config_allow(c, at + PCI_PM_CTRL, 2, PCI_PM_CTRL_STATE_MASK);
	return at;
}

static void add_link(struct pci_config *c, uint16_t at)
{
	pci_config_set(c, at + PCI_EXP_LNKCAP, 4,
		       LINK_SPEED | LINK_WIDTH | 1 << 22 /* ASPM optionality */);
	pci_config_set(c, at + PCI_EXP_LNKSTA, 2, LINK_SPEED | LINK_WIDTH | PCI_EXP_LNKSTA_SLC);
	pci_config_allow(c, at + PCI_EXP_LNKCTL, 2,
			 PCI_EXP_LNKCTL_RCB | PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES);
	pci_config_set(c, at + PCI_EXP_LNKCAP2, 4, LINK_SPEEDS);
	pci_config_set(c, at + PCI_EXP_LNKCTL2, 2, LINK_SPEED);
	pci_config_allow(c, at + PCI_EXP_LNKCTL2, 2, PCI_EXP_LNKCTL2_TLS);
}

/* PCIe 5.0, 7.5.3, of an endpoint. */
static uint16_t add_express(struct pci_config *c)
{
	uint16_t at = pci_config_add(c, PCI_CAP_ID_EXP, EXPRESS_BYTES);

	pci_config_set(c, at + PCI_EXP_FLAGS, 2, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	pci_config_set(c, at + PCI_EXP_DEVCAP, 4,
		       1 /* payload up to 256 bytes */ | PCI_EXP_DEVCAP_EXT_TAG |
			       PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	pci_config_set(c, at + PCI_EXP_DEVCTL, 2,
		       PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN |
			       PCI_EXP_DEVCTL_READRQ_512B);
	pci_config_allow(c, at + PCI_EXP_DEVCTL, 2,
			 PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE | PCI_EXP_DEVCTL_FERE |
				 PCI_EXP_DEVCTL_URRE | PCI_EXP_DEVCTL_RELAX_EN |
				 PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_EXT_TAG |
				 PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ);
	pci_config_allow_clear(c, at + PCI_EXP_DEVSTA, 2,
			       PCI_EXP_DEVSTA_CED | PCI_EXP_DEVSTA_NFED | PCI_EXP_DEVSTA_FED |
				       PCI_EXP_DEVSTA_URD);
	pci_config_set(c, at + PCI_EXP_DEVCAP2, 4, PCI_EXP_DEVCAP2_COMP_TMOUT_DIS);
	pci_config_allow(c, at + PCI_EXP_DEVCTL2, 2, PCI_EXP_DEVCTL2_COMP_TMOUT_DIS);
	add_link(c, at);
	return at;
}

/* The table from the start of its BAR, pending bits from the next page on. */
static uint16_t add_msix(struct pci_function *f, unsigned bar)
{
	uint32_t pending = align_up(pci_msix_table_bytes(&f->msix), 4096);
	uint64_t size = 4096;
	uint16_t at = pci_config_add(&f->config, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);

	while (size < pending + pci_msix_pending_bytes(&f->msix))
		size *= 2;
	pci_config_set(&f->config, at + PCI_MSIX_FLAGS, 2, f->msix.count - 1);
	pci_config_allow(&f->config, at + PCI_MSIX_FLAGS, 2,
			 PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_config_set(&f->config, at + PCI_MSIX_TABLE, 4, bar);
	pci_config_set(&f->config, at + PCI_MSIX_PBA, 4, pending | bar);
	pci_function_add_bar(f, bar, size, false);
	return at;
}

/* PCIe 5.0, 7.8.4.  Nothing ever goes wrong on our link; the registers behave all the same. */
static void add_advanced_errors(struct pci_config *c)
{
	const uint32_t uncorrectable = PCI_ERR_UNC_DLP | PCI_ERR_UNC_POISON_TLP | PCI_ERR_UNC_FCP |
				       PCI_ERR_UNC_COMP_TIME | PCI_ERR_UNC_COMP_ABORT |
				       PCI_ERR_UNC_UNX_COMP | PCI_ERR_UNC_RX_OVER |
				       PCI_ERR_UNC_MALF_TLP | PCI_ERR_UNC_ECRC | PCI_ERR_UNC_UNSUP;
	const uint32_t correctable = PCI_ERR_COR_RCVR | PCI_ERR_COR_BAD_TLP | PCI_ERR_COR_BAD_DLLP |
				     PCI_ERR_COR_REP_ROLL | PCI_ERR_COR_REP_TIMER |
				     PCI_ERR_COR_ADV_NFAT;
	uint16_t at = pci_config_add_extended(c, PCI_EXT_CAP_ID_ERR, 2, 0x48);

	pci_config_allow_clear(c, at + PCI_ERR_UNCOR_STATUS, 4, uncorrectable);
	pci_config_allow(c, at + PCI_ERR_UNCOR_MASK, 4, uncorrectable);
	pci_config_allow(c, at + PCI_ERR_UNCOR_SEVER, 4, uncorrectable);
	pci_config_set(c, at + PCI_ERR_UNCOR_SEVER, 4,
		       PCI_ERR_UNC_DLP | PCI_ERR_UNC_FCP | PCI_ERR_UNC_RX_OVER |
			       PCI_ERR_UNC_MALF_TLP);
	pci_config_allow_clear(c, at + PCI_ERR_COR_STATUS, 4, correctable);
	pci_config_allow(c, at + PCI_ERR_COR_MASK, 4, correctable);
	pci_config_set(c, at + PCI_ERR_COR_MASK, 4, PCI_ERR_COR_ADV_NFAT);
}

/* PCIe 5.0, 7.9.3, and pci_card.h. */
static void add_identity(struct pci_function *f, const struct pci_identity *id)
{
	struct pci_config *c = &f->config;
	uint16_t serial = pci_config_add_extended(c, PCI_EXT_CAP_ID_DSN, 1, 12);
	uint16_t card = pci_config_add_extended(c, PCI_EXT_CAP_ID_VNDR, 1, PCI_CARD_VSEC_BYTES);

	pci_config_set(c, serial + 4, 4, id->card_serial);
	pci_config_set(c, serial + 8, 4, id->card_serial >> 32);
	pci_config_set(c, card + PCI_VNDR_HEADER, 4,
		       PCI_CARD_VSEC_ID | PCI_CARD_VSEC_REVISION << 16 | PCI_CARD_VSEC_BYTES << 20);
	pci_config_set(c, card + PCI_CARD_SERIAL, 4, id->card_serial);
	pci_config_set(c, card + PCI_CARD_SERIAL + 4, 4, id->card_serial >> 32);
	pci_config_set(c, card + PCI_CARD_INDEX, 2, id->index);
	pci_config_set(c, card + PCI_CARD_COUNT, 2, id->count);
	f->identity_capability = serial;
	f->identity_end = card + PCI_CARD_VSEC_BYTES;
}

/* A BAR's lower bits are its kind; all bits above its size can be written, so that writing ones
 * and reading back tells the size. */
void pci_function_add_bar(struct pci_function *f, unsigned bar, uint64_t size, bool wide)
{
	uint16_t at = PCI_BASE_ADDRESS_0 + 4 * bar;

	f->bars[bar].size = size;
	pci_config_allow(&f->config, at, 4, ~(size - 1));
	if (!wide)
		return;
	pci_config_set(&f->config, at, 4,
		       PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
	pci_config_allow(&f->config, at + 4, 4, ~(size - 1) >> 32);
}

int pci_function_open(struct pci_function *f, const struct pci_function_type *type,
		      const struct pci_function_options *o, struct error *e)
{
	*f = (struct pci_function){ .type = type, .control = o->control, .intx = { .fd = -1 } };
	if (pci_msix_open(&f->msix, o->vectors))
		return error_set(e, -ENOMEM, "%u interrupt vectors: out of memory", o->vectors);
	pci_config_init(&f->config);
	add_header(&f->config, o);
	f->power_capability = add_power(&f->config);
	f->express_capability = add_express(&f->config);
	f->msix_bar = o->msix_bar;
	if (o->vectors)
		f->msix_capability = add_msix(f, o->msix_bar);
	add_advanced_errors(&f->config);
	add_identity(f, o->identity);
	return 0;
}
