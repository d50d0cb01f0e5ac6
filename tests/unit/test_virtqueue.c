/* Broken if this fails: what a driver may put into a split ring, what it gets back, which rules it
 * cannot break, and what a new process finds of the requests of a killed one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "link/dirty_log.h"
#include "link/memory_map.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "virtqueue/virtqueue.h"

enum {
	SIZE = 8,
	RAM = 1 << 20,
	BASE = 0x100000, /* iova of the first byte */
	DESCRIPTORS = 0,
	AVAILABLE = 0x1000,
	USED = 0x2000,
	TABLE = 0x3000,
	DATA = 0x10000,
};

static struct reactor *home; /* of the next queue that starts; most need none */

struct fixture {
	int fd, interrupt;
	char *ram;
	struct memory_map *map;
	struct virtqueue *q;
	struct vring_desc *descriptors;
	struct vring_avail *available;
	struct vring_used *used;
	void *inflight;
};

static struct virtqueue_setup setup_of(const struct fixture *f, uint64_t features)
{
	return (struct virtqueue_setup){
		.header_size = 16,
		.features = features,
		.size = SIZE,
		.descriptor_iova = BASE + DESCRIPTORS,
		.driver_iova = BASE + AVAILABLE,
		.device_iova = BASE + USED,
		.inflight = f->inflight,
		.inflight_bytes = f->inflight ? virtqueue_inflight_size(SIZE, false) : 0,
	};
}

static void nothing(void *arg)
{
}

static void queue_create(struct fixture *f)
{
	const struct virtqueue_options o = {
		.name = "test/0", .size_max = 64, .has_status = true, .ready = nothing
	};

	f->q = virtqueue_create(&o, NULL);
	assert_non_null(f->q);
}

static void queue_start(struct fixture *f, uint64_t features, uint16_t index)
{
	struct virtqueue_setup s = setup_of(f, features);
	struct error e = { 0 };

	s.available_index = index;
	assert_int_equal(virtqueue_start(f->q, home, &s, f->map, &e), 0);
	virtqueue_set_interrupt(f->q, f->interrupt);
	eventfd_read(f->interrupt, &(eventfd_t){ 0 });
}

static void begin(struct fixture *f, uint64_t features)
{
	struct memory_map *empty = memory_map_create(NULL);
	struct memory_region r = { BASE, RAM, -1, 0, MEMORY_READ | MEMORY_WRITE };

	*f = (struct fixture){ .fd = memfd_create("ram", 0) };
	assert_int_equal(ftruncate(f->fd, RAM), 0);
	f->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	r.fd = f->fd;
	f->map = memory_map_add(empty, &r, NULL);
	memory_map_release(empty);
	f->descriptors = (void *)(f->ram + DESCRIPTORS);
	f->available = (void *)(f->ram + AVAILABLE);
	f->used = (void *)(f->ram + USED);
	f->interrupt = eventfd(0, EFD_NONBLOCK);
	queue_create(f);
	queue_start(f, features, 0);
}

static void end(struct fixture *f)
{
	virtqueue_stop(f->q);
	virtqueue_free(f->q);
	memory_map_release(f->map);
	munmap(f->ram, RAM);
	close(f->fd);
	close(f->interrupt);
	free(f->inflight);
}

static struct vring_desc descriptor(uint64_t at, uint32_t length, uint16_t flags, uint16_t next)
{
	return (struct vring_desc){ BASE + at, length, flags, next };
}

/* header 16, data 4096, status 1 at descriptors d, d + 1, d + 2 */
static void put_read(struct vring_desc *table, unsigned d)
{
	table[d] = descriptor(DATA + 32 * d, 16, VRING_DESC_F_NEXT, d + 1);
	table[d + 1] = descriptor(DATA + 0x1000 * (d + 1), 4096,
				  VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, d + 2);
	table[d + 2] = descriptor(DATA + 0x20000 + d, 1, VRING_DESC_F_WRITE, 0);
}

static void publish(struct fixture *f, uint16_t head)
{
	f->available->ring[f->available->idx % SIZE] = head;
	__atomic_store_n(&f->available->idx, f->available->idx + 1, __ATOMIC_RELEASE);
}

static struct virtqueue_chain *pop(struct fixture *f)
{
	struct virtqueue_chain *c;

