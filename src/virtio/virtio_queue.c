/* virtio_queue.c - a queue on its worker: orders, notifications, turns.
 *
 * Started, a queue is a poller of its reactor.  It looks at the available ring every turn while
 * there is work, and comes to rest when there has been none for a while: then the driver is asked
 * for a notification, whose eventfd wakes it.  Over a remote link looking costs transfers, so there
 * the notification, and the end of what is under way, are all that wakes it; a queue that nobody
 * can kick looks now and then, the more rarely the less it finds.
 */
#include "virtio/virtio_queue.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "link/memory_map.h"
#include "virtio/virtio_state.h"

/* Between two looks at a remote ring without a kick descriptor. */
enum { LOOK_NS_MIN = 20000, LOOK_NS_MAX = 1000000 };

static const struct counter_field fields[] = {
	{ "kicks", offsetof(struct virtio_queue, kicks) },
	{ "polls_found", offsetof(struct virtio_queue, poller.found) },
	{ "polls_vain", offsetof(struct virtio_queue, poller.vain) },
	{ "first_return_ns", offsetof(struct virtio_queue, first_return_ns) },
};

/* ---- for device types ---- */

struct virtio_device *virtio_queue_device(const struct virtio_queue *q)
{
	return q->device;
}

struct reactor *virtio_queue_reactor(const struct virtio_queue *q)
{
	return q->reactor;
}

unsigned virtio_queue_index(const struct virtio_queue *q)
{
	return q->index;
}

uint16_t virtio_queue_size(const struct virtio_queue *q)
{
	return q->setup.size;
}

void virtio_queue_set_state(struct virtio_queue *q, void *state)
{
	q->state = state;
}

void *virtio_queue_state(const struct virtio_queue *q)
{
	return q->state;
}

void virtio_queue_break(struct virtio_queue *q, const char *why)
{
	uint64_t one = 1;

	if (q->broken_told)
		return;
	q->broken_told = true;
	q->reason = why;
	virtqueue_abandon(q->ring, why);
	reactor_post(q->device->control, &q->broken);
	if (q->eventfd[EVENTFD_ERROR] >= 0 &&
	    write(q->eventfd[EVENTFD_ERROR], &one, sizeof(one)) < 0)
		log_debug("%s: queue %u: error eventfd: write failed", q->device->name, q->index);
}

int virtio_queue_take(struct virtio_queue *q, struct virtqueue_chain **c)
{
	int answer;

	if (unlikely(!q->budget || q->stopping || q->broken_told))
		return 0;
	answer = virtqueue_pop(q->ring, c);
	if (unlikely(answer < 0)) {
		virtio_queue_break(q, virtqueue_reason(q->ring));
		return 0;
	}
	q->budget -= answer;
	q->in_flight += answer;
	q->taken += answer;
	return answer;
}

void virtio_queue_return(struct virtio_queue *q, struct virtqueue_chain *c, uint64_t written,
			 uint8_t status)
{
	assert(q->in_flight);
	q->in_flight--;
	virtqueue_push(q->ring, c, written, status);
	reactor_defer(q->reactor, &q->flush);
}

void virtio_queue_wake(struct virtio_queue *q)
{
	if (!q->started || q->stopping)
		return;
	q->ready = true;
	if (virtqueue_is_remote(q->ring) && !virtqueue_has_fetched(q->ring))
		q->kicked = true;
	reactor_poller_wake(&q->poller);
}

void virtio_queue_set_coalescing(struct virtio_queue *q, uint32_t chains, uint64_t wait_ns)
{
	virtqueue_set_coalescing(q->ring, chains, wait_ns);
}

void virtio_queue_want_kicks(struct virtio_queue *q, bool on)
{
	q->deaf = !on;
}

/* ---- stop ---- */

void virtio_queue_send_back(struct virtio_queue *q, enum change_kind kind)
{
	reactor_post(q->device->control, &q->orders[kind].back);
}

