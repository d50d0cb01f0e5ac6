/* sim_net_model.c - the control queue's commands (virtio 1.3, 5.1.6.5), as plainly as can be. */
#include <linux/virtio_config.h>
#include <string.h>

#include "base/bytes.h"
#include "sim_net.h"

enum { RX_EXTRA = 20, ANNOUNCE = 21, VQ_COALESCING = 52, COALESCING = 53 };
enum { ALL_HASHES = 0x1ff };

bool model_accepted(const struct model *m, unsigned feature)
{
	return m->features >> feature & 1;
}

unsigned model_header(const struct model *m)
{
	return model_accepted(m, VIRTIO_NET_F_HASH_REPORT) ? 20 : 12;
}

static uint64_t guest_offloads(const struct model *m)
{
	const uint64_t all = 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_GUEST_TSO4 |
			     1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_ECN |
			     1ull << VIRTIO_NET_F_GUEST_UFO | 1ull << 54 | 1ull << 55;

	return m->features & all;
}

void model_reset(struct model *m, uint64_t features, unsigned pairs)
{
	memset(m, 0, sizeof(*m));
	m->features = features;
	m->pairs = model_accepted(m, VIRTIO_NET_F_MQ) || model_accepted(m, VIRTIO_NET_F_RSS) ? pairs
											     : 1;
	m->modes = 1; /* promiscuous */
	m->own = 0x020000000001;
	m->offloads = guest_offloads(m);
	m->active = model_accepted(m, VIRTIO_NET_F_CTRL_VQ) ? 1 : m->pairs;
}

/* ---- the filter ---- */

static uint64_t address(const uint8_t *mac)
{
	return (uint64_t)load_be16(mac) << 32 | load_be32(mac + 2);
}

static bool listed(const struct model_table *t, uint64_t mac)
{
	for (unsigned i = 0; i < t->count; i++)
		if (t->list[i] == mac)
			return true;
	return t->overflow;
}

bool model_passes(const struct model *m, const struct flow *f)
{
	uint64_t to = address(f->destination);

	if (model_accepted(m, VIRTIO_NET_F_CTRL_VLAN) && f->vlan &&
	    !(m->vlans[f->vlan / 8] >> f->vlan % 8 & 1))
		return false;
	if (m->modes >> VIRTIO_NET_CTRL_RX_PROMISC & 1)
		return true;
	if (to == 0xffffffffffff)
		return !(m->modes >> VIRTIO_NET_CTRL_RX_NOBCAST & 1);
	if (f->destination[0] & 1)
		return !(m->modes >> VIRTIO_NET_CTRL_RX_NOMULTI & 1) &&
		       (m->modes >> VIRTIO_NET_CTRL_RX_ALLMULTI & 1 || listed(&m->tables[1], to));
	return !(m->modes >> VIRTIO_NET_CTRL_RX_NOUNI & 1) &&
	       (m->modes >> VIRTIO_NET_CTRL_RX_ALLUNI & 1 || to == m->own ||
		listed(&m->tables[0], to));
}

static bool receive_mode(struct model *m, unsigned number, const uint8_t *data, size_t n)
{
	unsigned feature = number <= VIRTIO_NET_CTRL_RX_ALLMULTI ? VIRTIO_NET_F_CTRL_RX : RX_EXTRA;

	if (number > VIRTIO_NET_CTRL_RX_NOBCAST || !model_accepted(m, feature) || n != 1 ||
	    *data > 1)
		return false;
	m->modes = (m->modes & ~(1 << number)) | *data << number;
	return true;
}

/* Where the table ends; 0: not in the data. */
static size_t table_end(const uint8_t *data, size_t n, size_t at)
{
	uint64_t end;

	if (n < at + 4)
		return 0;
	end = at + 4 + 6ull * load_le32(data + at);
	return end <= n ? end : 0;
}

static void table_read(struct model_table *t, const uint8_t *data)
{
	unsigned count = load_le32(data);

	t->overflow = count > ADDRESSES;
	t->count = t->overflow ? 0 : count;
	for (unsigned i = 0; i < t->count; i++)
		t->list[i] = address(data + 4 + (size_t)6 * i);
}

static bool addresses(struct model *m, unsigned number, const uint8_t *data, size_t n)
{
	size_t middle = table_end(data, n, 0);

	if (number == VIRTIO_NET_CTRL_MAC_ADDR_SET) {
		if (!model_accepted(m, VIRTIO_NET_F_CTRL_MAC_ADDR) || n != 6 || (*data & 1))
			return false;
		m->own = address(data);
		return true;
	}
	if (number != VIRTIO_NET_CTRL_MAC_TABLE_SET || !model_accepted(m, VIRTIO_NET_F_CTRL_RX) ||
	    !middle || table_end(data, n, middle) != n)
		return false;
	table_read(&m->tables[0], data);
	table_read(&m->tables[1], data + middle);
	return true;
}

static bool vlans(struct model *m, unsigned number, const uint8_t *data, size_t n)
{
	unsigned vlan = n == 2 ? load_le16(data) : 4096;

	if (number > VIRTIO_NET_CTRL_VLAN_DEL || !model_accepted(m, VIRTIO_NET_F_CTRL_VLAN) ||
	    vlan > 4095)
		return false;
	m->vlans[vlan / 8] &= ~(1 << vlan % 8);
	if (number == VIRTIO_NET_CTRL_VLAN_ADD)
		m->vlans[vlan / 8] |= 1 << vlan % 8;
	return true;
}

