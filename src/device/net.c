/* net.c - a virtio network device (virtio 1.3, 5.1): features, configuration space, life. */
#include "device/net.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "device/net_state.h"
#include "network/flow_hash.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_device_type.h"

#define BIT(feature) (1ull << (feature))

static const struct counter_field fields[] = {
	{ "sent_frames", offsetof(struct net_numbers, sent_frames) },
	{ "sent_bytes", offsetof(struct net_numbers, sent_bytes) },
	{ "sent_refused", offsetof(struct net_numbers, sent_refused) },
	{ "sent_lost", offsetof(struct net_numbers, sent_lost) },
	{ "come_frames", offsetof(struct net_numbers, come_frames) },
	{ "come_bytes", offsetof(struct net_numbers, come_bytes) },
	{ "come_buffers", offsetof(struct net_numbers, come_buffers) },
	{ "come_filtered", offsetof(struct net_numbers, come_filtered) },
	{ "come_too_long", offsetof(struct net_numbers, come_too_long) },
	{ "starved", offsetof(struct net_numbers, starved) },
	{ "commands", offsetof(struct net_numbers, commands) },
	{ "commands_refused", offsetof(struct net_numbers, commands_refused) },
};

/* Which feature lets frames that come have what undone. */
static const struct {
	uint64_t feature;
	unsigned offload;
} guest_offloads[] = {
	{ BIT(VIRTIO_NET_F_GUEST_CSUM), NETWORK_CHECKSUM },
	{ BIT(VIRTIO_NET_F_GUEST_TSO4), NETWORK_TSO4 },
	{ BIT(VIRTIO_NET_F_GUEST_TSO6), NETWORK_TSO6 },
	{ BIT(VIRTIO_NET_F_GUEST_ECN), NETWORK_ECN },
	{ BIT(VIRTIO_NET_F_GUEST_UFO), NETWORK_UFO },
	{ BIT(NET_F_GUEST_USO4), NETWORK_USO4 },
	{ BIT(NET_F_GUEST_USO6), NETWORK_USO6 },
};

static const uint64_t guest_features = BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |
				       BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) |
				       BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(NET_F_GUEST_USO4) |
				       BIT(NET_F_GUEST_USO6);

static const uint64_t host_features = BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |
				      BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) |
				      BIT(VIRTIO_NET_F_HOST_UFO) | BIT(NET_F_HOST_USO);

static const uint64_t control_features =
	BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |
	BIT(VIRTIO_NET_F_CTRL_VLAN) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
	BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) |
	BIT(NET_F_NOTF_COAL) | BIT(NET_F_VQ_NOTF_COAL);

/* ---- what has been agreed on ---- */

bool net_accepted(const struct net *n, unsigned feature)
{
	return virtio_device_accepted(n->device) >> feature & 1;
}

uint64_t net_guest_features(const struct net *n)
{
	return virtio_device_accepted(n->device) & guest_features;
}

uint64_t net_offload_features(void)
{
	return guest_features;
}

uint16_t net_header_size(const struct net *n)
{
	if (net_accepted(n, VIRTIO_NET_F_HASH_REPORT))
		return sizeof(struct virtio_net_hdr_v1_hash);
	if (net_accepted(n, VIRTIO_NET_F_MRG_RXBUF) || net_accepted(n, VIRTIO_F_VERSION_1))
		return sizeof(struct virtio_net_hdr_v1);
	return sizeof(struct virtio_net_hdr);
}

enum net_role net_role(const struct net *n, unsigned queue)
{
	bool many = net_accepted(n, VIRTIO_NET_F_MQ) || net_accepted(n, VIRTIO_NET_F_RSS);
	unsigned pairs = many ? n->pairs : 1;

	if (net_accepted(n, VIRTIO_NET_F_CTRL_VQ) && queue == 2 * pairs)
		return NET_CONTROL;
	if (queue >= 2 * pairs)
		return NET_IDLE;
	return queue % 2 ? NET_TRANSMIT : NET_RECEIVE;
}

