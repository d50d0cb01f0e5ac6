/* If this fails, disks with several queues fail on NBD servers that allow one connection or many,
 * or do not follow the size of the export. */
#include "nbd_bed.h"

enum { WORKERS = 3, SHARE = BLOCKS / WORKERS };

static int set_up(void **state)
{
	bed_create();
	return 0;
}

static int tear_down(void **state)
{
	bed_remove();
	return 0;
}

/* A thread with a channel of its own, told what to do by tasks. */
struct worker {
	struct reactor_thread *thread;
	struct reactor *reactor;
	struct storage *storage;
	struct storage_channel *channel;
	struct load *load;
	uint64_t requests;
	struct reactor_task task;
	bool ready; /* atomic */
};

static void worker_open(void *arg)
{
	struct worker *w = arg;
	struct error e = { 0 };

	w->channel = storage_channel_open(w->storage, w->reactor, &e);
	__atomic_store_n(&w->ready, w->channel != NULL, __ATOMIC_RELEASE);
}

static void worker_load(void *arg)
{
	struct worker *w = arg;

	load_start(w->load, w->channel, w->reactor, w->requests);
}

static void worker_close(void *arg)
{
	struct worker *w = arg;

	storage_channel_close(w->channel);
	__atomic_store_n(&w->ready, true, __ATOMIC_RELEASE);
}

static bool worker_is_ready(void *arg)
{
	return __atomic_load_n(&((struct worker *)arg)->ready, __ATOMIC_ACQUIRE);
}

/* Runs fn on the worker, and the control reactor here until it is done. */
static void worker_do(struct worker *w, struct reactor *control, reactor_fn *fn)
{
	w->ready = false;
	w->task = (struct reactor_task){ .fn = fn, .arg = w };
	reactor_post(w->reactor, &w->task);
	run_until(control, worker_is_ready, w, 5000);
}

static void worker_begin(struct worker *w, uint64_t requests)
{
	w->requests = requests;
	__atomic_store_n(&w->load->over, false, __ATOMIC_RELAXED);
	w->task = (struct reactor_task){ .fn = worker_load, .arg = w };
	reactor_post(w->reactor, &w->task);
}

struct party {
	struct reactor *control;
	struct storage *storage;
	struct worker workers[WORKERS];
};

static void party_open(struct party *p, const char *where)
{
	struct reactor_options options = { .name = "control" };
	struct error e = { 0 };

	p->control = reactor_create(&options, &e);
	p->storage = storage_open("vda", where, false, p->control, &e);
	if (!p->storage)
		fail_msg("%s", e.text);
	options.name = "worker";
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *w = &p->workers[i];

		w->thread = reactor_thread_start(&options, &e);
		w->reactor = reactor_thread_reactor(w->thread);
		w->storage = p->storage;
		w->load = load_create(p->storage, i * SHARE, SHARE);
		worker_do(w, p->control, worker_open);
	}
}

/* The first worker's channel closes while the others' requests are in flight. */
static void party_check(struct party *p, uint64_t requests)
{
	struct worker *first = &p->workers[0];

	for (unsigned i = 0; i < WORKERS; i++)
		worker_begin(&p->workers[i], i ? requests : requests / 4);
	run_until(p->control, load_is_over, first->load, 20000);
	run_for(p->control, 5); /* its last done has returned */
	worker_do(first, p->control, worker_close);
	worker_do(first, p->control, worker_open);
	worker_begin(first, requests / 4);
	for (unsigned i = 0; i < WORKERS; i++) {
		run_until(p->control, load_is_over, p->workers[i].load, 20000);
		assert_int_equal(p->workers[i].load->errors, 0);
		assert_int_equal(p->workers[i].load->mismatches, 0);
	}
}

static void party_close(struct party *p)
{
	for (unsigned i = 0; i < WORKERS; i++) {
		run_for(p->control, 5);
		worker_do(&p->workers[i], p->control, worker_close);
		file_check(p->workers[i].load);
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		reactor_thread_stop(p->workers[i].thread);
		load_free(p->workers[i].load);
	}
	run_for(p->control, 20);
	storage_close(p->storage);
	run_for(p->control, 5);
	reactor_free(p->control);
}

