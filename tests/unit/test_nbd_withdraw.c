/* If this fails, a device whose NBD server is down cannot be stopped for a migration, or a request
 * that a server may still execute is handed back as if it had never been sent. */
#include "nbd_bed.h"

enum { COUNT = 8, LARGE = BLOCKS * BLOCK, WORKERS = 3, SHARE = BLOCKS / WORKERS };

static int set_up(void **state)
{
	bed_create();
	file_create();
	return 0;
}

static int tear_down(void **state)
{
	bed_remove();
	return 0;
}

/* ---- requests ---- */

struct request {
	unsigned done;
	unsigned *finished; /* atomic: how many are done */
	struct iovec iov;
	_Alignas(16) struct storage_io io;
};

static void request_done(struct storage_io *io)
{
	struct request *q = CONTAINER_OF(io, struct request, io);

	q->done++;
	__atomic_add_fetch(q->finished, 1, __ATOMIC_RELEASE);
}

static struct request *submit(struct storage *s, struct storage_channel *ch, uint64_t offset,
			      uint64_t length, unsigned *finished)
{
	size_t size = align_up(offsetof(struct request, io) + storage_io_size(s), 16);
	struct request *q = aligned_alloc(16, size);

	memset(q, 0xa5, size);
	*q = (struct request){ .finished = finished, .iov = { malloc(length), length } };
	memset(q->iov.iov_base, 0x11, length);
	q->io.operation = STORAGE_WRITE;
	q->io.offset = offset;
	q->io.length = length;
	q->io.iov = &q->iov;
	q->io.iov_count = 1;
	q->io.status = 1;
	q->io.done = request_done;
	storage_submit(ch, &q->io);
	return q;
}

static void request_free(struct request *q)
{
	free(q->iov.iov_base);
	free(q);
}

struct wait {
	unsigned *finished, wanted;
};

static bool are_finished(void *arg)
{
	const struct wait *w = arg;

	return __atomic_load_n(w->finished, __ATOMIC_ACQUIRE) >= w->wanted;
}

static void wait_for(struct reactor *r, unsigned *finished, unsigned wanted)
{
	struct wait w = { finished, wanted };

	run_until(r, are_finished, &w, 10000);
	assert_int_equal(__atomic_load_n(finished, __ATOMIC_ACQUIRE), wanted);
}

static void stop_server(pid_t server)
{
	assert_int_equal(kill(server, SIGSTOP), 0);
	assert_int_equal(waitpid(server, NULL, WUNTRACED), server);
}

/* Sent to a server that hangs and is killed: it may have them.  Those that come while it is down
 * it cannot have. */
static void test_down(void **state)
{
	pid_t server = nbdkit_start(file_server);
	struct request *sent[COUNT], *waiting[COUNT], *later;
	unsigned finished = 0;
	struct bed b;

	bed_open(&b, uri);
	stop_server(server);
	for (unsigned i = 0; i < COUNT; i++)
		sent[i] = submit(b.storage, b.channel, i * BLOCK, BLOCK, &finished);
	run_for(b.reactor, 5);
	process_end(server, SIGKILL);
	run_for(b.reactor, 5);
	for (unsigned i = 0; i < COUNT; i++)
		waiting[i] = submit(b.storage, b.channel, i * BLOCK, BLOCK, &finished);
	storage_withdraw(b.channel);
	later = submit(b.storage, b.channel, 0, BLOCK, &finished);
	run_for(b.reactor, 20);
	assert_int_equal(finished, COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(waiting[i]->io.status, -ECANCELED);
		assert_int_equal(sent[i]->done, 0);
	}
	server = nbdkit_start(file_server);
	wait_for(b.reactor, &finished, 2 * COUNT + 1);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(sent[i]->io.status, 0);
		request_free(sent[i]);
		request_free(waiting[i]);
	}
	assert_int_equal(later->io.status, 0);
	request_free(later);
	bed_close(&b);
	process_end(server, SIGTERM);
}

/* With the socket full, more requests come and go than may be under way at a time. */
static void come_and_go(struct bed *b)
{
	struct request *q[100];

	for (unsigned round = 0; round < 11; round++) {
		unsigned finished = 0;

		for (unsigned i = 0; i < ARRAY_LENGTH(q); i++)
			q[i] = submit(b->storage, b->channel, 0, BLOCK, &finished);
		run_for(b->reactor, 2);
		storage_withdraw(b->channel);
		wait_for(b->reactor, &finished, ARRAY_LENGTH(q));
		for (unsigned i = 0; i < ARRAY_LENGTH(q); i++) {
			assert_int_equal(q[i]->io.status, -ECANCELED);
			request_free(q[i]);
		}
	}
}

