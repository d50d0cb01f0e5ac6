/* packet_socket.h - the port packet: by AF_PACKET sockets, one per queue (packet(7)). */
#ifndef NETWORK_PACKET_SOCKET_H
#define NETWORK_PACKET_SOCKET_H

#include "network/network_provider.h"
#include "network/packet_interface.h"

struct packet_socket;
struct packet_sockets;

/* Control thread.  Opens all, which only count what comes until they are started, and fills in
 * *limits.  0, or -errno with *e. */
int packet_sockets_open(struct packet_sockets **to, const struct packet_interface *i,
			unsigned queues, struct network_limits *limits, struct error *e);
void packet_sockets_close(struct packet_sockets *p);	/* none is started; NULL is ignored */

/* Any thread, as network_provider.set_active. */
void packet_sockets_set_active(struct packet_sockets *p, unsigned active);

/* The queue's reactor, as the entries of struct network_provider. */
int packet_socket_start(struct packet_socket **to, struct packet_sockets *p,
			struct network_layer_queue *q, struct error *e);
void packet_socket_stop(struct packet_socket *s);
int packet_socket_send(struct packet_socket *s, const struct virtio_net_hdr *header,
		       const struct iovec *iov, unsigned n, size_t bytes);
void packet_socket_flush(struct packet_socket *s);
int packet_socket_peek(struct packet_socket *s, struct network_frame *f);
void packet_socket_consume(struct packet_socket *s);

#endif