static void check_party(const char *filter, const char *mode, const char *options, unsigned least,
			unsigned most, bool crosses)
{
	uint64_t connects = nbd_counter("connects"), crossings = nbd_counter("crossings");
	char arguments[300], where[300];
	struct party p;
	pid_t server;

	file_create();
	snprintf(arguments, sizeof(arguments), "%s%s%s", filter, file_server, mode);
	snprintf(where, sizeof(where), "%s%s", uri, options);
	server = nbdkit_start(arguments);
	party_open(&p, where);
	party_check(&p, 4000);
	party_close(&p);
	assert_in_range(nbd_counter("connects") - connects, least, most);
	assert_true(crosses == (nbd_counter("crossings") > crossings));
	process_end(server, SIGTERM);
}

static void test_one_connection(void **state)
{
	check_party("--filter=multi-conn ", " multi-conn-mode=disable", "", 1, 1, true);
}

static void test_connection_per_queue(void **state)
{
	check_party("", "", "", WORKERS, WORKERS + 1, false);
}

static void test_two_connections(void **state)
{
	check_party("", "", "&connections=2", 2, 3, true);
}

/* ---- size ---- */

static unsigned resizes;

/* A read of the last block, sent the moment the size is told: the server must know it, too. */
static struct {
	unsigned char bytes[BLOCK];
	struct iovec iov;
	struct storage_io *io;
	bool over;
} probe;

static void probe_done(struct storage_io *io)
{
	probe.over = true;
}

static void resized(void *arg)
{
	struct bed *b = arg;

	resizes++;
	probe.over = false;
	probe.iov = (struct iovec){ probe.bytes, BLOCK };
	*probe.io = (struct storage_io){
		.operation = STORAGE_READ,
		.offset = storage_size(b->storage) - BLOCK,
		.length = BLOCK,
		.iov = &probe.iov,
		.iov_count = 1,
		.done = probe_done,
	};
	storage_submit(b->channel, probe.io);
}

static bool is_resized(void *arg)
{
	return resizes == *(unsigned *)arg && probe.over;
}

static void file_resize(off_t size)
{
	assert_int_equal(truncate(file_path, size), 0);
}

/* Grown and shrunk under load: the queue's connection is renewed, no request fails. */
static void test_refresh(void **state)
{
	unsigned wanted = 1;
	struct load *l;
	struct bed b;
	pid_t server;

	file_create();
	server = nbdkit_start(file_server);
	bed_open(&b, uri);
	probe.io = aligned_alloc(16, align_up(storage_io_size(b.storage), 16));
	storage_set_resize_listener(b.storage, resized, &b);
	l = load_create(b.storage, 0, BLOCKS / 2);
	load_start(l, b.channel, b.reactor, 1 << 30);
	run_for(b.reactor, 20);
	storage_refresh(b.storage);
	run_for(b.reactor, 100);
	assert_int_equal(resizes, 0);
	file_resize(2 * BLOCKS * BLOCK);
	storage_refresh(b.storage);
	run_until(b.reactor, is_resized, &wanted, 5000);
	assert_true(storage_size(b.storage) == 2 * BLOCKS * BLOCK);
	assert_int_equal(probe.io->status, 0);
	file_resize(BLOCKS / 2 * BLOCK);
	storage_refresh(b.storage);
	wanted = 2;
	run_until(b.reactor, is_resized, &wanted, 5000);
	assert_true(storage_size(b.storage) == BLOCKS / 2 * BLOCK);
	l->left = 0;
	run_until(b.reactor, load_is_over, l, 5000);
	assert_int_equal(l->errors, 0);
	assert_int_equal(l->mismatches, 0);
	file_check(l);
	load_free(l);
	bed_close(&b);
	free(probe.io);
	process_end(server, SIGTERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_connection),
		cmocka_unit_test(test_connection_per_queue),
		cmocka_unit_test(test_two_connections),
		cmocka_unit_test(test_refresh),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