	assert_int_equal(virtqueue_sync(f->q), 1);
	assert_int_equal(virtqueue_pop(f->q, &c), 1);
	return c;
}

static unsigned interrupts(struct fixture *f)
{
	eventfd_t n = 0;

	return eventfd_read(f->interrupt, &n) ? 0 : n;
}

static void a_request_comes_and_goes(void **state)
{
	struct virtqueue_chain *c;
	struct fixture f;

	begin(&f, 0);
	put_read(f.descriptors, 2);
	memcpy(f.ram + DATA + 64, "0123456789abcdef", 16);
	publish(&f, 2);
	c = pop(&f);
	assert_int_equal(c->id, 2);
	assert_memory_equal(c->header, "0123456789abcdef", 16);
	assert_int_equal(c->readable, 0);
	assert_int_equal(c->writable, 1);
	assert_int_equal(c->writable_bytes, 4096);
	assert_ptr_not_equal(c->iov[0].iov_base, NULL);
	memset(c->iov[0].iov_base, 'x', 4096);
	virtqueue_push(f.q, c, 4096, 42);
	assert_int_equal(f.used->idx, 0);
	virtqueue_flush(f.q);
	assert_int_equal(f.used->idx, 1);
	assert_int_equal(f.used->ring[0].id, 2);
	assert_int_equal(f.used->ring[0].len, 4097);
	assert_int_equal(f.ram[DATA + 0x20002], 42);
	assert_int_equal(f.ram[DATA + 0x3000 + 4095], 'x');
	assert_int_equal(interrupts(&f), 1);
	assert_int_equal(virtqueue_sync(f.q), 0);
	end(&f);
}

/* virtio 1.3, 2.7.4.1: a device makes no assumption about where parts end. */
static void header_and_status_may_be_cut_anywhere(void **state)
{
	struct virtqueue_chain *c;
	struct fixture f;

	begin(&f, 0);
	memcpy(f.ram + DATA, "0123456789abcdefPAYLOAD", 23);
	f.descriptors[0] = descriptor(DATA, 5, VRING_DESC_F_NEXT, 1);
	f.descriptors[1] = descriptor(DATA + 5, 0, VRING_DESC_F_NEXT, 2);
	f.descriptors[2] = descriptor(DATA + 5, 18, VRING_DESC_F_NEXT, 3);
	f.descriptors[3] = descriptor(DATA + 100, 10, VRING_DESC_F_WRITE, 0);
	publish(&f, 0);
	c = pop(&f);
	assert_memory_equal(c->header, "0123456789abcdef", 16);
	assert_int_equal(c->readable, 1);
	assert_int_equal(c->readable_bytes, 7);
	assert_memory_equal(c->iov[0].iov_base, "PAYLOAD", 7);
	assert_int_equal(c->writable_bytes, 9);
	virtqueue_push(f.q, c, 3, 9);
	virtqueue_flush(f.q);
	assert_int_equal(f.used->ring[0].len, 3); /* not the status: there is a gap before it */
	assert_int_equal(f.ram[DATA + 109], 9);
	end(&f);
}

/* virtio 1.3, 2.7.5.3.2: plain descriptors, then one that is indirect. */
static void indirect_tables_may_follow_plain_descriptors(void **state)
{
	struct virtqueue_chain *c;
	struct fixture f;

	begin(&f, 1ull << VIRTIO_RING_F_INDIRECT_DESC);
	put_read((struct vring_desc *)(void *)(f.ram + TABLE), 0);
	f.descriptors[4] = descriptor(DATA + 0x40000, 8, VRING_DESC_F_NEXT, 5);
	f.descriptors[5] = descriptor(TABLE, 48, VRING_DESC_F_INDIRECT, 0);
	publish(&f, 4);
	c = pop(&f);
	assert_int_equal(c->header_bytes, 16);
	assert_int_equal(c->readable_bytes, 8);
	assert_int_equal(c->writable_bytes, 4096);
	virtqueue_push(f.q, c, 0, 0);
	virtqueue_flush(f.q);
	end(&f);
}

