/* If this fails, two threads that use one disk at once disturb each other.  Of most use under
 * ThreadSanitizer. */
#include "test_storage_bed.h"

#include <semaphore.h>
#include <unistd.h>

#include "base/counter.h"
#include "reactor/reactor_thread.h"

enum { REQUESTS = 2000, DEPTH = 8, LENGTH = 4096 };

/* One thread's part: DEPTH requests at a time in a range of its own, each read back. */
struct worker {
	struct reactor_thread *thread;
	struct reactor_task start;
	struct storage *storage;
	struct storage_channel *channel;
	struct request *requests[DEPTH];
	unsigned char *buffers; /* DEPTH of LENGTH bytes */
	uint64_t base;          /* bytes: where its range begins */
	unsigned left, under_way, failures;
	sem_t finished;
};

static struct worker workers[2];

static struct worker *worker_of(const struct storage_io *io)
{
	return &workers[io->offset >= workers[1].base];
}

static void finish(struct worker *w)
{
	storage_channel_close(w->channel);
	sem_post(&w->finished);
}

/* A write is followed by a read of the same block, and that by another write. */
static void next(struct storage_io *io)
{
	struct worker *w = worker_of(io);
	unsigned char *bytes = io->iov->iov_base;

	w->failures += io->status != 0;
	if (io->operation == STORAGE_READ)
		w->failures += bytes[0] != (unsigned char)(io->offset >> 12);
	if (!w->left) {
		if (!--w->under_way)
			finish(w);
		return;
	}
	w->left--;
	memset(bytes, io->operation == STORAGE_READ ? (int)(io->offset >> 12) & 255 : 0, LENGTH);
	io->operation = io->operation == STORAGE_READ ? STORAGE_WRITE : STORAGE_READ;
	storage_submit(w->channel, io);
}

static void start(void *arg)
{
	struct worker *w = arg;

	w->channel = storage_channel_open(w->storage, reactor_thread_reactor(w->thread), NULL);
	w->left = REQUESTS;
	w->under_way = DEPTH;
	for (unsigned i = 0; i < DEPTH; i++) {
		unsigned char *bytes = w->buffers + i * LENGTH;
		uint64_t offset = w->base + i * LENGTH;

		memset(bytes, (int)(offset >> 12) & 255, LENGTH);
		w->requests[i] = request_create(w->storage, NULL, STORAGE_WRITE, offset, LENGTH,
						bytes);
		w->requests[i]->io.done = next;
		storage_submit(w->channel, &w->requests[i]->io);
	}
}

static void worker_begin(struct worker *w, struct storage *s, uint64_t base)
{
	struct reactor_options options = { .name = "worker" };
	struct error e = { 0 };

	*w = (struct worker){ .storage = s, .base = base, .buffers = malloc(DEPTH * LENGTH) };
	sem_init(&w->finished, 0, 0);
	w->start = (struct reactor_task){ .fn = start, .arg = w };
	w->thread = reactor_thread_start(&options, &e);
	if (!w->thread)
		fail_msg("%s", e.text);
}

static void worker_end(struct worker *w)
{
	sem_wait(&w->finished);
	reactor_thread_stop(w->thread);
	assert_int_equal(w->failures, 0);
	for (unsigned i = 0; i < DEPTH; i++)
		free(w->requests[i]);
	free(w->buffers);
	sem_destroy(&w->finished);
}

static void share(const char *uri)
{
	struct reactor_options options = { .name = "control" };
	struct error e = { 0 };
	struct reactor *control = reactor_create(&options, &e);
	struct storage *s = control ? storage_open("vdthreads", uri, false, control, &e) : NULL;
	FILE *nowhere = fopen("/dev/null", "w");

	if (!s)
		fail_msg("%s", e.text);
	worker_begin(&workers[0], s, 0);
	worker_begin(&workers[1], s, 1 << 19);
	for (unsigned i = 0; i < 2; i++)
		reactor_post(reactor_thread_reactor(workers[i].thread), &workers[i].start);
	counter_print_all(nowhere);
	storage_refresh(s);
	worker_end(&workers[0]);
	worker_end(&workers[1]);
	storage_close(s);
	reactor_free(control);
	fclose(nowhere);
}

static void share_memory(void **state)
{
	share("memory:?size=1M");
}

static void share_filters(void **state)
{
	share("log+limit+fault+delay+split+memory:?size=1M&iops=100000&bps=4G&ms=0&jitter=50us&"
	      "fault-kinds=discard&transfer-max=1K&log-file=/dev/null");
}

static void share_file(void **state)
{
	char path[] = "/tmp/test_storage_XXXXXX", uri[64];
	int fd = mkstemp(path);

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	snprintf(uri, sizeof(uri), "file:%s?direct=off", path);
	share(uri);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(share_memory),
		cmocka_unit_test(share_filters),
		cmocka_unit_test(share_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
