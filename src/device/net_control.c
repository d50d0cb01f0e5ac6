/* net_control.c - the control queue's commands (virtio 1.3, 5.1.6.5).
 *
 * A command is two bytes, its data, and room for the answer: one byte, and for some a result behind
 * it.  What is not understood, not agreed on, or malformed is answered with an error and
 * changes nothing.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/iov.h"
#include "device/net_state.h"
#include "virtio/virtio_device.h"

enum { COMMAND_BYTES = 2 };

/* Younger than some kernels' headers. */
enum { NET_CTRL_NOTF_COAL = 6 };
enum { COALESCE_TRANSMIT, COALESCE_RECEIVE, COALESCE_QUEUE, COALESCING_OF_QUEUE };

/* Whether the command's data is exactly n bytes, which are copied. */
static bool data_is(const struct net_command *c, void *to, size_t n)
{
	return c->chain->readable_bytes == n &&
	       iov_copy_from(c->chain->iov, c->chain->readable, 0, to, n) == n;
}

/* ---- which frames ---- */

static int receive_mode(struct net_command *c)
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

static int addresses(struct net_command *c)
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

static int vlans(struct net_command *c)
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

/* ---- what in a frame may be undone ---- */

static int guest_offloads(struct net_command *c)
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

static int announcement(struct net_command *c)
{
	struct net *n = c->nq->net;

	if (c->number != VIRTIO_NET_CTRL_ANNOUNCE_ACK ||
	    !net_accepted(n, VIRTIO_NET_F_GUEST_ANNOUNCE) || c->chain->readable_bytes)
		return -EINVAL;
	atomic_store(&n->announcing, false);
	return 0;
}

/* ---- when to interrupt (5.1.6.5.9) ---- */

/* What the driver wants of one queue: frames, microseconds. */
static uint64_t coalescing_of(const uint8_t words[8])
{
	return (uint64_t)load_le32(words) << 32 | load_le32(words + 4);
}

static int coalesce_all(const struct net_command *c, enum net_role role)
{
	struct net *n = c->nq->net;
	uint8_t words[8];

	if (!net_accepted(n, NET_F_NOTF_COAL) || !data_is(c, words, sizeof(words)))
		return -EINVAL;
	for (unsigned i = 0; i < n->queue_count; i++)
		if (net_role(n, i) == role)
			atomic_store(&n->queues[i].coalescing, coalescing_of(words));
	return 0;
}

/* NULL: there is no such queue that has frames. */
static struct net_queue *find_queue(struct net *n, unsigned number)
{
	enum net_role role = number < n->queue_count ? net_role(n, number) : NET_IDLE;

	return role == NET_RECEIVE || role == NET_TRANSMIT ? &n->queues[number] : NULL;
}

static int coalesce_one(const struct net_command *c)
{
	struct net_queue *nq;
	uint8_t words[12]; /* queue, reserved, then as above */

	if (!net_accepted(c->nq->net, NET_F_VQ_NOTF_COAL) || !data_is(c, words, sizeof(words)))
		return -EINVAL;
	nq = find_queue(c->nq->net, load_le16(words));
	if (!nq)
		return -EINVAL;
	atomic_store(&nq->coalescing, coalescing_of(words + 4));
	return 0;
}

/* Only the queue's number is read. */
static int tell_coalescing(struct net_command *c)
{
	const struct net_queue *nq;
	uint64_t value;
	uint8_t words[12];

	if (!net_accepted(c->nq->net, NET_F_VQ_NOTF_COAL) || c->chain->writable_bytes < 13 ||
	    iov_copy_from(c->chain->iov, c->chain->readable, 0, words, 2) != 2)
		return -EINVAL;
	nq = find_queue(c->nq->net, load_le16(words));
	if (!nq)
		return -EINVAL;
	value = atomic_load(&nq->coalescing);
	store_le16(c->result, load_le16(words));
	store_le32(c->result + 4, value >> 32);
	store_le32(c->result + 8, value);
	c->result_bytes = 12;
	return 0;
}

static int coalescing(struct net_command *c)
{
	switch (c->number) {
	case COALESCE_TRANSMIT:
		return coalesce_all(c, NET_TRANSMIT);
	case COALESCE_RECEIVE:
		return coalesce_all(c, NET_RECEIVE);
	case COALESCE_QUEUE:
		return coalesce_one(c);
	case COALESCING_OF_QUEUE:
		return tell_coalescing(c);
	default:
		return -EINVAL;
	}
}

/* ---- commands ---- */

static int carry_out(struct net_command *c)
{
	static int (*const handlers[])(struct net_command * c) = {
		[VIRTIO_NET_CTRL_RX] = receive_mode,
		[VIRTIO_NET_CTRL_MAC] = addresses,
		[VIRTIO_NET_CTRL_VLAN] = vlans,
		[VIRTIO_NET_CTRL_ANNOUNCE] = announcement,
		[VIRTIO_NET_CTRL_MQ] = net_control_pairs,
		[VIRTIO_NET_CTRL_GUEST_OFFLOADS] = guest_offloads,
		[NET_CTRL_NOTF_COAL] = coalescing,
	};
	const uint8_t *header = c->chain->header;

	if (c->chain->header_bytes < COMMAND_BYTES || header[0] >= ARRAY_LENGTH(handlers) ||
	    !handlers[header[0]])
		return -EINVAL;
	c->number = header[1];
	return handlers[header[0]](c);
}

static void answer_command(struct net_queue *nq, struct virtqueue_chain *c)
{
	struct net_command command = { .nq = nq, .chain = c };
	uint8_t answer = VIRTIO_NET_OK;
	size_t written;

	if (!c->writable_bytes) {
		virtio_queue_break(nq->queue, "a command without room for its answer");
		virtio_queue_return(nq->queue, c, 0, 0);
		return;
	}
	counter_add(&nq->numbers.commands, 1);
	if (carry_out(&command)) {
		answer = VIRTIO_NET_ERR;
		counter_add(&nq->numbers.commands_refused, 1);
	}
	written = iov_copy_to(c->iov + c->readable, c->writable, 0, &answer, 1);
	written += iov_copy_to(c->iov + c->readable, c->writable, 1, command.result,
			       command.result_bytes);
	virtio_queue_return(nq->queue, c, written, 0);
}

void net_control_work(struct net_queue *nq)
{
	struct virtqueue_chain *c;

	while (virtio_queue_take(nq->queue, &c))
		answer_command(nq, c);
}