static void chains_of_many_parts_are_held(void **state)
{
	struct virtqueue_chain *c;
	struct vring_desc *table;
	struct fixture f;

	begin(&f, 1ull << VIRTIO_RING_F_INDIRECT_DESC);
	table = (void *)(f.ram + TABLE);
	for (unsigned i = 0; i < 200; i++)
		table[i] = descriptor(
			DATA + i * 64, 16,
			(i ? VRING_DESC_F_WRITE : 0) | (i < 199 ? VRING_DESC_F_NEXT : 0), i + 1);
	f.descriptors[1] = descriptor(TABLE, 200 * 16, VRING_DESC_F_INDIRECT, 0);
	for (unsigned round = 0; round < 3; round++) {
		publish(&f, 1);
		c = pop(&f);
		assert_int_equal(c->writable, 199);
		assert_int_equal(c->writable_bytes, 199 * 16 - 1);
		virtqueue_push(f.q, c, c->writable_bytes, 0);
		virtqueue_flush(f.q);
	}
	end(&f);
}

/* Each case makes one chain at head 0 that breaks a rule. */
static void broken(struct fixture *f)
{
	struct virtqueue_chain *c;

	publish(f, 0);
	assert_int_equal(virtqueue_sync(f->q), 1);
	assert_int_equal(virtqueue_pop(f->q, &c), -EPROTO);
	assert_non_null(virtqueue_reason(f->q));
	assert_int_equal(virtqueue_sync(f->q), -EPROTO);
	end(f);
}

static void a_broken_chain_breaks_the_queue(void **state)
{
	const uint16_t next = VRING_DESC_F_NEXT, write = VRING_DESC_F_WRITE;
	const uint16_t indirect = VRING_DESC_F_INDIRECT;
	const struct {
		uint64_t features;
		struct vring_desc first, second, inner;
	} cases[] = {
		{ 0, descriptor(DATA, 16, next, 1), descriptor(DATA, 16, next, 0), { 0 } },
		{ 0, descriptor(DATA, 16, next, SIZE), { 0 }, { 0 } },
		{ 0, descriptor(DATA, 16, next | write, 1), descriptor(DATA, 16, 0, 0), { 0 } },
		{ 0, descriptor(RAM - 8, 16, 0, 0), { 0 }, { 0 } },
		{ 0, descriptor(-(uint64_t)BASE - 8, 16, 0, 0), { 0 }, { 0 } },
		{ 0, descriptor(DATA, UINT32_MAX, next, 1), descriptor(DATA, 16, 0, 0), { 0 } },
		{ 0, descriptor(TABLE, 16, indirect, 0), { 0 }, descriptor(DATA, 16, 0, 0) },
		{ 1ull << 28, descriptor(TABLE, 16, indirect | next, 1), descriptor(DATA, 16, 0, 0),
		  descriptor(DATA, 16, 0, 0) },
		{ 1ull << 28,
		  descriptor(TABLE, 24, indirect, 0),
		  { 0 },
		  descriptor(DATA, 16, 0, 0) },
		{ 1ull << 28,
		  descriptor(TABLE, 0, indirect, 0),
		  { 0 },
		  descriptor(DATA, 16, 0, 0) },
		{ 1ull << 28,
		  descriptor(TABLE, 16, indirect, 0),
		  { 0 },
		  descriptor(DATA, 16, next, 1) },
		{ 1ull << 28,
		  descriptor(TABLE, 16, indirect, 0),
		  { 0 },
		  descriptor(TABLE, 16, indirect, 0) },
		{ 1ull << 28, descriptor(RAM - 8, 16, indirect, 0), { 0 }, { 0 } },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f;

		begin(&f, cases[i].features);
		f.descriptors[0] = cases[i].first;
		f.descriptors[1] = cases[i].second;
		memcpy(f.ram + TABLE, &cases[i].inner, sizeof(cases[i].inner));
		broken(&f);
	}
}

static void a_broken_available_ring_breaks_the_queue(void **state)
{
	struct virtqueue_chain *c;
	struct fixture f;

	begin(&f, 0);
	f.available->idx = SIZE + 1;
	assert_int_equal(virtqueue_sync(f.q), -EPROTO);
	end(&f);

	begin(&f, 0);
	publish(&f, SIZE);
	assert_int_equal(virtqueue_sync(f.q), 1);
	assert_int_equal(virtqueue_pop(f.q, &c), -EPROTO);
	end(&f);

	/* the same head twice */
	begin(&f, 0);
	put_read(f.descriptors, 0);
	publish(&f, 0);
	publish(&f, 0);
	c = pop(&f);
	assert_int_equal(virtqueue_pop(f.q, &(struct virtqueue_chain *){ NULL }), -EPROTO);
	virtqueue_push(f.q, c, 0, 0);
	virtqueue_flush(f.q);
	end(&f);
}

