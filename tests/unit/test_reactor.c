/* Fails if tasks are lost, repeated or out of order, or if a loop does not stop or sleep. */
#include "test_reactor_bed.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reactor/reactor_thread.h"

static char trace[64];

static void note(const char *what)
{
	strncat(trace, what, sizeof(trace) - strlen(trace) - 1);
}

static void note_task(void *arg)
{
	note(arg);
}

static void stop_task(void *arg)
{
	reactor_stop(arg);
}

struct chain {
	struct reactor *r;
	struct reactor_task *next;
};

static void note_and_defer(void *arg)
{
	struct chain *c = arg;

	note("C");
	reactor_defer(c->r, c->next);
}

static void deferred_run_once_in_order(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_task a = { .fn = note_task, .arg = "A" },
			    z = { .fn = note_task, .arg = "Z" };
	struct chain chain = { .r = b->r, .next = &z };
	struct reactor_task c = { .fn = note_and_defer, .arg = &chain };
	struct reactor_task stop = { .fn = stop_task, .arg = b->r };

	trace[0] = 0;
	reactor_defer(b->r, &a);
	reactor_defer(b->r, &c);
	reactor_defer(b->r, &a);
	reactor_defer(b->r, &stop);
	reactor_run(b->r);
	assert_string_equal(trace, "ACZ");
	reactor_defer(b->r, &a);
	reactor_defer(b->r, &stop);
	reactor_run(b->r);
	assert_string_equal(trace, "ACZA");
}

static void posted_run_in_order(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_task a = { .fn = note_task, .arg = "A" },
			    z = { .fn = note_task, .arg = "Z" };
	struct reactor_task stop = { .fn = stop_task, .arg = b->r };

	trace[0] = 0;
	reactor_post(b->r, &a);
	reactor_post(b->r, &z);
	reactor_post(b->r, &stop);
	reactor_run(b->r);
	assert_string_equal(trace, "AZ");
}

static void a_turn_runs_posted_before_deferred(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_task a = { .fn = note_task, .arg = "A" },
			    z = { .fn = note_task, .arg = "Z" };
	struct reactor_task stop = { .fn = stop_task, .arg = b->r };

	trace[0] = 0;
	reactor_defer(b->r, &z);
	reactor_post(b->r, &a);
	reactor_post(b->r, &stop);
	reactor_run(b->r);
	assert_string_equal(trace, "AZ");
}

/* ---- other threads ---- */

#define POSTERS  4
#define PER_POST 25000

struct numbered {
	struct reactor_task task;
	struct poster *poster;
	unsigned number;
};

struct poster {
	struct reactor *r;
	pthread_t thread;
	struct numbered *tasks;
	unsigned ran;
	unsigned *left;
};

static void count_numbered(void *arg)
{
	struct numbered *n = arg;

	assert_int_equal(n->number, n->poster->ran);
	n->poster->ran++;
	if (!--*n->poster->left)
		reactor_stop(n->poster->r);
}

static void *post_all(void *arg)
{
	struct poster *p = arg;

	for (unsigned i = 0; i < PER_POST; i++)
		reactor_post(p->r, &p->tasks[i].task);
	return NULL;
}

static void poster_start(struct poster *p)
{
	p->tasks = calloc(PER_POST, sizeof(*p->tasks));
	assert_non_null(p->tasks);
	for (unsigned i = 0; i < PER_POST; i++) {
		p->tasks[i].poster = p;
		p->tasks[i].number = i;
		p->tasks[i].task.fn = count_numbered;
		p->tasks[i].task.arg = &p->tasks[i];
	}
	assert_int_equal(pthread_create(&p->thread, NULL, post_all, p), 0);
}

static void threads_lose_no_post(void **state)
{
	struct bed *b = bed_of(state);
	unsigned left = POSTERS * PER_POST;
	struct poster posters[POSTERS];

	for (unsigned i = 0; i < POSTERS; i++) {
		posters[i] = (struct poster){ .r = b->r, .left = &left };
		poster_start(&posters[i]);
	}
	reactor_run(b->r);
	assert_int_equal(left, 0);
	for (unsigned i = 0; i < POSTERS; i++) {
		pthread_join(posters[i].thread, NULL);
		free(posters[i].tasks);
	}
}

struct ping {
	struct reactor *r;
	struct reactor_task task;
	unsigned answers; /* atomic */
};

static void answer(void *arg)
{
	struct ping *p = arg;

	__atomic_add_fetch(&p->answers, 1, __ATOMIC_RELEASE);
}

static void wait_for_answer(struct ping *p, unsigned number)
{
	for (unsigned spins = 0; __atomic_load_n(&p->answers, __ATOMIC_ACQUIRE) != number; spins++)
		if (spins > 1000)
			sched_yield();
}

static void *ping_all(void *arg)
{
	struct ping *p = arg;

	for (unsigned i = 1; i <= 20000; i++) {
		reactor_post(p->r, &p->task);
		wait_for_answer(p, i);
		for (volatile unsigned pause = 0; pause < i % 1000; pause++)
			;
	}
	reactor_stop(p->r);
	return NULL;
}

/* The posts come from just after the last turn's answer to well into the sleep, a little later
 * each time: some find the loop about to fall asleep, and a lost wakeup hangs. */
static void a_sleeper_misses_no_post(void **state)
{
	struct bed *b = bed_of(state);
	struct ping p = { .r = b->r, .task = { .fn = answer, .arg = &p } };
	uint64_t sleeps = bed_count(b, "sleeps");
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, ping_all, &p), 0);
	reactor_run(b->r);
	pthread_join(thread, NULL);
	assert_true(bed_count(b, "sleeps") > sleeps);
	assert_true(bed_count(b, "wakeups") <= bed_count(b, "posts") + 1);
}

