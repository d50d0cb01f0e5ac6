/* If this fails, frames between threads are lost, torn, or in the wrong order, or a reactor sleeps
 * while frames wait for it.  Of most use under ThreadSanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "network/frame_ring.h"

enum { THREADS = 4, FRAMES = 40000, BYTES_MAX = 3000 };

static const struct virtio_net_hdr nothing;
static unsigned wakes;

static void count_wake(void *arg)
{
	wakes++;
}

static struct frame_ring *ring_open(void)
{
	struct frame_ring *r = frame_ring_create(count_wake, NULL);

	assert_non_null(r);
	frame_ring_open(r);
	wakes = 0;
	return r;
}

static int put(struct frame_ring *r, const void *bytes, size_t n)
{
	struct iovec iov = { (void *)bytes, n };

	return frame_ring_put(r, &nothing, &iov, 1, n);
}

/* ---- one thread ---- */

static void gives_what_was_put(void **state)
{
	struct virtio_net_hdr h = { .flags = 1, .gso_type = 3, .gso_size = 7, .csum_start = 9 };
	static uint8_t bytes[5000];
	struct iovec iov[3] = { { bytes, 1 }, { bytes + 1, 99 }, { bytes + 100, 4900 } };
	struct frame_ring *r = ring_open();
	struct network_frame f;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = i * 7 + i / 256;
	assert_int_equal(frame_ring_put(r, &h, iov, 3, 5000), 0);
	for (unsigned i = 0; i < 2; i++) { /* it stays the next */
		assert_int_equal(frame_ring_peek(r, &f), 1);
		assert_int_equal(f.length, 5000);
		assert_memory_equal(f.bytes, bytes, 5000);
		assert_memory_equal(&f.header, &h, sizeof(h));
	}
	frame_ring_consume(r);
	assert_int_equal(frame_ring_peek(r, &f), 0);
	frame_ring_free(r);
	frame_ring_free(NULL);
}

static unsigned fill(struct frame_ring *r, size_t bytes)
{
	static uint8_t frame[NETWORK_FRAME_MAX + 1];
	unsigned count = 0;
	int status = 0;

	for (; !status && count < 100000; count += !status)
		status = put(r, frame, bytes);
	assert_int_equal(status, -ENOBUFS);
	return count;
}

static unsigned empty(struct frame_ring *r, size_t bytes)
{
	struct network_frame f;
	unsigned count = 0;

	for (; frame_ring_peek(r, &f); count++) {
		assert_int_equal(f.length, bytes);
		frame_ring_consume(r);
	}
	return count;
}

/* In frames and in bytes, wherever in its memory the ring stands. */
static void is_bounded(void **state)
{
	static const unsigned sizes[] = { 14, 64, 320, 1514, 9014, 30000, NETWORK_FRAME_MAX };
	struct frame_ring *r = ring_open();

	for (unsigned round = 0; round < 200; round++) {
		unsigned bytes = sizes[round % ARRAY_LENGTH(sizes)], count;

		for (unsigned i = 0; i <= round % 11; i++) /* begins elsewhere */
			assert_int_equal(put(r, "one", 3) + empty(r, 3), 1);
		count = fill(r, bytes);
		assert_true(count <= FRAME_RING_SLOTS);
		assert_true((uint64_t)count * bytes <= FRAME_RING_BYTES);
		/* All of it is used, but for what a frame in one piece cannot use at the end. */
		assert_true(count == FRAME_RING_SLOTS ||
			    (uint64_t)(count + 2) * (bytes + 64) > FRAME_RING_BYTES);
		assert_int_equal(empty(r, bytes), count);
	}
	assert_int_equal(fill(r, NETWORK_FRAME_MAX + 1), 0);
	frame_ring_free(r);
}

static void wakes_once_after_it_was_seen_empty(void **state)
{
	struct frame_ring *r = ring_open();
	struct network_frame f;

	assert_int_equal(put(r, "one", 3), 0);
	assert_int_equal(wakes, 1); /* at first nobody looks */
	assert_int_equal(put(r, "two", 3), 0);
	assert_int_equal(frame_ring_peek(r, &f), 1);
	frame_ring_consume(r);
	assert_int_equal(put(r, "six", 3), 0);
	assert_int_equal(wakes, 1); /* it was not empty meanwhile */
	assert_int_equal(empty(r, 3), 2);
	frame_ring_free(r);
}

static void wakes_again(void **state)
{
	struct frame_ring *r = ring_open();

	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(put(r, "one", 3), 0);
		assert_int_equal(put(r, "two", 3), 0);
		assert_int_equal(wakes, i + 1);
		assert_int_equal(empty(r, 3), 2);
	}
	frame_ring_free(r);
}