static void event_indexes_suppress_in_both_directions(void **state)
{
	uint16_t *used_event, *available_event;
	struct fixture f;

	begin(&f, 1ull << VIRTIO_RING_F_EVENT_IDX);
	used_event = &f.available->ring[SIZE];
	available_event = (uint16_t *)(void *)&f.used->ring[SIZE];
	*used_event = 1; /* not for the first, but for the second */
	put_read(f.descriptors, 0);
	for (unsigned i = 0; i < 3; i++) {
		publish(&f, 0);
		virtqueue_push(f.q, pop(&f), 0, 0);
		virtqueue_flush(f.q);
		assert_int_equal(interrupts(&f), i == 1);
	}
	assert_true(virtqueue_listen(f.q));
	assert_int_equal(*available_event, 3);
	publish(&f, 0);
	assert_false(virtqueue_listen(f.q));
	end(&f);
}

static void flags_suppress_in_both_directions(void **state)
{
	struct fixture f;

	begin(&f, 0);
	virtqueue_mute(f.q);
	assert_int_equal(f.used->flags, VRING_USED_F_NO_NOTIFY);
	f.available->flags = VRING_AVAIL_F_NO_INTERRUPT;
	put_read(f.descriptors, 0);
	publish(&f, 0);
	virtqueue_push(f.q, pop(&f), 0, 0);
	virtqueue_flush(f.q);
	assert_int_equal(interrupts(&f), 0);
	assert_true(virtqueue_listen(f.q));
	assert_int_equal(f.used->flags, 0);
	end(&f);
}

static void return_one(struct fixture *f)
{
	publish(f, 0);
	virtqueue_push(f->q, pop(f), 0, 0);
	virtqueue_flush(f->q);
}

/* By number, by time, and what the driver is told of when nobody waits any more. */
static void held_interrupts(struct fixture *f, struct reactor_world *world)
{
	uint64_t begin = reactor_world_now(world);

	virtqueue_set_coalescing(f->q, 3, 1000 * 1000);
	for (unsigned i = 0; i < 7; i++) {
		return_one(f);
		assert_int_equal(interrupts(f), i % 3 == 2);
	}
	while (reactor_world_step(world))
		;
	assert_int_equal(interrupts(f), 1);
	assert_in_range(reactor_world_now(world) - begin, 1000 * 1000, 1010 * 1000);
	return_one(f);
	assert_int_equal(interrupts(f), 0);
	virtqueue_set_coalescing(f->q, 0, 0);
	assert_int_equal(interrupts(f), 1);
	return_one(f);
	assert_int_equal(interrupts(f), 1);
}

static void interrupts_wait_to_be_worth_it(void **state)
{
	struct reactor_world *world = reactor_world_create(1);
	struct fixture f;

	home = reactor_virtual_create(world, "home");
	reactor_world_enter(world, home);
	begin(&f, 0);
	put_read(f.descriptors, 0);
	held_interrupts(&f, world);
	f.available->flags = VRING_AVAIL_F_NO_INTERRUPT;
	virtqueue_set_coalescing(f.q, 1, 1000 * 1000);
	return_one(&f);
	while (reactor_world_step(world))
		;
	assert_int_equal(interrupts(&f), 0);
	f.available->flags = 0;
	virtqueue_set_coalescing(f.q, 0, 1000 * 1000);
	return_one(&f);
	reactor_world_enter(world, home);
	end(&f); /* with one held */
	reactor_free(home);
	reactor_world_free(world);
	home = NULL;
}

static void taken_requests_come_back_to_the_next_process(void **state)
{
	struct virtqueue_chain *c;
	struct fixture f;

	begin(&f, 0);
	virtqueue_stop(f.q);
	f.inflight = calloc(1, virtqueue_inflight_size(SIZE, false));
	queue_start(&f, 0, 0);
	put_read(f.descriptors, 0);
	put_read(f.descriptors, 3);
	publish(&f, 3);
	publish(&f, 0);
	assert_int_equal(pop(&f)->id, 3);
	assert_int_equal(virtqueue_pop(f.q, &c), 1);
	/* Killed here: the queue is left as it is, a new one takes over, in the old order. */
	queue_create(&f);
	queue_start(&f, 0, 0);
	c = pop(&f);
	assert_int_equal(c->id, 3);
	virtqueue_push(f.q, c, 0, 0);
	virtqueue_flush(f.q);
	/* Killed again, after the first was published. */
	queue_create(&f);
	queue_start(&f, 0, 1);
	c = pop(&f);
	assert_int_equal(c->id, 0);
	virtqueue_push(f.q, c, 0, 0);
	virtqueue_flush(f.q);
	assert_int_equal(f.used->idx, 2);
	assert_int_equal(virtqueue_sync(f.q), 0);
	end(&f);
}

