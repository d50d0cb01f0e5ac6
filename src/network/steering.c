/* steering.c - which queue of a port a frame comes out of. */
#include "network/steering.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"

int steering_open(struct steering *s, unsigned queues)
{
	pthread_mutex_init(&s->lock, NULL);
	for (; queues > 1 && s->queues < queues; s->queues++) {
		s->inboxes[s->queues] = frame_inbox_create(NULL);
		if (!s->inboxes[s->queues]) {
			steering_close(s);
			return -ENOMEM;
		}
	}
	return 0;
}

void steering_close(struct steering *s)
{
	while (s->queues)
		frame_inbox_release(s->inboxes[--s->queues]);
	pthread_mutex_destroy(&s->lock);
}

void steering_set(struct steering *s, const struct network_steering *settings)
{
	pthread_mutex_lock(&s->lock);
	s->settings = *settings;
	atomic_fetch_add(&s->generation, 1);
	pthread_mutex_unlock(&s->lock);
}

int steering_follow(struct steering *s, struct steering_queue **copy)
{
	struct steering_queue *q = *copy;

	if (likely(q && q->generation == atomic_load(&s->generation)))
		return 0;
	if (!q)
		q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	*copy = q;
	pthread_mutex_lock(&s->lock);
	q->generation = atomic_load(&s->generation);
	q->settings = s->settings;
	pthread_mutex_unlock(&s->lock);
	flow_hasher_set(&q->hasher, q->settings.hash_types, q->settings.key);
	return 0;
}

unsigned steering_choose(const struct steering_queue *q, unsigned index, struct network_frame *f)
{
	const struct network_steering *s = &q->settings;

	f->hash = 0;
	f->hash_report = s->hash_types ? flow_hash(&q->hasher, f->bytes, f->length, &f->hash) : 0;
	if (!s->by_table)
		return index;
	return f->hash_report ? s->table[f->hash & s->mask] : s->unclassified;
}

int steering_hand_over(struct steering *s, unsigned to, const struct network_frame *f)
{
	struct iovec iov = { f->bytes, f->length };

	return frame_inbox_put(s->inboxes[to], &f->header, &iov, 1, f->length);
}
