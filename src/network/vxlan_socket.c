/* vxlan_socket.c - UDP sockets for VXLAN. */
#include "network/vxlan_socket.h"

#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "network/vxlan_options.h"

/* Younger than some C libraries' headers: linux/udp.h of 5.0. */
enum { OPTION_UDP_GRO = 104 };

enum {
	PORT_FIRST = 49152,
	PORT_COUNT = 65536 - PORT_FIRST,
	PORT_TRIES = 64,
	BUFFER = 4 << 20, /* bytes of the kernel's, which allows less (net.core.rmem_max) */
};

static bool set(int fd, int level, int name, int value)
{
	return !setsockopt(fd, level, name, &value, sizeof(value));
}

static int fail(int *fd, struct error *e, const char *what)
{
	int err = -errno;

	fd_close(fd);
	return error_set(e, err, "%s: %s", what, strerror(-err));
}

/* A socket of the peers' family, on the device. */
static int open_socket(const struct vxlan_options *o, struct error *e)
{
	int fd = socket(o->local.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set(e, -errno, "socket: %s", strerror(errno));
	if (o->local.any.sa_family == AF_INET6)
		set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (*o->device && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, o->device, strlen(o->device)))
		return fail(&fd, e, o->device);
	return fd;
}

static int bind_to(int fd, const struct vxlan_address *a)
{
	return bind(fd, &a->any, vxlan_address_length(a)) ? -errno : 0;
}

/* ---- listening ---- */

/* What does not work here is done without.  A checksum of zero must be taken (RFC 7348, 5, and for
 * IPv6 RFC 6936, 5: this port is for tunnels): the inner frame has its own.  Datagrams to groups
 * are for the sockets that joined. */
static void prepare_to_receive(int fd, sa_family_t family)
{
	set(fd, SOL_SOCKET, SO_RCVBUF, BUFFER);
	set(fd, IPPROTO_UDP, OPTION_UDP_GRO, 1);
	if (family == AF_INET6) {
		set(fd, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1);
		set(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0);
	} else {
		set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
	}
}

static int in_use(const struct vxlan_options *o, int err, struct error *e)
{
	char text[VXLAN_ADDRESS_TEXT];

	vxlan_address_print(&o->local, text);
	if (err == -EADDRINUSE)
		return error_set(e, err,
				 "%s: in use by another process, or a vxlan device of the kernel",
				 text);
	if (err == -EADDRNOTAVAIL)
		return error_set(e, err, "%s: no address of this host", text);
	return error_set(e, err, "%s: %s", text, strerror(-err));
}

/* The first is bound without SO_REUSEPORT, and so only if nobody else is there; set afterwards, it
 * lets the later ones in. */
int vxlan_socket_listen(const struct vxlan_options *o, bool first, struct error *e)
{
	int fd = open_socket(o, e), status;

	if (fd < 0)
		return fd;
	if (!first)
		set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	prepare_to_receive(fd, o->local.any.sa_family);
	status = bind_to(fd, &o->local);
	if (status) {
		fd_close(&fd);
		return in_use(o, status, e);
	}
	set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	return fd;
}

static bool join(int fd, const struct vxlan_options *o)
{
	const struct vxlan_address *group = &o->peers[o->group];

	if (group->any.sa_family == AF_INET6) {
		struct ipv6_mreq v6 = { group->v6.sin6_addr, o->device_index };

		return !setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &v6, sizeof(v6));
	}
	struct ip_mreqn v4 = { group->v4.sin_addr, o->local.v4.sin_addr, o->device_index };

	return !setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &v4, sizeof(v4));
}

/* Bound to the group itself, so that it hears nothing else: each socket of a group gets a copy of
 * every datagram, in this process and others.  Without SO_REUSEPORT the sockets that listen at
 * every address would not let it in. */
int vxlan_socket_join(const struct vxlan_options *o, struct error *e)
{
	int fd = open_socket(o, e);

	if (fd < 0)
		return fd;
	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	prepare_to_receive(fd, o->local.any.sa_family);
	if (bind_to(fd, &o->peers[o->group]) || !join(fd, o))
		return fail(&fd, e, "joining the group");
	return fd;
}

/* ---- sending ---- */

/* RFC 7348, 4.3: tunnel end points must not fragment; too large a datagram is EMSGSIZE.  What goes
 * to a group does not come back: ports of one host are joined by "switch:". */
static bool prepare_ipv4(int fd, const struct vxlan_options *o)
{
	struct ip_mreqn from = { { 0 }, o->local.v4.sin_addr, o->device_index };

	if (o->ttl && (!set(fd, IPPROTO_IP, IP_TTL, o->ttl) ||
		       !set(fd, IPPROTO_IP, IP_MULTICAST_TTL, o->ttl)))
		return false;
	if (o->group >= 0 && setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &from, sizeof(from)))
		return false;
	return set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO) &&
	       set(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0) &&
	       set(fd, SOL_SOCKET, SO_NO_CHECK, !o->checksum);
}

static bool prepare_ipv6(int fd, const struct vxlan_options *o)
{
	if (o->ttl && (!set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, o->ttl) ||
		       !set(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, o->ttl)))
		return false;
	if (o->group >= 0 && !set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, o->device_index))
		return false;
	return set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO) &&
	       set(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 1) &&
	       set(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0) &&
	       set(fd, IPPROTO_UDP, UDP_NO_CHECK6_TX, !o->checksum);
}

static int bind_in_range(int fd, const struct vxlan_options *o, uint32_t wish)
{
	struct vxlan_address from = o->local;
	int status = -EADDRINUSE;

	for (unsigned i = 0; status == -EADDRINUSE && i < PORT_TRIES; i++) {
		vxlan_address_set_port(&from, PORT_FIRST + (wish + i * 61u) % PORT_COUNT);
		status = bind_to(fd, &from);
	}
	return status;
}

int vxlan_socket_send(const struct vxlan_options *o, uint32_t wish, struct error *e)
{
	int fd = open_socket(o, e), status;

	if (fd < 0)
		return fd;
	set(fd, SOL_SOCKET, SO_SNDBUF, BUFFER);
	if (!(o->local.any.sa_family == AF_INET ? prepare_ipv4(fd, o) : prepare_ipv6(fd, o)))
		return fail(&fd, e, "options of the sending socket");
	status = bind_in_range(fd, o, wish);
	if (!status)
		return fd;
	fd_close(&fd);
	return in_use(o, status, e);
}

uint32_t vxlan_socket_mtu(const struct vxlan_options *o, const struct vxlan_address *to)
{
	bool v4 = to->any.sa_family == AF_INET;
	int fd = vxlan_socket_send(o, 0, NULL), mtu = 0;
	socklen_t size = sizeof(mtu);

	if (fd < 0)
		return 0;
	if (connect(fd, &to->any, vxlan_address_length(to)) ||
	    getsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_MTU : IPV6_MTU, &mtu, &size))
		mtu = 0;
	fd_close(&fd);
	return mtu;
}
