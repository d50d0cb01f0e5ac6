/* log.c - writes one line per request, with how long it took below.
 *
 * A line is one stdio call, which locks and writes: this filter is for looking, not for speed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "reactor/reactor.h"
#include "storage/storage_list.h"

struct log_state {
	FILE *to;           /* owned unless it is stderr */
	uint64_t lines_max; /* 0: no limit */
	uint64_t lines;     /* atomic: taken so far */
};

struct log_io {
	uint64_t begin_ns;
};

static int log_open(struct storage_layer *l, const struct storage_options *o,
		    struct storage_limits *limits, struct error *e)
{
	struct log_state *s = storage_layer_state(l);
	const char *path = storage_options_text(o, "log-file");
	int status;

	s->to = stderr;
	s->lines_max = 1000 * 1000;
	status = storage_options_number(o, "log-lines", &s->lines_max, e);
	if (status || !path)
		return status;
	s->to = fopen(path, "ae");
	if (!s->to)
		return error_set(e, -errno, "option \"log-file\": %s: %s", path, strerror(errno));
	setvbuf(s->to, NULL, _IOLBF, BUFSIZ);
	return 0;
}

static void log_close(struct storage_layer *l)
{
	struct log_state *s = storage_layer_state(l);

	if (s->to != stderr)
		fclose(s->to);
}

static void log_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct log_io *l = storage_io_state(ch, io);

	l->begin_ns = reactor_now(storage_channel_reactor(ch));
	storage_forward(ch, io);
}

static void print(const struct log_state *s, struct storage_layer_channel *ch,
		  const struct storage_io *io, uint64_t begin_ns, int status)
{
	static const char *const names[STORAGE_OPERATIONS] = {
		[STORAGE_READ] = "read",
		[STORAGE_WRITE] = "write",
		[STORAGE_FLUSH] = "flush",
		[STORAGE_DISCARD] = "discard",
		[STORAGE_WRITE_ZEROES] = "write-zeroes",
	};
	const struct reactor *r = storage_channel_reactor(ch);
	const char *error_name = status == -ECANCELED ? "withdrawn"
				 : status             ? strerrorname_np(-status)
						      : "ok";

	fprintf(s->to,
		"%" PRIu64 ".%09" PRIu64 " disk %s %s: %s%s offset %" PRIu64 " length %" PRIu64
		": %s in %" PRIu64 " ns\n",
		begin_ns / 1000000000, begin_ns % 1000000000, storage_channel_name(ch),
		reactor_name(r), names[io->operation],
		io->operation == STORAGE_WRITE_ZEROES && io->flags & STORAGE_UNMAP ? " unmap" : "",
		io->offset, io->length, error_name ? error_name : "error",
		reactor_now(r) - begin_ns);
}

static void log_completed(struct storage_layer_channel *ch, struct storage_io *io, int status)
{
	struct log_state *s = storage_channel_layer_state(ch);
	const struct log_io *l = storage_io_state(ch, io);
	uint64_t line = __atomic_add_fetch(&s->lines, 1, __ATOMIC_RELAXED);

	if (!s->lines_max || line <= s->lines_max)
		print(s, ch, io, l->begin_ns, status);
	if (line == s->lines_max)
		fprintf(s->to, "disk %s: log-lines=%" PRIu64 " reached, no more follow\n",
			storage_channel_name(ch), s->lines_max);
	storage_complete(ch, io, status);
}

const struct storage_provider storage_log = {
	.about.scheme = "log",
	.about.summary = "writes one line per request",
	.about.help = "log-file=PATH          append to this file; standard error unless given\n"
		      "log-lines=NUMBER       then stop; 1000000 unless given, 0: never\n",
	.about.is_filter = true,
	.state_size = sizeof(struct log_state),
	.io_size = sizeof(struct log_io),
	.open = log_open,
	.close = log_close,
	.submit = log_submit,
	.completed = log_completed,
};