/* More than the socket takes: what has left in whole or in part stays, and what has not comes back
 * while the connection goes on. */
static void test_full_socket(void **state)
{
	pid_t server = nbdkit_start(file_server);
	struct request *q[COUNT];
	unsigned finished = 0, withdrawn;
	uint64_t resent, sends;
	struct bed b;

	bed_open(&b, uri);
	resent = nbd_counter("resent");
	stop_server(server);
	for (unsigned i = 0; i < COUNT; i++)
		q[i] = submit(b.storage, b.channel, 0, LARGE, &finished);
	run_for(b.reactor, 20);
	storage_withdraw(b.channel);
	run_for(b.reactor, 5);
	withdrawn = finished;
	assert_in_range(withdrawn, 1, COUNT - 1);
	come_and_go(&b);
	assert_int_equal(kill(server, SIGCONT), 0);
	wait_for(b.reactor, &finished, COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(q[i]->io.status, i < COUNT - withdrawn ? 0 : -ECANCELED);
		request_free(q[i]);
	}
	finished = 0;
	sends = nbd_counter("sends");
	for (unsigned i = 0; i < COUNT; i++)
		q[i] = submit(b.storage, b.channel, 0, BLOCK, &finished);
	wait_for(b.reactor, &finished, COUNT);
	assert_in_range(nbd_counter("sends") - sends, 1, 2); /* there was room for all of them */
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(q[i]->io.status, 0);
		request_free(q[i]);
	}
	assert_int_equal(nbd_counter("resent"), resent);
	bed_close(&b);
	process_end(server, SIGTERM);
}

/* ---- threads ---- */

struct worker {
	struct reactor_thread *thread;
	struct reactor *reactor;
	struct storage *storage;
	struct storage_channel *channel;
	struct load *load;
	struct reactor_task task;
	struct reactor_timer timer;
	struct request *before[COUNT], *after;
	unsigned finished; /* atomic */
	bool ready;        /* atomic */
};

static void worker_open(void *arg)
{
	struct worker *w = arg;
	struct error e = { 0 };

	w->channel = storage_channel_open(w->storage, w->reactor, &e);
	__atomic_store_n(&w->ready, w->channel != NULL, __ATOMIC_RELEASE);
}

static void worker_close(void *arg)
{
	struct worker *w = arg;

	reactor_timer_cancel(&w->timer);
	storage_channel_close(w->channel);
	__atomic_store_n(&w->ready, true, __ATOMIC_RELEASE);
}

static void worker_submit(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < COUNT; i++)
		w->before[i] = submit(w->storage, w->channel, i * BLOCK, BLOCK, &w->finished);
	__atomic_store_n(&w->ready, true, __ATOMIC_RELEASE);
}

static void worker_withdraw(void *arg)
{
	struct worker *w = arg;

	storage_withdraw(w->channel);
	w->after = submit(w->storage, w->channel, 0, BLOCK, &w->finished);
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

struct party {
	struct reactor *control;
	struct storage *storage;
	struct worker workers[WORKERS];
};

static void party_open(struct party *p, const char *where)
{
	struct reactor_options options = { .name = "control" };
	struct error e = { 0 };

	*p = (struct party){ .control = reactor_create(&options, &e) };
	p->storage = storage_open("vda", where, false, p->control, &e);
	if (!p->storage)
		fail_msg("%s", e.text);
	options.name = "worker";
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *w = &p->workers[i];

		w->thread = reactor_thread_start(&options, &e);
		w->reactor = reactor_thread_reactor(w->thread);
		w->storage = p->storage;
		worker_do(w, p->control, worker_open);
	}
}

static void party_close(struct party *p)
{
	for (unsigned i = 0; i < WORKERS; i++)
		if (p->workers[i].channel)
			worker_do(&p->workers[i], p->control, worker_close);
	run_for(p->control, 20);
	for (unsigned i = 0; i < WORKERS; i++)
		reactor_thread_stop(p->workers[i].thread);
	storage_close(p->storage);
	run_for(p->control, 5);
	reactor_free(p->control);
}

static void check_withdrawn(struct worker *w)
{
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(w->before[i]->done, 1);
		assert_int_equal(w->before[i]->io.status, -ECANCELED);
		request_free(w->before[i]);
	}
}

static void check_executed(struct request *q)
{
	assert_int_equal(q->done, 1);
	assert_int_equal(q->io.status, 0);
	request_free(q);
}

static void check_all_executed(struct worker *w)
{
	for (unsigned i = 0; i < COUNT; i++)
		check_executed(w->before[i]);
}

