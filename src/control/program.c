/* program.c - the life of the process.
 *
 * Up: threads, then every disk, then every socket: a disk that cannot be opened ends the program
 * before any VMM could have seen a device, and a SIGTERM while a disk keeps us waiting finds
 * nothing to clean up.  Down, also when coming up has failed half-way: sockets, on the control
 * reactor, because draining takes turns; then devices, disks and threads.  The way down is
 * bounded: a storage server that never answers must not keep the process. */
#include "control/program.h"

#include "base/error.h"
#include "base/log.h"
#include "control/instance.h"
#include "control/notify.h"
#include "control/settings.h"
#include "control/signals.h"
#include "control/statistics.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "reactor/reactor_thread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	WORKERS_MAXIMUM = 64,
	DRAIN_SECONDS = 5, /* for requests that a storage server still has */
	END_SECONDS = 7,   /* for everything */
};

/* The end of one instance, under way or reached. */
struct departure {
	struct reactor_task task;
	struct program *program; /* borrowed */
	bool reached;
};

struct program {
	const struct program_settings *settings;          /* borrowed */
	struct signals *signals;                          /* owned */
	struct reactor *control;                          /* owned */
	char worker_names[WORKERS_MAXIMUM][12];           /* outlive the threads */
	struct reactor_thread *workers[WORKERS_MAXIMUM];  /* owned */
	struct reactor *worker_reactors[WORKERS_MAXIMUM]; /* borrowed from workers */
	unsigned worker_count;
	struct instance **instances;  /* owned, and so are they */
	struct departure *departures; /* owned; one per instance */
	unsigned instance_count;
	unsigned running; /* instances that are not stopped */
	bool stopping;
	struct reactor_task stop_task;
	struct reactor_timer drain_timer;
};

/* ---- statistics ---- */

static void print_statistics(const struct program *p, FILE *to)
{
	struct statistics_source source = {
		.instances = p->instances,
		.instance_count = p->instance_count,
		.workers = p->workers,
		.worker_count = p->worker_count,
	};

	statistics_print(&source, to);
}

/* ---- the way down ---- */

static void on_stopped(void *arg)
{
	struct departure *d = arg;
	struct program *p = d->program;

	d->reached = true;
	if (!--p->running)
		reactor_stop(p->control);
}

/* Requests that a storage server may still carry out cannot be taken back.  There is no end in
 * order then; what remains is to say so, and to go. */
static void on_drain_timeout(void *arg)
{
	struct program *p = arg;

	for (unsigned i = 0; i < p->instance_count; i++)
		if (!p->departures[i].reached)
			log_error("%s: still waits for its disk after %d s: giving up",
				  instance_name(p->instances[i]), DRAIN_SECONDS);
	if (p->settings->stats)
		print_statistics(p, stdout);
	_exit(1);
}

static void stop(void *arg)
{
	struct program *p = arg;

	if (p->stopping)
		return;
	p->stopping = true;
	notify_manager("STOPPING=1");
	signals_set_deadline(p->signals, END_SECONDS);
	p->running = p->instance_count;
	reactor_timer_set(p->control, &p->drain_timer,
			  reactor_now(p->control) + DRAIN_SECONDS * 1000000000ull);
	for (unsigned i = 0; i < p->instance_count; i++)
		instance_stop(p->instances[i], &p->departures[i].task);
}

/* ---- signals ---- */

static void refresh(struct program *p)
{
	for (unsigned i = 0; i < p->instance_count && !p->stopping; i++)
		instance_refresh(p->instances[i]);
}

static void on_signal(void *arg, int number)
{
	struct program *p = arg;

	if (number == SIGUSR1)
		print_statistics(p, stderr);
	else if (number == SIGHUP)
		refresh(p);
	else
		stop(p);
}

/* ---- the way up ---- */

/* Every queue has eventfds and every disk connections: take what the system allows. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static int start_worker(struct program *p, unsigned index, struct error *e)
{
	struct reactor_options options = {
		.name = p->worker_names[index],
		.poll_ns_max = p->settings->poll_us * 1000,
	};

	snprintf(p->worker_names[index], sizeof(p->worker_names[index]), "worker%u", index);
	p->workers[index] = reactor_thread_start(&options, e);
	if (!p->workers[index])
		return error_wrap(e, "%s", options.name);
	p->worker_reactors[index] = reactor_thread_reactor(p->workers[index]);
	p->worker_count++;
	return 0;
}

static int start_threads(struct program *p, struct error *e)
{
	struct reactor_options options = { .name = "control" };
	int err = 0;

	p->control = reactor_create(&options, e);
	if (!p->control)
		return error_wrap(e, "control");
	for (unsigned i = 0; i < p->settings->workers && !err; i++)
		err = start_worker(p, i, e);
	return err;
}

static int open_instances(struct program *p, struct error *e)
{
	unsigned count = p->settings->device_count;
	struct instance *made;

	p->instances = calloc(count, sizeof(*p->instances));
	p->departures = calloc(count, sizeof(*p->departures));
	if (!p->instances || !p->departures)
		return error_set(e, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < count; i++) {
		made = instance_open(&p->settings->devices[i], p->control, e);
		if (!made)
			return e->code;
		p->departures[i] = (struct departure){
			.task = { .fn = on_stopped, .arg = &p->departures[i] }, .program = p
		};
		p->instances[p->instance_count++] = made;
	}
	return 0;
}

static int serve_instances(struct program *p, struct error *e)
{
	int err = 0;

	signals_attach(p->signals, p->control, on_signal, p);
	for (unsigned i = 0; i < p->instance_count && !err; i++) {
		struct pci_identity identity;

		settings_identify(p->settings, i, &identity);
		err = instance_serve(p->instances[i], p->worker_reactors, p->worker_count,
				     &identity, e);
	}
	return err;
}

static int start(struct program *p, struct error *e)
{
	int err;

	raise_descriptor_limit();
	p->signals = signals_start(e);
	err = p->signals ? start_threads(p, e) : e->code;
	err = err ? err : open_instances(p, e);
	return err ? err : serve_instances(p, e);
}

/* ---- the whole ---- */

static void run(struct program *p, bool started)
{
	if (started)
		notify_manager("READY=1");
	else
		reactor_defer(p->control, &p->stop_task);
	reactor_run(p->control);
	reactor_timer_cancel(&p->drain_timer);
	signals_detach(p->signals);
}

static void finish(struct program *p)
{
	for (unsigned i = 0; i < p->instance_count; i++)
		instance_free(p->instances[i]);
	for (unsigned i = 0; i < p->worker_count; i++)
		reactor_thread_stop(p->workers[i]);
	reactor_free(p->control);
	free(p->instances);
	free(p->departures);
	signals_stop(p->signals);
}

int program_run(const struct program_settings *settings)
{
	struct program p = { .settings = settings };
	struct error e = { 0 };
	bool started;

	p.stop_task = (struct reactor_task){ .fn = stop, .arg = &p };
	p.drain_timer = (struct reactor_timer){ .fn = on_drain_timeout, .arg = &p };
	started = !start(&p, &e);
	if (!started)
		log_error("%s", e.text);
	if (p.instance_count)
		run(&p, started);
	if (started && settings->stats)
		print_statistics(&p, stdout);
	finish(&p);
	return started ? 0 : 1;
}
