/* namespace_bed.h - a network namespace of the test's own, with interfaces made by rtnetlink. */
#ifndef NAMESPACE_BED_H
#define NAMESPACE_BED_H

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static inline void namespace_map_root(unsigned user)
{
	char line[32];
	int length = snprintf(line, sizeof(line), "0 %u 1", user);
	int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);

	if (write(fd, line, length) != length)
		perror("uid_map");
	close(fd);
}

/* Before any thread is made: the whole process moves.  Without privileges, into a user namespace
 * as well, and answers false.  Ends a test that may do neither, as skipped. */
static inline bool namespace_enter(void)
{
	unsigned user = geteuid();

	if (!unshare(CLONE_NEWNET))
		return true;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
		printf("unavailable: a network namespace: %s\n", strerror(errno));
		exit(77);
	}
	namespace_map_root(user);
	return false;
}

/* No interface that is made from now on says anything of its own accord. */
static inline void namespace_silence(void)
{
	int fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1)
		perror("disable_ipv6");
	close(fd);
}

/* ---- requests ---- */

struct namespace_request {
	struct nlmsghdr header;
	struct ifinfomsg about;
	char attributes[256];
};

/* NULL data: none yet, what is added until the matching end is nested in it. */
static inline struct rtattr *namespace_add(struct namespace_request *q, unsigned type,
					   const void *data, size_t length)
{
	struct rtattr *a = (struct rtattr *)((char *)q + NLMSG_ALIGN(q->header.nlmsg_len));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(length);
	if (data)
		memcpy(RTA_DATA(a), data, length);
	q->header.nlmsg_len = NLMSG_ALIGN(q->header.nlmsg_len) + RTA_ALIGN(a->rta_len);
	return a;
}

static inline void namespace_end(struct namespace_request *q, struct rtattr *a)
{
	a->rta_len = (char *)q + q->header.nlmsg_len - (char *)a;
}

/* 0 or -errno, the kernel's answer. */
static inline int namespace_do(struct namespace_request *q)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		char rest[512];
	} answer = { 0 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	bool done = send(fd, q, q->header.nlmsg_len, 0) > 0 &&
		    recv(fd, &answer, sizeof(answer), 0) > 0;
	int status = done ? answer.error.error : -errno;

	close(fd);
	return status;
}

static inline void namespace_begin(struct namespace_request *q, unsigned type, unsigned flags)
{
	*q = (struct namespace_request){
		.header.nlmsg_len = NLMSG_LENGTH(sizeof(q->about)),
		.header.nlmsg_type = type,
		.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags,
	};
}

/* ---- interfaces ---- */

static inline int namespace_ioctl(unsigned long what, struct ifreq *about, const char *name)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int status;

	snprintf(about->ifr_name, sizeof(about->ifr_name), "%s", name);
	status = ioctl(fd, what, about) ? -errno : 0;
	close(fd);
	return status;
}

/* Its index, or -errno. */
static inline int namespace_index(const char *name)
{
	struct ifreq about = { 0 };
	int status = namespace_ioctl(SIOCGIFINDEX, &about, name);

	return status ? status : about.ifr_ifindex;
}

static inline int namespace_set_up(const char *name, bool up)
{
	struct ifreq about = { 0 };
	int status = namespace_ioctl(SIOCGIFFLAGS, &about, name);

	if (status)
		return status;
	about.ifr_flags = up ? about.ifr_flags | IFF_UP : about.ifr_flags & ~IFF_UP;
	return namespace_ioctl(SIOCSIFFLAGS, &about, name);
}

static inline int namespace_set_mtu(const char *name, int mtu)
{
	struct ifreq about = { .ifr_mtu = mtu };

	return namespace_ioctl(SIOCSIFMTU, &about, name);
}