/* Three queues, one connection, its server down: each gets its own back, and only those. */
static void test_shared_connection(void **state)
{
	char where[200];
	pid_t server = nbdkit_start(file_server);
	struct worker *w;
	struct party p;

	snprintf(where, sizeof(where), "%s&connections=1", uri);
	party_open(&p, where);
	w = p.workers;
	process_end(server, SIGKILL);
	run_for(p.control, 20);
	for (unsigned i = 0; i < WORKERS; i++)
		worker_do(&w[i], p.control, worker_submit);
	worker_do(&w[2], p.control, worker_withdraw);
	wait_for(p.control, &w[2].finished, COUNT);
	check_withdrawn(&w[2]);
	worker_do(&w[0], p.control, worker_withdraw);
	wait_for(p.control, &w[0].finished, COUNT);
	check_withdrawn(&w[0]);
	server = nbdkit_start(file_server);
	wait_for(p.control, &w[1].finished, COUNT);
	wait_for(p.control, &w[0].finished, COUNT + 1);
	wait_for(p.control, &w[2].finished, COUNT + 1);
	check_all_executed(&w[1]);
	check_executed(w[0].after);
	check_executed(w[2].after);
	party_close(&p);
	process_end(server, SIGTERM);
}

/* The queue that has the connection closes, so it moves to the control reactor, while others
 * withdraw. */
static void test_moving_connection(void **state)
{
	char where[200];
	pid_t server = nbdkit_start(file_server);
	struct worker *w;
	struct party p;

	snprintf(where, sizeof(where), "%s&connections=1", uri);
	party_open(&p, where);
	w = p.workers;
	process_end(server, SIGKILL);
	run_for(p.control, 20);
	worker_do(&w[1], p.control, worker_submit);
	worker_do(&w[0], p.control, worker_close);
	w[0].channel = NULL;
	worker_do(&w[2], p.control, worker_submit);
	worker_do(&w[1], p.control, worker_withdraw);
	worker_do(&w[2], p.control, worker_withdraw);
	wait_for(p.control, &w[1].finished, COUNT);
	wait_for(p.control, &w[2].finished, COUNT);
	check_withdrawn(&w[1]);
	check_withdrawn(&w[2]);
	server = nbdkit_start(file_server);
	wait_for(p.control, &w[1].finished, COUNT + 1);
	wait_for(p.control, &w[2].finished, COUNT + 1);
	check_executed(w[1].after);
	check_executed(w[2].after);
	party_close(&p);
	process_end(server, SIGTERM);
}

/* ---- under load ---- */

static void withdraw_again(void *arg)
{
	struct worker *w = arg;

	storage_withdraw(w->channel);
	if (!load_is_over(w->load))
		reactor_timer_set(w->reactor, &w->timer, reactor_now(w->reactor) + MILLISECOND / 2);
}

static void worker_load(void *arg)
{
	struct worker *w = arg;

	w->timer = (struct reactor_timer){ .fn = withdraw_again, .arg = w };
	load_start(w->load, w->channel, w->reactor, 1500);
	withdraw_again(w);
	__atomic_store_n(&w->ready, true, __ATOMIC_RELEASE);
}

/* Everything that comes back is sent again, servers are killed meanwhile, and the disk has what
 * was written last. */
static void check_load(const char *options)
{
	uint64_t withdrawn = 0;
	char where[200];
	pid_t server = nbdkit_start(file_server);
	struct party p;

	snprintf(where, sizeof(where), "%s%s", uri, options);
	party_open(&p, where);
	for (unsigned i = 0; i < WORKERS; i++) {
		p.workers[i].load = load_create(p.storage, i * SHARE, SHARE);
		worker_do(&p.workers[i], p.control, worker_load);
	}
	for (unsigned i = 0; i < 3; i++) {
		run_for(p.control, 5);
		process_end(server, SIGKILL);
		run_for(p.control, 20);
		server = nbdkit_start(file_server);
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		struct load *l = p.workers[i].load;

		run_until(p.control, load_is_over, l, 20000);
		assert_int_equal(l->errors, 0);
		assert_int_equal(l->mismatches, 0);
		withdrawn += l->withdrawn;
	}
	run_for(p.control, 5); /* their last done has returned */
	assert_true(withdrawn > 0);
	party_close(&p);
	for (unsigned i = 0; i < WORKERS; i++) {
		file_check(p.workers[i].load);
		load_free(p.workers[i].load);
	}
	process_end(server, SIGTERM);
}

static void test_load(void **state)
{
	file_create();
	check_load("");
	file_create();
	check_load("&connections=1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_down),
		cmocka_unit_test(test_full_socket),
		cmocka_unit_test(test_shared_connection),
		cmocka_unit_test(test_moving_connection),
		cmocka_unit_test(test_load),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
