/* Broken if this fails: how many transfers over the link a request costs when the VM's memory is
 * not shared.  Simulated time, so the numbers are the same in every run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/counter.h"
#include "base/error.h"
#include "device/blk.h"
#include "driver/guest_blk.h"
#include "driver/guest_memory.h"
#include "link/link.h"
#include "link/link_provider.h"
#include "link/memory_map.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum {
	QUEUE_SIZE = 256,
	BLOCK = 4096,
	DEPTH_MAX = 64,
	TRANSFER_NS = 1000,
	WARM = 2000,     /* requests */
	REQUESTS = 4000, /* measured */
	STEPS = 2000000,
};

/* ---- memory that is reached by transfers only: each takes a microsecond, all overlap ---- */

struct slow_memory {
	struct link_remote remote;
	struct guest_memory *memory;
	struct reactor_timer timer;
	struct link_transfer *first; /* by the time they end */
	uint64_t jitter_ns;          /* they do not end in the order in which they began */
};

static void move(const struct guest_memory *m, struct link_transfer *t)
{
	char *local = (char *)t->local + t->finished;
	char *there = guest_memory_at(m, t->iova + t->finished);

	if (t->write)
		memcpy(there, local, t->part);
	else
		memcpy(local, there, t->part);
}

static void arrive(void *arg)
{
	struct slow_memory *s = arg;
	struct reactor *r = s->first->reactor;

	while (s->first && s->first->due_ns <= reactor_now(r)) {
		struct link_transfer *t = s->first;

		s->first = t->next;
		move(s->memory, t);
		link_transfer_complete(t, 0);
	}
	if (s->first)
		reactor_timer_set(r, &s->timer, s->first->due_ns);
}

static void transfer(struct link_remote *remote, struct link_transfer *t)
{
	struct slow_memory *s = (struct slow_memory *)remote;
	struct link_transfer **at = &s->first;

	t->due_ns = reactor_now(t->reactor) + TRANSFER_NS;
	if (s->jitter_ns)
		t->due_ns += reactor_random(t->reactor) % s->jitter_ns;
	while (*at && (*at)->due_ns <= t->due_ns)
		at = &(*at)->next;
	t->next = *at;
	*at = t;
	reactor_timer_set(t->reactor, &s->timer, s->first->due_ns);
}

static const struct link_remote_type slow_type = { "slow", transfer, transfer };

/* ---- the bed ---- */

struct ring_kind {
	const char *name;
	bool event_index, indirect, scattered, packed, mapped, in_order;
	uint32_t type;      /* of the requests */
	uint32_t block;     /* bytes of each; 0: BLOCK */
	uint64_t jitter_ns; /* of transfers */
};

static uint32_t block_of(const struct ring_kind *kind)
{
	return kind->block ? kind->block : BLOCK;
}

struct bed {
	const struct ring_kind *kind;
	struct reactor_world *world;
	struct reactor *reactor;
	struct storage *storage;
	struct blk *blk;
	struct guest_memory memory;
	struct slow_memory slow;
	struct guest_queue queue;
	struct guest_blk driver;
	struct reactor_watch interrupt;
	int kick;
	unsigned long sent, completed;
	bool done;
};

static void send_request(struct bed *b, struct guest_blk_slot *s)
{
	assert_true(guest_blk_add(&b->driver, s, b->kind->type, b->sent++ % 1000 * 8,
				  block_of(b->kind)));
}

static void publish(struct bed *b)
{
	if (guest_queue_publish(&b->queue))
		eventfd_write(b->kick, 1);
}

/* As a driver's interrupt handler does: takes all, sends as many again, asks for the next. */
static void interrupted(void *arg)
{
	struct bed *b = arg;
	struct guest_blk_slot *s;
	eventfd_t count;

	eventfd_read(b->interrupt.fd, &count);
	do {
		while (guest_blk_take(&b->driver, &s) == 1) {
			assert_int_equal(s->record->status, VIRTIO_BLK_S_OK);
			b->completed++;
			send_request(b, s);
		}
	} while (!guest_queue_listen(&b->queue));
	publish(b);
}

static void note(void *arg)
{
	((struct bed *)arg)->done = true;
}

static void wait_done(struct bed *b)
{
	for (unsigned i = 0; i < STEPS && !b->done; i++)
		reactor_world_step(b->world);
	assert_true(b->done);
	b->done = false;
}

static void open_device(struct bed *b)
{
	struct error e = { 0 };
	struct blk_options blk = { 0 };
	struct virtio_device_options device = { .name = "counted",
						.queues = 1,
						.queue_size = QUEUE_SIZE,
						.worker_count = 1,
						.packed = true,
						.in_order = true };

	b->world = reactor_world_create(1);
	b->reactor = reactor_virtual_create(b->world, "counted");
	b->storage = storage_open("counted", "null:?size=1G", false, b->reactor, &e);
	assert_non_null(b->storage);
	blk.storage = b->storage;
	device.control = b->reactor;
	device.workers = &b->reactor;
	b->blk = blk_create(&blk, &device, &e);
	assert_non_null(b->blk);
}

