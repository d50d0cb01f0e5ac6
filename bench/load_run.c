/* load_run.c - keeps queues of a block device full and measures.
 *
 * One thread drives all queues.  In poll mode it never sleeps and asks for no interrupts, so what
 * is measured is the device; the clock is read once per look that found something.
 */
#include "load_run.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "driver/guest_blk.h"
#include "driver/guest_memory.h"
#include "load_device.h"

enum { STUCK_SECONDS = 30, CLOCK_LOOKS = 4096, RING_SPACE = 1 << 20 };

struct load_queue {
	struct guest_queue ring;
	struct guest_blk blk;
	unsigned index;
	uint64_t next_sector, last_sector; /* sequential: this queue's part of the disk */
};

struct load {
	const struct load_options *o;
	struct load_result *result;
	struct load_device device;
	struct guest_memory memory;
	struct load_queue queues[LOAD_QUEUES_MAX];
	uint64_t sectors; /* of the disk */
	uint64_t random;  /* state */
	bool measuring, stopping;
	unsigned outstanding;
};

/* ---- time ---- */

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

/* ---- requests ---- */

/* xorshift64: good enough to spread requests. */
static uint64_t next_random(struct load *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random;
}

static uint64_t next_sector(struct load *l, struct load_queue *q)
{
	uint64_t per_block = l->o->block / 512, sector;

	if (l->o->random) /* the high half of a product: no division */
		return (uint64_t)(((unsigned __int128)next_random(l) * (l->sectors / per_block)) >>
				  64) *
		       per_block;
	sector = q->next_sector;
	q->next_sector += per_block;
	if (q->next_sector + per_block > q->last_sector)
		q->next_sector = q->index * (l->sectors / l->o->queues);
	return sector;
}

static uint32_t next_type(struct load *l)
{
	if (l->o->read_percent == 100 || l->o->read_percent == 0)
		return l->o->read_percent ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	return next_random(l) % 100 < l->o->read_percent ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
}

static void send_request(struct load *l, struct load_queue *q, struct guest_blk_slot *s,
			 uint64_t now)
{
	s->submitted_ns = now;
	if (guest_blk_add(&q->blk, s, next_type(l), next_sector(l, q), l->o->block))
		l->outstanding++;
}

static void publish(struct load *l, struct load_queue *q)
{
	if (!guest_queue_publish(&q->ring))
		return;
	l->device.transport->kick(&l->device, q->index);
	l->result->kicks++;
}

static void account(struct load *l, const struct guest_blk_slot *s, uint64_t now)
{
	l->outstanding--;
	if (unlikely(s->record->status != VIRTIO_BLK_S_OK))
		l->result->errors++;
	if (!l->measuring)
		return;
	l->result->requests++;
	l->result->sum_ns += now - s->submitted_ns;
	histogram_add(&l->result->latency, now - s->submitted_ns);
}

/* Takes what has come back and sends as many anew.  1 if there was something, 0, -EPROTO. */
static int turn(struct load *l, struct load_queue *q, uint64_t *now)
{
	struct guest_blk_slot *s;
	int answer;

	if (!guest_queue_has_used(&q->ring))
		return 0;
	*now = now_ns();
	while ((answer = guest_blk_take(&q->blk, &s)) == 1) {
		account(l, s, *now);
		if (!l->stopping)
			send_request(l, q, s, *now);
	}
	publish(l, q);
	return answer ? answer : 1;
}

static int turn_all(struct load *l, uint64_t *now)
{
	int found = 0;

	for (unsigned i = 0; i < l->o->queues; i++) {
		int answer = turn(l, &l->queues[i], now);

		if (answer < 0)
			return answer;
		found |= answer;
	}
	return found;
}

