/* capture.c - writes what passes into a file for Wireshark, tshark and the like. */
#include <errno.h>

#include "base/error.h"
#include "network/capture_file.h"
#include "network/network_list.h"

enum { SNAP_LEAST = NETWORK_HEADER, SNAP_MOST = 262144 };

struct capture_state {
	struct capture_file *file; /* owned */
};

static int capture_open(struct network_layer *l, const struct network_request *request,
			struct network_limits *limits, struct error *e)
{
	struct capture_state *s = network_layer_state(l);
	struct capture_options o = { .path = uri_value(request->uri, "file"),
				     .name = network_layer_name(l) };
	uint64_t snap = SNAP_MOST;
	int status = uri_size(request->uri, "snap", &snap, e);

	status = status ? status : uri_size(request->uri, "file-max", &o.size_max, e);
	if (status)
		return status;
	if (!o.path || !*o.path)
		return error_set(e, -EINVAL, "capture needs the option \"file\"");
	if (snap < SNAP_LEAST || snap > SNAP_MOST)
		return error_set(e, -EINVAL, "option \"snap\": not from %d to %d bytes", SNAP_LEAST,
				 SNAP_MOST);
	o.snap = snap;
	s->file = capture_file_open(&o, e);
	return s->file ? 0 : e->code;
}

static void capture_close(struct network_layer *l)
{
	struct capture_state *s = network_layer_state(l);

	capture_file_close(s->file);
}

static int capture_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
			const struct iovec *iov, unsigned n, size_t bytes)
{
	const struct capture_state *s = network_queue_layer_state(q);

	capture_file_add(s->file, PCAPNG_OUT, network_queue_index(q), iov, n, bytes);
	return network_forward(q, header, iov, n, bytes);
}

static void capture_consume(struct network_layer_queue *q)
{
	const struct capture_state *s = network_queue_layer_state(q);
	struct network_frame f;

	if (network_peek_below(q, &f)) {
		struct iovec iov = { f.bytes, f.length };

		capture_file_add(s->file, PCAPNG_IN, network_queue_index(q), &iov, 1, f.length);
	}
	network_consume_below(q);
}

const struct network_provider network_capture = {
	.about.scheme = "capture",
	.about.summary = "writes what passes into a pcapng file",
	.about.help = "file=PATH           made anew; for Wireshark, tshark and the like\n"
		      "snap=BYTES          keep so many of each frame (14..262144, the default)\n"
		      "file-max=BYTES      end the capture before the file is larger\n",
	.about.is_filter = true,
	.state_size = sizeof(struct capture_state),
	.open = capture_open,
	.close = capture_close,
	.send = capture_send,
	.consume = capture_consume,
};
