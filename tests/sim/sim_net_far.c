/* sim_net_far.c - the network behind the device. */
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "network/network_port.h"
#include "sim_net.h"

/* RFC 903: a broadcast, from and for one address. */
static void check_rarp(struct sim *s, const struct network_frame *f)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };

	if (f->length < FRAME_MIN || memcmp(f->bytes, "\xff\xff\xff\xff\xff\xff", 6) ||
	    memcmp(f->bytes + 6, mac, 6) || memcmp(f->bytes + 22, mac, 6) ||
	    memcmp(f->bytes + 32, mac, 6))
		fail(s, "an announcement that says nothing, or something else");
	s->rarp_wanted = false;
}

/* What is sent by the simulation's guest comes here; its hostile frames do if they are possible. */
static void far_ready(void *arg)
{
	struct sim *s = arg;
	struct network_frame f;

	while (network_peek(s->far, &f)) {
		if (f.header.flags || f.header.gso_type)
			fail(s, "a header promises what was not asked for");
		if (f.length < NETWORK_HEADER || f.length > NETWORK_FRAME_MAX)
			fail(s, "a frame of an impossible length");
		if (load_be16(f.bytes + 12) == FORBIDDEN)
			fail(s, "what the device may write to was sent");
		if (load_be16(f.bytes + 12) == RARP) {
			check_rarp(s, &f);
		} else if (load_be16(f.bytes + 12) != HOSTILE) {
			frame_check(s, s->from_guest, PAIRS_MAX, f.bytes, f.length);
			s->taken++;
		}
		network_consume(s->far);
	}
}

/* One in eight is lost on the way. */
void far_send(struct sim *s, unsigned flow, bool loses)
{
	struct flow *f = &s->to_guest[flow];
	struct virtio_net_hdr header = { 0 };
	uint8_t bytes[ROOM];
	struct iovec iov = { bytes, 0 };
	bool partial = f->udp && pick(s, 2);

	f->sent++;
	frame_sent(s, f);
	iov.iov_len = partial ? frame_write_partial(bytes, f, f->sent, &header)
			      : frame_write(bytes, f, f->sent);
	if (!loses || pick(s, 8))
		network_send(s->far, &header, &iov, 1, iov.iov_len);
	network_flush(s->far);
}

void far_open(struct sim *s)
{
	struct error e = { 0 };

	s->port = network_port_open("sim", s->uri, s->pairs, s->control, &e);
	s->far_port = network_port_open("far", "switch:sim", 1, s->control, &e);
	if (!s->port || !s->far_port)
		fail(s, "%s", e.text);
	s->far = network_queue_open(s->far_port, 0, s->control, far_ready, s, &e);
	if (!s->far)
		fail(s, "%s", e.text);
}