static void pages_are_marked_that_were_written(void **state)
{
	int fd = memfd_create("log", 0);
	struct dirty_log *log;
	uint8_t bits[RAM * 2 / 4096 / 8], expected[sizeof(bits)] = { 0 };
	struct virtqueue_chain *c;
	struct fixture f;

	assert_int_equal(ftruncate(fd, sizeof(bits)), 0);
	log = dirty_log_share(fd, 0, sizeof(bits), NULL);
	begin(&f, 0);
	virtqueue_set_log(f.q, log);
	f.descriptors[0] = descriptor(DATA, 16, VRING_DESC_F_NEXT, 1);
	f.descriptors[1] = descriptor(DATA + 0x3800, 4096, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
				      2);
	f.descriptors[2] = descriptor(DATA + 0x6000, 1, VRING_DESC_F_WRITE, 0);
	publish(&f, 0);
	c = pop(&f);
	virtqueue_push(f.q, c, 0x801, 0);
	virtqueue_flush(f.q);
	for (unsigned i = 0; i < 4; i++) {
		const uint64_t written[] = { DATA + 0x3000, DATA + 0x4000, DATA + 0x6000, USED };
		uint64_t page = (BASE + written[i]) / 4096;

		expected[page / 8] |= 1 << page % 8;
	}
	assert_int_equal(pread(fd, bits, sizeof(bits), 0), sizeof(bits));
	assert_memory_equal(bits, expected, sizeof(bits));
	end(&f);
	dirty_log_free(log);
	close(fd);
}

static void count_release(void *arg)
{
	++*(unsigned *)arg;
}

/* A map of the same memory, mapped once more. */
static struct memory_map *mapped_again(const struct fixture *f)
{
	const struct memory_region all = { BASE, RAM, f->fd, 0, MEMORY_READ | MEMORY_WRITE };
	struct memory_map *none = memory_map_create(NULL);
	struct memory_map *map = memory_map_add(none, &all, NULL);

	assert_non_null(map);
	memory_map_release(none);
	return map;
}

static void settle(struct reactor_world *w)
{
	for (unsigned i = 0; i < 100 && reactor_world_step(w); i++)
		;
}

/* Each of three requests keeps the mapping that it began with, however often the map changes. */
static void old_maps_are_kept_while_requests_use_them(void **state)
{
	enum { MAPS = 3 };
	struct virtqueue_chain *c[MAPS];
	struct reactor_world *world = reactor_world_create(1);
	struct reactor *reactor = reactor_virtual_create(world, "control");
	struct reactor_task tasks[MAPS];
	unsigned released[MAPS] = { 0 };
	struct fixture f;

	begin(&f, 0);
	for (unsigned i = 0; i < MAPS; i++) {
		f.descriptors[i] = descriptor(DATA, 16, 0, 0);
		publish(&f, i);
		c[i] = pop(&f);
		tasks[i] = (struct reactor_task){ .fn = count_release, .arg = &released[i] };
		memory_map_on_release(f.map, BASE, reactor, &tasks[i]);
		memory_map_release(f.map);
		f.map = mapped_again(&f);
		assert_int_equal(virtqueue_set_memory(f.q, f.map), 0);
	}
	for (unsigned i = MAPS; i--;) {
		settle(world);
		assert_int_equal(released[i], 0);
		virtqueue_push(f.q, c[i], 0, 0);
		settle(world);
		assert_int_equal(released[i], 1);
	}
	virtqueue_flush(f.q);
	assert_int_equal(f.used->idx, MAPS);
	end(&f);
	reactor_free(reactor);
	reactor_world_free(world);
}

/* The guest's memory in two regions that meet at `border`, as a VMM with two memory back-ends has.
 */