void net_apply_offloads(struct net *n)
{
	uint64_t features = atomic_load(&n->guest_offloads);
	unsigned offloads = 0;

	for (unsigned i = 0; i < ARRAY_LENGTH(guest_offloads); i++)
		if (features & guest_offloads[i].feature)
			offloads |= guest_offloads[i].offload;
	network_port_set_offloads(n->port, offloads);
}

/* Without a command the driver shows by enabling queues how many it uses: so do front-ends that
 * keep the control queue to themselves. */
void net_apply_active(struct net *n)
{
	unsigned active = atomic_load(&n->active);

	for (unsigned i = 0; !net_accepted(n, VIRTIO_NET_F_CTRL_VQ) && i < n->pairs; i++)
		if (atomic_load(&n->queues[2 * i].enabled))
			active = i + 1;
	network_port_set_active(n->port, maximum_u64(active, 1));
}

void net_follow_coalescing(struct net_queue *nq)
{
	uint64_t wanted = atomic_load_explicit(&nq->coalescing, memory_order_relaxed);

	if (likely(wanted == nq->coalescing_seen))
		return;
	nq->coalescing_seen = wanted;
	virtio_queue_set_coalescing(nq->queue, wanted >> 32, (wanted & UINT32_MAX) * 1000);
}

/* ---- what the driver sees ---- */

static uint64_t features(const struct virtio_device *d)
{
	const struct net *n = virtio_device_state(d);
	uint64_t bits = host_features | guest_features | control_features | BIT(VIRTIO_NET_F_MAC) |
			BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MRG_RXBUF) |
			BIT(VIRTIO_NET_F_SPEED_DUPLEX);

	if (n->mtu)
		bits |= BIT(VIRTIO_NET_F_MTU);
	if (n->pairs > 1)
		bits |= BIT(VIRTIO_NET_F_MQ);
	if (n->hashes)
		bits |= net_hash_features;
	return bits;
}

static uint16_t status(const struct net *n)
{
	uint16_t bits = network_port_link(n->port) ? VIRTIO_NET_S_LINK_UP : 0;

	return atomic_load(&n->announcing) ? bits | VIRTIO_NET_S_ANNOUNCE : bits;
}

static void config_read(const struct virtio_device *d, size_t offset, void *to, size_t bytes)
{
	const struct net *n = virtio_device_state(d);
	uint64_t own = atomic_load(&n->filter.own);
	struct virtio_net_config c = {
		.status = htole16(status(n)),
		.max_virtqueue_pairs = htole16(n->pairs),
		.mtu = htole16(n->mtu),
		.speed = htole32(UINT32_MAX),
		.duplex = 0xff,
	};

	if (n->hashes) {
		c.rss_max_key_size = NETWORK_HASH_KEY;
		c.rss_max_indirection_table_length = htole16(NETWORK_TABLE_MAX);
		c.supported_hash_types = htole32(FLOW_HASH_TYPES);
	}
	for (unsigned i = 0; i < 6; i++)
		c.mac[i] = own >> (40 - 8 * i);
	memcpy(to, (const char *)&c + offset, bytes);
}

/* Legacy drivers set their address here (virtio 1.3, 5.1.4.1); nothing else may be written. */
static int config_write(struct virtio_device *d, size_t offset, const void *from, size_t bytes)
{
	return -EINVAL;
}

static void reset(struct virtio_device *d)
{
	struct net *n = virtio_device_state(d);

	net_filter_reset(&n->filter, n->mac);
	atomic_store(&n->active, 0);
	atomic_store(&n->announcing, false);
	atomic_store(&n->guest_offloads, 0);
	atomic_store(&n->adopted, false);
	net_reset_steering(n);
	for (unsigned i = 0; i < n->queue_count; i++) {
		atomic_store(&n->queues[i].coalescing, 0);
		/* the next driver may have fewer, and no command to say so */
		atomic_store(&n->queues[i].enabled, false);
	}
}

static int set_mtu(struct virtio_device *d, uint64_t mtu, struct error *e)
{
	struct net *n = virtio_device_state(d);
	uint32_t most = network_port_limits(n->port)->mtu;

	if (mtu < NETWORK_MTU_MIN || mtu > NETWORK_MTU_MAX || (most && mtu > most))
		return error_set(e, -EINVAL, "MTU %llu is not from %d to %u",
				 (unsigned long long)mtu, NETWORK_MTU_MIN,
				 most ? most : NETWORK_MTU_MAX);
	return 0;
}

