/* sim_blk.c - seeded simulation of a block device and its driver.
 *
 * Broken if this fails: under some schedule, layout, loss or kill, a request is lost, repeated or
 * answered wrongly, a byte is not what was last written, or one is written that nobody gave away.
 *
 * Seeds run in child processes, some at a time: a killed device leaves its memory behind, and a
 * crash must not hide which seed it was. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "sim.h"

enum { SEEDS_PER_PROCESS = 50, JOBS_MAX = 64, TIMEOUT_SECONDS = 300 };

static const char usage[] = "Usage: sim_blk [--seeds N] [--first SEED] [--jobs N] [--verbose]\n";

struct options {
	uint64_t first, seeds;
	unsigned jobs;
	bool verbose;
};

/* What a child is doing, in memory that its parent shares. */
struct job {
	pid_t pid;          /* 0: none */
	uint64_t seed;      /* under way */
	uint64_t completed; /* requests */
};

static void run_seed(uint64_t seed, bool verbose, struct job *job)
{
	struct sim *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	job->seed = seed;
	s->seed = seed;
	s->verbose = verbose;
	sim_run(s);
	job->completed += s->completed;
	free(s);
}

static void child(const struct options *o, uint64_t from, struct job *job)
{
	alarm(TIMEOUT_SECONDS);
	for (uint64_t i = from; i < from + SEEDS_PER_PROCESS && i < o->first + o->seeds; i++)
		run_seed(i, o->verbose, job);
	fflush(NULL);
	_exit(0);
}

static void start_child(const struct options *o, uint64_t from, struct job *job)
{
	pid_t pid = fork();

	if (pid < 0)
		abort();
	if (!pid)
		child(o, from, job);
	job->pid = pid; /* the parent's to write: the child shares it */
}

static struct job *job_of(struct job *jobs, pid_t pid)
{
	for (unsigned i = 0; i < JOBS_MAX; i++)
		if (jobs[i].pid == pid)
			return &jobs[i];
	return NULL;
}

/* Returns whether the child that has ended was content. */
static bool wait_child(struct job *jobs)
{
	int status;
	struct job *job = job_of(jobs, wait(&status));

	if (!job)
		abort();
	job->pid = 0;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return true;
	fprintf(stderr,
		"sim_blk: seed %llu failed%s%s; again: sim_blk --first %llu --seeds 1 --verbose\n",
		(unsigned long long)job->seed, WIFSIGNALED(status) ? ", " : "",
		WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "",
		(unsigned long long)job->seed);
	return false;
}

/* The number of failures; no more seeds are begun after the first. */
static unsigned run_all(const struct options *o, struct job *jobs)
{
	uint64_t next = o->first, end = o->first + o->seeds;
	unsigned running = 0, failed = 0;

	while ((next < end && !failed) || running) {
		while (next < end && !failed && running < o->jobs) {
			start_child(o, next, job_of(jobs, 0));
			next += SEEDS_PER_PROCESS;
			running++;
		}
		failed += !wait_child(jobs);
		running--;
	}
	return failed;
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option list[] = {
		{ "seeds", required_argument, NULL, 's' },
		{ "first", required_argument, NULL, 'f' },
		{ "jobs", required_argument, NULL, 'j' },
		{ "verbose", no_argument, NULL, 'v' },
		{ 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", list, NULL)) != -1) {
		if (option == 's')
			o->seeds = strtoull(optarg, NULL, 0);
		else if (option == 'f')
			o->first = strtoull(optarg, NULL, 0);
		else if (option == 'j')
			o->jobs = strtoul(optarg, NULL, 0);
		else if (option == 'v')
			o->verbose = true;
		else
			o->seeds = 0;
	}
	if (optind < argc || !o->seeds || !o->jobs || o->jobs > JOBS_MAX) {
		fputs(usage, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct options o = { .first = 1, .seeds = 1000, .jobs = sysconf(_SC_NPROCESSORS_ONLN) };
	struct timespec from, to;
	uint64_t completed = 0;
	struct job *jobs;
	unsigned failed;

	parse(argc, argv, &o);
	log_set_level(o.verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	jobs = mmap(NULL, JOBS_MAX * sizeof(*jobs), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (jobs == MAP_FAILED)
		abort();
	clock_gettime(CLOCK_MONOTONIC, &from);
	failed = run_all(&o, jobs);
	clock_gettime(CLOCK_MONOTONIC, &to);
	for (unsigned i = 0; i < JOBS_MAX; i++)
		completed += jobs[i].completed;
	printf("%llu seeds, %llu requests, %.1f s%s\n", (unsigned long long)o.seeds,
	       (unsigned long long)completed,
	       to.tv_sec - from.tv_sec + (to.tv_nsec - from.tv_nsec) / 1e9,
	       failed ? ": FAILED" : "");
	return failed != 0;
}
