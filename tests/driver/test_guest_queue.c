/* If this fails, the guest driver of simulation, fuzzing and benchmark loses or repeats chains,
 * asks for notifications wrongly, or believes a device that lies.  With an argument it measures its
 * own speed instead: that many million chains, in batches of 32, through a device that does
 * nothing. */
#include "driver/guest_queue.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "driver/guest_memory.h"

/* A device that uses all chains at once, in order or newest first. */
struct echo {
	struct guest_queue *q;
	uint16_t seen, used;
};

static void use(struct echo *d, uint16_t head, uint32_t length)
{
	struct vring_used_elem *e = &d->q->used->ring[d->used++ & d->q->mask];

	e->id = htole32(head);
	e->len = htole32(length);
}

static void echo(struct echo *d, bool backwards)
{
	uint16_t end = le16toh(d->q->available->idx), count = end - d->seen;

	for (uint16_t i = 0; i < count; i++) {
		uint16_t at = backwards ? end - 1 - i : d->seen + i;

		use(d, le16toh(d->q->available->ring[at & d->q->mask]), 100 + i);
	}
	d->seen = end;
	__atomic_store_n(&d->q->used->idx, htole16(d->used), __ATOMIC_RELEASE);
}

static const struct guest_segment three[] = { { 0x1000, 16, false },
					      { 0x2000, 4096, true },
					      { 0x3000, 1, true } };

static void test_chains_come_back_once(struct guest_queue *q)
{
	struct echo device = { .q = q, .seen = q->available_index, .used = q->used_index };
	char tokens[8];
	uint32_t length;
	void *token;

	for (unsigned round = 0; round < 70000; round++) {
		unsigned count = round % 5 + 1, sum = 0;

		for (unsigned i = 0; i < count; i++)
			assert(guest_queue_add(q, three, 3, NULL, &tokens[i]));
		guest_queue_publish(q);
		echo(&device, round % 2);
		for (unsigned i = 0; i < count; i++) {
			assert(guest_queue_take(q, &token, &length) == 1 && length == 100 + i);
			sum += (char *)token - tokens;
		}
		assert(sum == count * (count - 1) / 2);
		assert(guest_queue_take(q, &token, &length) == 0 && q->free_count == q->size);
	}
}

static void test_chain_is_laid_out(struct guest_queue *q, struct guest_memory *m)
{
	uint64_t table = guest_memory_allocate(m, 64, 16);
	struct guest_layout layout = { 1, guest_memory_at(m, table), table };
	struct vring_desc *d = q->descriptors;
	uint16_t head = q->free_head;

	assert(guest_queue_add(q, three, 3, &layout, q));
	assert(d[head].addr == 0x1000 && d[head].flags == VRING_DESC_F_NEXT);
	assert(d[d[head].next].flags == VRING_DESC_F_INDIRECT && d[d[head].next].len == 32);
	assert(layout.table[0].flags == (VRING_DESC_F_WRITE | VRING_DESC_F_NEXT));
	assert(layout.table[1].flags == VRING_DESC_F_WRITE && layout.table[1].addr == 0x3000);
	guest_queue_restart(q, 0);
}

static void test_full_ring_refuses(struct guest_queue *q)
{
	unsigned n = 0;

	while (guest_queue_add(q, three, 3, NULL, q))
		n++;
	assert(n == q->size / 3u);
	guest_queue_restart(q, 0);
}

static void test_lies_are_found(struct guest_queue *q)
{
	struct echo device = { .q = q };
	uint32_t length;
	void *token;

	assert(guest_queue_add(q, three, 3, NULL, q));
	guest_queue_publish(q);
	use(&device, le16toh(q->available->ring[0]), 1);
	use(&device, le16toh(q->available->ring[0]), 1);
	use(&device, q->size, 1);
	q->used->idx = htole16(3);
	assert(guest_queue_take(q, &token, &length) == 1);
	assert(guest_queue_take(q, &token, &length) == -EPROTO); /* twice */
	q->used_index++;
	assert(guest_queue_take(q, &token, &length) == -EPROTO); /* beyond the ring */
	guest_queue_restart(q, 0);
}

