/* Broken if this fails: the crossing between threads.  A device whose queues live on two workers is
 * driven over a real socket, each byte is checked, while queues stop and start, memory comes and
 * goes, and the front-end disconnects.  Run it under ThreadSanitizer.
 *
 * OUTBOARD_SEED repeats a run's choices (not its timing). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "device/blk.h"
#include "driver/guest_blk.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "driver/vhost_user_client.h"
#include "host/host_transport.h"
#include "reactor/reactor.h"
#include "reactor/reactor_thread.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum {
	QUEUES = 4,
	WORKERS = 2,
	SLOTS = 8,
	QUEUE_SIZE = 64,
	BLOCK = 4096,
	BLOCKS_PER_SLOT = 16, /* each slot has an area of the disk to itself */
	ROUNDS = 20000,
	SECONDS_MAX = 30,
};

/* ---- the device, as the program assembles it ---- */

struct server {
	char path[64];
	struct reactor *control;
	struct reactor_thread *workers[WORKERS];
	struct reactor *reactors[WORKERS];
	struct storage *storage;
	struct blk *blk;
	struct host_endpoint *endpoint;
	struct reactor_task close, closed;
	pthread_t thread;
};

static void *run_control(void *arg)
{
	struct server *s = arg;

	reactor_run(s->control);
	return NULL;
}

static void server_close(void *arg)
{
	struct server *s = arg;

	vhost_user_transport.close(s->endpoint, &s->closed);
}

static void server_closed(void *arg)
{
	struct server *s = arg;

	reactor_stop(s->control);
}

static void server_start(struct server *s)
{
	const struct reactor_options control = { .name = "control" };
	const struct reactor_options worker = { .name = "worker", .poll_ns_max = 20000 };
	struct virtio_device_options d = { .name = "vda",
					   .queues = QUEUES,
					   .queue_size = QUEUE_SIZE,
					   .workers = s->reactors,
					   .worker_count = WORKERS };
	struct host_address address = { .path = s->path, .fd = -1 };
	struct blk_options b = { 0 };
	struct error e = { 0 };

	snprintf(s->path, sizeof(s->path), "/tmp/outboard-workers-%d.sock", getpid());
	s->close = (struct reactor_task){ .fn = server_close, .arg = s };
	s->closed = (struct reactor_task){ .fn = server_closed, .arg = s };
	s->control = d.control = reactor_create(&control, &e);
	for (unsigned i = 0; i < WORKERS; i++) {
		s->workers[i] = reactor_thread_start(&worker, &e);
		s->reactors[i] = reactor_thread_reactor(s->workers[i]);
	}
	s->storage = b.storage = storage_open("vda", "memory:?size=16M", false, s->control, &e);
	s->blk = blk_create(&b, &d, &e);
	assert_non_null(s->blk);
	s->endpoint = vhost_user_transport.open(&address, blk_device(s->blk), &e);
	assert_non_null(s->endpoint);
	assert_int_equal(pthread_create(&s->thread, NULL, run_control, s), 0);
}

static void server_end(struct server *s)
{
	reactor_post(s->control, &s->close);
	pthread_join(s->thread, NULL);
	blk_free(s->blk);
	storage_close(s->storage);
	for (unsigned i = 0; i < WORKERS; i++)
		reactor_thread_stop(s->workers[i]);
	reactor_free(s->control);
}

/* ---- the driver ---- */

struct slot_state {
	unsigned block; /* in the slot's area */
	bool reading, busy;
	uint8_t expected[BLOCKS_PER_SLOT]; /* what fills each block */
};

struct guest {
	struct vhost_user_client client;
	struct guest_memory memory, extra;
	struct guest_queue queues[QUEUES];
	struct guest_blk blks[QUEUES];
	struct slot_state states[QUEUES][SLOTS];
	uint64_t completed;
	bool has_extra;
};

static void must(int err, const struct error *e)
{
	if (err)
		fail_msg("%s", e->text);
}

static uint64_t now_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static uint64_t sector_of(unsigned queue, unsigned slot, unsigned block)
{
	return ((queue * SLOTS + slot) * BLOCKS_PER_SLOT + block) * (BLOCK / 512);
}

static void check_read(const struct slot_state *t, const uint8_t *buffer)
{
	for (unsigned i = 0; i < BLOCK; i++)
		if (buffer[i] != t->expected[t->block])
			fail_msg("byte %u is %u, not %u", i, buffer[i], t->expected[t->block]);
}

static void submit(struct guest *g, unsigned queue, unsigned slot)
{
	struct guest_blk_slot *s = &g->blks[queue].slots[slot];
	struct slot_state *t = &g->states[queue][slot];

	t->block = random() % BLOCKS_PER_SLOT;
	t->reading = random() % 2;
	t->busy = true;
	if (!t->reading) {
		t->expected[t->block] = random();
		memset(s->buffer, t->expected[t->block], BLOCK);
	}
	assert_true(guest_blk_add(&g->blks[queue], s,
				  t->reading ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
				  sector_of(queue, slot, t->block), BLOCK));
}