static void open_driver(struct bed *b, unsigned depth)
{
	guest_memory_open(&b->memory, 0x100000, (1 << 20) + depth * block_of(b->kind));
	guest_queue_open_flags(&b->queue, &b->memory, QUEUE_SIZE,
			       (b->kind->event_index ? GUEST_QUEUE_EVENT_INDEX : 0) |
				       (b->kind->packed ? GUEST_QUEUE_PACKED : 0) |
				       (b->kind->in_order ? GUEST_QUEUE_IN_ORDER : 0));
	guest_blk_open(&b->driver, &b->queue, &b->memory, depth, block_of(b->kind),
		       b->kind->indirect);
	if (b->kind->scattered)
		guest_blk_scatter_tables(&b->driver, &b->memory);
	b->interrupt = (struct reactor_watch){
		.fd = eventfd(0, EFD_NONBLOCK), .events = POLLIN, .fn = interrupted, .arg = b
	};
	assert_int_equal(reactor_watch_add(b->reactor, &b->interrupt), 0);
	b->kick = eventfd(0, EFD_NONBLOCK);
}

static void give_memory(struct bed *b, struct reactor_task *done)
{
	const struct memory_region region = { b->memory.iova, b->memory.size,
					      b->kind->mapped ? b->memory.fd : -1, 0,
					      MEMORY_READ | MEMORY_WRITE };
	struct memory_map *empty, *map;

	b->slow = (struct slow_memory){ .remote.type = &slow_type,
					.memory = &b->memory,
					.jitter_ns = b->kind->jitter_ns,
					.timer = { .fn = arrive, .arg = &b->slow } };
	empty = memory_map_create_remote(&b->slow.remote, NULL);
	map = memory_map_add(empty, &region, NULL);
	memory_map_release(empty);
	virtio_device_set_memory(blk_device(b->blk), map, done);
	memory_map_release(map);
	wait_done(b);
}

static void start_queue(struct bed *b, struct reactor_task *done)
{
	uint16_t first = guest_queue_base(&b->queue);
	const struct virtio_queue_setup setup = { .size = QUEUE_SIZE,
						  .available_index = first,
						  .used_index = first,
						  .descriptor_iova = b->queue.descriptor_iova,
						  .driver_iova = b->queue.driver_iova,
						  .device_iova = b->queue.device_iova };
	uint64_t features = 1ull << VIRTIO_F_VERSION_1 |
			    (uint64_t)b->kind->packed << VIRTIO_F_RING_PACKED |
			    (uint64_t)b->kind->in_order << VIRTIO_F_IN_ORDER |
			    (uint64_t)b->kind->indirect << VIRTIO_RING_F_INDIRECT_DESC |
			    (uint64_t)b->kind->event_index << VIRTIO_RING_F_EVENT_IDX;
	struct virtio_device *d = blk_device(b->blk);
	struct error e = { 0 };
	int status = -1;

	assert_int_equal(virtio_device_accept(d, features, &e), 0);
	assert_int_equal(virtio_queue_configure(d, 0, &setup, &e), 0);
	virtio_queue_give_kick(d, 0, dup(b->kick));
	virtio_queue_give_interrupt(d, 0, dup(b->interrupt.fd));
	virtio_queue_enable(d, 0, true);
	virtio_queue_start(d, 0, &status, done);
	wait_done(b);
	assert_int_equal(status, 0);
}

static void bed_open(struct bed *b, const struct ring_kind *kind, unsigned depth)
{
	struct reactor_task done = { .fn = note, .arg = b };

	*b = (struct bed){ .kind = kind };
	open_device(b);
	reactor_world_enter(b->world, b->reactor);
	open_driver(b, depth);
	give_memory(b, &done);
	start_queue(b, &done);
	for (unsigned i = 0; i < depth; i++)
		send_request(b, &b->driver.slots[i]);
	publish(b);
}

static void bed_close(struct bed *b)
{
	struct reactor_task done = { .fn = note, .arg = b };

	reactor_world_enter(b->world, b->reactor);
	reactor_watch_remove(&b->interrupt);
	virtio_device_reset(blk_device(b->blk), &done);
	wait_done(b);
	reactor_world_enter(b->world, b->reactor);
	blk_free(b->blk);
	storage_close(b->storage);
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	guest_blk_close(&b->driver);
	guest_queue_close(&b->queue);
	guest_memory_close(&b->memory);
	close(b->interrupt.fd);
	close(b->kick);
}

static void serve(struct bed *b, unsigned long requests)
{
	unsigned long until = b->completed + requests;

	for (unsigned i = 0; i < STEPS && b->completed < until; i++)
		reactor_world_step(b->world);
	assert_true(b->completed >= until);
}

/* ---- counting ---- */

struct costs {
	double control, header, data, status; /* transfers per request */
};

static double counted(const char *counter)
{
	return counter_sum("link", "counted", counter);
}