static void flush_run(void *arg)
{
	struct virtio_queue *q = arg;

	/* What waits for a ring would wait for ever. */
	if (unlikely(q->stopping && q->homeless && !virtqueue_is_settled(q->ring)))
		virtqueue_abandon(q->ring, "stopped while its rings lie in no memory");
	virtqueue_flush(q->ring);
	if (unlikely(q->resumed_ns)) {
		counter_add(&q->first_return_ns, reactor_clock(q->reactor) - q->resumed_ns);
		q->resumed_ns = 0;
	}
	if (unlikely(q->stopping))
		virtio_queue_stop_if_settled(q);
}

void virtio_queue_yield(struct virtio_queue *q)
{
	if (q->device->type->queue_yield)
		q->device->type->queue_yield(q);
}

void virtio_queue_rest_for_good(struct virtio_queue *q)
{
	reactor_poller_remove(&q->poller);
	reactor_watch_remove(&q->kick);
	reactor_timer_cancel(&q->look);
}

/* ---- polling ---- */

/* Whether there was anything to do: a ring may be full of buffers that nothing has come for. */
bool virtio_queue_work(struct virtio_queue *q)
{
	q->budget = QUEUE_BUDGET;
	q->device->type->queue_work(q);
	return q->budget != QUEUE_BUDGET;
}

/* The driver's word counts once: all ones again before the ring is looked at. */
static bool doorbell_rang(struct virtio_queue *q)
{
	return q->doorbell && __atomic_load_n(q->doorbell, __ATOMIC_RELAXED) != UINT32_MAX &&
	       __atomic_exchange_n(q->doorbell, UINT32_MAX, __ATOMIC_SEQ_CST) != UINT32_MAX;
}

/* Over a remote link: look after a notification, pop what has arrived. */
static bool poll_remote(struct virtio_queue *q)
{
	bool found;

	q->kicked |= doorbell_rang(q);
	found = q->kicked || q->ready;

	if (q->kicked) {
		q->kicked = false;
		q->ready |= virtqueue_sync(q->ring) != 0;
	}
	if (q->ready) {
		q->ready = false;
		virtio_queue_work(q);
		q->ready |= !q->budget;
	}
	return found;
}

static bool queue_poll(void *arg)
{
	struct virtio_queue *q = arg;
	int answer;

	if (unlikely(!q->enabled || q->broken_told))
		return false;
	if (unlikely(virtqueue_is_remote(q->ring)))
		return poll_remote(q);
	answer = virtqueue_sync(q->ring);
	if (likely(!answer && !q->ready))
		return false;
	q->ready = false;
	if (unlikely(answer < 0)) {
		virtio_queue_break(q, virtqueue_reason(q->ring));
		return false;
	}
	return virtio_queue_work(q);
}

static void look_is_due(void *arg)
{
	struct virtio_queue *q = arg;

	q->kicked = true;
	reactor_poller_wake(&q->poller);
}

static void look_later(struct virtio_queue *q)
{
	bool found = q->taken != q->taken_before;

	q->look_ns = found ? LOOK_NS_MIN : minimum_u64(2 * q->look_ns, LOOK_NS_MAX);
	q->look_ns = maximum_u64(q->look_ns, LOOK_NS_MIN);
	q->taken_before = q->taken;
	if (reactor_timer_set(q->reactor, &q->look, reactor_now(q->reactor) + q->look_ns))
		virtio_queue_break(q, "out of memory for a timer");
}

static bool rest_remote(struct virtio_queue *q)
{
	if (q->kicked || q->ready || q->doorbell)
		return false;
	if (q->eventfd[EVENTFD_KICK] < 0 && !q->look.reactor)
		look_later(q);
	return true;
}

/* A queue without a kick descriptor is polled all the time: nobody will tell. */
static bool queue_rest(void *arg)
{
	struct virtio_queue *q = arg;

	if (!q->enabled || q->broken_told)
		return true;
	if (virtqueue_is_remote(q->ring))
		return rest_remote(q);
	return q->deaf || (q->eventfd[EVENTFD_KICK] >= 0 && virtqueue_listen(q->ring));
}

static void queue_wake(void *arg)
{
	struct virtio_queue *q = arg;

	if (q->enabled && !q->broken_told)
		virtqueue_mute(q->ring);
}

