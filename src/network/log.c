/* log.c - writes one line per frame.
 *
 * A line is one stdio call, which locks and writes: this filter is for looking, not for speed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "network/network_list.h"
#include "reactor/reactor.h"

struct log_state {
	FILE *to;           /* owned unless it is stderr */
	uint64_t lines_max; /* 0: no limit */
	uint64_t lines;     /* atomic: taken so far */
};

static int log_open(struct network_layer *l, const struct network_request *request,
		    struct network_limits *limits, struct error *e)
{
	struct log_state *s = network_layer_state(l);
	const char *path = uri_value(request->uri, "log-file");
	int status;

	s->to = stderr;
	s->lines_max = 1000 * 1000;
	status = uri_number(request->uri, "log-lines", &s->lines_max, e);
	if (status || !path)
		return status;
	s->to = fopen(path, "ae");
	if (!s->to)
		return error_set(e, -errno, "option \"log-file\": %s: %s", path, strerror(errno));
	setvbuf(s->to, NULL, _IOLBF, BUFSIZ);
	return 0;
}

static void log_close(struct network_layer *l)
{
	struct log_state *s = network_layer_state(l);

	if (s->to != stderr)
		fclose(s->to);
}

static void print_address(char *to, const uint8_t *a)
{
	sprintf(to, "%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* What is still to be done to it: "", " checksum", " cut to 1448". */
static void print_undone(char *to, size_t n, const struct virtio_net_hdr *h)
{
	if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		snprintf(to, n, " cut to %u", h->gso_size);
	else
		snprintf(to, n, "%s", h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? " checksum" : "");
}

static void print(struct network_layer_queue *q, const char *way,
		  const struct virtio_net_hdr *header, const uint8_t head[NETWORK_HEADER],
		  size_t bytes, int status)
{
	struct log_state *s = network_queue_layer_state(q);
	const char *name = network_layer_name(network_queue_layer(q));
	uint64_t line = __atomic_add_fetch(&s->lines, 1, __ATOMIC_RELAXED);
	uint64_t now_ns = reactor_now(network_queue_reactor(q));
	char source[18], destination[18], undone[32];

	if (s->lines_max && line > s->lines_max)
		return;
	print_address(destination, head);
	print_address(source, head + 6);
	print_undone(undone, sizeof(undone), header);
	fprintf(s->to,
		"%" PRIu64 ".%09" PRIu64 " port %s/%u %s: %s to %s type %04x length %zu%s%s%s\n",
		now_ns / 1000000000, now_ns % 1000000000, name, network_queue_index(q), way, source,
		destination, load_be16(head + 12), bytes, undone, status ? ": " : "",
		status ? strerrorname_np(-status) : "");
	if (line == s->lines_max)
		fprintf(s->to, "port %s: log-lines=%" PRIu64 " reached, no more follow\n", name,
			s->lines_max);
}

static int log_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes)
{
	uint8_t head[NETWORK_HEADER] = { 0 };
	int status;

	iov_copy_from(iov, n, 0, head, sizeof(head));
	status = network_forward(q, header, iov, n, bytes);
	print(q, "sent", header, head, bytes, status);
	return status;
}

static void log_consume(struct network_layer_queue *q)
{
	struct network_frame f;

	if (network_peek_below(q, &f))
		print(q, "come", &f.header, f.bytes, f.length, 0);
	network_consume_below(q);
}

const struct network_provider network_log = {
	.about.scheme = "log",
	.about.summary = "writes one line per frame",
	.about.help = "log-file=PATH       append to this file; standard error unless given\n"
		      "log-lines=NUMBER    then stop; 1000000 unless given, 0: never\n",
	.about.is_filter = true,
	.state_size = sizeof(struct log_state),
	.open = log_open,
	.close = log_close,
	.send = log_send,
	.consume = log_consume,
};
