/* reactor_thread.c - a thread that runs one reactor. */
#include "reactor/reactor_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "reactor/reactor.h"
#include "reactor/reactor_loop.h"

struct reactor_thread {
	struct reactor *reactor; /* owned */
	pthread_t thread;
};

static void *thread_main(void *arg)
{
	struct reactor_thread *t = arg;

	reactor_run(t->reactor);
	return NULL;
}

/* Started with the signals of reactor_block_signals() blocked, which it inherits. */
static int thread_create(struct reactor_thread *t)
{
	sigset_t before;
	char name[16] = "";
	int err;

	reactor_block_signals(&before);
	err = pthread_create(&t->thread, NULL, thread_main, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err)
		return -err;
	strncpy(name, reactor_name(t->reactor), sizeof(name) - 1);
	pthread_setname_np(t->thread, name);
	return 0;
}

struct reactor_thread *reactor_thread_start(const struct reactor_options *options, struct error *e)
{
	struct reactor_thread *t = calloc(1, sizeof(*t));
	int err;

	if (!t) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	t->reactor = reactor_create(options, e);
	if (!t->reactor)
		goto no_reactor;
	/* From here on it is not the caller's, even if the thread takes a while to begin. */
	reactor_set_running(t->reactor, true);
	err = thread_create(t);
	if (err) {
		error_set(e, err, "thread %s: %s", options->name, strerror(-err));
		goto no_thread;
	}
	return t;

no_thread:
	reactor_free(t->reactor);
no_reactor:
	free(t);
	return NULL;
}

struct reactor *reactor_thread_reactor(struct reactor_thread *t)
{
	return t->reactor;
}

void reactor_thread_stop(struct reactor_thread *t)
{
	if (!t)
		return;
	reactor_stop(t->reactor);
	pthread_join(t->thread, NULL);
	reactor_free(t->reactor);
	free(t);
}

unsigned long long reactor_thread_cpu_ns(const struct reactor_thread *t)
{
	struct timespec used;
	clockid_t clock;

	if (pthread_getcpuclockid(t->thread, &clock) || clock_gettime(clock, &used))
		return 0;
	return (unsigned long long)used.tv_sec * 1000000000 + (unsigned long long)used.tv_nsec;
}