static void queue_kicked(void *arg)
{
	struct virtio_queue *q = arg;
	uint64_t count;
	ssize_t n = read(q->kick.fd, &count, sizeof(count));

	/* closed at its other end, or not readable at all: do not spin on it */
	if (!n || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		reactor_watch_remove(&q->kick);
		return;
	}
	counter_add(&q->kicks, 1);
	q->kicked = true;
	reactor_poller_wake(&q->poller);
}

/* virtqueue/: something that was under way over the link has ended. */
static void ring_ready(void *arg)
{
	struct virtio_queue *q = arg;

	q->ready = true;
	if (q->stopping)
		reactor_defer(q->reactor, &q->flush);
	else if (q->started)
		reactor_poller_wake(&q->poller);
}

/* ---- settings ---- */

static void kick_watch(struct virtio_queue *q)
{
	reactor_watch_remove(&q->kick);
	if (!q->started || q->stopping || q->eventfd[EVENTFD_KICK] < 0)
		return;
	q->kick.fd = q->eventfd[EVENTFD_KICK];
	if (reactor_watch_add(q->reactor, &q->kick))
		virtio_queue_break(q, "the kick descriptor cannot be watched");
}

static void eventfd_replace(struct virtio_queue *q, enum eventfd_kind kind, int fd)
{
	if (kind == EVENTFD_KICK)
		reactor_watch_remove(&q->kick);
	if (kind == EVENTFD_INTERRUPT)
		virtqueue_set_interrupt(q->ring, fd);
	fd_close(&q->eventfd[kind]);
	q->eventfd[kind] = fd;
	if (kind == EVENTFD_KICK)
		kick_watch(q);
}

/* Where there was no descriptor before, something may have gone nowhere. */
static void interrupt_move(struct virtio_queue *q, int fd)
{
	if (q->eventfd[EVENTFD_INTERRUPT] < 0) {
		eventfd_replace(q, EVENTFD_INTERRUPT, fd);
		return;
	}
	virtqueue_move_interrupt(q->ring, fd);
	fd_close(&q->eventfd[EVENTFD_INTERRUPT]);
	q->eventfd[EVENTFD_INTERRUPT] = fd;
}

static void enable(struct virtio_queue *q, bool on)
{
	q->enabled = on;
	if (q->started && q->device->type->queue_enabled)
		q->device->type->queue_enabled(q, on);
}

/* What came while the queue was disabled, or before the new descriptor, must not be missed. */
static void settings_run(void *arg)
{
	struct virtio_queue *q = arg;
	bool enabled;

	atomic_store(&q->settings_posted, false);
	for (unsigned kind = 0; kind < EVENTFD_BOXES; kind++) {
		int fd = atomic_exchange(&q->eventfd_box[kind], MAILBOX_EMPTY);

		if (fd != MAILBOX_EMPTY && kind == EVENTFD_MOVED)
			interrupt_move(q, fd);
		else if (fd != MAILBOX_EMPTY)
			eventfd_replace(q, kind, fd);
	}
	enabled = atomic_load(&q->enabled_box);
	if (enabled != q->enabled)
		enable(q, enabled);
	if (!q->started || q->stopping)
		return;
	q->kicked = true;
	reactor_poller_wake(&q->poller);
}

/* Control: the box is filled before the worker is told; the worker empties it after it has taken
 * back "told", so no message stays behind. */
static void settings_tell(struct virtio_queue *q)
{
	if (!atomic_exchange(&q->settings_posted, true))
		reactor_post(q->reactor, &q->settings);
}

static void give_eventfd(struct virtio_device *d, unsigned index, enum eventfd_kind kind, int fd)
{
	struct virtio_queue *q = &d->queues[index];
	int older;

	assert(index < d->queue_count);
	older = atomic_exchange(&q->eventfd_box[kind], fd);
	if (older >= 0)
		close(older);
	settings_tell(q);
}

void virtio_queue_give_kick(struct virtio_device *d, unsigned index, int fd)
{
	give_eventfd(d, index, EVENTFD_KICK, fd);
}

void virtio_queue_give_interrupt(struct virtio_device *d, unsigned index, int fd)
{
	give_eventfd(d, index, EVENTFD_INTERRUPT, fd);
}

