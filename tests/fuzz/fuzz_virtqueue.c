/* fuzz_virtqueue.c - rings filled with the input, while another thread scribbles on them: chains
 * that are handed out must lie in the guest's memory, and nothing may loop or be read twice to
 * effect. */
#include <assert.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "driver/guest_memory.h"
#include "fuzz.h"
#include "link/memory_map.h"
#include "virtqueue/virtqueue.h"

enum {
	QUEUE_SIZE = 16,
	BASE = 0x1000, /* iova: low, so that short inputs hit it */
	BYTES = 0x8000,
	RINGS = 0x400, /* descriptors, available, used: the input begins here */
	AVAILABLE = 0x100,
	USED = 0x200,
	ROUNDS = 8,
	CHAINS_MAX = 64,
	SCRIBBLES = 20000,
};

struct scribbler {
	struct guest_memory *memory;
	const uint8_t *bytes;
	size_t n;
	atomic_bool stop;
};

static void *scribble(void *arg)
{
	struct scribbler *s = arg;

	for (unsigned i = 0; i < SCRIBBLES && !atomic_load_explicit(&s->stop, memory_order_relaxed);
	     i++) {
		uint8_t byte = s->bytes[i % s->n];

		__atomic_store_n((uint8_t *)s->memory->bytes + (i * 31 + byte) % RINGS,
				 byte + i / 256, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void nothing(void *arg)
{
}

/* Touches both ends of each segment: a sanitizer, or the kernel, objects if it is not ours. */
static void touch(const struct virtqueue_chain *c)
{
	assert(c->header_bytes <= VIRTQUEUE_HEADER_MAX);
	for (unsigned i = 0; i < c->readable + c->writable; i++) {
		volatile char *at = c->iov[i].iov_base;
		char first = at[0], last = at[c->iov[i].iov_len - 1];

		if (i >= c->readable) {
			at[0] = last;
			at[c->iov[i].iov_len - 1] = first;
		}
	}
}

static void serve(struct virtqueue *q)
{
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct virtqueue_chain *out[CHAINS_MAX];
		unsigned n = 0;

		if (virtqueue_sync(q) < 0)
			break;
		while (n < CHAINS_MAX && virtqueue_pop(q, &out[n]) == 1)
			touch(out[n++]);
		assert(n <= QUEUE_SIZE);
		for (unsigned i = 0; i < n; i++)
			virtqueue_push(q, out[i], out[i]->writable_bytes, 0);
		virtqueue_flush(q);
		virtqueue_listen(q);
		virtqueue_mute(q);
	}
}

static struct memory_map *map_of(const struct guest_memory *m)
{
	const struct memory_region region = { m->iova, m->size, m->fd, 0,
					      MEMORY_READ | MEMORY_WRITE };
	struct memory_map *empty = memory_map_create(NULL);
	struct memory_map *map = memory_map_add(empty, &region, NULL);

	memory_map_release(empty);
	return map;
}

static void run(struct memory_map *map, uint64_t features)
{
	const struct virtqueue_options options = {
		.name = "fuzz", .size_max = QUEUE_SIZE, .has_status = true, .ready = nothing
	};
	const struct virtqueue_setup setup = { .features = features,
					       .header_size = 16,
					       .size = QUEUE_SIZE,
					       .descriptor_iova = BASE,
					       .driver_iova = BASE + AVAILABLE,
					       .device_iova = BASE + USED };
	struct virtqueue *q = virtqueue_create(&options, NULL);
	struct error e;

	if (!q || virtqueue_start(q, NULL, &setup, map, &e))
		abort();
	serve(q);
	virtqueue_stop(q);
	virtqueue_free(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct guest_memory memory;
	struct scribbler s = { .memory = &memory, .bytes = bytes, .n = n };
	struct memory_map *map;
	bool concurrent;
	pthread_t thread;

	if (n < 2)
		return 0;
	concurrent = bytes[0] & 1;
	guest_memory_open(&memory, BASE, BYTES);
	memcpy(memory.bytes, bytes + 1, minimum_u64(n - 1, BYTES));
	map = map_of(&memory);
	if (concurrent && pthread_create(&thread, NULL, scribble, &s))
		abort();
	run(map, (bytes[0] & 2 ? 1ull << VIRTIO_RING_F_INDIRECT_DESC : 0) |
			 (bytes[0] & 4 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0));
	atomic_store(&s.stop, true);
	if (concurrent)
		pthread_join(thread, NULL);
	memory_map_release(map);
	guest_memory_close(&memory);
	return 0;
}
