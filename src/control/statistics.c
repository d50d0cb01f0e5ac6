/* statistics.c - what the program has done so far, for people and scripts. */
#include "control/statistics.h"

#include "base/bytes.h"
#include "base/counter.h"
#include "control/instance.h"
#include "reactor/reactor.h"
#include "reactor/reactor_thread.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

/* What a device's summary adds up: names of the rooms' counters. */
struct summand {
	const char *room, *counter;
};

static const struct summand requests[] = {
	{ "blk", "reads" },    { "blk", "writes" },       { "blk", "flushes" },
	{ "blk", "discards" }, { "blk", "write_zeroes" }, { "blk", "get_ids" },
};

static const struct summand bytes[] = { { "blk", "bytes_read" }, { "blk", "bytes_written" } };
static const struct summand interrupts[] = { { "virtqueue", "interrupts_sent" } };

static void print_line(FILE *to, const char *room, const char *name, const char *counter,
		       uint64_t value)
{
	fprintf(to, "%s %s %s %llu\n", room, name, counter, (unsigned long long)value);
}

static uint64_t add_up(const char *name, const struct summand *list, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += counter_sum(list[i].room, name, list[i].counter);
	return sum;
}

/* Returns the device's requests. */
static uint64_t print_device(struct instance *i, FILE *to)
{
	const char *name = instance_name(i);
	uint64_t n = add_up(name, requests, ARRAY_LENGTH(requests));

	instance_print_latencies(i, to);
	print_line(to, "device", name, "requests", n);
	print_line(to, "device", name, "bytes", add_up(name, bytes, ARRAY_LENGTH(bytes)));
	print_line(to, "device", name, "interrupts",
		   add_up(name, interrupts, ARRAY_LENGTH(interrupts)));
	return n;
}

static uint64_t cpu_ns(clockid_t clock)
{
	struct timespec t = { 0 };

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t peak_memory(void)
{
	struct rusage usage = { 0 };

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss * 1024ull; /* getrusage(2): kibibytes */
}

static void print_threads(const struct statistics_source *source, FILE *to)
{
	struct reactor_thread *t;

	print_line(to, "thread", "control", "cpu_ns", cpu_ns(CLOCK_THREAD_CPUTIME_ID));
	for (unsigned i = 0; i < source->worker_count; i++) {
		t = source->workers[i];
		print_line(to, "thread", reactor_name(reactor_thread_reactor(t)), "cpu_ns",
			   reactor_thread_cpu_ns(t));
	}
}

static void print_process(FILE *to, uint64_t request_count)
{
	uint64_t cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);

	print_line(to, "process", "outboard", "cpu_ns", cpu);
	if (request_count)
		print_line(to, "process", "outboard", "cpu_ns_per_request", cpu / request_count);
	print_line(to, "process", "outboard", "peak_rss_bytes", peak_memory());
}

static void print_everything(const struct statistics_source *source, FILE *to)
{
	uint64_t request_count = 0;

	counter_print_all(to);
	for (unsigned i = 0; i < source->instance_count; i++)
		request_count += print_device(source->instances[i], to);
	print_threads(source, to);
	print_process(to, request_count);
}

/* In one piece, so that log lines of other threads do not fall into the middle. */
void statistics_print(const struct statistics_source *source, FILE *to)
{
	char *text = NULL;
	size_t size;
	FILE *memory = open_memstream(&text, &size);

	if (!memory)
		return;
	print_everything(source, memory);
	if (!fclose(memory)) {
		fwrite(text, 1, size, to);
		fflush(to);
	}
	free(text);
}