void virtio_queue_move_interrupt(struct virtio_device *d, unsigned index, int fd)
{
	give_eventfd(d, index, EVENTFD_MOVED, fd);
}

void virtio_queue_set_doorbell(struct virtio_device *d, unsigned index, uint32_t *word)
{
	assert(index < d->queue_count && !d->queues[index].is_started);
	d->queues[index].doorbell = word;
}

void virtio_queue_give_error(struct virtio_device *d, unsigned index, int fd)
{
	give_eventfd(d, index, EVENTFD_ERROR, fd);
}

void virtio_queue_enable(struct virtio_device *d, unsigned index, bool on)
{
	struct virtio_queue *q = &d->queues[index];

	assert(index < d->queue_count);
	atomic_store(&q->enabled_box, on);
	settings_tell(q);
}

/* ---- orders ---- */

static int ring_start(struct virtio_queue *q, struct error *e)
{
	struct virtqueue_setup setup = {
		.features = q->device->accepted,
		.size = q->setup.size,
		.header_size = q->device->type->header_size(q->device, q->index),
		.available_index = q->setup.available_index,
		.used_index = q->setup.used_index,
		.descriptor_iova = q->setup.descriptor_iova,
		.driver_iova = q->setup.driver_iova,
		.device_iova = q->setup.device_iova,
		.inflight = q->inflight,
		.inflight_bytes = q->inflight_bytes,
		.left = q->left,
		.left_count = q->inflight ? 0 : q->left_count,
	};

	if (!q->orders[CHANGE_LIFE].map)
		return error_set(e, -EFAULT, "no memory has been shared");
	return virtqueue_start(q->ring, q->reactor, &setup, q->orders[CHANGE_LIFE].map, e);
}

void virtio_queue_look_again(struct virtio_queue *q)
{
	q->kicked = true;
	q->ready = virtqueue_has_fetched(q->ring);
	reactor_poller_add(q->reactor, &q->poller);
	virtqueue_mute(q->ring);
	kick_watch(q);
}

static int start(struct virtio_queue *q, struct error *e)
{
	int err = ring_start(q, e);

	if (err)
		return err;
	q->broken_told = q->homeless = false;
	err = q->device->type->queue_start(q, e);
	if (err) {
		virtqueue_stop(q->ring);
		return err;
	}
	virtqueue_set_log(q->ring, q->orders[CHANGE_LIFE].log);
	q->started = true;
	q->resumed_ns = q->orders[CHANGE_LIFE].resumed_ns;
	q->left_count = 0;
	q->deaf = false;
	virtio_queue_look_again(q);
	virtqueue_set_interrupt(q->ring, q->eventfd[EVENTFD_INTERRUPT]);
	if (q->enabled)
		enable(q, true);
	return 0;
}

static void start_order(struct virtio_queue *q)
{
	struct error e = { 0 };

	q->orders[CHANGE_LIFE].status = start(q, &e);
	if (q->orders[CHANGE_LIFE].status)
		log_error("%s: queue %u: %s", q->device->name, q->index, e.text);
	virtio_queue_send_back(q, CHANGE_LIFE);
}

/* The mailbox may hold a descriptor that nobody will want any more. */
static void reset_order(struct virtio_queue *q)
{
	for (unsigned kind = 0; kind < EVENTFD_KINDS; kind++)
		eventfd_replace(q, kind, -1);
	virtio_queue_stop_order(q);
}

/* What lies in memory of another kind now has to be looked for in another way. */
/* A VMM that rearranges the guest's memory takes regions away before it gives them back in other
 * pieces (QEMU does when firmware writes the PAM registers): until then the queue waits. */
static void change_memory(struct virtio_queue *q, struct memory_map *map)
{
	int err = virtqueue_set_memory(q->ring, map);

	q->homeless = err && !virtqueue_reason(q->ring);
	if (err && !q->homeless)
		virtio_queue_break(q, virtqueue_reason(q->ring));
}

static void map_order(struct virtio_queue *q)
{
	if (q->started) {
		virtio_queue_yield(q);
		change_memory(q, q->orders[CHANGE_MEMORY].map);
		q->kicked = true;
		if (!q->stopping)
			reactor_poller_wake(&q->poller);
		reactor_defer(q->reactor, &q->flush);
	}
	virtio_queue_send_back(q, CHANGE_MEMORY);
}