static void link_changed(void *arg)
{
	struct net *n = arg;

	virtio_device_config_changed(n->device);
}

/* ---- queues ---- */

static struct net_queue *net_queue_of(struct virtio_queue *q)
{
	struct net *n = virtio_device_state(virtio_queue_device(q));

	return &n->queues[virtio_queue_index(q)];
}

static void port_ready(void *arg)
{
	struct net_pair *p = arg;

	if (p->receive)
		virtio_queue_wake(p->receive->queue);
}

int net_pair_open(struct net_queue *nq, struct error *e)
{
	unsigned index = virtio_queue_index(nq->queue) / 2;
	struct net_pair *p = &nq->net->pair[index];

	if (!p->users) {
		p->port = network_queue_open(nq->net->port, index, virtio_queue_reactor(nq->queue),
					     port_ready, p, e);
		if (!p->port)
			return e->code;
	}
	p->users++;
	if (virtio_queue_index(nq->queue) % 2 == 0)
		p->receive = nq;
	nq->port = p->port;
	/* asked for before there was a queue to send it from */
	if (!index && atomic_load(&nq->net->rarp_wanted))
		net_send_rarp(nq->net);
	return 0;
}

void net_pair_close(struct net_queue *nq)
{
	struct net_pair *p = &nq->net->pair[virtio_queue_index(nq->queue) / 2];

	if (p->receive == nq)
		p->receive = NULL;
	if (!--p->users) {
		network_queue_close(p->port);
		p->port = NULL;
	}
	nq->port = NULL;
}

static uint16_t header_size(const struct virtio_device *d, unsigned queue)
{
	const struct net *n = virtio_device_state(d);

	switch (net_role(n, queue)) {
	case NET_TRANSMIT:
		return net_header_size(n);
	case NET_CONTROL:
		return sizeof(struct virtio_net_ctrl_hdr);
	default:
		return 0;
	}
}

/* What is agreed on holds from the first queue that starts. */
static void adopt_features(struct net *n)
{
	if (!atomic_exchange(&n->adopted, true)) {
		atomic_store(&n->guest_offloads, net_guest_features(n));
		net_apply_offloads(n);
	}
	if (net_accepted(n, VIRTIO_NET_F_CTRL_VLAN))
		atomic_store(&n->filter.by_vlan, true);
}

static int queue_start(struct virtio_queue *q, struct error *e)
{
	struct net_queue *nq = net_queue_of(q);

	nq->queue = q;
	nq->header = net_header_size(nq->net);
	switch (net_role(nq->net, virtio_queue_index(q))) {
	case NET_RECEIVE:
		adopt_features(nq->net);
		return net_receive_start(nq, e);
	case NET_TRANSMIT:
		return net_transmit_start(nq, e);
	default:
		return 0;
	}
}

static void queue_work(struct virtio_queue *q)
{
	struct net_queue *nq = net_queue_of(q);

	switch (net_role(nq->net, virtio_queue_index(q))) {
	case NET_RECEIVE:
		net_receive_work(nq);
		break;
	case NET_TRANSMIT:
		net_transmit_work(nq);
		break;
	case NET_CONTROL:
		net_control_work(nq);
		break;
	case NET_IDLE:
		break;
	}
}

static void queue_stop(struct virtio_queue *q)
{
	struct net_queue *nq = net_queue_of(q);

	switch (net_role(nq->net, virtio_queue_index(q))) {
	case NET_RECEIVE:
		net_receive_stop(nq);
		break;
	case NET_TRANSMIT:
		net_transmit_stop(nq);
		break;
	default:
		break;
	}
}

static void queue_yield(struct virtio_queue *q)
{
	struct net_queue *nq = net_queue_of(q);

	if (net_role(nq->net, virtio_queue_index(q)) == NET_RECEIVE)
		net_receive_yield(nq);
}

static void queue_enabled(struct virtio_queue *q, bool on)
{
	struct net_queue *nq = net_queue_of(q);

	if (net_role(nq->net, virtio_queue_index(q)) != NET_RECEIVE)
		return;
	atomic_store(&nq->enabled, on);
	net_apply_active(nq->net);
}

