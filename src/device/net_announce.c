/* net_announce.c - tells the network where a VM is now. */
#include <string.h>

#include "device/net_state.h"
#include "virtio/virtio_device.h"

enum { RARP_BYTES = 60 };

/* After a VM's move: the driver knows all its addresses, and is asked to announce them (virtio 1.3,
 * 5.1.6.5.4).  Where it does not know how, RFC 903 as VMMs use it: a broadcast from the address,
 * which is what switches learn from, by the first pair that is started, on that pair's worker. */
void net_announce(struct virtio_device *d, const uint8_t *mac)
{
	struct net *n = virtio_device_state(d);

	if (net_accepted(n, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		atomic_store(&n->announcing, true);
		virtio_device_config_changed(d);
		return;
	}
	memcpy(n->announced, mac, sizeof(n->announced));
	atomic_store(&n->rarp_wanted, true);
	if (!atomic_exchange(&n->rarp_posted, true))
		reactor_post(virtio_device_queue_reactor(d, 0), &n->rarp);
}

static void build_rarp(uint8_t *frame, const uint8_t *mac)
{
	static const uint8_t head[] = {
		0x80, 0x35,             /* RARP */
		0,    1,    8, 0, 6, 4, /* Ethernet, IPv4 and the sizes of their addresses */
		0,    3,                /* request reverse */
	};

	memset(frame, 0, RARP_BYTES);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	memcpy(frame + 12, head, sizeof(head));
	memcpy(frame + 22, mac, 6);
	memcpy(frame + 32, mac, 6);
}

void net_send_rarp(void *arg)
{
	static const struct virtio_net_hdr nothing_undone;
	struct net *n = arg;
	uint8_t frame[RARP_BYTES];
	struct iovec iov = { frame, sizeof(frame) };

	atomic_store(&n->rarp_posted, false);
	if (!n->pair[0].port || !atomic_exchange(&n->rarp_wanted, false))
		return;
	build_rarp(frame, n->announced);
	network_send(n->pair[0].port, &nothing_undone, &iov, 1, sizeof(frame));
	network_flush(n->pair[0].port);
}
