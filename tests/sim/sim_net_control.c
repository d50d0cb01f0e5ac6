/* sim_net_control.c - the control queue: several commands at once, well-formed and not. */
#include <string.h>

#include "base/bytes.h"
#include "sim_net.h"

enum { COMMAND_MAX = 700, ANSWER_MAX = 32 /* bytes */ };

struct draft {
	uint8_t bytes[COMMAND_MAX];
	unsigned n;
};

/* ---- what is written ---- */

static void put(struct draft *d, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		d->bytes[d->n++] = value >> 8 * i;
}

static void put_command(struct draft *d, unsigned class, unsigned number)
{
	put(d, class, 1);
	put(d, number, 1);
}

/* An address that frames are sent to, or, more often than not in a long list, another. */
static void put_address(struct sim *s, struct draft *d, unsigned others)
{
	static const uint8_t nobody[6] = { 2, 0, 0, 1, 0, 0 };
	const uint8_t *mac = pick(s, others) ? nobody : s->to_guest[pick(s, FLOWS)].destination;

	memcpy(d->bytes + d->n, mac, 6);
	d->n += 6;
}

static void put_addresses(struct sim *s, struct draft *d)
{
	unsigned count = pick(s, 10) ? pick(s, 4) : pick(s, ADDRESSES / 2 + 2), others;

	if (!pick(s, 12))
		count = ADDRESSES + pick(s, 2);
	if (d->n + 4 + 6 * count + 4 > COMMAND_MAX)
		count = 0;
	others = 1 + count / 2;
	put(d, count, 4);
	while (count--)
		put_address(s, d, others);
}

static void write_filter(struct sim *s, struct draft *d)
{
	switch (pick(s, 4)) {
	case 0:
		put_command(d, VIRTIO_NET_CTRL_RX, pick(s, 7));
		put(d, pick(s, 10) ? pick(s, 2) : 2, 1);
		break;
	case 1:
		put_command(d, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC);
		put(d, !pick(s, 4), 1);
		break;
	case 2:
		put_command(d, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET);
		put_addresses(s, d);
		put_addresses(s, d);
		break;
	case 3:
		put_command(d, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET);
		put_address(s, d, 2);
		break;
	}
}

static void write_vlan(struct sim *s, struct draft *d)
{
	static const uint16_t some[] = { 5, 4095, 6, 4096, 0xffff };

	put_command(d, VIRTIO_NET_CTRL_VLAN, pick(s, 3) ? VIRTIO_NET_CTRL_VLAN_ADD : pick(s, 3));
	put(d, some[pick(s, pick(s, 4) ? 2 : 5)], 2);
}

static void put_key(struct sim *s, struct draft *d)
{
	unsigned n = pick(s, 3) ? KEY : pick(s, KEY + 2);

	put(d, n, 1);
	while (n--)
		put(d, pick(s, 256), 1);
}

static void write_scaling(struct sim *s, struct draft *d)
{
	unsigned entries = 1 << pick(s, 8), queues = 1 + pick(s, s->model.pairs);

	if (!pick(s, 8))
		queues++;
	put_command(d, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG);
	put(d, pick(s, 512), 4);
	put(d, pick(s, 16) ? entries - 1 : entries, 2);
	put(d, pick(s, queues), 2);
	while (entries--)
		put(d, pick(s, queues), 2);
	put(d, 1 + pick(s, s->model.pairs), 2);
	put_key(s, d);
}

