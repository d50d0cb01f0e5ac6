/* packet_channel.h - one of an interface's channels, by AF_XDP (Documentation/networking/af_xdp.rst
 * of Linux): memory of ours, cut into chunks, and four rings that say who has which.
 *
 * Opened and closed by the control thread; between them it has one user at a time.
 */
#ifndef NETWORK_PACKET_CHANNEL_H
#define NETWORK_PACKET_CHANNEL_H

#include <stdbool.h>

#include "network/network_port.h"
#include "network/packet_interface.h"

struct packet_channel;

struct packet_channel_options {
	bool generic;		/* not by the driver, but in front of the kernel's own network */
	bool copy, zero_copy;	/* insist on the one or the other */
};

enum { PACKET_CHANNEL_MTU_MAX = 3800 };	/* bytes: a frame has to fit into a chunk */

/* The first channel of an interface brings the XDP program, the last takes it away.  0, or -errno
 * with *e. */
int packet_channel_open(struct packet_channel **to, const struct packet_interface *i,
			unsigned number, const struct packet_channel_options *o, struct error *e);
void packet_channel_close(struct packet_channel *c);	/* NULL is ignored */

int packet_channel_fd(const struct packet_channel *c);	/* readable: a frame has come */
bool packet_channel_copies(const struct packet_channel *c);

/* 0; -EMSGSIZE, it is longer than the interface or a chunk takes; -ENOBUFS, no chunk is free. */
int packet_channel_send(struct packet_channel *c, const struct iovec *iov, unsigned n,
			size_t bytes);

/* Shows the kernel what was sent.  False: some of it has not left yet, and nobody but a later
 * flush will see to it. */
bool packet_channel_flush(struct packet_channel *c);

/* As network_peek().  *refused counts what the kernel cannot have meant. */
int packet_channel_peek(struct packet_channel *c, struct network_frame *f, uint64_t *refused);
void packet_channel_consume(struct packet_channel *c);

/* What has come so far is forgotten: how many frames. */
unsigned packet_channel_drain(struct packet_channel *c);

#endif
