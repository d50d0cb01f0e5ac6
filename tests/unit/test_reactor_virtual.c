/* Fails if one seed gives two schedules, if all seeds give the same, or if time stands still. */
#include "test_reactor_bed.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define ACTORS 3
#define ROUNDS 40
#define IOS    20

struct actor {
	struct reactor *r;
	struct actor *neighbour;
	struct reactor_task task;
	struct reactor_timer timer;
	struct reactor_poller poller;
	unsigned left, rests;
	bool queued;
};

/* What happened in what order; equal traces are equal schedules. */
static char trace[100000];
static size_t length;

static void note(struct actor *a, char what)
{
	assert_true(reactor_is_home(a->r));
	assert_false(reactor_is_home(a->neighbour->r));
	if (length + 2 < sizeof(trace)) {
		trace[length++] = what;
		trace[length++] = reactor_name(a->r)[0];
	}
}

static void receive(void *arg)
{
	struct actor *a = arg;

	a->queued = false;
	note(a, 'p');
	reactor_poller_wake(&a->poller);
}

static void tick(void *arg)
{
	struct actor *a = arg;

	note(a, 't');
	if (!a->left--)
		return;
	if (!a->neighbour->queued) {
		a->neighbour->queued = true;
		reactor_post(a->neighbour->r, &a->neighbour->task);
	}
	assert_int_equal(reactor_timer_set(a->r, &a->timer,
					   reactor_now(a->r) + 5000 + reactor_random(a->r) % 20000),
			 0);
}

static bool look(void *arg)
{
	struct actor *a = arg;

	note(a, 'l');
	return false;
}

static bool rest(void *arg)
{
	struct actor *a = arg;

	note(a, 'r');
	return ++a->rests % 3;
}

static void woken(void *arg)
{
	note(arg, 'w');
}

static void actor_start(struct actor *a)
{
	a->left = ROUNDS;
	a->task = (struct reactor_task){ .fn = receive, .arg = a };
	a->timer = (struct reactor_timer){ .fn = tick, .arg = a };
	a->poller = (struct reactor_poller){ .poll = look, .rest = rest, .wake = woken, .arg = a };
	reactor_poller_add(a->r, &a->poller);
	assert_int_equal(reactor_timer_set(a->r, &a->timer, reactor_now(a->r) + 1000), 0);
}

static void play(uint64_t seed, char *out)
{
	static const char *const names[ACTORS] = { "a", "b", "c" };
	struct reactor_world *w = reactor_world_create(seed);
	struct actor actors[ACTORS] = { 0 };
	unsigned steps = 0;

	length = 0;
	for (unsigned i = 0; i < ACTORS; i++)
		actors[i].r = reactor_virtual_create(w, names[i]);
	for (unsigned i = 0; i < ACTORS; i++) {
		actors[i].neighbour = &actors[(i + 1) % ACTORS];
		actor_start(&actors[i]);
	}
	while (reactor_world_step(w))
		assert_true(++steps < 100000);
	for (unsigned i = 0; i < ACTORS; i++) {
		reactor_world_enter(w, actors[i].r);
		assert_true(actors[i].rests > 0);
		assert_false(actors[i].queued);
		reactor_poller_remove(&actors[i].poller);
		reactor_free(actors[i].r);
	}
	reactor_world_free(w);
	trace[length] = 0;
	strcpy(out, trace);
}

static void a_seed_is_a_schedule(void **state)
{
	static char first[sizeof(trace)], again[sizeof(trace)], other[sizeof(trace)];

	for (uint64_t seed = 0; seed < 20; seed++) {
		play(seed, first);
		play(seed, again);
		play(seed + 1000, other);
		assert_true(strlen(first) > ACTORS * ROUNDS);
		assert_string_equal(first, again);
		assert_string_not_equal(first, other);
	}
}

static void count(void *arg)
{
	++*(unsigned *)arg;
}

