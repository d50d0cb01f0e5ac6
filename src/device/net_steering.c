/* net_steering.c - over which queues frames that come are spread, and by what hash (virtio 1.3,
 * 5.1.6.5.6 and 5.1.6.5.7).  Of several commands the last decides. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/iov.h"
#include "device/net_state.h"
#include "network/flow_hash.h"

/* Where the table begins in struct virtio_net_rss_config, and the key's length in
 * struct virtio_net_hash_config. */
enum { RSS_TABLE = 8, HASH_KEY = 12 };

static bool read_data(const struct net_command *c, uint64_t at, void *to, size_t n)
{
	return iov_copy_from(c->chain->iov, c->chain->readable, at, to, n) == n;
}

int net_apply_steering(struct net *n, const struct network_steering *s)
{
	int status = network_port_set_steering(n->port, s);

	if (!status)
		n->steering = *s;
	return status;
}

void net_reset_steering(struct net *n)
{
	static const struct network_steering none;

	if (n->steering.hash_types || n->steering.by_table)
		net_apply_steering(n, &none);
}

/* From the key's length to the end of the command, of which nothing may be left. */
static int read_key(const struct net_command *c, uint64_t at, struct network_steering *s)
{
	uint8_t bytes;

	if (!read_data(c, at, &bytes, 1) || bytes > NETWORK_HASH_KEY ||
	    c->chain->readable_bytes != at + 1 + bytes || (s->hash_types && !bytes))
		return -EINVAL;
	return read_data(c, at + 1, s->key, bytes) ? 0 : -EINVAL;
}

static int read_table(const struct net_command *c, struct network_steering *s)
{
	uint8_t words[2 * NETWORK_TABLE_MAX];
	unsigned count = s->mask + 1u;

	if (count > NETWORK_TABLE_MAX || !read_data(c, RSS_TABLE, words, 2 * count))
		return -EINVAL;
	for (unsigned i = 0; i < count; i++)
		s->table[i] = load_le16(words + 2 * i);
	return 0;
}

/* How many pairs the driver takes frames from. */
static unsigned queues_named(const struct network_steering *s)
{
	unsigned last = s->unclassified;

	for (unsigned i = 0; i <= s->mask; i++)
		last = maximum_u64(last, s->table[i]);
	return last + 1;
}

static int read_rss(const struct net_command *c, struct network_steering *s)
{
	uint8_t head[RSS_TABLE], senders[2];
	uint64_t tail;

	if (!read_data(c, 0, head, sizeof(head)))
		return -EINVAL;
	s->by_table = true;
	s->hash_types = load_le32(head);
	s->mask = load_le16(head + 4);
	s->unclassified = load_le16(head + 6);
	tail = RSS_TABLE + 2 * (s->mask + 1ull);
	if ((s->hash_types & ~FLOW_HASH_TYPES) || read_table(c, s) ||
	    !read_data(c, tail, senders, 2) || !load_le16(senders) ||
	    load_le16(senders) > c->nq->net->pairs)
		return -EINVAL;
	return read_key(c, tail + 2, s);
}

static int set_rss(const struct net_command *c)
{
	struct net *n = c->nq->net;
	struct network_steering s = { 0 };

	if (!net_accepted(n, VIRTIO_NET_F_RSS) || read_rss(c, &s) || queues_named(&s) > n->pairs ||
	    net_apply_steering(n, &s))
		return -EINVAL;
	atomic_store(&n->active, queues_named(&s));
	net_apply_active(n);
	return 0;
}

/* The words in between are reserved; drivers leave there what they have for RSS. */
static int set_hash(const struct net_command *c)
{
	struct network_steering s = { 0 };
	uint8_t types[4];

	if (!net_accepted(c->nq->net, VIRTIO_NET_F_HASH_REPORT) || !read_data(c, 0, types, 4))
		return -EINVAL;
	s.hash_types = load_le32(types);
	if ((s.hash_types & ~FLOW_HASH_TYPES) || read_key(c, HASH_KEY, &s))
		return -EINVAL;
	return net_apply_steering(c->nq->net, &s);
}

/* Frames keep their hashes, but no longer go by them. */
static int set_pairs(const struct net_command *c)
{
	struct net *n = c->nq->net;
	struct network_steering s = n->steering;
	uint8_t word[2];
	unsigned count;

	if (!net_accepted(n, VIRTIO_NET_F_MQ) || c->chain->readable_bytes != 2 ||
	    !read_data(c, 0, word, 2))
		return -EINVAL;
	count = load_le16(word);
	if (!count || count > n->pairs)
		return -EINVAL;
	s.by_table = false;
	if (n->steering.by_table)
		net_apply_steering(n, &s);
	atomic_store(&n->active, count);
	net_apply_active(n);
	return 0;
}

int net_control_pairs(struct net_command *c)
{
	switch (c->number) {
	case VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
		return set_pairs(c);
	case VIRTIO_NET_CTRL_MQ_RSS_CONFIG:
		return set_rss(c);
	case VIRTIO_NET_CTRL_MQ_HASH_CONFIG:
		return set_hash(c);
	default:
		return -EINVAL;
	}
}