static void closed_it_takes_nothing(void **state)
{
	struct frame_ring *r = frame_ring_create(count_wake, NULL);

	wakes = 0;
	assert_int_equal(put(r, "one", 3), -ENOBUFS);
	frame_ring_open(r);
	assert_int_equal(put(r, "one", 3), 0);
	frame_ring_close(r);
	assert_int_equal(put(r, "two", 3), -ENOBUFS);
	assert_int_equal(wakes, 1);
	frame_ring_open(r); /* forgets what is left */
	assert_int_equal(empty(r, 3), 0);
	assert_int_equal(put(r, "one", 3), 0);
	assert_int_equal(wakes, 2);
	frame_ring_free(r);
}

/* ---- many threads ---- */

struct crowd {
	struct frame_ring *ring;
	pthread_t threads[THREADS];
	unsigned started;
	_Atomic unsigned refused;
	_Atomic int credit; /* frames that may be put before one is taken; negative: any */
	sem_t awake;
	unsigned next[THREADS];
};

static void wake_crowd(void *arg)
{
	sem_post(&((struct crowd *)arg)->awake);
}

/* Thread, number, length, then bytes that follow from them. */
static size_t write_frame(uint8_t *to, unsigned thread, unsigned number)
{
	size_t n = 14 + (number * 2654435761u + thread) % (number % 16 ? 200 : BYTES_MAX - 14);

	store_be32(to, thread);
	store_be32(to + 4, number);
	memset(to + 8, thread * 50 + number, n - 8);
	return n;
}

static bool take_credit(struct crowd *c)
{
	int credit = atomic_load(&c->credit);

	return credit < 0 ||
	       (credit && atomic_compare_exchange_strong(&c->credit, &credit, credit - 1));
}

static void *put_many(void *arg)
{
	struct crowd *c = arg;
	unsigned thread = __atomic_fetch_add(&c->started, 1, __ATOMIC_RELAXED);
	uint8_t bytes[BYTES_MAX];

	for (unsigned i = 0; i < FRAMES; i++) {
		size_t n = write_frame(bytes, thread, i);
		struct iovec iov[2] = { { bytes, 9 }, { bytes + 9, n - 9 } };
		struct virtio_net_hdr h = { .csum_start = i, .hdr_len = thread };

		while (!take_credit(c))
			sched_yield();
		while (frame_ring_put(c->ring, &h, iov, 2, n)) {
			atomic_fetch_add(&c->refused, 1);
			sched_yield();
		}
	}
	return NULL;
}

static void check_frame(struct crowd *c, const struct network_frame *f)
{
	unsigned thread = load_be32(f->bytes), number = load_be32(f->bytes + 4);
	uint8_t wanted[BYTES_MAX];

	assert_true(thread < THREADS);
	assert_int_equal(number, c->next[thread]);
	c->next[thread]++;
	assert_int_equal(f->length, write_frame(wanted, thread, number));
	assert_memory_equal(f->bytes, wanted, f->length);
	assert_int_equal(f->header.csum_start, (uint16_t)number);
	assert_int_equal(f->header.hdr_len, thread);
}

/* Sleeps whenever the ring was empty, as a reactor does: a wake that is missing ends the test. */
static void await_wake(struct crowd *c)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 20;
	if (sem_timedwait(&c->awake, &end))
		fail_msg("frames wait, and nobody was woken");
}

static void take_all(struct crowd *c)
{
	struct network_frame f;

	for (unsigned taken = 0; taken < THREADS * FRAMES; taken++) {
		while (!frame_ring_peek(c->ring, &f))
			await_wake(c);
		check_frame(c, &f);
		frame_ring_consume(c->ring);
		if (atomic_load(&c->credit) >= 0)
			atomic_fetch_add(&c->credit, 1);
	}
}

/* Returns how often there was no room. */
static unsigned run_crowd(int credit)
{
	struct crowd c = { .credit = credit };
	struct network_frame f;

	sem_init(&c.awake, 0, 0);
	c.ring = frame_ring_create(wake_crowd, &c);
	frame_ring_open(c.ring);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&c.threads[i], NULL, put_many, &c);
	take_all(&c);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(c.threads[i], NULL);
	assert_int_equal(frame_ring_peek(c.ring, &f), 0);
	frame_ring_free(c.ring);
	sem_destroy(&c.awake);
	return c.refused;
}

static void loses_and_tears_nothing(void **state)
{
	run_crowd(-1);
}

/* Little is ever in it, so every refusal would be a frame lost for nothing. */
static void refuses_only_when_full(void **state)
{
	assert_int_equal(run_crowd(8), 0);
	assert_int_equal(run_crowd(100), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_what_was_put),
		cmocka_unit_test(is_bounded),
		cmocka_unit_test(wakes_once_after_it_was_seen_empty),
		cmocka_unit_test(wakes_again),
		cmocka_unit_test(closed_it_takes_nothing),
		cmocka_unit_test(loses_and_tears_nothing),
		cmocka_unit_test(refuses_only_when_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