/* ---- pairs and hashes ---- */

static bool key(struct model *m, const uint8_t *data, size_t n)
{
	if (n < 1 || data[0] > KEY || n != 1u + data[0] || (m->hash_types && !data[0]))
		return false;
	memset(m->key, 0, KEY);
	memcpy(m->key, data + 1, data[0]);
	return true;
}

static bool scaling(struct model *m, const uint8_t *data, size_t n)
{
	size_t entries = n < 8 ? 0 : load_le16(data + 4) + 1u, end = 8 + 2 * entries;
	unsigned most;

	if (!model_accepted(m, VIRTIO_NET_F_RSS) || !entries || entries > TABLE ||
	    (entries & (entries - 1)) || n < end + 3 || (load_le32(data) & ~ALL_HASHES))
		return false;
	m->hash_types = load_le32(data);
	m->mask = entries - 1;
	m->unclassified = most = load_le16(data + 6);
	for (unsigned i = 0; i < entries; i++) {
		m->table[i] = load_le16(data + 8 + 2 * i);
		most = maximum_u64(most, m->table[i]);
	}
	m->by_table = true;
	m->active = most + 1;
	return most < m->pairs && load_le16(data + end) && load_le16(data + end) <= m->pairs &&
	       key(m, data + end + 2, n - end - 2);
}

static bool hashing(struct model *m, const uint8_t *data, size_t n)
{
	if (!model_accepted(m, VIRTIO_NET_F_HASH_REPORT) || n < 13 ||
	    (load_le32(data) & ~ALL_HASHES))
		return false;
	m->hash_types = load_le32(data);
	m->by_table = false;
	return key(m, data + 12, n - 12);
}

static bool pairs(struct model *m, unsigned number, const uint8_t *data, size_t n)
{
	if (number == VIRTIO_NET_CTRL_MQ_RSS_CONFIG)
		return scaling(m, data, n);
	if (number == VIRTIO_NET_CTRL_MQ_HASH_CONFIG)
		return hashing(m, data, n);
	if (number != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !model_accepted(m, VIRTIO_NET_F_MQ) ||
	    n != 2 || !load_le16(data) || load_le16(data) > m->pairs)
		return false;
	m->active = load_le16(data);
	m->by_table = false;
	return true;
}

/* ---- the rest ---- */

static bool offloads(struct model *m, unsigned number, const uint8_t *data, size_t n)
{
	if (number || !model_accepted(m, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || n != 8 ||
	    (load_le64(data) & ~guest_offloads(m)))
		return false;
	m->offloads = load_le64(data);
	return true;
}

static bool announcement(struct model *m, unsigned number, size_t n)
{
	if (number || n || !model_accepted(m, ANNOUNCE))
		return false;
	m->announcing = false;
	return true;
}

static bool coalesce_all(struct model *m, unsigned receive, const uint8_t *data, size_t n)
{
	if (!model_accepted(m, COALESCING) || n != 8)
		return false;
	for (unsigned i = !receive; i < 2 * m->pairs; i += 2)
		memcpy(m->coalescing[i], data, 8);
	return true;
}

static bool coalescing(struct model *m, unsigned number, const uint8_t *data, size_t n,
		       struct command *c)
{
	unsigned queue = n < 2 ? QUEUES_MAX : load_le16(data);

	if (number < 2)
		return coalesce_all(m, number, data, n);
	if (number > 3 || !model_accepted(m, VQ_COALESCING) || queue >= 2 * m->pairs)
		return false;
	if (number == 2) {
		if (n == 12)
			memcpy(m->coalescing[queue], data + 4, 8);
		return n == 12;
	}
	if (c->writable < 13)
		return false;
	memcpy(c->result, data, 2);
	memcpy(c->result + 4, m->coalescing[queue], 8);
	c->result_bytes = 12;
	return true;
}

static bool carry_out(struct model *m, const uint8_t *bytes, size_t n, struct command *c)
{
	const uint8_t *data = bytes + 2;

	if (n < 2)
		return false;
	n -= 2;
	switch (bytes[0]) {
	case VIRTIO_NET_CTRL_RX:
		return receive_mode(m, bytes[1], data, n);
	case VIRTIO_NET_CTRL_MAC:
		return addresses(m, bytes[1], data, n);
	case VIRTIO_NET_CTRL_VLAN:
		return vlans(m, bytes[1], data, n);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return announcement(m, bytes[1], n);
	case VIRTIO_NET_CTRL_MQ:
		return pairs(m, bytes[1], data, n);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return offloads(m, bytes[1], data, n);
	case 6:
		return coalescing(m, bytes[1], data, n, c);
	default:
		return false;
	}
}

void model_command(struct model *m, const uint8_t *bytes, size_t n, struct command *c)
{
	struct model before = *m;

	memset(c->result, 0, sizeof(c->result));
	c->result_bytes = 0;
	c->steers = n && bytes[0] == VIRTIO_NET_CTRL_MQ;
	c->ok = carry_out(m, bytes, n, c);
	if (!c->ok)
		*m = before;
	c->after = *m;
}
