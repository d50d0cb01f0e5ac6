/* packet_xdp.h - the port packet: by AF_XDP, all of an interface's channels (packet_channel.h). */
#ifndef NETWORK_PACKET_XDP_H
#define NETWORK_PACKET_XDP_H

#include "network/network_provider.h"
#include "network/packet_channel.h"

struct packet_xdp;
struct packet_xdp_queue;

/* Control thread.  Opens all channels, and fills in *limits.  0, or -errno with *e. */
int packet_xdp_open(struct packet_xdp **to, const struct packet_interface *i, unsigned queues,
		    const struct packet_channel_options *o, struct network_limits *limits,
		    struct error *e);
void packet_xdp_close(struct packet_xdp *p);	/* no queue is started; NULL is ignored */

bool packet_xdp_copies(const struct packet_xdp *p);

/* Any thread, as network_provider.set_active. */
void packet_xdp_set_active(struct packet_xdp *p, unsigned active);

/* Any thread.  While it is down frames are refused, which would wait in rings until it is up. */
void packet_xdp_set_link(struct packet_xdp *p, bool up);

/* The queue's reactor, as the entries of struct network_provider. */
int packet_xdp_start(struct packet_xdp_queue **to, struct packet_xdp *p,
		     struct network_layer_queue *q, struct error *e);
void packet_xdp_stop(struct packet_xdp_queue *q);
int packet_xdp_send(struct packet_xdp_queue *q, const struct iovec *iov, unsigned n, size_t bytes);
void packet_xdp_flush(struct packet_xdp_queue *q);
int packet_xdp_peek(struct packet_xdp_queue *q, struct network_frame *f);
void packet_xdp_consume(struct packet_xdp_queue *q);

#endif