/* Interrupt mode: sleeps unless something has come meanwhile. */
static void sleep_for_interrupt(struct load *l)
{
	const struct load_transport *t = l->device.transport;
	struct pollfd p[LOAD_QUEUES_MAX + 1];
	bool sleep = true;
	uint64_t count;

	for (unsigned i = 0; i < l->o->queues; i++) {
		p[i] = (struct pollfd){ .fd = t->interrupt(&l->device, i), .events = POLLIN };
		sleep &= guest_queue_listen(&l->queues[i].ring);
	}
	p[l->o->queues] = (struct pollfd){ .fd = t->socket(&l->device), .events = POLLIN };
	if (sleep && poll(p, l->o->queues + 1, 100) > 0)
		for (unsigned i = 0; i < l->o->queues; i++)
			if (p[i].revents && read(p[i].fd, &count, sizeof(count)) > 0)
				l->result->interrupts++;
	for (unsigned i = 0; i < l->o->queues; i++)
		guest_queue_mute(&l->queues[i].ring);
}

/* Until the time is up (or, when stopping, nothing is out); a device that answers nothing for long
 * is an error. */
static int run_until(struct load *l, uint64_t end, struct error *e)
{
	uint64_t now = now_ns(), alive = now;

	for (unsigned looks = 0; l->stopping ? l->outstanding : now < end; looks++) {
		int found = l->device.transport->serve(&l->device);

		if (found >= 0)
			found = turn_all(l, &now);
		if (found < 0)
			return error_set(e, found,
					 found == -EPROTO
						 ? "the device used what was not outstanding"
						 : "the device is gone");
		if (found) {
			alive = now;
			continue;
		}
		if (l->o->interrupt)
			sleep_for_interrupt(l);
		if (l->o->interrupt || looks % CLOCK_LOOKS == 0)
			now = now_ns();
		if (now > alive + STUCK_SECONDS * 1000000000ull)
			return error_set(e, -ETIMEDOUT, "%u requests did not come back",
					 l->outstanding);
	}
	return 0;
}

/* ---- set-up ---- */

static uint64_t memory_needed(const struct load_options *o)
{
	uint64_t slots = (uint64_t)o->queues * o->depth;

	return align_up(o->queues * RING_SPACE + slots * (align_up(o->block, 4096) + 1024), 4096);
}

/* Back-ends often take no more than 256 descriptors: what needs more goes indirect. */
static bool wants_indirect(const struct load_options *o)
{
	return o->indirect || o->depth * 3 > 256;
}

static uint16_t ring_size(const struct load_options *o, bool indirect)
{
	uint16_t size = 128;

	while (size < o->depth * (indirect ? 1 : 3))
		size *= 2;
	return size;
}

static int open_queue(struct load *l, unsigned index, struct error *e)
{
	struct load_queue *q = &l->queues[index];
	uint64_t part = l->sectors / l->o->queues;
	bool indirect = wants_indirect(l->o) &&
			l->device.features & 1ull << VIRTIO_RING_F_INDIRECT_DESC;

	q->index = index;
	q->next_sector = index * part;
	q->last_sector = (index + 1) * part;
	guest_queue_open_flags(
		&q->ring, &l->memory, ring_size(l->o, indirect),
		(l->device.features >> VIRTIO_RING_F_EVENT_IDX & 1 ? GUEST_QUEUE_EVENT_INDEX : 0) |
			(l->o->packed ? GUEST_QUEUE_PACKED : 0));
	guest_blk_open(&q->blk, &q->ring, &l->memory, l->o->depth, l->o->block, indirect);
	if (!l->o->interrupt)
		guest_queue_mute(&q->ring);
	return l->device.transport->start_queue(&l->device, index, &q->ring, e);
}

