/* packet_interface.h - what the port packet: has to know of the kernel's interface. */
#ifndef NETWORK_PACKET_INTERFACE_H
#define NETWORK_PACKET_INTERFACE_H

#include <stdbool.h>
#include <stdint.h>

struct error;

struct packet_interface {
	char name[16];		/* IFNAMSIZ, with the final zero */
	int index;
	uint32_t mtu;		/* bytes */
	unsigned channels;	/* queues that frames come from, at least 1 */
	char driver[32];	/* "veth"; "": it does not say */
	bool takes_tags_out;	/* of frames that come, IEEE 802.1Q (ethtool -K NAME rxvlan) */
};

/* Control thread.  0, or with *e: -ENODEV there is none of this name, -EINVAL it is not Ethernet,
 * or what the kernel says. */
int packet_interface_find(struct packet_interface *i, const char *name, struct error *e);

/* An AF_PACKET socket that nothing comes to yet.  0, or -errno with *e. */
int packet_interface_socket(int *fd, struct error *e);

/* All frames on the wire come, whomever they are for, until the descriptor is closed.  0, or
 * -errno with *e. */
int packet_interface_promiscuous(const struct packet_interface *i, int *fd, struct error *e);

#endif
