/* vxlan_socket.h - UDP sockets for VXLAN: who may bind what, and how the kernel is to treat it.
 *
 * All of them are non-blocking, and closed on exec.  Without privileges.
 */
#ifndef NETWORK_VXLAN_SOCKET_H
#define NETWORK_VXLAN_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct vxlan_address;
struct vxlan_options;

/* To listen at o->local.  first: of this process; fails with -EADDRINUSE when another process has
 * the port.  Later ones share its datagrams, flow by flow.  A descriptor, or -errno with *e. */
int vxlan_socket_listen(const struct vxlan_options *o, bool first, struct error *e);

/* To listen at o's group, which it joins until it is closed. */
int vxlan_socket_join(const struct vxlan_options *o, struct error *e);

/* To send with, from a port of 49152..65535 (RFC 7348, 5) near `wish`, which is any number.
 * *e may be NULL. */
int vxlan_socket_send(const struct vxlan_options *o, uint32_t wish, struct error *e);

/* The largest outer packet, in bytes, that passes to an address; 0: not known, as there is no way
 * there.  Any thread; opens a socket for a moment. */
uint32_t vxlan_socket_mtu(const struct vxlan_options *o, const struct vxlan_address *to);

#endif
