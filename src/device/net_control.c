/* net_control.c - the control queue's commands (virtio 1.3, 5.1.6.5).
 *
 * A command is two bytes, its data, and room for the answer: one byte, the last that may be
 * written.  What is not understood, not agreed on, or malformed is answered with an error and
 * changes nothing.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/iov.h"
#include "device/net_state.h"
#include "virtio/virtio_device.h"

enum { COMMAND_BYTES = 2 };

struct net_command {
	struct net_queue *nq;
	const struct virtqueue_chain *chain;
	uint8_t number;
};

/* Whether the command's data is exactly n bytes, which are copied. */
static bool data_is(const struct net_command *c, void *to, size_t n)
{
	return c->chain->readable_bytes == n &&
	       iov_copy_from(c->chain->iov, c->chain->readable, 0, to, n) == n;
}

/* ---- which frames ---- */

static int receive_mode(const struct net_command *c)
{
	static const enum net_filter_flag flags[] = {
		[VIRTIO_NET_CTRL_RX_PROMISC] = NET_PROMISCUOUS,
		[VIRTIO_NET_CTRL_RX_ALLMULTI] = NET_ALL_MULTICAST,
		[VIRTIO_NET_CTRL_RX_ALLUNI] = NET_ALL_UNICAST,
		[VIRTIO_NET_CTRL_RX_NOMULTI] = NET_NO_MULTICAST,
		[VIRTIO_NET_CTRL_RX_NOUNI] = NET_NO_UNICAST,
		[VIRTIO_NET_CTRL_RX_NOBCAST] = NET_NO_BROADCAST,
	};
	unsigned feature = c->number < VIRTIO_NET_CTRL_RX_ALLUNI ? VIRTIO_NET_F_CTRL_RX
								 : VIRTIO_NET_F_CTRL_RX_EXTRA;
	uint8_t on;

	if (c->number >= ARRAY_LENGTH(flags) || !net_accepted(c->nq->net, feature) ||
	    !data_is(c, &on, 1) || on > 1)
		return -EINVAL;
	net_filter_set_flag(&c->nq->net->filter, flags[c->number], on);
	return 0;
}

/* A list: its length, then that many addresses, `at` bytes into the data.  *end: behind it. */
static int find_addresses(const struct net_command *c, uint64_t at, uint32_t *count, uint64_t *end)
{
	uint8_t word[4];

	if (iov_copy_from(c->chain->iov, c->chain->readable, at, word, 4) != 4)
		return -EINVAL;
	*count = load_le32(word);
	*end = at + 4 + 6ull * *count;
	return *end <= c->chain->readable_bytes ? 0 : -EINVAL;
}

static void set_addresses(const struct net_command *c, bool multicast, uint64_t at, uint32_t count)
{
	uint8_t macs[6 * NET_FILTER_ADDRESSES];

	if (count <= NET_FILTER_ADDRESSES)
		iov_copy_from(c->chain->iov, c->chain->readable, at + 4, macs, 6ull * count);
	net_filter_set_addresses(&c->nq->net->filter, multicast, macs, count);
}

static int address_tables(const struct net_command *c)
{
	uint32_t unicast, multicast;
	uint64_t middle, end;

	if (!net_accepted(c->nq->net, VIRTIO_NET_F_CTRL_RX) ||
	    find_addresses(c, 0, &unicast, &middle) ||
	    find_addresses(c, middle, &multicast, &end) || end != c->chain->readable_bytes)
		return -EINVAL;
	set_addresses(c, false, 0, unicast);
	set_addresses(c, true, middle, multicast);
	return 0;
}

static int own_address(const struct net_command *c)
{
	uint8_t mac[6];

	if (!net_accepted(c->nq->net, VIRTIO_NET_F_CTRL_MAC_ADDR) || !data_is(c, mac, 6) ||
	    (mac[0] & 1))
		return -EINVAL;
	atomic_store(&c->nq->net->filter.own, net_address(mac));
	return 0;
}

