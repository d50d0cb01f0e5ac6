/* Fails if a watch misses readiness, is called after its removal, or for another's descriptor. */
#include "test_reactor_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "base/descriptor.h"

struct pipe_watch {
	struct reactor_watch watch;
	struct reactor *r;
	int fd[2];
	unsigned calls, until;     /* stops the loop at its until'th call */
	struct pipe_watch *victim; /* removed at the first call; may be itself */
};

static void read_one(void *arg)
{
	struct pipe_watch *p = arg;
	char byte;

	assert_int_equal(read(p->fd[0], &byte, 1), 1);
	p->calls++;
	if (p->victim)
		reactor_watch_remove(&p->victim->watch);
	if (p->calls == p->until)
		reactor_stop(p->r);
}

static void pipe_open(struct pipe_watch *p, struct reactor *r, const char *bytes)
{
	p->r = r;
	assert_int_equal(pipe2(p->fd, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(write(p->fd[1], bytes, strlen(bytes)), strlen(bytes));
	p->watch = (struct reactor_watch){
		.fd = p->fd[0],
		.events = POLLIN,
		.fn = read_one,
		.arg = p,
	};
	assert_int_equal(reactor_watch_add(r, &p->watch), 0);
}

static void pipe_close(struct pipe_watch *p)
{
	reactor_watch_remove(&p->watch);
	fd_close(&p->fd[0]);
	fd_close(&p->fd[1]);
}

static void stop_task(void *arg)
{
	reactor_stop(arg);
}

/* Ends the run a while after all that is ready now has been seen. */
static void run_for_a_while(struct reactor *r)
{
	struct reactor_timer t = { .fn = stop_task, .arg = r };

	assert_int_equal(reactor_timer_set(r, &t, reactor_now(r) + 20000000), 0);
	reactor_run(r);
}

static void ready_means_called_until_read(void **state)
{
	struct bed *b = bed_of(state);
	struct pipe_watch p = { .until = 3 };

	pipe_open(&p, b->r, "abc");
	reactor_run(b->r);
	assert_int_equal(p.calls, 3);
	run_for_a_while(b->r);
	assert_int_equal(p.calls, 3);
	assert_int_equal(write(p.fd[1], "d", 1), 1);
	p.until = 4;
	reactor_run(b->r);
	assert_int_equal(p.calls, 4);
	pipe_close(&p);
	reactor_watch_remove(&p.watch);
}

static void count_and_stop(void *arg)
{
	struct pipe_watch *p = arg;

	p->calls++;
	reactor_stop(p->r);
}

static void events_change(void **state)
{
	struct bed *b = bed_of(state);
	struct pipe_watch p = { 0 }, q = { .until = 1 };

	pipe_open(&p, b->r, "");
	reactor_watch_remove(&p.watch);
	p.watch = (struct reactor_watch){
		.fd = p.fd[1],
		.events = POLLIN,
		.fn = count_and_stop,
		.arg = &p,
	};
	assert_int_equal(reactor_watch_add(b->r, &p.watch), 0);
	run_for_a_while(b->r);
	assert_int_equal(p.calls, 0);
	assert_int_equal(reactor_watch_change(&p.watch, POLLIN | POLLOUT), 0);
	reactor_run(b->r);
	assert_int_equal(p.calls, 1);
	assert_int_equal(reactor_watch_change(&p.watch, POLLIN), 0);
	pipe_open(&q, b->r, "a");
	reactor_run(b->r);
	run_for_a_while(b->r);
	assert_int_equal(p.calls, 1);
	pipe_close(&p);
	pipe_close(&q);
}

static void hang_up_is_seen(void **state)
{
	struct bed *b = bed_of(state);
	struct pipe_watch p = { 0 };

	pipe_open(&p, b->r, "");
	p.watch.fn = count_and_stop;
	fd_close(&p.fd[1]);
	reactor_run(b->r);
	assert_int_equal(p.calls, 1);
	pipe_close(&p);
}

static void a_callback_may_remove_its_watch(void **state)
{
	struct bed *b = bed_of(state);
	struct pipe_watch p = { .victim = &p };

	pipe_open(&p, b->r, "abc");
	run_for_a_while(b->r);
	assert_int_equal(p.calls, 1);
	pipe_close(&p);
}

/* Of several that are ready in one turn, the first to be called removes another and frees it. */
static void a_removed_watch_is_not_called(void **state)
{
	struct bed *b = bed_of(state);
	struct pipe_watch p = { .victim = NULL }, q = { .victim = &p };

	p.victim = &q;
	pipe_open(&p, b->r, "abc");
	pipe_open(&q, b->r, "abc");
	run_for_a_while(b->r);
	assert_int_equal(p.calls ? q.calls : p.calls, 0);
	assert_int_equal(p.calls + q.calls, 3);
	pipe_close(&p);
	pipe_close(&q);
}

struct reuse {
	struct pipe_watch old, fresh, trigger;
};

/* The old descriptor is ready and perhaps on its way; its number and its watch's memory come
 * back for a pipe that is not. */
static void replace_old(void *arg)
{
	struct reuse *u = arg;
	int number = u->old.fd[0];

	read_one(&u->trigger);
	if (u->old.calls || u->fresh.r)
		return;
	reactor_watch_remove(&u->old.watch);
	fd_close(&u->old.fd[0]);
	u->fresh.r = u->old.r;
	assert_int_equal(pipe2(u->fresh.fd, O_CLOEXEC | O_NONBLOCK), 0);
	if (u->fresh.fd[0] != number) {
		assert_int_equal(dup2(u->fresh.fd[0], number), number);
		close(u->fresh.fd[0]);
		u->fresh.fd[0] = number;
	}
	u->old.watch.arg = &u->fresh;
	u->old.watch.fd = number;
	assert_int_equal(reactor_watch_add(u->old.r, &u->old.watch), 0);
}

static void a_reused_descriptor_is_not_taken_for_the_old(void **state)
{
	struct bed *b = bed_of(state);
	struct reuse u = { .fresh = { .fd = { -1, -1 } } };

	pipe_open(&u.trigger, b->r, "a");
	u.trigger.watch.fn = replace_old;
	u.trigger.watch.arg = &u;
	pipe_open(&u.old, b->r, "a");
	run_for_a_while(b->r);
	assert_int_equal(u.fresh.calls, 0);
	if (u.fresh.r) {
		assert_int_equal(write(u.fresh.fd[1], "b", 1), 1);
		run_for_a_while(b->r);
		assert_int_equal(u.fresh.calls, 1);
	}
	reactor_watch_remove(&u.old.watch);
	pipe_close(&u.old);
	pipe_close(&u.trigger);
	fd_close(&u.fresh.fd[0]);
	fd_close(&u.fresh.fd[1]);
}

struct narrowing {
	struct pipe_watch wide, trigger;
};

static void narrow(void *arg)
{
	struct narrowing *n = arg;

	read_one(&n->trigger);
	n->wide.calls = 0;
	assert_int_equal(reactor_watch_change(&n->wide.watch, POLLIN), 0);
}

static void count(void *arg)
{
	struct pipe_watch *p = arg;

	p->calls++;
}

/* Its completion may be waiting in this very turn, and is not wanted any more. */
static void an_unwanted_event_is_dropped(void **state)
{
	struct bed *b = bed_of(state);
	struct narrowing n = { 0 };

	pipe_open(&n.trigger, b->r, "a");
	n.trigger.watch.fn = narrow;
	n.trigger.watch.arg = &n;
	pipe_open(&n.wide, b->r, "");
	reactor_watch_remove(&n.wide.watch);
	n.wide.watch.fd = n.wide.fd[1];
	n.wide.watch.events = POLLOUT;
	n.wide.watch.fn = count;
	assert_int_equal(reactor_watch_add(b->r, &n.wide.watch), 0);
	run_for_a_while(b->r);
	assert_int_equal(n.trigger.calls, 1);
	assert_int_equal(n.wide.calls, 0);
	pipe_close(&n.wide);
	pipe_close(&n.trigger);
}

/* More than the submission ring holds, all at once, and again after removal. */
static void many_watches_are_all_served(void **state)
{
	struct bed *b = bed_of(state);
	struct pipe_watch *pipes = calloc(400, sizeof(*pipes));

	assert_non_null(pipes);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 400; i++)
			pipe_open(&pipes[i], b->r, "a");
		run_for_a_while(b->r);
		for (unsigned i = 0; i < 400; i++) {
			assert_int_equal(pipes[i].calls, round + 1);
			pipe_close(&pipes[i]);
		}
	}
	free(pipes);
}

