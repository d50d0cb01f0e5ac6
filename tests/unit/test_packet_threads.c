/* If this fails, frames are lost, or two threads disturb each other, while the number of a raw
 * interface's active queues changes.  Of most use under ThreadSanitizer. */
#include "packet_bed.h"

#include <semaphore.h>
#include <stdatomic.h>

#include "reactor/reactor_thread.h"

enum { ROUNDS = 150, COUNT = 24 };

struct worker {
	struct bed *bed;
	unsigned index;
	struct reactor_thread *thread;
	struct reactor_task start, stop;
	struct network_queue *queue;
	sem_t done;
};

static struct worker workers[QUEUES];
static _Atomic unsigned taken, mistakes;

static void take_all(void *arg)
{
	struct worker *w = arg;
	struct network_frame f;

	while (network_peek(w->queue, &f)) {
		if (f.length != 100 || load_be16(f.bytes + 12) != ETH_P_IP)
			atomic_fetch_add(&mistakes, 1);
		network_consume(w->queue);
		atomic_fetch_add(&taken, 1);
	}
}

static void start(void *arg)
{
	struct worker *w = arg;

	w->queue = network_queue_open(w->bed->port, w->index, reactor_thread_reactor(w->thread),
				      take_all, w, NULL);
	if (w->queue)
		take_all(w);
	sem_post(&w->done);
}

static void stop(void *arg)
{
	struct worker *w = arg;

	network_queue_close(w->queue);
	sem_post(&w->done);
}

static void worker_begin(struct worker *w, struct bed *b, unsigned index)
{
	struct reactor_options options = { .name = "worker" };
	struct error e = { 0 };

	*w = (struct worker){ .bed = b, .index = index };
	w->start = (struct reactor_task){ .fn = start, .arg = w };
	w->stop = (struct reactor_task){ .fn = stop, .arg = w };
	sem_init(&w->done, 0, 0);
	w->thread = reactor_thread_start(&options, &e);
	assert_non_null(w->thread);
	reactor_post(reactor_thread_reactor(w->thread), &w->start);
	sem_wait(&w->done);
	assert_non_null(w->queue);
}

static void worker_end(struct worker *w)
{
	reactor_post(reactor_thread_reactor(w->thread), &w->stop);
	sem_wait(&w->done);
	reactor_thread_stop(w->thread);
	sem_destroy(&w->done);
}

static bool await_frames(unsigned count)
{
	for (unsigned i = 0; i < 4000 && atomic_load(&taken) < count; i++)
		usleep(500);
	return atomic_load(&taken) == count;
}

/* Each frame is taken, whoever has its channel when it comes. */
static void loses_nothing_when_queues_change(void **state)
{
	struct bed *b = *state;
	char uri[64];
	struct error e;
	bool good = true;

	snprintf(uri, sizeof(uri), "packet:left?mode=%s", b->mode);
	assert_int_equal(bed_try(b, uri, QUEUES, &e), 0);
	atomic_store(&taken, 0);
	atomic_store(&mistakes, 0);
	for (unsigned i = 0; i < QUEUES; i++)
		worker_begin(&workers[i], b, i);
	for (unsigned round = 0; good && round < ROUNDS; round++) {
		network_port_set_active(b->port, round * 7 % QUEUES + 1);
		for (unsigned i = 0; i < COUNT; i++) {
			frame_make_tcp(&sent, 14, 100, round + i);
			sent.header = (struct virtio_net_hdr){ 0 };
			wire_send(b, &sent);
			if (i == COUNT / 2 && round % 3 == 0)
				network_port_set_active(b->port, (round + 2) % QUEUES + 1);
		}
		good = await_frames((round + 1) * COUNT);
	}
	for (unsigned i = 0; i < QUEUES; i++)
		worker_end(&workers[i]);
	assert_true(good);
	assert_int_equal(atomic_load(&mistakes), 0);
}

int main(void)
{
	const struct CMUnitTest sockets[] = { ON(packet, loses_nothing_when_queues_change) };
	const struct CMUnitTest channels[] = { ON(xdp, loses_nothing_when_queues_change) };
	bool privileged = namespace_enter();
	int failed;

	namespace_silence();
	log_set_level(LOG_LEVEL_ERROR);
	failed = cmocka_run_group_tests(sockets, NULL, NULL);
	return privileged ? failed + cmocka_run_group_tests(channels, NULL, NULL) : failed;
}
