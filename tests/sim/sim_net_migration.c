/* sim_net_migration.c - a VMM that moves the guest: memory by pre-copy (other_side.h), then the
 * network device.  The commands that the driver has given still count on the other side. */
#include <stdlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "sim/other_side.h"
#include "sim_net.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"

enum { ROUNDS = 4 };

struct migration {
	struct other_side *other; /* owned */
	/* Before a turn of the processors. */
	bool busy[QUEUES_MAX][BUFFERS];
};

/* ---- what the processors do ---- */

static void processors_begin(struct sim *s)
{
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		other_side_ring_begin(s->migration->other, i, &s->queues[i].ring);
		for (unsigned j = 0; j < BUFFERS; j++)
			s->migration->busy[i][j] = s->queues[i].buffers[j].busy;
	}
}

static bool is_receiving(struct sim *s, unsigned index)
{
	return !(index % 2) && &s->queues[index] != control_queue(s);
}

/* The driver fills a buffer and gives it away at once, so one that has gone was written. */
static void mirror_buffers(struct sim *s, unsigned index)
{
	const struct queue *q = &s->queues[index];

	for (unsigned i = 0; i < BUFFERS; i++)
		if (q->buffers[i].busy && !s->migration->busy[index][i])
			other_side_mirror(s->migration->other, q->buffers[i].iova,
					  is_receiving(s, index) ? q->buffers[i].room : ROOM);
}

static void allow_buffers(struct sim *s, unsigned index)
{
	const struct queue *q = &s->queues[index];
	bool receiving = is_receiving(s, index);

	for (unsigned i = 0; !(index % 2) && i < BUFFERS; i++)
		if (q->buffers[i].busy)
			other_side_allow(s->migration->other, q->buffers[i].iova,
					 receiving ? q->buffers[i].room : ROOM);
}

static void processors_end(struct sim *s)
{
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		other_side_ring_end(s->migration->other, i, &s->queues[i].ring);
		mirror_buffers(s, i);
		allow_buffers(s, i);
	}
}

static void allow_all_there_is(struct sim *s)
{
	for (unsigned i = 0; i <= 2 * s->pairs; i++) {
		other_side_allow_ring(s->migration->other, &s->queues[i].ring);
		allow_buffers(s, i);
	}
}

/* The guest does something, then the device. */
static void go_on(struct sim *s)
{
	processors_begin(s);
	traffic(s);
	processors_end(s);
	for (uint64_t n = pick(s, 12); n; n--)
		reactor_world_step(s->world);
	reactor_world_enter(s->world, s->control);
}

/* ---- phases ---- */

static void set_log(struct sim *s, struct dirty_log *log)
{
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };

	virtio_device_set_dirty_log(s->device, log, &task);
	wait_for(s, &over, "a dirty log is not taken");
}

static uint64_t pick_for(void *sim, uint64_t n)
{
	return pick(sim, n);
}

static void go_on_for(void *sim)
{
	go_on(sim);
}

static __attribute__((noreturn)) void failed(void *sim, const char *text)
{
	fail(sim, "%s", text);
}

static void begin(struct sim *s)
{
	const struct other_side_sim sim = { s, pick_for, go_on_for, failed };

	s->migration = calloc(1, sizeof(*s->migration));
	if (!s->migration)
		abort();
	s->migration->other = other_side_open(&s->memory, 1, &sim);
	allow_all_there_is(s);
	set_log(s, other_side_log(s->migration->other));
}

static void end(struct sim *s)
{
	set_log(s, NULL);
	other_side_close(s->migration->other);
	free(s->migration);
	s->migration = NULL;
}

/* False: refused. */
static bool quiesce(struct sim *s)
{
	static const uint64_t patience[] = { 0, 20000, UINT64_MAX };
	struct virtio_quiesce how = { .patience_ns = patience[pick(s, 3)], .park = pick(s, 2) };
	bool over = false;
	struct reactor_task task = { .fn = set_flag, .arg = &over };

	virtio_device_quiesce(s->device, &how, &task);
	for (uint64_t n = pick(s, 4); !over && n; n--)
		go_on(s);
	wait_for(s, &over, "a device does not stop");
	if (how.status && how.patience_ns == UINT64_MAX)
		fail(s, "a stop that waits for ever was refused");
	return !how.status;
}

static void hand_over(struct sim *s)
{
	struct stream_writer w;
	struct error e = { 0 };

	stream_writer_begin(&w);
	virtio_device_save(s->device, &w);
	if (stream_writer_end(&w, &e))
		fail(s, "save: %s", e.text);
	end(s);
	device_receive(s, w.bytes, w.length);
	stream_writer_free(&w);
	if (pick(s, 2))
		device_announce(s);
}

void migrate(struct sim *s)
{
	begin(s);
	other_side_copy_all(s->migration->other, 8);
	for (uint64_t i = pick(s, ROUNDS); i; i--)
		other_side_copy_dirty(s->migration->other, 4);
	if (!quiesce(s)) {
		end(s);
		return;
	}
	other_side_copy_dirty(s->migration->other, 0);
	other_side_compare(s->migration->other, 0);
	if (s->needs_reset || !pick(s, 4)) {
		device_resume(s);
		end(s);
	} else {
		hand_over(s);
	}
}