static int addresses(const struct net_command *c)
{
	switch (c->number) {
	case VIRTIO_NET_CTRL_MAC_TABLE_SET:
		return address_tables(c);
	case VIRTIO_NET_CTRL_MAC_ADDR_SET:
		return own_address(c);
	default:
		return -EINVAL;
	}
}

static int vlans(const struct net_command *c)
{
	uint8_t word[2];

	if (c->number > VIRTIO_NET_CTRL_VLAN_DEL ||
	    !net_accepted(c->nq->net, VIRTIO_NET_F_CTRL_VLAN) || !data_is(c, word, 2) ||
	    load_le16(word) >= 4096)
		return -EINVAL;
	net_filter_set_vlan(&c->nq->net->filter, load_le16(word),
			    c->number == VIRTIO_NET_CTRL_VLAN_ADD);
	return 0;
}

/* ---- how many queues, what in a frame may be undone ---- */

static int pairs(const struct net_command *c)
{
	struct net *n = c->nq->net;
	uint8_t word[2];
	unsigned count;

	if (c->number != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !net_accepted(n, VIRTIO_NET_F_MQ) ||
	    !data_is(c, word, 2))
		return -EINVAL;
	count = load_le16(word);
	if (!count || count > n->pairs)
		return -EINVAL;
	atomic_store(&n->active, count);
	net_apply_active(n);
	return 0;
}

static int guest_offloads(const struct net_command *c)
{
	struct net *n = c->nq->net;
	uint8_t word[8];

	if (c->number != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    !net_accepted(n, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || !data_is(c, word, 8) ||
	    (load_le64(word) & ~net_guest_features(n)))
		return -EINVAL;
	atomic_store(&n->guest_offloads, load_le64(word));
	net_apply_offloads(n);
	return 0;
}

static int announcement(const struct net_command *c)
{
	struct net *n = c->nq->net;

	if (c->number != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
	    !net_accepted(n, VIRTIO_NET_F_GUEST_ANNOUNCE) || c->chain->readable_bytes)
		return -EINVAL;
	atomic_store(&n->announcing, false);
	return 0;
}

/* ---- commands ---- */

static int carry_out(struct net_queue *nq, const struct virtqueue_chain *chain)
{
	static int (*const handlers[])(const struct net_command *c) = {
		[VIRTIO_NET_CTRL_RX] = receive_mode,
		[VIRTIO_NET_CTRL_MAC] = addresses,
		[VIRTIO_NET_CTRL_VLAN] = vlans,
		[VIRTIO_NET_CTRL_ANNOUNCE] = announcement,
		[VIRTIO_NET_CTRL_MQ] = pairs,
		[VIRTIO_NET_CTRL_GUEST_OFFLOADS] = guest_offloads,
	};
	const uint8_t *header = chain->header;
	struct net_command c = { .nq = nq, .chain = chain };

	if (chain->header_bytes < COMMAND_BYTES || header[0] >= ARRAY_LENGTH(handlers) ||
	    !handlers[header[0]])
		return -EINVAL;
	c.number = header[1];
	return handlers[header[0]](&c);
}

static void command(struct net_queue *nq, struct virtqueue_chain *c)
{
	uint8_t answer = VIRTIO_NET_OK;

	if (!c->writable_bytes) {
		virtio_queue_break(nq->queue, "a command without room for its answer");
		virtio_queue_return(nq->queue, c, 0, 0);
		return;
	}
	counter_add(&nq->numbers.commands, 1);
	if (carry_out(nq, c)) {
		answer = VIRTIO_NET_ERR;
		counter_add(&nq->numbers.commands_refused, 1);
	}
	iov_copy_to(c->iov + c->readable, c->writable, c->writable_bytes - 1, &answer, 1);
	virtio_queue_return(nq->queue, c, c->writable_bytes, 0);
}

void net_control_work(struct net_queue *nq)
{
	struct virtqueue_chain *c;

	while (virtio_queue_take(nq->queue, &c))
		command(nq, c);
}