static const struct virtio_device_type net_type = {
	.name = "net",
	.device_id = 1,
	.queues_per_set = 2,
	.pci_class = 0x020000, /* network, Ethernet */
	.config_size = sizeof(struct virtio_net_config),
	.header_size = header_size,
	.features = features,
	.config_read = config_read,
	.config_write = config_write,
	.save_identity = net_save_identity,
	.save = net_save,
	.load = net_load,
	.records = net_records,
	.reset = reset,
	.announce = net_announce,
	.set_mtu = set_mtu,
	.queue_start = queue_start,
	.queue_work = queue_work,
	.queue_stop = queue_stop,
	.queue_yield = queue_yield,
	.queue_enabled = queue_enabled,
};

/* ---- life ---- */

static int check_options(const struct net_options *o, const struct virtio_device_options *d,
			 struct error *e)
{
	const struct network_limits *limits = network_port_limits(o->port);

	if (o->mac[0] & 1)
		return error_set(e, -EINVAL, "the MAC address is a group's");
	if (!o->pairs || o->pairs > NET_PAIRS_MAX)
		return error_set(e, -EINVAL, "%u pairs of queues: not from 1 to %d", o->pairs,
				 NET_PAIRS_MAX);
	if (o->pairs > limits->queues)
		return error_set(e, -EINVAL, "%u pairs of queues: the port has %u", o->pairs,
				 limits->queues);
	if (o->mtu && (o->mtu < NETWORK_MTU_MIN || o->mtu > NETWORK_MTU_MAX))
		return error_set(e, -EINVAL, "MTU %u is not from %d to %d", o->mtu, NETWORK_MTU_MIN,
				 NETWORK_MTU_MAX);
	if (o->mtu && limits->mtu && o->mtu > limits->mtu)
		return error_set(e, -EINVAL,
				 "MTU %u: the network behind the port passes no more than %u",
				 o->mtu, limits->mtu);
	if (!is_power_of_two(d->queue_size))
		return error_set(e, -EINVAL, "queue size %u is not a power of two", d->queue_size);
	return 0;
}

static void queues_lay_out(struct net *n, const char *name)
{
	for (unsigned i = 0; i < n->queue_count; i++) {
		struct net_queue *nq = &n->queues[i];

		nq->net = n;
		nq->group = (struct counter_group){ .room = "net",
						    .fields = fields,
						    .count = ARRAY_LENGTH(fields),
						    .values = &nq->numbers };
		snprintf(nq->group.name, sizeof(nq->group.name), "%s", name);
		counter_group_add(&nq->group);
	}
}

struct net *net_create(const struct net_options *o, const struct virtio_device_options *d,
		       struct error *e)
{
	struct virtio_device_options device_options = *d;
	struct net *n;

	if (check_options(o, d, e))
		return NULL;
	device_options.queues = 2 * o->pairs + 1;
	n = calloc(1, sizeof(*n) + device_options.queues * sizeof(n->queues[0]));
	if (!n) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	n->rarp = (struct reactor_task){ .fn = net_send_rarp, .arg = n };
	n->port = o->port;
	n->pairs = o->pairs;
	n->hashes = o->hashes;
	n->mtu = o->mtu ? o->mtu : network_port_limits(o->port)->mtu;
	memcpy(n->mac, o->mac, sizeof(n->mac));
	net_filter_reset(&n->filter, n->mac);
	n->device = virtio_device_create(&net_type, n, &device_options, e);
	if (!n->device) {
		free(n);
		return NULL;
	}
	n->queue_count = device_options.queues;
	queues_lay_out(n, d->name);
	network_port_set_listener(n->port, link_changed, n);
	return n;
}

void net_free(struct net *n)
{
	if (!n)
		return;
	network_port_set_listener(n->port, NULL, NULL);
	for (unsigned i = 0; i < n->queue_count; i++)
		counter_group_remove(&n->queues[i].group);
	virtio_device_free(n->device);
	free(n);
}

struct virtio_device *net_device(struct net *n)
{
	return n->device;
}
