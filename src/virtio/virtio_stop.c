/* virtio_stop.c - the end of a queue's work, on its worker.
 *
 * A stop waits until nothing is in flight, published and on its way.  One that quiesces does so
 * within a bound: what has not left us is withdrawn from the storage and parked; when all that is
 * in flight is parked, it goes back into the ring, stays behind for the next start (how->park), or
 * is begun again here and waited for.  When the bound is reached the queue goes on as if nothing
 * had been: a request that a server may still execute is never sent again elsewhere.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "virtio/virtio_state.h"

static bool leave(struct virtio_queue *q)
{
	free(q->left); /* it may be of a smaller ring */
	q->left = calloc(virtio_queue_size(q), sizeof(*q->left));
	if (!q->left)
		return false;
	q->left_count = virtqueue_leave(q->ring, q->parked, q->parked_count, q->left);
	q->orders[CHANGE_LIFE].left = q->left_count;
	if (virtio_device_is_packed(q->device))
		q->left_count = 0; /* the in-flight region has them, and nobody else could */
	q->in_flight = q->parked_count = 0;
	return true;
}

static void stop_is_done(struct virtio_queue *q)
{
	if (virtqueue_has_left(q->ring) && !leave(q))
		virtio_queue_break(q, "out of memory for requests that were left behind");
	q->device->type->queue_stop(q);
	virtqueue_position(q->ring, &q->position.available_index, &q->position.used_index);
	virtqueue_stop(q->ring);
	q->started = q->stopping = false;
	reactor_timer_cancel(&q->patience);
	free(q->parked);
	q->parked = NULL;
	virtio_queue_send_back(q, CHANGE_LIFE);
}

static bool begin_again(struct virtio_queue *q)
{
	unsigned count = q->parked_count;

	q->parked_count = 0;
	for (unsigned i = 0; i < count; i++)
		q->device->type->queue_again(q, q->parked[i]);
	return !count;
}

/* False: some have to be carried out here. */
static bool parked_are_cared_for(struct virtio_queue *q)
{
	const struct virtio_quiesce *how = q->orders[CHANGE_LIFE].how;
	unsigned left = virtqueue_untake(q->ring, q->parked, q->parked_count);

	q->in_flight -= q->parked_count - left;
	q->parked_count = left;
	if (how->park && virtqueue_can_leave(q->ring))
		return leave(q) || begin_again(q);
	return begin_again(q);
}

void virtio_queue_stop_if_settled(struct virtio_queue *q)
{
	if (q->in_flight != q->parked_count || !virtqueue_is_settled(q->ring))
		return;
	/* Nobody polls any more who would find out. */
	if (unlikely(virtqueue_reason(q->ring) != NULL))
		virtio_queue_break(q, virtqueue_reason(q->ring));
	if (!q->parked || parked_are_cared_for(q))
		stop_is_done(q);
}

static void begin_stop(struct virtio_queue *q)
{
	virtio_queue_rest_for_good(q);
	q->stopping = true;
	virtio_queue_yield(q);
	/* Also when nothing is in flight: what was returned in this turn is not published yet. */
	reactor_defer(q->reactor, &q->flush);
}

void virtio_queue_stop_order(struct virtio_queue *q)
{
	if (q->started)
		begin_stop(q);
	else
		virtio_queue_send_back(q, CHANGE_LIFE);
}

/* ---- within a bound ---- */

static void end_quiesce(struct virtio_queue *q)
{
	reactor_timer_cancel(&q->patience);
	q->stopping = false;
	begin_again(q);
	free(q->parked);
	q->parked = NULL;
	virtio_queue_look_again(q);
}

void virtio_queue_patience_is_over(void *queue)
{
	struct virtio_queue *q = queue;
	unsigned waiting;

	/* What has just come may be all that was waited for. */
	virtqueue_flush(q->ring);
	virtio_queue_stop_if_settled(q);
	if (!q->started)
		return;
	waiting = q->in_flight - q->parked_count;
	end_quiesce(q);
	q->orders[CHANGE_LIFE].waiting = maximum_u64(waiting, 1);
	virtio_queue_send_back(q, CHANGE_LIFE);
}

/* What a former process had left and nobody took up yet would be lost to a ring that has no place
 * for it. */
static void take_what_was_left(struct virtio_queue *q, const struct virtio_quiesce *how)
{
	while (!how->park && virtqueue_has_left(q->ring) && !q->broken_told && virtio_queue_work(q))
		;
}

static int set_patience(struct virtio_queue *q, const struct virtio_quiesce *how)
{
	uint64_t now = reactor_now(q->reactor);

	if (how->patience_ns > UINT64_MAX - now)
		return 0;
	return reactor_timer_set(q->reactor, &q->patience, now + how->patience_ns);
}

/* Without memory for the list nothing is withdrawn, and without a timer nothing is waited for. */
void virtio_queue_quiesce_order(struct virtio_queue *q)
{
	const struct virtio_quiesce *how = q->orders[CHANGE_LIFE].how;
	const struct virtio_device_type *type = q->device->type;

	q->orders[CHANGE_LIFE].waiting = q->orders[CHANGE_LIFE].left = 0;
	if (!q->started) {
		virtio_queue_send_back(q, CHANGE_LIFE);
		return;
	}
	take_what_was_left(q, how);
	q->parked_count = q->left_count = 0;
	q->parked = calloc(virtio_queue_size(q), sizeof(struct virtqueue_chain *));
	begin_stop(q);
	if (set_patience(q, how))
		virtio_queue_patience_is_over(q);
	else if (q->parked && type->queue_withdraw)
		type->queue_withdraw(q);
}

bool virtio_queue_park(struct virtio_queue *q, struct virtqueue_chain *c)
{
	if (!q->stopping || !q->parked)
		return false;
	q->parked[q->parked_count++] = c;
	reactor_defer(q->reactor, &q->flush);
	return true;
}
