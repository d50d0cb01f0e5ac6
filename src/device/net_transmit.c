/* net_transmit.c - frames of the driver's, on their way to the port (virtio 1.3, 5.1.6.2). */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "device/net_state.h"
#include "virtio/virtio_device.h"

/* What a header asks for must have been agreed on: by feature, or the frame is no good. */
static bool is_agreed(const struct net *n, const struct virtio_net_hdr *h)
{
	uint8_t type = h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	if (likely(!h->flags && !h->gso_type))
		return true;
	if ((h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !net_accepted(n, VIRTIO_NET_F_CSUM))
		return false;
	if ((h->gso_type & VIRTIO_NET_HDR_GSO_ECN) && !net_accepted(n, VIRTIO_NET_F_HOST_ECN))
		return false;
	switch (type) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return net_accepted(n, VIRTIO_NET_F_HOST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return net_accepted(n, VIRTIO_NET_F_HOST_TSO6);
	case VIRTIO_NET_HDR_GSO_UDP:
		return net_accepted(n, VIRTIO_NET_F_HOST_UFO);
	default:
		return net_accepted(n, NET_F_HOST_USO);
	}
}

static int send(struct net_queue *nq, const struct virtqueue_chain *c)
{
	struct virtio_net_hdr header;

	if (unlikely(c->header_bytes < nq->header || c->writable))
		return -EINVAL;
	memcpy(&header, c->header, sizeof(header));
	/* virtio 1.3, 5.1.6.2: other flags mean nothing on this way, and are to be ignored */
	header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	if (unlikely(!is_agreed(nq->net, &header)))
		return -EINVAL;
	return network_send(nq->port, &header, c->iov, c->readable, c->readable_bytes);
}

void net_transmit_work(struct net_queue *nq)
{
	struct virtqueue_chain *c;

	net_follow_coalescing(nq);
	while (virtio_queue_take(nq->queue, &c)) {
		int status = send(nq, c);

		if (likely(!status)) {
			counter_add(&nq->numbers.sent_frames, 1);
			counter_add(&nq->numbers.sent_bytes, c->readable_bytes);
		} else {
			counter_add(status == -EINVAL ? &nq->numbers.sent_refused
						      : &nq->numbers.sent_lost,
				    1);
		}
		virtio_queue_return(nq->queue, c, 0, 0);
	}
	network_flush(nq->port);
}

int net_transmit_start(struct net_queue *nq, struct error *e)
{
	nq->coalescing_seen = 0;
	return net_pair_open(nq, e);
}

void net_transmit_stop(struct net_queue *nq)
{
	net_pair_close(nq);
}
