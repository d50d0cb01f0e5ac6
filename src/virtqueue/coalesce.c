/* coalesce.c - interrupts that wait until they are worth it (virtio 1.3, 5.1.6.5.9).
 *
 * One that is due is held for at most so long, or until so many chains have come back since the
 * last one was sent.  While it is held, what the driver's suppression says of later chains makes no
 * difference: it goes out for all of them.
 */
#include "virtqueue/shadow.h"

static void release(struct virtqueue *q)
{
	struct coalescing *c = &q->coalescing;

	reactor_timer_cancel(&c->timer);
	c->held = false;
	c->since = q->published_index;
	virtqueue_interrupt(q);
}

static void held_long_enough(void *arg)
{
	release(arg);
}

void virtqueue_coalesce(struct virtqueue *q, bool wanted)
{
	struct coalescing *c = &q->coalescing;
	uint16_t count = q->published_index - c->since;

	if ((wanted || c->held) && c->chains && count >= c->chains) {
		release(q);
		return;
	}
	counter_add(&q->numbers.interrupts_suppressed, 1);
	if (!wanted || c->held)
		return;
	c->held = true;
	/* out of memory: early is better than never */
	if (reactor_timer_set(q->reactor, &c->timer, reactor_now(q->reactor) + c->wait_ns))
		release(q);
}

void virtqueue_set_coalescing(struct virtqueue *q, uint32_t chains, uint64_t wait_ns)
{
	struct coalescing *c = &q->coalescing;

	if (c->held)
		release(q);
	c->timer = (struct reactor_timer){ .fn = held_long_enough, .arg = q };
	c->since = q->published_index;
	c->chains = minimum_u64(chains, q->size); /* a full ring is all that there can be */
	c->wait_ns = wait_ns;
}
