/* vxlan_endpoint.h - a UDP port of this process, at one address and device, and the VXLAN ports
 * behind it, told apart by their VNI.
 *
 * Each open queue has a socket of its own there, and the kernel spreads flows over all of them:
 * what is heard on any one may be for any port.  Endpoints are found by their address, and live as
 * long as ports are joined.
 */
#ifndef NETWORK_VXLAN_ENDPOINT_H
#define NETWORK_VXLAN_ENDPOINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct error;
struct vxlan_endpoint;
struct vxlan_port;
struct vxlan_port_list;

/* Control thread.  Sets port->endpoint; 0, -EEXIST: its VNI is another's there, -EADDRINUSE,
 * -ENOMEM and so on, with *e. */
int vxlan_endpoint_join(struct vxlan_port *port, struct error *e);
/* No queue of the port is open.  When it returns nobody uses the port any more. */
void vxlan_endpoint_leave(struct vxlan_port *port);

/* Whoever receives: embedded in its owner, zeroed. */
struct vxlan_listener {
	struct vxlan_endpoint *endpoint;	/* the rest is private */
	_Atomic bool reading;
	struct vxlan_listener *next;
};

/* A queue's reactor.  A socket of the endpoint, to be closed by the caller before end(), or -errno
 * with *e. */
int vxlan_listener_begin(struct vxlan_listener *l, const struct vxlan_port *port, struct error *e);
void vxlan_listener_end(struct vxlan_listener *l);

/* The ports in a list stay between enter and leave, which is short: joining and leaving wait. */
const struct vxlan_port_list *vxlan_listener_enter(struct vxlan_listener *l);
void vxlan_listener_leave(struct vxlan_listener *l);
struct vxlan_port *vxlan_port_list_find(const struct vxlan_port_list *list, uint32_t vni);
bool vxlan_port_list_has_several(const struct vxlan_port_list *list);

#endif