static void test_notifications(struct guest_queue *q)
{
	struct echo device = { .q = q };
	uint32_t length;
	void *token;

	guest_queue_restart(q, 0);
	q->used->ring[q->size].id = htole32(1); /* avail_event: tell at the second */
	q->used->flags = q->event_index ? 0 : htole16(VRING_USED_F_NO_NOTIFY);
	guest_queue_add(q, three, 3, NULL, q);
	assert(!guest_queue_publish(q));
	q->used->flags = 0;
	guest_queue_add(q, three, 3, NULL, q);
	assert(guest_queue_publish(q));
	assert(!guest_queue_publish(q));
	assert(guest_queue_listen(q));
	echo(&device, false);
	assert(!guest_queue_listen(q));
	guest_queue_mute(q);
	assert(guest_queue_take(q, &token, &length) == 1 &&
	       guest_queue_take(q, &token, &length) == 1);
	assert(guest_queue_listen(q));
	guest_queue_restart(q, 0);
}

/* ---- packed rings, and IN_ORDER ---- */

/* A device that uses whatever is available: one by one, in turns of order, or in batches. */
struct packed_echo {
	struct guest_queue *q;
	uint16_t seen, used; /* places in the ring */
	bool seen_wrap, used_wrap;
};

struct packed_chain {
	uint16_t id, descriptors;
};

static void packed_step(struct guest_queue *q, uint16_t *place, bool *wrap, uint16_t by)
{
	*place += by;
	if (*place >= q->size) {
		*place -= q->size;
		*wrap = !*wrap;
	}
}

static bool packed_next(struct packed_echo *d, struct packed_chain *c)
{
	uint16_t flags = le16toh(d->q->ring[d->seen].flags), place = d->seen;
	bool wrap = d->seen_wrap;

	if ((flags >> 7 & 1) != d->seen_wrap || (flags >> 15 & 1) == d->seen_wrap)
		return false;
	for (c->descriptors = 1; flags & VRING_DESC_F_NEXT; c->descriptors++) {
		packed_step(d->q, &place, &wrap, 1);
		flags = le16toh(d->q->ring[place].flags);
		assert((flags >> 7 & 1) == wrap && (flags >> 15 & 1) != wrap);
	}
	c->id = le16toh(d->q->ring[place].id);
	packed_step(d->q, &d->seen, &d->seen_wrap, c->descriptors);
	return true;
}

static void packed_use(struct packed_echo *d, uint16_t id, uint32_t length, uint16_t skip)
{
	struct vring_packed_desc *u = &d->q->ring[d->used];

	u->id = htole16(id);
	u->len = htole32(length);
	__atomic_store_n(&u->flags, htole16(d->used_wrap ? 0x8080 : 0), __ATOMIC_RELEASE);
	packed_step(d->q, &d->used, &d->used_wrap, skip);
}

static unsigned packed_echo(struct packed_echo *d, bool backwards)
{
	struct packed_chain chains[64];
	unsigned count = 0, sum = 0;

	while (packed_next(d, &chains[count])) {
		sum += chains[count].descriptors;
		assert(++count < 64);
	}
	if (count && d->q->in_order) {
		packed_use(d, chains[count - 1].id, 100 + count - 1, sum);
		return count;
	}
	for (unsigned i = 0; i < count; i++) {
		struct packed_chain *c = &chains[backwards ? count - 1 - i : i];

		packed_use(d, c->id, 100 + i, c->descriptors);
	}
	return count;
}

static void split_batch(struct echo *d)
{
	uint16_t end = le16toh(d->q->available->idx), count = end - d->seen;
	struct vring_used_elem *e = &d->q->used->ring[d->used & d->q->mask];

	*e = (struct vring_used_elem){ d->q->available->ring[(end - 1) & d->q->mask],
				       htole32(100 + count - 1) };
	d->used += count;
	d->seen = end;
	d->q->used->idx = htole16(d->used);
}

static void take_all(struct guest_queue *q, char *tokens, unsigned count)
{
	unsigned sum = 0;
	uint32_t length;
	void *token;

	for (unsigned i = 0; i < count; i++) {
		assert(guest_queue_take(q, &token, &length) == 1);
		assert(length == 100 + i || (q->in_order && i + 1 < count && length == UINT32_MAX));
		assert(!q->in_order || token == tokens + i);
		sum += (char *)token - tokens;
	}
	assert(sum == count * (count - 1) / 2);
	assert(guest_queue_take(q, &token, &length) == 0 && q->free_count == q->size);
}

