/* signals.c - signals as calls on the control reactor.
 *
 * A thread of its own waits for them, because two things must work while the control thread is
 * stuck somewhere: the second SIGTERM, and the deadline.  All other threads have them blocked.  So
 * there is no handler, nothing that has to be async-signal-safe, and no call that a signal
 * interrupts. */
#include "control/signals.h"

#include "base/error.h"
#include "base/log.h"
#include "reactor/reactor.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum stage { STARTING, ATTACHED, DETACHED };

struct signals {
	pthread_t thread;
	sigset_t set;
	unsigned stops;       /* SIGTERMs and SIGINTs so far; the thread's */
	pthread_mutex_t lock; /* for all that follows */
	enum stage stage;
	bool leaving;             /* signals_stop() waits for the thread */
	uint64_t deadline_ns;     /* monotonic; 0: none */
	unsigned pending;         /* set of 1 << number: not yet delivered */
	struct reactor *control;  /* borrowed while attached */
	struct reactor_task task; /* posted when pending becomes other than 0 */
	signals_fn *fn;
	void *arg; /* borrowed while attached */
};

/* ---- on the control reactor ---- */

static void deliver(void *arg)
{
	static const int numbers[] = { SIGUSR1, SIGHUP, SIGTERM };
	struct signals *s = arg;
	unsigned pending;

	pthread_mutex_lock(&s->lock);
	pending = s->pending;
	s->pending = 0;
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (pending & 1u << numbers[i])
			s->fn(s->arg, numbers[i]);
}

/* ---- in the thread ---- */

static void note(struct signals *s, int number)
{
	bool first;

	pthread_mutex_lock(&s->lock);
	first = !s->pending;
	s->pending |= 1u << number;
	if (first && s->stage == ATTACHED)
		reactor_post(s->control, &s->task);
	pthread_mutex_unlock(&s->lock);
}

/* Not exit(): nothing else would be at rest while it ran. */
static void stop_requested(struct signals *s, int number)
{
	pthread_mutex_lock(&s->lock);
	if (s->stage == STARTING)
		_exit(0);
	pthread_mutex_unlock(&s->lock);
	if (s->stops++)
		_exit(128 + number);
	note(s, SIGTERM);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* False: there is no deadline. */
static bool time_left(struct signals *s, struct timespec *left)
{
	uint64_t deadline, now = now_ns();

	pthread_mutex_lock(&s->lock);
	deadline = s->deadline_ns;
	pthread_mutex_unlock(&s->lock);
	if (deadline && deadline <= now) {
		log_error("could not end in order: giving up");
		_exit(1);
	}
	left->tv_sec = (deadline - now) / 1000000000;
	left->tv_nsec = (deadline - now) % 1000000000;
	return deadline;
}

/* Returns a signal, or a negative number when it is time to look at the clock. */
static int wait_for_signal(struct signals *s)
{
	struct timespec left;

	return time_left(s, &left) ? sigtimedwait(&s->set, NULL, &left)
				   : sigwaitinfo(&s->set, NULL);
}

static bool is_leaving(struct signals *s)
{
	bool leaving;

	pthread_mutex_lock(&s->lock);
	leaving = s->leaving;
	pthread_mutex_unlock(&s->lock);
	return leaving;
}

static void *run(void *arg)
{
	struct signals *s = arg;
	int number;

	pthread_setname_np(pthread_self(), "signals");
	while (!is_leaving(s)) {
		number = wait_for_signal(s);
		if (number == SIGTERM || number == SIGINT)
			stop_requested(s, number);
		else if (number == SIGUSR1 || number == SIGHUP)
			note(s, number);
	}
	return NULL;
}

/* SIGALRM is in the set for no other purpose: the thread looks at the clock and at `leaving`. */
static void rouse(struct signals *s)
{
	pthread_kill(s->thread, SIGALRM);
}

/* ---- public ---- */

struct signals *signals_start(struct error *e)
{
	static const int numbers[] = { SIGTERM, SIGINT, SIGUSR1, SIGHUP, SIGALRM };
	struct signals *s = calloc(1, sizeof(*s));
	int err;

	if (!s) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	s->task = (struct reactor_task){ .fn = deliver, .arg = s };
	pthread_mutex_init(&s->lock, NULL);
	sigemptyset(&s->set);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaddset(&s->set, numbers[i]);
	pthread_sigmask(SIG_BLOCK, &s->set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* RLIMIT_FSIZE: an error of one write, EFBIG */
	err = pthread_create(&s->thread, NULL, run, s);
	if (!err)
		return s;
	error_set(e, -err, "signals: %s", strerror(err));
	free(s);
	return NULL;
}

void signals_stop(struct signals *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->leaving = true;
	pthread_mutex_unlock(&s->lock);
	rouse(s);
	pthread_join(s->thread, NULL);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void signals_attach(struct signals *s, struct reactor *control, signals_fn *fn, void *arg)
{
	pthread_mutex_lock(&s->lock);
	s->control = control;
	s->fn = fn;
	s->arg = arg;
	s->stage = ATTACHED;
	if (s->pending)
		reactor_post(control, &s->task);
	pthread_mutex_unlock(&s->lock);
}

void signals_detach(struct signals *s)
{
	pthread_mutex_lock(&s->lock);
	s->stage = DETACHED;
	s->control = NULL;
	pthread_mutex_unlock(&s->lock);
}

void signals_set_deadline(struct signals *s, unsigned seconds)
{
	pthread_mutex_lock(&s->lock);
	s->deadline_ns = now_ns() + seconds * 1000000000ull;
	pthread_mutex_unlock(&s->lock);
	rouse(s);
}
