/* net_main.c - outboard-net-load: sends frames to vhost-user network devices, takes frames from
 * them, and says how fast that was. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "net_load.h"

static const char usage[] =
	"Usage: outboard-net-load --mode MODE --socket PATH [--to PATH] [options]\n"
	"  --mode MODE      send, receive, pass (from one device to another) or echo (there and "
	"back)\n"
	"  --socket PATH    of a vhost-user network device\n"
	"  --to PATH        of the second one: pass and echo\n"
	"  --frame BYTES    64\n"
	"  --tso            frames are TCP to be segmented\n"
	"  --packed         packed rings instead of split ones\n"
	"  --seconds N      1\n"
	"  --warm N         seconds before that: 0.2\n"
	"  --pid PID        of the server: take its CPU time\n"
	"  --cpu N          run on this CPU\n"
	"It prints one line of JSON.\n";

enum { MODE = 1, SOCKET, TO, FRAME, TSO, PACKED, SECONDS, WARM, PID, CPU, HELP };

static const struct option long_options[] = {
	{ "mode", required_argument, NULL, MODE },
	{ "socket", required_argument, NULL, SOCKET },
	{ "to", required_argument, NULL, TO },
	{ "frame", required_argument, NULL, FRAME },
	{ "tso", no_argument, NULL, TSO },
	{ "packed", no_argument, NULL, PACKED },
	{ "seconds", required_argument, NULL, SECONDS },
	{ "warm", required_argument, NULL, WARM },
	{ "pid", required_argument, NULL, PID },
	{ "cpu", required_argument, NULL, CPU },
	{ "help", no_argument, NULL, HELP },
	{ 0 },
};

static void refuse(const char *what, const char *value)
{
	fprintf(stderr, "outboard-net-load: %s: \"%s\"\n%s", what, value, usage);
	exit(2);
}

static double number(const char *text, double least, double most)
{
	char *end;
	double value = strtod(text, &end);

	if (*end || end == text || !(value >= least && value <= most))
		refuse("not a number that makes sense here", text);
	return value;
}

static enum net_load_mode mode(const char *name)
{
	static const char *const names[] = { "send", "receive", "pass", "echo" };

	for (unsigned i = 0; i < ARRAY_LENGTH(names); i++)
		if (!strcmp(names[i], name))
			return i;
	refuse("--mode: unknown", name);
	return 0;
}

static void set_option(struct net_load_options *o, int option)
{
	switch (option) {
	case MODE:
		o->mode = mode(optarg);
		break;
	case SOCKET:
	case TO:
		o->sockets[option == TO] = optarg;
		break;
	case FRAME:
		o->frame = number(optarg, 60, 65535);
		break;
	case TSO:
		o->tso = true;
		break;
	case PACKED:
		o->packed = true;
		break;
	case SECONDS:
		o->seconds = number(optarg, 0.01, 3600);
		break;
	case WARM:
		o->warm_seconds = number(optarg, 0, 3600);
		break;
	case PID:
		o->server = number(optarg, 1, 1 << 30);
		break;
	case CPU:
		o->cpu = number(optarg, 0, 1023);
		break;
	case HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		fputs(usage, stderr);
		exit(2);
	}
}

static void print(const struct net_load_result *r)
{
	printf("{\"pps\": %.0f, \"cpu_ns\": %.2f, \"p50_us\": %.3f, \"p99_us\": %.3f, "
	       "\"frames\": %llu, \"kicks\": %llu}\n",
	       r->frames / r->seconds, r->server_cpu_seconds / r->frames * 1e9,
	       histogram_percentile(&r->latency, 500) / 1e3,
	       histogram_percentile(&r->latency, 990) / 1e3, (unsigned long long)r->frames,
	       (unsigned long long)r->kicks);
}

int main(int argc, char **argv)
{
	struct net_load_options o = { .frame = 64, .seconds = 1, .warm_seconds = 0.2, .cpu = -1 };
	static struct net_load_result result;
	struct error e = { 0 };
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		set_option(&o, option);
	if (optind < argc)
		refuse("unexpected argument", argv[optind]);
	if (!o.sockets[0] || (o.mode >= NET_LOAD_PASS) != !!o.sockets[1])
		refuse("wrong sockets for this mode", o.sockets[0] ? o.sockets[0] : "");
	if (net_load_run(&o, &result, &e)) {
		fprintf(stderr, "outboard-net-load: %s\n", e.text);
		return 1;
	}
	print(&result);
	return 0;
}
