/* link_provider.h - how to reach memory that the VMM did not share.  The face for implementers:
 * vfio-user's DMA messages, a card's DMA engine, the simulation's fake. */
#ifndef LINK_LINK_PROVIDER_H
#define LINK_LINK_PROVIDER_H

struct link_remote;
struct link_transfer;

struct link_remote_type {
	const char *name;	/* "vfio-user" */

	/* Begins the transfer of t->part bytes, all inside one remote region of the map, between
	 * t->iova + t->finished and t->local + t->finished.  Any queue's reactor.  Ends, once and
	 * later, in link_transfer_complete() on t->reactor's thread.  Transfers may be carried out
	 * in any order: who needs an order waits. */
	void (*read)(struct link_remote *remote, struct link_transfer *t);
	void (*write)(struct link_remote *remote, struct link_transfer *t);
};

struct link_remote {		/* embedded in its owner */
	const struct link_remote_type *type;
};

/* For link_model.c: carries out a transfer that has waited; ends in t->done, now or later. */
void link_transfer_begin_now(struct link_transfer *t);

/* status: 0 or -errno. */
void link_transfer_complete(struct link_transfer *t, int status);

#endif
