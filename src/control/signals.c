/* signals.c - signals as calls on the control reactor.
 *
 * Handlers and not a signalfd, because two things must work while the control thread is stuck
 * somewhere: the second SIGTERM, and the deadline.  A handler has no argument of its own, so what
 * it touches is file-scope: the one place of the program where that cannot be avoided.  The
 * handlers call async-signal-safe functions only (signal-safety(7)). */
#include "control/signals.h"

#include "base/descriptor.h"
#include "base/error.h"
#include "reactor/reactor.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct {
	int event;			/* owned; rung by handlers */
	volatile sig_atomic_t attached;
	unsigned stops;			/* SIGTERMs and SIGINTs so far; atomic */
	unsigned pending;		/* set of 1 << number, not yet delivered; atomic */
	struct reactor_watch watch;
	signals_fn *fn;
	void *arg;			/* borrowed until signals_detach() */
} signals = { .event = -1 };

static void ring(int number)
{
	uint64_t one = 1;

	__atomic_or_fetch(&signals.pending, 1u << number, __ATOMIC_SEQ_CST);
	if (write(signals.event, &one, sizeof(one)) < 0)
		return; /* full: it has been rung */
}

static void on_stop(int number)
{
	int saved = errno;

	if (!signals.attached)
		_exit(0);
	if (__atomic_add_fetch(&signals.stops, 1, __ATOMIC_SEQ_CST) > 1)
		_exit(128 + number);
	ring(SIGTERM);
	errno = saved;
}

static void on_request(int number)
{
	int saved = errno;

	ring(number);
	errno = saved;
}

static void on_deadline(int number)
{
	static const char text[] = "outboard: error: could not end in order: giving up\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(1);
	_exit(1);
}

static void on_ready(void *arg)
{
	static const int numbers[] = { SIGUSR1, SIGHUP, SIGTERM };
	uint64_t count;
	unsigned pending;

	if (read(signals.event, &count, sizeof(count)) < 0)
		return;
	pending = __atomic_exchange_n(&signals.pending, 0, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (pending & 1u << numbers[i])
			signals.fn(signals.arg, numbers[i]);
}

/* Whoever started us may have blocked the signal.  Both calls fail for numbers that do not exist
 * only. */
static void handle(int number, void (*handler)(int number))
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	sigset_t set;

	sigemptyset(&action.sa_mask);
	sigaction(number, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, number);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int signals_install(struct error *e)
{
	signals.event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (signals.event < 0)
		return error_set(e, -errno, "eventfd: %s", strerror(errno));
	handle(SIGPIPE, SIG_IGN);
	handle(SIGXFSZ, SIG_IGN); /* RLIMIT_FSIZE: an error of one write, EFBIG */
	handle(SIGTERM, on_stop);
	handle(SIGINT, on_stop);
	handle(SIGUSR1, on_request);
	handle(SIGHUP, on_request);
	handle(SIGALRM, on_deadline);
	return 0;
}

int signals_attach(struct reactor *control, signals_fn *fn, void *arg, struct error *e)
{
	int err;

	signals.fn = fn;
	signals.arg = arg;
	signals.watch = (struct reactor_watch){
		.fd = signals.event, .events = POLLIN, .fn = on_ready
	};
	err = reactor_watch_add(control, &signals.watch);
	if (err)
		return error_set(e, err, "signals: %s", strerror(-err));
	signals.attached = 1;
	return 0;
}

/* What comes after this rings for nobody; the second SIGTERM and the deadline still work. */
void signals_detach(void)
{
	if (signals.attached)
		reactor_watch_remove(&signals.watch);
}

void signals_set_deadline(unsigned seconds)
{
	alarm(seconds);
}