struct home_check {
	struct reactor *r;
	bool at_home, elsewhere;
};

static void *look_from_elsewhere(void *arg)
{
	struct home_check *c = arg;

	c->elsewhere = reactor_is_home(c->r);
	reactor_stop(c->r);
	return NULL;
}

static void ask_who_is_home(void *arg)
{
	struct home_check *c = arg;
	pthread_t thread;

	c->at_home = reactor_is_home(c->r);
	assert_int_equal(pthread_create(&thread, NULL, look_from_elsewhere, c), 0);
	pthread_join(thread, NULL);
}

static void only_its_thread_is_home(void **state)
{
	struct bed *b = bed_of(state);
	struct home_check c = { .r = b->r, .elsewhere = true };
	struct reactor_task t = { .fn = ask_who_is_home, .arg = &c };

	assert_true(reactor_is_home(b->r));
	reactor_post(b->r, &t);
	reactor_run(b->r);
	assert_true(c.at_home);
	assert_false(c.elsewhere);
	assert_true(reactor_is_home(b->r));
}

/* ---- stop and sleep ---- */

static void *stop_after_a_while(void *arg)
{
	struct timespec t = { .tv_nsec = 20000000 };

	nanosleep(&t, NULL);
	reactor_stop(arg);
	return NULL;
}

/* The loop has nothing to do for 20 ms: sleeping, it uses next to none of them. */
static void an_idle_loop_sleeps_until_stopped(void **state)
{
	struct bed *b = bed_of(state);
	uint64_t turns = bed_count(b, "turns");
	struct timespec before, after;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, stop_after_a_while, b->r), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
	reactor_run(b->r);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
	pthread_join(thread, NULL);
	assert_int_equal(after.tv_sec, before.tv_sec + (after.tv_nsec < before.tv_nsec));
	assert_true((after.tv_nsec - before.tv_nsec + 1000000000) % 1000000000 < 10000000);
	assert_true(bed_count(b, "turns") - turns < 10);
}

static void a_stop_before_the_run_counts(void **state)
{
	struct bed *b = bed_of(state);

	reactor_stop(b->r);
	reactor_run(b->r);
}

static struct reactor *signalled;

static void stop_in_handler(int number)
{
	reactor_stop(signalled);
}

static void *signal_main(void *arg)
{
	struct timespec t = { .tv_nsec = 5000000 };

	nanosleep(&t, NULL);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static void a_signal_handler_may_stop(void **state)
{
	struct bed *b = bed_of(state);
	struct sigaction action = { .sa_handler = stop_in_handler }, before;
	pthread_t self = pthread_self(), thread;

#ifdef __SANITIZE_THREAD__
	skip(); /* it holds handlers back until a system call that it knows */
#endif
	signalled = b->r;
	sigaction(SIGUSR1, &action, &before);
	assert_int_equal(pthread_create(&thread, NULL, signal_main, &self), 0);
	reactor_run(b->r);
	pthread_join(thread, NULL);
	sigaction(SIGUSR1, &before, NULL);
}

/* ---- threads ---- */

struct mask_check {
	struct reactor_task task;
	sigset_t mask;
	bool home;
	struct reactor *r;
	sem_t done;
};

static void look_at_mask(void *arg)
{
	struct mask_check *c = arg;

	pthread_sigmask(SIG_SETMASK, NULL, &c->mask);
	c->home = reactor_is_home(c->r);
	sem_post(&c->done);
}

static void a_thread_leaves_signals_to_others(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_options options = { .name = "worker0", .kind = b->kind };
	struct error e = { 0 };
	struct reactor_thread *t = reactor_thread_start(&options, &e);
	struct mask_check c = { .task = { .fn = look_at_mask, .arg = &c } };

	assert_non_null(t);
	c.r = reactor_thread_reactor(t);
	assert_false(reactor_is_home(c.r));
	assert_string_equal(reactor_name(c.r), "worker0");
	sem_init(&c.done, 0, 0);
	reactor_post(c.r, &c.task);
	sem_wait(&c.done);
	assert_true(c.home);
	assert_true(sigismember(&c.mask, SIGTERM));
	assert_false(sigismember(&c.mask, SIGBUS));
	assert_true(reactor_thread_cpu_ns(t) > 0);
	reactor_thread_stop(t);
	sem_destroy(&c.done);
	reactor_thread_stop(NULL);
}

/* ---- fallback ---- */

static void refuse_io_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(77);
}

static int run_without_io_uring(void)
{
	struct reactor_options options = { .name = "fallback", .kind = REACTOR_IO_URING };
	struct reactor_task stop = { .fn = stop_task };
	struct error e = { 0 };

	refuse_io_uring();
	if (reactor_create(&options, &e) || e.code != -EPERM)
		return 1;
	options.kind = REACTOR_AUTO;
	stop.arg = reactor_create(&options, &e);
	if (!stop.arg)
		return 2;
	reactor_defer(stop.arg, &stop);
	reactor_run(stop.arg);
	reactor_free(stop.arg);
	return 0;
}

static void auto_falls_back_to_epoll(void **state)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(run_without_io_uring());
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(deferred_run_once_in_order),
		ON_ALL(posted_run_in_order),
		ON_REAL(a_turn_runs_posted_before_deferred),
		ON_REAL(threads_lose_no_post),
		ON_REAL(a_sleeper_misses_no_post),
		ON_ALL(only_its_thread_is_home),
		ON_REAL(an_idle_loop_sleeps_until_stopped),
		ON_ALL(a_stop_before_the_run_counts),
		ON_REAL(a_signal_handler_may_stop),
		ON_REAL(a_thread_leaves_signals_to_others),
		cmocka_unit_test(auto_falls_back_to_epoll),
	};

	alarm(50); /* a hanging test fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