static bool always_finds(void *arg)
{
	return true;
}

static bool never_rests(void *arg)
{
	return false;
}

static void needs_no_waking(void *arg)
{
}

static void busy_pollers_starve_no_watch(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_poller busy = {
		.poll = always_finds,
		.rest = never_rests,
		.wake = needs_no_waking,
	};
	struct pipe_watch p = { .until = 3 };

	reactor_poller_add(b->r, &busy);
	pipe_open(&p, b->r, "abc");
	reactor_run(b->r);
	assert_int_equal(p.calls, 3);
	pipe_close(&p);
	reactor_poller_remove(&busy);
}

static void a_bad_descriptor_is_refused(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_watch w = { .fd = 1000000, .events = POLLIN };

	assert_int_equal(reactor_watch_add(b->r, &w), -EBADF);
	reactor_watch_remove(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(ready_means_called_until_read),
		ON_ALL(events_change),
		ON_ALL(an_unwanted_event_is_dropped),
		ON_ALL(hang_up_is_seen),
		ON_ALL(a_callback_may_remove_its_watch),
		ON_ALL(a_removed_watch_is_not_called),
		ON_ALL(a_reused_descriptor_is_not_taken_for_the_old),
		ON_ALL(many_watches_are_all_served),
		ON_ALL(busy_pollers_starve_no_watch),
		ON_ALL(a_bad_descriptor_is_refused),
	};

	alarm(50); /* a hanging test fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