/* Two interfaces joined by a cable; 0 queues: as the kernel likes. */
static inline int namespace_add_veth(const char *name, const char *peer, uint32_t queues)
{
	struct namespace_request q;
	struct rtattr *info, *data, *other;
	struct ifinfomsg about = { 0 };

	namespace_begin(&q, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	namespace_add(&q, IFLA_IFNAME, name, strlen(name) + 1);
	if (queues)
		namespace_add(&q, IFLA_NUM_RX_QUEUES, &queues, sizeof(queues));
	if (queues)
		namespace_add(&q, IFLA_NUM_TX_QUEUES, &queues, sizeof(queues));
	info = namespace_add(&q, IFLA_LINKINFO, NULL, 0);
	namespace_add(&q, IFLA_INFO_KIND, "veth", 4);
	data = namespace_add(&q, IFLA_INFO_DATA, NULL, 0);
	other = namespace_add(&q, VETH_INFO_PEER, &about, sizeof(about));
	namespace_add(&q, IFLA_IFNAME, peer, strlen(peer) + 1);
	if (queues)
		namespace_add(&q, IFLA_NUM_RX_QUEUES, &queues, sizeof(queues));
	if (queues)
		namespace_add(&q, IFLA_NUM_TX_QUEUES, &queues, sizeof(queues));
	namespace_end(&q, other);
	namespace_end(&q, data);
	namespace_end(&q, info);
	return namespace_do(&q);
}

/* A bridge with one member. */
static inline int namespace_add_bridge(const char *name, const char *member)
{
	struct namespace_request q;
	struct rtattr *info;
	uint32_t master;
	int status;

	namespace_begin(&q, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	namespace_add(&q, IFLA_IFNAME, name, strlen(name) + 1);
	info = namespace_add(&q, IFLA_LINKINFO, NULL, 0);
	namespace_add(&q, IFLA_INFO_KIND, "bridge", 6);
	namespace_end(&q, info);
	status = namespace_do(&q);
	if (status)
		return status;
	master = namespace_index(name);
	namespace_begin(&q, RTM_NEWLINK, 0);
	q.about.ifi_index = namespace_index(member);
	namespace_add(&q, IFLA_MASTER, &master, sizeof(master));
	return namespace_do(&q);
}

static inline int namespace_delete(const char *name)
{
	struct namespace_request q;

	namespace_begin(&q, RTM_DELLINK, 0);
	q.about.ifi_index = namespace_index(name);
	return namespace_do(&q);
}

/* The 32 bits of an attribute of an interface, perhaps one within another; -ENOENT: it has none. */
static inline int namespace_attribute(const char *name, unsigned type, unsigned inner)
{
	struct namespace_request q;
	char answer[16384] = { 0 };
	struct nlmsghdr *h = (struct nlmsghdr *)answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int found = -ENOENT, length;
	struct rtattr *a = IFLA_RTA(NLMSG_DATA(h));

	namespace_begin(&q, RTM_GETLINK, 0);
	q.about.ifi_index = namespace_index(name);
	if (send(fd, &q, q.header.nlmsg_len, 0) < 0 || recv(fd, answer, sizeof(answer), 0) < 0)
		found = -errno;
	close(fd);
	length = IFLA_PAYLOAD(h);
	while (RTA_OK(a, length)) {
		if (a->rta_type == type && inner) {
			length = RTA_PAYLOAD(a);
			a = RTA_DATA(a);
			type = inner;
			inner = 0;
			continue;
		}
		if (a->rta_type == type)
			memcpy(&found, RTA_DATA(a), sizeof(found));
		a = RTA_NEXT(a, length);
	}
	return found;
}

/* How many have asked for all frames on its wire, or -errno. */
static inline int namespace_promiscuity(const char *name)
{
	return namespace_attribute(name, IFLA_PROMISCUITY, 0);
}

/* The number of the XDP program that is attached to it; 0: none. */
static inline int namespace_xdp(const char *name)
{
	int program = namespace_attribute(name, IFLA_XDP, IFLA_XDP_PROG_ID);

	return program == -ENOENT ? 0 : program;
}

#endif