static struct memory_map *divided(const struct fixture *f, uint64_t border)
{
	const struct memory_region low = { BASE, border, f->fd, 0, MEMORY_READ | MEMORY_WRITE };
	const struct memory_region high = { BASE + border, RAM - border, f->fd, border,
					    MEMORY_READ | MEMORY_WRITE };
	struct memory_map *none = memory_map_create(NULL);
	struct memory_map *one = memory_map_add(none, &low, NULL);
	struct memory_map *both = memory_map_add(one, &high, NULL);

	assert_non_null(both);
	memory_map_release(none);
	memory_map_release(one);
	return both;
}

/* A table across two mapped regions is copied together: nothing about it is remote. */
static void a_table_may_lie_across_regions(void **state)
{
	struct virtqueue_chain *c;
	struct memory_map *map;
	struct fixture f;

	begin(&f, 1ull << VIRTIO_RING_F_INDIRECT_DESC);
	map = divided(&f, TABLE + 64);
	assert_int_equal(virtqueue_set_memory(f.q, map), 0);
	put_read((struct vring_desc *)(void *)(f.ram + TABLE + 24), 0);
	f.descriptors[0] = descriptor(TABLE + 24, 48, VRING_DESC_F_INDIRECT, 0);
	publish(&f, 0);
	c = pop(&f);
	assert_int_equal(c->writable_bytes, 4096);
	assert_ptr_equal((char *)c->iov[0].iov_base + 1,
			 memory_map_contiguous(map, BASE + DATA + 0x1001, 1, MEMORY_WRITE,
					       &(bool){ false }));
	virtqueue_push(f.q, c, 4096, 0);
	virtqueue_flush(f.q);
	assert_int_equal(f.used->ring[0].len, 4097);
	memory_map_release(map);
	end(&f);
}

/* The request in flight comes back to a queue that has no ring for now: it waits for one, unless
 * nobody wants it any more. */
static void lost_rings_take_what_is_returned(struct fixture *f, struct memory_map *map,
					     bool for_good)
{
	struct virtqueue_chain *c;

	put_read(f->descriptors, 0);
	publish(f, 0);
	c = pop(f);
	assert_int_equal(virtqueue_set_memory(f->q, map), -EFAULT);
	assert_null(virtqueue_reason(f->q));
	virtqueue_push(f->q, c, 0, 0);
	virtqueue_flush(f->q);
	assert_false(virtqueue_is_settled(f->q));
	assert_int_equal(f->used->idx, 0);
	if (for_good) {
		virtqueue_abandon(f->q, "not wanted any more");
		virtqueue_flush(f->q);
	} else {
		assert_int_equal(virtqueue_set_memory(f->q, f->map), 0);
	}
	assert_true(virtqueue_is_settled(f->q));
	assert_int_equal(f->used->idx, for_good ? 0 : 1);
	memory_map_release(map);
	end(f);
}

static void rings_may_be_taken_away(void **state)
{
	struct fixture f;

	for (int for_good = 0; for_good < 2; for_good++) {
		begin(&f, 0);
		lost_rings_take_what_is_returned(&f, memory_map_create(NULL), for_good);
		begin(&f, 0);
		lost_rings_take_what_is_returned(&f, divided(&f, USED + 64), for_good);
		begin(&f, 0);
		lost_rings_take_what_is_returned(&f, divided(&f, AVAILABLE + 8), for_good);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_comes_and_goes),
		cmocka_unit_test(header_and_status_may_be_cut_anywhere),
		cmocka_unit_test(indirect_tables_may_follow_plain_descriptors),
		cmocka_unit_test(chains_of_many_parts_are_held),
		cmocka_unit_test(a_broken_chain_breaks_the_queue),
		cmocka_unit_test(a_broken_available_ring_breaks_the_queue),
		cmocka_unit_test(event_indexes_suppress_in_both_directions),
		cmocka_unit_test(flags_suppress_in_both_directions),
		cmocka_unit_test(taken_requests_come_back_to_the_next_process),
		cmocka_unit_test(pages_are_marked_that_were_written),
		cmocka_unit_test(interrupts_wait_to_be_worth_it),
		cmocka_unit_test(old_maps_are_kept_while_requests_use_them),
		cmocka_unit_test(a_table_may_lie_across_regions),
		cmocka_unit_test(rings_may_be_taken_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
