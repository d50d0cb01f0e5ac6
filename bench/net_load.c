/* net_load.c - keeps the queues of network devices full and counts.
 *
 * One thread drives all queues.  It looks without sleeping and asks for no interrupts, so what is
 * measured is the device.  Both queues of a device are started in every mode: back-ends wait for
 * the pair.
 */
#include "net_load.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/error.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "driver/vhost_user_client.h"

enum {
	RING = 256,
	BATCH = 32, /* frames published together */
	HEADER = sizeof(struct virtio_net_hdr_mrg_rxbuf),
	SEGMENT = 1460,
	TCP_HEADERS = 54,
	CLOCK_LOOKS = 1024,
	STUCK_SECONDS = 10,
	LOST_NS = 20 * 1000 * 1000,
	RING_SPACE = 1 << 16
};

/* One side of a device: RECEIVE or TRANSMIT, as virtio 1.3, 5.1.2 numbers its queues. */
enum { RECEIVE, TRANSMIT, SIDES };

struct net_device {
	struct vhost_user_client vhost;
	struct guest_memory memory;
	struct guest_queue rings[SIDES];
	uint64_t buffers[SIDES]; /* iova of RING buffers */
	unsigned number;
};

struct net_load {
	const struct net_load_options *o;
	struct net_load_result *result;
	struct net_device devices[2];
	unsigned device_count;
	uint32_t buffer; /* bytes of one, with its header */
	bool measuring;
	uint64_t echo_began;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t = { 0 };

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t now_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static double server_cpu_seconds(pid_t pid)
{
	clockid_t clock;

	if (!pid || clock_getcpuclockid(pid, &clock))
		return 0;
	return clock_ns(clock) / 1e9;
}

/* ---- frames ---- */

/* IPv4 (RFC 791) and TCP (RFC 9293) as a driver leaves them to a device that segments: the TCP
 * checksum holds the pseudo-header's only. */
static void fill_tcp(uint8_t *frame, uint32_t length)
{
	uint8_t *ip = frame + 14, *tcp = ip + 20;
	uint32_t sum = 0, pseudo = 6 + length - 34;

	store_be16(frame + 12, 0x0800);
	ip[0] = 0x45;
	store_be16(ip + 2, length - 14);
	ip[6] = 0x40; /* don't fragment */
	ip[8] = 64;
	ip[9] = 6;
	store_be32(ip + 12, 0x0a090001);
	store_be32(ip + 16, 0x0a090002);
	for (unsigned i = 0; i < 20; i += 2)
		sum += load_be16(ip + i);
	for (unsigned i = 12; i < 20; i += 2)
		pseudo += load_be16(ip + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	while (pseudo >> 16)
		pseudo = (pseudo & 0xffff) + (pseudo >> 16);
	store_be16(ip + 10, ~sum);
	store_be16(tcp, 1);
	store_be16(tcp + 2, 9);
	tcp[12] = 0x50;
	tcp[13] = 0x10;
	store_be16(tcp + 16, pseudo);
}

/* What one device sends is for the other. */
static void fill_buffer(const struct net_load *l, const struct net_device *d, uint8_t *at)
{
	struct virtio_net_hdr_mrg_rxbuf header = { 0 };
	uint8_t *frame = at + HEADER;

	memset(at, 0, l->buffer);
	memcpy(frame, "\x52\x54\x00\x00\x01\x00\x52\x54\x00\x00\x01\x00\x88\xb5", 14);
	frame[5] = 2 - d->number;
	frame[11] = 1 + d->number;
	if (l->o->tso) {
		fill_tcp(frame, l->o->frame);
		header.hdr = (struct virtio_net_hdr){ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
						      .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
						      .hdr_len = htole16(TCP_HEADERS),
						      .gso_size = htole16(SEGMENT),
						      .csum_start = htole16(34),
						      .csum_offset = htole16(16) };
	}
	memcpy(at, &header, sizeof(header));
}

/* ---- queues ---- */

static void add(const struct net_load *l, struct net_device *d, unsigned side, uint64_t iova)
{
	struct guest_segment s = { .iova = iova,
				   .length = side == RECEIVE ? l->buffer : HEADER + l->o->frame,
				   .writable = side == RECEIVE };

	guest_queue_add(&d->rings[side], &s, 1, NULL, guest_memory_at(&d->memory, iova));
}

static void publish(struct net_load *l, struct net_device *d, unsigned side)
{
	if (!guest_queue_publish(&d->rings[side]))
		return;
	vhost_user_client_kick(&d->vhost, side);
	l->result->kicks += l->measuring;
}

static uint64_t iova_of(const struct net_device *d, const void *token)
{
	return d->memory.iova + ((const char *)token - d->memory.bytes);
}

/* Takes what has come back and, if again, adds it anew.  How many frames, -EPROTO. */
static int turn(struct net_load *l, struct net_device *d, unsigned side, bool again)
{
	void *token;
	uint32_t length;
	int count = 0, answer = 0;

	while (count < BATCH &&
	       (answer = guest_queue_take(&d->rings[side], &token, &length)) == 1) {
		if (again)
			add(l, d, side, iova_of(d, token));
		count++;
	}
	if (count && again)
		publish(l, d, side);
	return answer < 0 ? answer : count;
}

/* ---- modes ---- */

static int count_frames(struct net_load *l, int count)
{
	if (count > 0 && l->measuring)
		l->result->frames += count;
	return count;
}

/* A frame that is on its way in ECHO is in one place: the turn that finds it sends it on. */
static int echo(struct net_load *l)
{
	for (unsigned i = 0; i < 2; i++) {
		struct net_device *d = &l->devices[i];
		int found = turn(l, d, RECEIVE, true), done = turn(l, d, TRANSMIT, false);

		if (found < 0 || done < 0)
			return -EPROTO;
		if (!found)
			continue;
		if (i == 0 && l->measuring)
			histogram_add(&l->result->latency, now_ns() - l->echo_began);
		if (i == 0)
			l->echo_began = now_ns();
		add(l, d, TRANSMIT, d->buffers[TRANSMIT]);
		publish(l, d, TRANSMIT);
		return count_frames(l, i == 0) + 1;
	}
	return 0;
}

/* What was sent is not counted in PASS: a switch drops what its receiver has no room for. */
static int pass(struct net_load *l)
{
	int sent = turn(l, &l->devices[0], TRANSMIT, true);

	return sent < 0 ? sent : count_frames(l, turn(l, &l->devices[1], RECEIVE, true));
}

static int turn_mode(struct net_load *l)
{
	switch (l->o->mode) {
	case NET_LOAD_SEND:
		return count_frames(l, turn(l, &l->devices[0], TRANSMIT, true));
	case NET_LOAD_RECEIVE:
		return count_frames(l, turn(l, &l->devices[0], RECEIVE, true));
	case NET_LOAD_PASS:
		return pass(l);
	case NET_LOAD_ECHO:
		return echo(l);
	}
	return -EINVAL;
}

/* The only frame of ECHO. */
static void serve(struct net_load *l)
{
	struct net_device *first = &l->devices[0];

	l->echo_began = now_ns();
	add(l, first, TRANSMIT, first->buffers[TRANSMIT]);
	publish(l, first, TRANSMIT);
}

/* A server that has not got both devices yet drops it. */
static bool is_lost_early(const struct net_load *l, uint64_t now)
{
	return l->o->mode == NET_LOAD_ECHO && !l->measuring && now > l->echo_began + LOST_NS;
}

static int run_for(struct net_load *l, double seconds, struct error *e)
{
	uint64_t now = now_ns(), alive = now, end = now + (uint64_t)(seconds * 1e9);
	bool found_any = false;

	for (unsigned looks = 1; now < end; looks++) {
		int found = turn_mode(l);

		if (found < 0)
			return error_set(e, found, "the device used what was not outstanding");
		found_any |= found > 0;
		if (looks % CLOCK_LOOKS)
			continue;
		now = now_ns();
		if (found_any)
			alive = now;
		else if (is_lost_early(l, now))
			serve(l);
		found_any = false;
		if (now > alive + STUCK_SECONDS * 1000000000ull)
			return error_set(e, -ETIMEDOUT, "no frame comes through");
	}
	return l->measuring && !l->result->frames
		       ? error_set(e, -ETIMEDOUT, "no frame came through")
		       : 0;
}

/* ---- set-up ---- */

static void open_memory(struct net_load *l, struct net_device *d)
{
	uint64_t size = 2 * RING_SPACE + (uint64_t)SIDES * RING * l->buffer;

	guest_memory_open(&d->memory, 0x100000, align_up(size, 2 << 20));
	memset(d->memory.bytes, 0, d->memory.size); /* no page faults later */
}

static int open_ring(struct net_load *l, struct net_device *d, unsigned side, struct error *e)
{
	unsigned flags = (l->o->packed ? GUEST_QUEUE_PACKED : 0) |
			 (d->vhost.features >> VIRTIO_RING_F_EVENT_IDX & 1 ? GUEST_QUEUE_EVENT_INDEX
									   : 0);

	guest_queue_open_flags(&d->rings[side], &d->memory, RING, flags);
	guest_queue_mute(&d->rings[side]);
	d->buffers[side] = guest_memory_allocate(&d->memory, (uint64_t)RING * l->buffer, 4096);
	for (unsigned i = 0; i < RING; i++) {
		uint64_t iova = d->buffers[side] + (uint64_t)i * l->buffer;

		fill_buffer(l, d, guest_memory_at(&d->memory, iova));
		if (side == RECEIVE)
			add(l, d, side, iova);
	}
	return vhost_user_client_start_queue(&d->vhost, side, &d->rings[side],
					     guest_queue_base(&d->rings[side]), e);
}

static uint64_t wanted_features(const struct net_load *l)
{
	return 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
	       1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CSUM |
	       1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 |
	       1ull << VIRTIO_NET_F_GUEST_TSO4 | (l->o->packed ? 1ull << VIRTIO_F_RING_PACKED : 0);
}

static int open_device(struct net_load *l, struct net_device *d, const char *socket,
		       struct error *e)
{
	const struct guest_memory *memory = &d->memory;
	int err;

	open_memory(l, d);
	err = vhost_user_client_connect(&d->vhost, socket, e);
	if (!err)
		err = vhost_user_client_set_features(&d->vhost, wanted_features(l), e);
	if (!err && l->o->packed && !(d->vhost.features & 1ull << VIRTIO_F_RING_PACKED))
		err = error_set(e, -EOPNOTSUPP, "the device has no packed rings");
	if (!err && l->o->tso && !(d->vhost.features & 1ull << VIRTIO_NET_F_HOST_TSO4))
		err = error_set(e, -EOPNOTSUPP, "the device does not segment");
	if (!err)
		err = vhost_user_client_share(&d->vhost, &memory, 1, e);
	for (unsigned side = 0; !err && side < SIDES; side++)
		err = open_ring(l, d, side, e);
	if (!err) {
		publish(l, d, RECEIVE);
		vhost_user_client_kick(&d->vhost, RECEIVE);
	}
	return err;
}

static void close_device(struct net_device *d)
{
	uint16_t base;
	struct error e = { 0 };

	for (unsigned side = 0; side < SIDES && d->vhost.fd >= 0 && d->rings[side].size; side++)
		vhost_user_client_stop_queue(&d->vhost, side, &base, &e);
	vhost_user_client_close(&d->vhost);
	for (unsigned side = 0; side < SIDES; side++)
		guest_queue_close(&d->rings[side]);
	guest_memory_close(&d->memory);
}

/* ---- a run ---- */

/* The first frames: of the second device one, so that a switch knows where it is. */
static void begin(struct net_load *l)
{
	struct net_device *first = &l->devices[0], *last = &l->devices[l->device_count - 1];

	if (l->o->mode == NET_LOAD_ECHO) {
		serve(l);
		return;
	}
	if (last != first && l->o->mode == NET_LOAD_PASS) {
		add(l, last, TRANSMIT, last->buffers[TRANSMIT]);
		publish(l, last, TRANSMIT);
	}
	if (l->o->mode == NET_LOAD_RECEIVE)
		return;
	for (unsigned i = 0; i < RING; i++)
		add(l, first, TRANSMIT, first->buffers[TRANSMIT] + (uint64_t)i * l->buffer);
	publish(l, first, TRANSMIT);
}

static int measure(struct net_load *l, struct error *e)
{
	double server = server_cpu_seconds(l->o->server);
	uint64_t start = now_ns();
	int err;

	l->measuring = true;
	err = run_for(l, l->o->seconds, e);
	l->measuring = false;
	l->result->seconds = (now_ns() - start) / 1e9;
	l->result->server_cpu_seconds = server_cpu_seconds(l->o->server) - server;
	return err;
}

static int pin(int cpu, struct error *e)
{
	cpu_set_t set;

	if (cpu < 0)
		return 0;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return error_set(e, -errno, "CPU %d: %s", cpu, strerror(errno));
	return 0;
}

static int run(struct net_load *l, struct error *e)
{
	int err = pin(l->o->cpu, e);

	for (unsigned i = 0; !err && i < l->device_count; i++)
		err = open_device(l, &l->devices[i], l->o->sockets[i], e);
	if (err)
		return err;
	begin(l);
	err = run_for(l, l->o->warm_seconds, e);
	return err ? err : measure(l, e);
}

int net_load_run(const struct net_load_options *o, struct net_load_result *result, struct error *e)
{
	struct net_load *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return error_set(e, -ENOMEM, "out of memory");
	*result = (struct net_load_result){ 0 };
	l->o = o;
	l->result = result;
	l->buffer = align_up(HEADER + o->frame, 64);
	l->device_count = o->sockets[1] ? 2 : 1;
	for (unsigned i = 0; i < l->device_count; i++) {
		l->devices[i].number = i;
		l->devices[i].memory.fd = -1;
		vhost_user_client_init(&l->devices[i].vhost);
	}
	err = run(l, e);
	for (unsigned i = 0; i < l->device_count; i++)
		close_device(&l->devices[i]);
	free(l);
	return err;
}
