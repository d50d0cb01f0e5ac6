/* packet_interface.c - what the port packet: has to know of the kernel's interface. */
#include "network/packet_interface.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"

static int ask(int fd, const char *name, unsigned long what, struct ifreq *about)
{
	memcpy(about->ifr_name, name, strnlen(name, sizeof(about->ifr_name) - 1));
	return ioctl(fd, what, about) ? -errno : 0;
}

/* Not every driver answers. */
static void ask_driver(struct packet_interface *i, int fd)
{
	struct ethtool_drvinfo driver = { .cmd = ETHTOOL_GDRVINFO };
	struct ethtool_channels channels = { .cmd = ETHTOOL_GCHANNELS };
	struct ethtool_value flags = { .cmd = ETHTOOL_GFLAGS };
	struct ifreq about = { .ifr_data = &driver };

	if (!ask(fd, i->name, SIOCETHTOOL, &about))
		memcpy(i->driver, driver.driver, sizeof(i->driver) - 1);
	about = (struct ifreq){ .ifr_data = &flags };
	if (!ask(fd, i->name, SIOCETHTOOL, &about))
		i->takes_tags_out = flags.data & ETH_FLAG_RXVLAN;
	i->channels = 1;
	about = (struct ifreq){ .ifr_data = &channels };
	if (!ask(fd, i->name, SIOCETHTOOL, &about) && channels.combined_count + channels.rx_count)
		i->channels = channels.combined_count + channels.rx_count;
}

static int ask_all(struct packet_interface *i, int fd, struct error *e)
{
	struct ifreq index = { 0 }, mtu = { 0 }, address = { 0 };
	int status = ask(fd, i->name, SIOCGIFINDEX, &index);

	status = status ? status : ask(fd, i->name, SIOCGIFMTU, &mtu);
	status = status ? status : ask(fd, i->name, SIOCGIFHWADDR, &address);
	if (status == -ENODEV)
		return error_set(e, status, "there is no interface of this name");
	if (status)
		return error_set(e, status, "%s", strerror(-status));
	if (address.ifr_hwaddr.sa_family != ARPHRD_ETHER)
		return error_set(e, -EINVAL, "not an Ethernet interface (type %d)",
				 address.ifr_hwaddr.sa_family);
	i->index = index.ifr_ifindex;
	i->mtu = mtu.ifr_mtu;
	ask_driver(i, fd);
	return 0;
}

int packet_interface_find(struct packet_interface *i, const char *name, struct error *e)
{
	int fd, status;

	*i = (struct packet_interface){ 0 };
	if (!*name || strlen(name) >= sizeof(i->name))
		return error_set(e, -EINVAL, "not the name of an interface: \"packet:IFNAME\"");
	strcpy(i->name, name);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(e, -errno, "socket: %s", strerror(errno));
	status = ask_all(i, fd, e);
	close(fd);
	return status;
}

int packet_interface_socket(int *fd, struct error *e)
{
	*fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (*fd >= 0)
		return 0;
	if (errno == EPERM)
		return error_set(e, -EPERM, "a raw interface needs CAP_NET_RAW");
	return error_set(e, -errno, "AF_PACKET: %s", strerror(errno));
}

int packet_interface_promiscuous(const struct packet_interface *i, int *fd, struct error *e)
{
	struct packet_mreq all = { .mr_ifindex = i->index, .mr_type = PACKET_MR_PROMISC };
	int status = packet_interface_socket(fd, e);

	if (status || !setsockopt(*fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)))
		return status;
	status = error_set(e, -errno, "promiscuous mode: %s", strerror(errno));
	fd_close(fd);
	return status;
}
