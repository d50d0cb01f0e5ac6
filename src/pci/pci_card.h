/* pci_card.h - which functions belong to one card: the vendor-specific extended capability that
 * every function of ours has (PCIe 5.0, 7.9.5), for the driver that manages a card's functions.
 *
 *	offset	bytes
 *	0	4	capability header: identifier 0x000b, version 1, next
 *	4	4	PCI_CARD_VSEC_ID, PCI_CARD_VSEC_REVISION, PCI_CARD_VSEC_BYTES
 *	8	8	card serial number, the one of the Device Serial Number capability too
 *	16	2	index of this function on the card, from 0
 *	18	2	functions of the card
 *	20	4	reserved, 0
 */
#ifndef PCI_PCI_CARD_H
#define PCI_PCI_CARD_H

enum {
	PCI_CARD_VSEC_ID = 0x0b0d,
	PCI_CARD_VSEC_REVISION = 1,
	PCI_CARD_VSEC_BYTES = 24,
	PCI_CARD_SERIAL = 8,	/* offsets */
	PCI_CARD_INDEX = 16,
	PCI_CARD_COUNT = 18,
};

#endif
