/* load.c - outboard-load: sends block requests to a vhost-user or vfio-user socket and says how
 * fast it was. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "load_run.h"

static const char usage[] =
	"Usage: outboard-load --socket PATH | --vfio-user PATH [options]\n"
	"  --socket PATH    of a vhost-user device\n"
	"  --vfio-user PATH of a vfio-user device\n"
	"  --unshared       the device does not get the memory, and reaches it by messages\n"
	"  --rw KIND        randread (default), randwrite, read, write, mixed (70 % random reads)\n"
	"  --block BYTES    of one request: 4096\n"
	"  --depth N        requests in flight per queue: 32\n"
	"  --queues N       1\n"
	"  --seconds N      1\n"
	"  --warm N         seconds before that: 0.2\n"
	"  --mode MODE      poll (default) or interrupt\n"
	"  --packed         a packed ring instead of a split one\n"
	"  --indirect       use indirect descriptors\n"
	"  --idle           stay connected and send nothing\n"
	"  --pid PID        of the server: take its CPU time\n"
	"  --cpu N          run on this CPU\n"
	"  --json           print one line of JSON\n";

struct kind {
	const char *name;
	unsigned read_percent;
	bool random;
};

static const struct kind kinds[] = {
	{ "randread", 100, true }, { "randwrite", 0, true }, { "read", 100, false },
	{ "write", 0, false },     { "mixed", 70, true },
};

static void refuse(const char *what, const char *value)
{
	fprintf(stderr, "outboard-load: %s: \"%s\"\n%s", what, value, usage);
	exit(2);
}

static void set_kind(struct load_options *o, const char *name)
{
	for (unsigned i = 0; i < ARRAY_LENGTH(kinds); i++) {
		if (strcmp(kinds[i].name, name))
			continue;
		o->read_percent = kinds[i].read_percent;
		o->random = kinds[i].random;
		return;
	}
	refuse("--rw: unknown", name);
}

static void set_mode(struct load_options *o, const char *name)
{
	if (strcmp(name, "poll") && strcmp(name, "interrupt"))
		refuse("--mode: unknown", name);
	o->interrupt = !strcmp(name, "interrupt");
}

static unsigned number(const char *text, unsigned least, unsigned most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || end == text || value < least || value > most)
		refuse("not a number that makes sense here", text);
	return value;
}

static double seconds(const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (*end || end == text || !(value >= 0 && value <= 3600))
		refuse("not a time in seconds", text);
	return value;
}

static uint32_t block_size(const char *text)
{
	unsigned value = number(text, 512, 1 << 20);

	if (value % 512)
		refuse("--block: not a multiple of 512", text);
	return value;
}

enum {
	SOCKET = 1,
	VFIO_USER,
	UNSHARED,
	RW,
	BLOCK,
	DEPTH,
	QUEUES,
	SECONDS,
	WARM,
	MODE,
	INDIRECT,
	PACKED,
	IDLE,
	PID,
	CPU,
	JSON,
	HELP
};

static const struct option long_options[] = {
	{ "socket", required_argument, NULL, SOCKET },
	{ "vfio-user", required_argument, NULL, VFIO_USER },
	{ "unshared", no_argument, NULL, UNSHARED },
	{ "rw", required_argument, NULL, RW },
	{ "block", required_argument, NULL, BLOCK },
	{ "depth", required_argument, NULL, DEPTH },
	{ "queues", required_argument, NULL, QUEUES },
	{ "seconds", required_argument, NULL, SECONDS },
	{ "warm", required_argument, NULL, WARM },
	{ "mode", required_argument, NULL, MODE },
	{ "indirect", no_argument, NULL, INDIRECT },
	{ "packed", no_argument, NULL, PACKED },
	{ "idle", no_argument, NULL, IDLE },
	{ "pid", required_argument, NULL, PID },
	{ "cpu", required_argument, NULL, CPU },
	{ "json", no_argument, NULL, JSON },
	{ "help", no_argument, NULL, HELP },
	{ 0 },
};

static void set_option(struct load_options *o, bool *json, int option)
{
	switch (option) {
	case SOCKET:
	case VFIO_USER:
		o->socket = optarg;
		o->vfio = option == VFIO_USER;
		break;
	case UNSHARED:
		o->unshared = true;
		break;
	case RW:
		set_kind(o, optarg);
		break;
	case BLOCK:
		o->block = block_size(optarg);
		break;
	case DEPTH:
		o->depth = number(optarg, 1, 4096);
		break;
	case QUEUES:
		o->queues = number(optarg, 1, LOAD_QUEUES_MAX);
		break;
	case SECONDS:
		o->seconds = seconds(optarg);
		break;
	case WARM:
		o->warm_seconds = seconds(optarg);
		break;
	case MODE:
		set_mode(o, optarg);
		break;
	case INDIRECT:
		o->indirect = true;
		break;
	case PACKED:
		o->packed = true;
		break;
	case IDLE:
		o->idle = true;
		break;
	case PID:
		o->server = number(optarg, 1, 1 << 30);
		break;
	case CPU:
		o->cpu = number(optarg, 0, 1023);
		break;
	case JSON:
		*json = true;
		break;
	case HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		fputs(usage, stderr);
		exit(2);
	}
}

static void parse(int argc, char **argv, struct load_options *o, bool *json)
{
	int option;

	*o = (struct load_options){ .read_percent = 100,
				    .random = true,
				    .block = 4096,
				    .depth = 32,
				    .queues = 1,
				    .seconds = 1,
				    .warm_seconds = 0.2,
				    .cpu = -1 };
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		set_option(o, json, option);
	if (optind < argc)
		refuse("unexpected argument", argv[optind]);
	if (!o->socket || (o->unshared && !o->vfio)) {
		fprintf(stderr, "outboard-load: %s\n%s",
			o->socket ? "--unshared goes with --vfio-user" : "a socket is needed",
			usage);
		exit(2);
	}
}

static double percentile_us(const struct load_result *r, unsigned per_mille)
{
	return histogram_percentile(&r->latency, per_mille) / 1e3;
}

static double per_request(const struct load_result *r, uint64_t count)
{
	return r->requests ? (double)count / r->requests : 0;
}

static void print_json(const struct load_result *r, double mean_us, double cpu_us)
{
	printf("{\"iops\": %.0f, \"mean_us\": %.3f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
	       "\"p999_us\": %.3f, \"server_cpu_us\": %.3f, \"server_cpu_seconds\": %.4f, "
	       "\"seconds\": %.3f, \"requests\": %llu, \"kicks\": %llu, \"interrupts\": %llu, "
	       "\"errors\": %llu, \"dma_reads\": %.3f, \"dma_writes\": %.3f, "
	       "\"dma_bytes\": %.0f}\n",
	       r->requests / r->seconds, mean_us, percentile_us(r, 500), percentile_us(r, 990),
	       percentile_us(r, 999), cpu_us, r->server_cpu_seconds, r->seconds,
	       (unsigned long long)r->requests, (unsigned long long)r->kicks,
	       (unsigned long long)r->interrupts, (unsigned long long)r->errors,
	       per_request(r, r->dma.reads), per_request(r, r->dma.writes),
	       per_request(r, r->dma.bytes));
}

static void print_text(const struct load_result *r, double mean_us, double cpu_us)
{
	printf("%.0f requests/s, mean %.3f us, p50 %.3f us, p99 %.3f us, p99.9 %.3f us\n"
	       "server: %.3f us of CPU per request, %.4f s in %.3f s\n"
	       "%llu requests, %llu kicks, %llu interrupts, %llu errors\n",
	       r->requests / r->seconds, mean_us, percentile_us(r, 500), percentile_us(r, 990),
	       percentile_us(r, 999), cpu_us, r->server_cpu_seconds, r->seconds,
	       (unsigned long long)r->requests, (unsigned long long)r->kicks,
	       (unsigned long long)r->interrupts, (unsigned long long)r->errors);
	if (r->dma.reads + r->dma.writes)
		printf("%.2f DMA_READ and %.2f DMA_WRITE messages per request, %.0f bytes\n",
		       per_request(r, r->dma.reads), per_request(r, r->dma.writes),
		       per_request(r, r->dma.bytes));
}

static void print(const struct load_result *r, bool json)
{
	double n = r->requests ? r->requests : 1;

	(json ? print_json : print_text)(r, r->sum_ns / n / 1e3, r->server_cpu_seconds / n * 1e6);
}

int main(int argc, char **argv)
{
	struct load_options options;
	static struct load_result result;
	struct error e = { 0 };
	bool json = false;

	parse(argc, argv, &options, &json);
	if (load_run(&options, &result, &e)) {
		fprintf(stderr, "outboard-load: %s\n", e.text);
		return 1;
	}
	print(&result, json);
	return result.errors != 0;
}