/* Takes what has come back; the number of requests still out. */
static unsigned collect(struct guest *g, unsigned queue)
{
	struct guest_blk *b = &g->blks[queue];
	struct guest_blk_slot *s;
	int answer;

	while ((answer = guest_blk_take(b, &s)) == 1) {
		struct slot_state *t = &g->states[queue][s - b->slots];

		assert_true(t->busy);
		assert_int_equal(s->record->status, VIRTIO_BLK_S_OK);
		if (t->reading)
			check_read(t, s->buffer);
		t->busy = false;
		g->completed++;
	}
	assert_int_equal(answer, 0);
	return guest_queue_outstanding(b->queue);
}

static void fill(struct guest *g, unsigned queue)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (!g->states[queue][i].busy && random() % 4)
			submit(g, queue, i);
	if (guest_queue_publish(&g->queues[queue]))
		vhost_user_client_kick(&g->client, queue);
}

static void drain(struct guest *g, unsigned queue)
{
	uint64_t deadline = now_seconds() + 10;

	while (collect(g, queue))
		if (now_seconds() > deadline)
			fail_msg("queue %u: requests do not come back", queue);
}

static void stop_and_start(struct guest *g, unsigned queue)
{
	struct error e = { 0 };
	uint16_t base;

	must(vhost_user_client_stop_queue(&g->client, queue, &base, &e), &e);
	/* what was published and not taken stays for the next start */
	must(vhost_user_client_start_queue(&g->client, queue, &g->queues[queue], base, &e), &e);
}

static void change_memory(struct guest *g)
{
	struct error e = { 0 };

	if (g->has_extra)
		must(vhost_user_client_remove_region(&g->client, &g->extra, &e), &e);
	else
		must(vhost_user_client_add_region(&g->client, &g->extra, &e), &e);
	g->has_extra = !g->has_extra;
}

static void bring_up(struct guest *g, const char *path)
{
	const struct guest_memory *regions[] = { &g->memory };
	struct error e = { 0 };

	must(vhost_user_client_connect(&g->client, path, &e), &e);
	must(vhost_user_client_set_features(&g->client, ~0ull & ~(1ull << 26), &e), &e);
	must(vhost_user_client_share(&g->client, regions, 1, &e), &e);
	for (unsigned i = 0; i < QUEUES; i++)
		must(vhost_user_client_start_queue(&g->client, i, &g->queues[i],
						   g->queues[i].used_index, &e),
		     &e);
	g->has_extra = false;
}

/* As a VMM that goes away in order: nothing is out. */
static void reconnect(struct guest *g, const char *path)
{
	for (unsigned i = 0; i < QUEUES; i++)
		drain(g, i);
	vhost_user_client_disconnect(&g->client);
	bring_up(g, path);
}

static void guest_open(struct guest *g)
{
	guest_memory_open(&g->memory, 0, 16 << 20);
	guest_memory_open(&g->extra, 1ull << 32, 1 << 20);
	vhost_user_client_init(&g->client);
	for (unsigned i = 0; i < QUEUES; i++) {
		guest_queue_open(&g->queues[i], &g->memory, QUEUE_SIZE, i % 2);
		guest_blk_open(&g->blks[i], &g->queues[i], &g->memory, SLOTS, BLOCK, i / 2);
	}
}

static void guest_close(struct guest *g)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		guest_blk_close(&g->blks[i]);
		guest_queue_close(&g->queues[i]);
	}
	vhost_user_client_close(&g->client);
	guest_memory_close(&g->memory);
	guest_memory_close(&g->extra);
}

static void disturb(struct guest *g, const char *path)
{
	switch (random() % 16) {
	case 4:
	case 5:
	case 6: /* nothing more is sent until all is back: a kick that got lost would be missed */
		drain(g, random() % QUEUES);
		break;
	case 7: /* long enough for a worker to come to rest */
		usleep(random() % 200);
		break;
	case 0:
		change_memory(g);
		break;
	case 1:
	case 2:
		stop_and_start(g, random() % QUEUES);
		break;
	case 3:
		if (random() % 4 == 0)
			reconnect(g, path);
		break;
	}
}

static void every_byte_arrives_while_everything_changes(void **state)
{
	static struct server server;
	static struct guest guest;
	const char *text = getenv("OUTBOARD_SEED");
	unsigned seed = text ? strtoul(text, NULL, 0) : (unsigned)time(NULL);
	uint64_t deadline = now_seconds() + SECONDS_MAX;

	print_message("OUTBOARD_SEED=%u\n", seed);
	srandom(seed);
	server_start(&server);
	guest_open(&guest);
	bring_up(&guest, server.path);
	for (unsigned round = 0; round < ROUNDS && now_seconds() < deadline; round++) {
		for (unsigned i = 0; i < QUEUES; i++) {
			fill(&guest, i);
			collect(&guest, i);
		}
		disturb(&guest, server.path);
	}
	for (unsigned i = 0; i < QUEUES; i++)
		drain(&guest, i);
	assert_true(guest.completed > ROUNDS);
	guest_close(&guest);
	server_end(&server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_arrives_while_everything_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