static struct costs look(void)
{
	return (struct costs){
		.control = counted("ring_reads") + counted("ring_writes"),
		.header = counted("header_reads"),
		.data = counted("payload_reads") + counted("payload_writes"),
		.status = counted("status_writes"),
	};
}

static struct costs measure(const struct ring_kind *kind, unsigned depth)
{
	unsigned long begun;
	struct costs before, after;
	struct bed b;
	double n;

	bed_open(&b, kind, depth);
	serve(&b, WARM);
	before = look();
	begun = b.completed;
	serve(&b, REQUESTS);
	after = look();
	n = b.completed - begun;
	bed_close(&b);
	return (struct costs){ (after.control - before.control) / n,
			       (after.header - before.header) / n, (after.data - before.data) / n,
			       (after.status - before.status) / n };
}

/* ---- bounds ---- */

enum { DEPTHS = 4 };

static const unsigned depths[DEPTHS] = { 1, 4, 16, DEPTH_MAX };

static void check(const struct ring_kind *kind, const double bounds[DEPTHS])
{
	for (unsigned i = 0; i < DEPTHS; i++) {
		struct costs c = measure(kind, depths[i]);
		double other = c.header + c.data + c.status;

		print_message("| %s | %s | %u | %.2f | %.2f |\n", kind->name,
			      kind->type == VIRTIO_BLK_T_IN ? "read" : "write", depths[i],
			      c.control, c.control + other);
		assert_true(c.control <= bounds[i] + 0.005);
		assert_true(other > 2.97 && other < 3.03);
	}
}

static void check_both(struct ring_kind kind, const double bounds[DEPTHS])
{
	kind.type = VIRTIO_BLK_T_IN;

	check(&kind, bounds);
	kind.type = VIRTIO_BLK_T_OUT;
	check(&kind, bounds);
}

/* index, wish, heads, descriptors; used elements, index, the driver's wish */
static void split(void **state)
{
	check_both((struct ring_kind){ "split", .event_index = true },
		   (double[]){ 7, 2, 0.5, 0.15 });
}

/* without event indexes nothing is asked of the driver */
static void split_without_events(void **state)
{
	check_both((struct ring_kind){ "split, no EVENT_IDX" }, (double[]){ 6, 2, 0.5, 0.15 });
}

/* one more for the tables of a page */
static void split_indirect(void **state)
{
	check_both((struct ring_kind){ "split, indirect", .event_index = true, .indirect = true },
		   (double[]){ 8, 2.25, 0.6, 0.2 });
	check_both((struct ring_kind){ "split, indirect, tables apart", .event_index = true,
				       .indirect = true, .scattered = true },
		   (double[]){ 8, 3, 1.5, 1.15 });
}

/* what there is, the descriptors; the used descriptor, the driver's wish */
static void packed(void **state)
{
	check_both((struct ring_kind){ "packed", .event_index = true, .packed = true },
		   (double[]){ 4.1, 1.5, 0.5, 0.15 });
}

static void packed_indirect(void **state)
{
	check_both((struct ring_kind){ "packed, indirect", .event_index = true, .indirect = true,
				       .packed = true },
		   (double[]){ 5.1, 2, 0.5, 0.2 });
	check_both((struct ring_kind){ "packed, indirect, tables apart", .event_index = true,
				       .indirect = true, .packed = true, .scattered = true },
		   (double[]){ 5.1, 2.5, 1.5, 1.15 });
}

/* Every ring, in memory of both kinds, serves a closed loop: what comes back is what went out. */
static void every_ring_is_served(void **state)
{
	for (unsigned i = 0; i < 64; i++) {
		struct ring_kind kind = { .event_index = i & 1,
					  .indirect = i & 2,
					  .packed = i & 4,
					  .in_order = i & 8,
					  .mapped = i & 16,
					  .scattered = i & 32,
					  .type = VIRTIO_BLK_T_IN };
		struct bed b;

		bed_open(&b, &kind, DEPTH_MAX);
		serve(&b, WARM);
		bed_close(&b);
	}
}

/* More payload than there are buffers for, and indirect tables that come in any order: buffers go
 * to requests in the order of the ring, or the first would wait for one that its successors hold.
 */
static void large_requests_share_the_buffers(void **state)
{
	for (unsigned i = 0; i < 16; i++) {
		struct ring_kind kind = { .event_index = true,
					  .indirect = true,
					  .scattered = true,
					  .packed = i & 1,
					  .in_order = i & 2,
					  .type = i & 4 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
					  .block = i & 8 ? 1 << 20 : 3 << 18,
					  .jitter_ns = 20000 };
		struct bed b;

		bed_open(&b, &kind, 24);
		serve(&b, 200);
		bed_close(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(large_requests_share_the_buffers),
		cmocka_unit_test(split),
		cmocka_unit_test(split_without_events),
		cmocka_unit_test(split_indirect),
		cmocka_unit_test(packed),
		cmocka_unit_test(packed_indirect),
		cmocka_unit_test(every_ring_is_served),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