static int open_device(struct load *l, struct error *e)
{
	uint64_t wanted = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
			  1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_MQ;
	int err;

	if (wants_indirect(l->o))
		wanted |= 1ull << VIRTIO_RING_F_INDIRECT_DESC;
	if (l->o->packed)
		wanted |= 1ull << VIRTIO_F_RING_PACKED;
	err = l->device.transport->open(&l->device, l->o, wanted, e);
	if (!err && l->o->packed && !(l->device.features & 1ull << VIRTIO_F_RING_PACKED))
		err = error_set(e, -EOPNOTSUPP, "the device has no packed rings");
	if (!err && l->device.queue_max < l->o->queues)
		err = error_set(e, -EINVAL, "the device has %u queues", l->device.queue_max);
	l->sectors = l->device.sectors;
	if (!err && l->sectors / l->o->queues < 2ull * l->o->block / 512)
		err = error_set(e, -EINVAL, "the disk is too small");
	for (unsigned i = 0; !err && i < l->o->queues; i++)
		err = open_queue(l, i, e);
	return err ? err : l->device.transport->ready(&l->device, e);
}

static int stop_queues(struct load *l, struct error *e)
{
	int err = 0;

	for (unsigned i = 0; !err && i < l->o->queues; i++)
		err = l->device.transport->stop_queue(&l->device, i, l->queues[i].ring.used_index,
						      e);
	return err;
}

static void close_device(struct load *l)
{
	l->device.transport->close(&l->device);
	for (unsigned i = 0; i < l->o->queues; i++) {
		guest_blk_close(&l->queues[i].blk);
		guest_queue_close(&l->queues[i].ring);
	}
	guest_memory_close(&l->memory);
}

/* ---- a run ---- */

static void fill(struct load *l)
{
	uint64_t now = now_ns();

	for (unsigned i = 0; i < l->o->queues; i++) {
		struct load_queue *q = &l->queues[i];
		unsigned count = l->o->idle ? 1 : q->blk.slot_count;

		for (unsigned j = 0; j < count; j++)
			send_request(l, q, &q->blk.slots[j], now);
		publish(l, q);
	}
}

/* A device without anything to do asks for nothing, so nobody has to serve it. */
static void rest(double seconds)
{
	usleep(seconds * 1e6);
}

static int measure(struct load *l, struct error *e)
{
	double server = server_cpu_seconds(l->o->server);
	struct load_transactions before = l->device.transport->transactions(&l->device), after;
	uint64_t own = clock_ns(CLOCK_THREAD_CPUTIME_ID), start = now_ns();
	int err = 0;

	l->measuring = true;
	if (l->o->idle)
		rest(l->o->seconds);
	else
		err = run_until(l, start + (uint64_t)(l->o->seconds * 1e9), e);
	l->measuring = false;
	after = l->device.transport->transactions(&l->device);
	l->result->dma = (struct load_transactions){ after.reads - before.reads,
						     after.writes - before.writes,
						     after.bytes - before.bytes };
	l->result->seconds = (now_ns() - start) / 1e9;
	l->result->own_cpu_seconds = (clock_ns(CLOCK_THREAD_CPUTIME_ID) - own) / 1e9;
	l->result->server_cpu_seconds = server_cpu_seconds(l->o->server) - server;
	return err;
}

static int warm_and_measure(struct load *l, struct error *e)
{
	int err;

	fill(l);
	l->stopping = l->o->idle;
	err = run_until(l, now_ns() + (uint64_t)(l->o->warm_seconds * 1e9), e);
	if (!err && l->o->idle)
		rest(l->o->warm_seconds);
	if (!err)
		err = measure(l, e);
	l->stopping = true;
	if (!err)
		err = run_until(l, 0, e);
	return err ? err : stop_queues(l, e);
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

int load_run(const struct load_options *o, struct load_result *result, struct error *e)
{
	struct load *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return error_set(e, -ENOMEM, "out of memory");
	*result = (struct load_result){ 0 };
	l->o = o;
	l->result = result;
	l->random = 0x9e3779b97f4a7c15;
	guest_memory_open(&l->memory, 0x100000, memory_needed(o));
	load_device_init(&l->device, o, &l->memory);
	memset(l->memory.bytes, 0, l->memory.size); /* no page faults later */
	err = pin(o->cpu, e);
	if (!err)
		err = open_device(l, e);
	if (!err)
		err = warm_and_measure(l, e);
	close_device(l);
	free(l);
	return err;
}
