/* steering.h - which queue of a port a frame comes out of (virtio 1.3, 5.1.6.5.7).
 *
 * A port spreads frames over its queues as it sees fit.  Where the user has named a queue for each
 * hash, a queue hands frames that are another's to that one's inbox, on their way out of the port:
 * each frame that crosses is copied once.
 */
#ifndef NETWORK_STEERING_H
#define NETWORK_STEERING_H

#include <pthread.h>
#include <stdatomic.h>

#include "network/flow_hash.h"
#include "network/frame_inbox.h"
#include "network/network_port.h"

/* A port's. */
struct steering {
	_Atomic unsigned generation;	/* of the settings; 0: never set */
	pthread_mutex_t lock;		/* around them */
	struct network_steering settings;
	unsigned queues;		/* with an inbox: 0 where there is but one */
	struct frame_inbox *inboxes[NETWORK_QUEUES_MAX];	/* owned */
};

/* A queue's; private to its reactor. */
struct steering_queue {
	unsigned generation;		/* of the copy */
	struct network_steering settings;
	struct flow_hasher hasher;
};

enum steering_source { STEERING_NONE, STEERING_PORT, STEERING_INBOX };

/* Control thread.  0 or -ENOMEM. */
int steering_open(struct steering *s, unsigned queues);
void steering_close(struct steering *s);

/* Any thread. */
void steering_set(struct steering *s, const struct network_steering *settings);

/* Any thread: whether it ever was. */
static inline bool steering_is_set(const struct steering *s)
{
	return atomic_load_explicit(&s->generation, memory_order_relaxed);
}

/* The queue's reactor, the rest.  Brings the queue's copy up to date: 0 or -ENOMEM. */
int steering_follow(struct steering *s, struct steering_queue **copy);

/* The queue that a frame belongs to, and its hash, which is stored in it. */
unsigned steering_choose(const struct steering_queue *q, unsigned index, struct network_frame *f);

/* 0, or -ENOBUFS: the frame is lost, because that queue is closed or too slow. */
int steering_hand_over(struct steering *s, unsigned to, const struct network_frame *f);

#endif