static void write_pairs(struct sim *s, struct draft *d)
{
	switch (pick(s, 3)) {
	case 0:
		put_command(d, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
		put(d, pick(s, 8) ? 1 + pick(s, s->model.pairs) : pick(s, PAIRS_MAX + 2), 2);
		break;
	case 1:
		put_command(d, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_HASH_CONFIG);
		put(d, pick(s, 513), 4);
		put(d, 0, 8);
		put_key(s, d);
		break;
	case 2:
		write_scaling(s, d);
		break;
	}
}

static void write_coalescing(struct sim *s, struct draft *d)
{
	unsigned number = pick(s, 4);

	put_command(d, 6, number);
	if (number > 1)
		put(d, pick(s, 2 * s->model.pairs + 1), 4);
	if (number != 3) {
		put(d, pick(s, 40), 4);
		put(d, pick(s, 8) ? pick(s, 100) : UINT32_MAX, 4);
	}
}

static void write_offloads(struct sim *s, struct draft *d)
{
	put_command(d, VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET);
	put(d, pick(s, 2) ? 1 << VIRTIO_NET_F_GUEST_CSUM : pick(s, 1 << 12), 8);
}

static void write_random(struct sim *s, struct draft *d)
{
	unsigned n = pick(s, pick(s, 4) ? 24 : COMMAND_MAX - 8);

	while (n--)
		put(d, pick(s, 2) ? pick(s, 256) : pick(s, 7), 1);
}

static void write_command(struct sim *s, struct draft *d)
{
	d->n = 0;
	switch (pick(s, s->storms ? 9 : 8)) {
	case 0:
	case 1:
		write_filter(s, d);
		break;
	case 2:
		write_vlan(s, d);
		break;
	case 3:
	case 4:
		write_pairs(s, d);
		break;
	case 5:
		write_coalescing(s, d);
		break;
	case 6:
		write_offloads(s, d);
		break;
	case 7:
		put_command(d, VIRTIO_NET_CTRL_ANNOUNCE, pick(s, 8) ? 0 : 1);
		break;
	case 8:
		write_random(s, d);
		break;
	}
}

/* Too short, too long, or with a byte that is another. */
static void spoil(struct sim *s, struct draft *d)
{
	switch (pick(s, 3)) {
	case 0:
		d->n = pick(s, d->n + 1);
		break;
	case 1:
		put(d, pick(s, 256), 1 + pick(s, 3));
		break;
	case 2:
		if (d->n)
			d->bytes[pick(s, minimum_u64(d->n, 8))] = pick(s, 256);
		break;
	}
}

/* ---- what is sent, and answered ---- */

/* The command at one place in the buffer, in one piece or two; room for the answer at another. */
static void queue_command(struct sim *s, struct buffer *b, const struct draft *d, unsigned room)
{
	struct guest_segment parts[3];
	unsigned count = 0, at = d->n > 1 && pick(s, 2) ? 1 + pick(s, d->n - 1) : 0;

	memcpy(b->bytes, d->bytes, d->n);
	memset(b->bytes + COMMAND_MAX, 0xee, ANSWER_MAX);
	if (at)
		parts[count++] = (struct guest_segment){ b->iova, at, false };
	if (d->n > at)
		parts[count++] = (struct guest_segment){ b->iova + at, d->n - at, false };
	if (room)
		parts[count++] = (struct guest_segment){ b->iova + COMMAND_MAX, room, true };
	queue_add(control_queue(s), parts, count, b);
}

/* What there is for an answer: one byte; for commands that tell something, enough for that. */
static unsigned choose_room(struct sim *s, const struct draft *d)
{
	if (s->storms && d->n && !pick(s, 60)) {
		s->may_break = true;
		return 0;
	}
	if (d->n && d->bytes[0] == 6 && pick(s, 4))
		return 12 + !!pick(s, 6);
	return pick(s, 4) ? 1 : 1 + pick(s, ANSWER_MAX);
}

/* Before it is on its way: what it may change, may have changed from now on. */
static void expect(struct sim *s, const struct draft *d, unsigned room)
{
	unsigned last = (s->first_command + s->command_count - 1) % COMMANDS;
	struct model m = s->command_count ? s->commands[last].after : s->model;
	struct command *c = &s->commands[(s->first_command + s->command_count++) % COMMANDS];

	c->writable = room;
	model_command(&m, d->bytes, d->n, c);
	frames_mark(s, &c->after);
	if (c->steers)
		frames_mix(s, false);
}

void control_send(struct sim *s)
{
	struct queue *q = control_queue(s);
	struct buffer *b = q ? buffer_free(q) : NULL;
	struct draft d;
	unsigned room;

	if (!b || s->command_count == COMMANDS || q->ring.free_count < 3)
		return;
	write_command(s, &d);
	if (s->storms && !pick(s, 4))
		spoil(s, &d);
	room = choose_room(s, &d);
	queue_command(s, b, &d, room);
	if (room)
		expect(s, &d, room);
	queue_publish(q);
}

static void answered(struct sim *s, const struct buffer *b, uint32_t length)
{
	struct command *c = &s->commands[s->first_command];
	const uint8_t *answer = b->bytes + COMMAND_MAX;
	bool steering = false;

	if (!s->command_count)
		fail(s, "an answer to nothing");
	if (length != 1 + c->result_bytes)
		fail(s, "an answer of more or fewer bytes than it has");
	if (answer[0] != (c->ok ? VIRTIO_NET_OK : VIRTIO_NET_ERR))
		fail(s, "command %u.%u: %s", b->bytes[0], b->bytes[1],
		     c->ok ? "good, and refused" : "bad, and not refused");
	if (memcmp(answer + 1, c->result, c->result_bytes) || answer[length] != 0xee)
		fail(s, "an answer that is not right");
	s->model = c->after;
	s->first_command = (s->first_command + 1) % COMMANDS;
	s->command_count--;
	for (unsigned i = 0; i < s->command_count; i++)
		steering |= s->commands[(s->first_command + i) % COMMANDS].steers;
	if (c->steers && !steering)
		frames_mix(s, true);
}

void control_take(struct sim *s)
{
	struct queue *q = control_queue(s);
	struct buffer *b;
	uint32_t length;

	if (!q || !queue_is_due(s, q))
		return;
	do {
		while ((b = queue_take(s, q, &length)))
			if (length)
				answered(s, b, length);
	} while (s->interrupts && !guest_queue_listen(&q->ring));
}

void control_forget(struct sim *s)
{
	s->first_command = s->command_count = 0;
	frames_mix(s, true);
}