static void log_order(struct virtio_queue *q)
{
	if (q->started)
		virtqueue_set_log(q->ring, q->orders[CHANGE_LIFE].log);
	virtio_queue_send_back(q, CHANGE_LIFE);
}

static void order_run(void *arg)
{
	struct virtio_order *o = arg;

	switch (o->kind) {
	case ORDER_START:
		start_order(o->queue);
		break;
	case ORDER_STOP:
		virtio_queue_stop_order(o->queue);
		break;
	case ORDER_QUIESCE:
		virtio_queue_quiesce_order(o->queue);
		break;
	case ORDER_RESET:
		reset_order(o->queue);
		break;
	case ORDER_MEMORY:
		map_order(o->queue);
		break;
	case ORDER_LOG:
		log_order(o->queue);
		break;
	}
}

/* ---- for virtio_device.c ---- */

void virtio_queue_send(struct virtio_queue *q, struct virtio_order *o, enum order_kind kind)
{
	o->kind = kind;
	o->map = q->device->map;
	o->log = q->device->log;
	if (kind != ORDER_START)
		o->resumed_ns = 0;
	reactor_post(q->reactor, &o->there);
}

static void tasks_lay_out(struct virtio_queue *q)
{
	for (unsigned i = 0; i < CHANGES; i++) {
		struct virtio_order *o = &q->orders[i];

		o->queue = q;
		o->there = (struct reactor_task){ .fn = order_run, .arg = o };
		o->back = (struct reactor_task){ .fn = virtio_order_back, .arg = o };
	}
	q->settings = (struct reactor_task){ .fn = settings_run, .arg = q };
	q->flush = (struct reactor_task){ .fn = flush_run, .arg = q };
	q->broken = (struct reactor_task){ .fn = virtio_queue_broke, .arg = q };
	q->poller = (struct reactor_poller){
		.poll = queue_poll, .rest = queue_rest, .wake = queue_wake, .arg = q
	};
	q->look = (struct reactor_timer){ .fn = look_is_due, .arg = q };
	q->patience = (struct reactor_timer){ .fn = virtio_queue_patience_is_over, .arg = q };
	q->kick =
		(struct reactor_watch){ .fd = -1, .events = POLLIN, .fn = queue_kicked, .arg = q };
}

int virtio_queue_open(struct virtio_device *d, unsigned index, struct reactor *worker,
		      struct error *e)
{
	struct virtio_queue *q = &d->queues[index];
	char name[64];
	struct virtqueue_options options = {
		.name = name,
		.size_max = d->queue_size,
		.has_status = d->type->has_status,
		.ready = ring_ready,
		.arg = q,
	};

	q->device = d;
	q->index = index;
	q->reactor = worker;
	for (unsigned kind = 0; kind < EVENTFD_KINDS; kind++)
		q->eventfd[kind] = -1;
	for (unsigned kind = 0; kind < EVENTFD_BOXES; kind++)
		atomic_init(&q->eventfd_box[kind], MAILBOX_EMPTY);
	tasks_lay_out(q);
	snprintf(name, sizeof(name), "%s/%u", d->name, index);
	q->ring = virtqueue_create(&options, e);
	if (!q->ring)
		return error_wrap(e, "queue %u", index);
	q->group = (struct counter_group){
		.room = "virtio", .fields = fields, .count = ARRAY_LENGTH(fields), .values = q
	};
	snprintf(q->group.name, sizeof(q->group.name), "%s", name);
	counter_group_add(&q->group);
	return 0;
}

void virtio_queue_close(struct virtio_queue *q)
{
	assert(!q->is_started && !atomic_load(&q->settings_posted));
	for (unsigned kind = 0; kind < EVENTFD_KINDS; kind++)
		fd_close(&q->eventfd[kind]);
	for (unsigned kind = 0; kind < EVENTFD_BOXES; kind++) {
		int fd = atomic_load(&q->eventfd_box[kind]);

		if (fd >= 0)
			close(fd);
	}
	counter_group_remove(&q->group);
	free(q->left);
	virtqueue_free(q->ring);
}