static void time_jumps_to_the_next_timer(void **state)
{
	const uint64_t hour = 3600 * 1000000000ull;
	struct reactor_world *w = reactor_world_create(1);
	struct reactor *r = reactor_virtual_create(w, "r");
	unsigned rings = 0, steps = 0;
	struct reactor_timer t = { .fn = count, .arg = &rings };
	uint64_t begin = reactor_world_now(w);

	assert_int_equal(reactor_timer_set(r, &t, begin + hour), 0);
	while (reactor_world_step(w))
		steps++;
	assert_int_equal(rings, 1);
	assert_true(steps < 10);
	assert_true(reactor_world_now(w) >= begin + hour);
	assert_true(reactor_world_now(w) < begin + hour + 1000000);
	assert_false(reactor_world_step(w));
	reactor_free(r);
	reactor_world_free(w);
}

struct numbered_io {
	struct reactor_io io;
	unsigned number;
};

static unsigned order[IOS], completed;

static void io_done(struct reactor_io *io)
{
	order[completed++] = ((struct numbered_io *)io)->number;
	assert_int_equal(io->result, 0);
}

/* As from a real disk: after a while, and not in the order of submission. */
static void file_operations_complete_out_of_order(void **state)
{
	struct reactor_world *w = reactor_world_create(1);
	struct reactor *r = reactor_virtual_create(w, "r");
	uint64_t begin = reactor_world_now(w);
	struct numbered_io ios[IOS];
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	char byte;
	struct iovec v = { &byte, 1 };
	bool sorted = true;

	completed = 0;
	for (unsigned i = 0; i < IOS; i++) {
		ios[i].number = i;
		ios[i].io = (struct reactor_io){ .operation = REACTOR_IO_READ,
						 .fd = fd,
						 .iov = &v,
						 .iov_count = 1,
						 .done = io_done };
		reactor_io_submit(r, &ios[i].io);
	}
	while (reactor_world_step(w))
		;
	assert_int_equal(completed, IOS);
	for (unsigned i = 1; i < IOS; i++)
		sorted = sorted && order[i - 1] < order[i];
	assert_false(sorted);
	assert_true(reactor_world_now(w) - begin > 10000);
	close(fd);
	reactor_free(r);
	reactor_world_free(w);
}

struct reader {
	struct reactor_watch watch;
	unsigned bytes;
	bool rang;
};

static void read_byte(void *arg)
{
	struct reader *d = arg;
	char byte;

	assert_false(d->rang);
	assert_int_equal(read(d->watch.fd, &byte, 1), 1);
	d->bytes++;
}

static void ring(void *arg)
{
	struct reader *d = arg;

	assert_int_equal(d->bytes, 3);
	d->rang = true;
}

/* Bytes that are there are read before time jumps over them. */
static void descriptors_come_before_a_jump(void **state)
{
	for (uint64_t seed = 0; seed < 100; seed++) {
		struct reactor_world *w = reactor_world_create(seed);
		struct reactor *r = reactor_virtual_create(w, "r");
		struct reader d = { 0 };
		struct reactor_timer t = { .fn = ring, .arg = &d };
		int fd[2];

		assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
		assert_int_equal(write(fd[1], "abc", 3), 3);
		d.watch = (struct reactor_watch){
			.fd = fd[0], .events = POLLIN, .fn = read_byte, .arg = &d
		};
		assert_int_equal(reactor_watch_add(r, &d.watch), 0);
		assert_int_equal(reactor_timer_set(r, &t, reactor_now(r) + 1000000), 0);
		while (reactor_world_step(w))
			;
		assert_true(d.rang);
		reactor_world_enter(w, r);
		reactor_watch_remove(&d.watch);
		close(fd[0]);
		close(fd[1]);
		reactor_free(r);
		reactor_world_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_seed_is_a_schedule),
		cmocka_unit_test(time_jumps_to_the_next_timer),
		cmocka_unit_test(file_operations_complete_out_of_order),
		cmocka_unit_test(descriptors_come_before_a_jump),
	};

	alarm(50); /* a hanging test fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
