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
	return 0;
}