static void test_kinds(struct guest_queue *q, struct guest_memory *m)
{
	struct packed_echo packed = { .q = q, .seen_wrap = true, .used_wrap = true };
	uint64_t table = guest_memory_allocate(m, 64, 16);
	struct guest_layout layout = { 0, guest_memory_at(m, table), table };
	struct echo split = { .q = q };
	char tokens[8];

	for (unsigned round = 0; round < 70000; round++) {
		unsigned count = round % 5 + 1;

		for (unsigned i = 0; i < count; i++)
			assert(guest_queue_add(q, three, 3, (round + i) % 3 ? NULL : &layout,
					       &tokens[i]));
		assert(!q->packed || !packed_next(&packed, &(struct packed_chain){ 0 }));
		guest_queue_publish(q);
		if (q->packed)
			assert(packed_echo(&packed, round % 2) == count);
		else
			split_batch(&split);
		take_all(q, tokens, count);
	}
	if (q->packed)
		assert(guest_queue_base(q) ==
		       (packed.used | (uint32_t)packed.used_wrap << 15) * 0x10001u);
}

/* Where the device wants to hear of comes from a table: every place but the one asked for is
 * quiet, in both rounds of the ring. */
static void test_packed_notifications(struct guest_queue *q)
{
	struct packed_echo d = { .q = q, .seen_wrap = true, .used_wrap = true };
	char tokens[1];

	guest_queue_restart(q, 0);
	for (unsigned i = 0; i < 4u * q->size; i++) {
		uint16_t here = q->next_available | q->available_wrap << 15;
		uint16_t after = (q->next_available + 1) % q->size |
				 (q->available_wrap ^ (q->next_available + 1 == q->size)) << 15;
		unsigned kind = i % 5 % 4; /* each at the turn too */

		q->device_event->flags = htole16(kind < 2 ? VRING_PACKED_EVENT_FLAG_DESC
							  : kind - 2);
		q->device_event->off_wrap = htole16(kind ? after : here);
		assert(guest_queue_add(q, three, 1, NULL, tokens));
		assert(guest_queue_publish(q) == (kind == 0 || kind == 2));
		packed_echo(&d, false);
		assert(!guest_queue_listen(q));
		take_all(q, tokens, 1);
		assert(guest_queue_listen(q));
	}
}

static void test_packed_lies_are_found(struct guest_queue *q)
{
	uint32_t length;
	void *token;

	guest_queue_restart(q, 0);
	assert(guest_queue_add(q, three, 3, NULL, q));
	guest_queue_publish(q);
	packed_use(&(struct packed_echo){ .q = q, .used_wrap = true }, q->size, 1, 3);
	assert(guest_queue_take(q, &token, &length) == -EPROTO);
	packed_use(&(struct packed_echo){ .q = q, .used_wrap = true }, 5, 1, 3);
	assert(guest_queue_take(q, &token, &length) == -EPROTO);
}

static void test_flags(unsigned flags)
{
	struct guest_memory memory;
	struct guest_queue q;

	guest_memory_open(&memory, 0x10000, 1 << 16);
	guest_queue_open_flags(&q, &memory, 128, flags);
	test_kinds(&q, &memory);
	if (flags == (GUEST_QUEUE_PACKED | GUEST_QUEUE_EVENT_INDEX))
		test_packed_notifications(&q);
	if (flags & GUEST_QUEUE_PACKED)
		test_packed_lies_are_found(&q);
	guest_queue_close(&q);
	guest_memory_close(&memory);
}

static void measure(struct guest_queue *q, unsigned long millions)
{
	struct echo device = { .q = q };
	struct timespec from, to;
	uint32_t length;
	void *token;

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (unsigned long i = 0; i < millions * 1000000 / 32; i++) {
		for (unsigned j = 0; j < 32; j++)
			guest_queue_add(q, three, 3, NULL, q);
		guest_queue_publish(q);
		echo(&device, false);
		while (guest_queue_take(q, &token, &length) == 1)
			;
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.1f million chains per second\n",
	       millions / (to.tv_sec - from.tv_sec + (to.tv_nsec - from.tv_nsec) / 1e9));
}

int main(int argc, char **argv)
{
	for (unsigned event_index = 0; event_index < 2; event_index++) {
		struct guest_memory memory;
		struct guest_queue q;

		guest_memory_open(&memory, 0x10000, 1 << 16);
		guest_queue_open(&q, &memory, 128, event_index);
		if (argc > 1) {
			measure(&q, strtoul(argv[1], NULL, 10));
		} else {
			test_chains_come_back_once(&q);
			guest_queue_restart(&q, 0);
			test_chain_is_laid_out(&q, &memory);
			test_full_ring_refuses(&q);
			test_lies_are_found(&q);
			test_notifications(&q);
		}
		guest_queue_close(&q);
		guest_memory_close(&memory);
	}
	for (unsigned flags = 1; flags < 8 && argc == 1; flags++)
		if (flags & (GUEST_QUEUE_PACKED | GUEST_QUEUE_IN_ORDER))
			test_flags(flags);
	return 0;
}
