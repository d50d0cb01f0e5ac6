/* virtio_state.h - a device and its queues, as the files of this room share them.
 *
 * Two threads.  The control reactor owns struct virtio_device and the control part of each queue;
 * each queue's worker owns the rest of it.  They meet in two ways only: an order (start, stop, new
 * memory, new log) travels to the worker and comes back, one at a time per device and kind of
 * change; settings (eventfds, enable) are put into mailboxes where the latest one wins, and the
 * worker is told.
 */
#ifndef VIRTIO_VIRTIO_STATE_H
#define VIRTIO_VIRTIO_STATE_H

#include <linux/virtio_config.h>
#include <stdatomic.h>

#include "base/counter.h"
#include "base/error.h"
#include "base/log.h"
#include "reactor/reactor.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_device_type.h"
#include "virtio/virtio_queue.h"

enum { QUEUE_BUDGET = 64 };	/* requests taken per turn */
enum { MAILBOX_EMPTY = -2 };	/* -1 means "no descriptor", a message too */

enum order_kind {
	ORDER_START, ORDER_STOP, ORDER_QUIESCE, ORDER_RESET, ORDER_MEMORY, ORDER_LOG
};

/* Which changes exclude each other: a stop may take as long as its requests, memory must not wait
 * for it. */
enum change_kind { CHANGE_LIFE, CHANGE_MEMORY, CHANGES };

struct virtio_order {
	struct virtio_queue *queue;
	enum order_kind kind;
	struct reactor_task there, back;
	struct memory_map *map;		/* MEMORY, START: borrowed, the device holds it */
	struct dirty_log *log;		/* LOG, START */
	const struct virtio_quiesce *how;	/* QUIESCE: borrowed */
	uint64_t resumed_ns;		/* START */
	int status;			/* START: 0 or -errno */
	unsigned waiting;		/* QUIESCE: requests that the storage kept; 0: stopped */
	unsigned left;			/* QUIESCE: requests that the next start begins anew */
};

/* MOVED is a box only: an INTERRUPT that leads to the same place as the one before. */
enum eventfd_kind {
	EVENTFD_KICK, EVENTFD_INTERRUPT, EVENTFD_ERROR, EVENTFD_KINDS,
	EVENTFD_MOVED = EVENTFD_KINDS, EVENTFD_BOXES
};

struct virtio_queue {
	struct virtio_device *device;
	unsigned index;
	struct reactor *reactor;

	/* Control. */
	struct virtio_queue_setup setup;	/* read by the worker when it starts */
	void *inflight;
	size_t inflight_bytes;
	bool is_started;
	struct virtio_queue_position position;
	int *start_status;			/* the caller's, until done; NULL: a resume */
	bool is_quiesced;			/* to be started by a resume, where it stood */
	uint16_t *left;				/* owned; chains for the next start: their ids */
	unsigned left_count;			/* the worker's while it stops, as is left */
	uint32_t *doorbell;		/* borrowed; NULL: none.  The worker's while started */
	struct virtio_order orders[CHANGES];

	/* Mailboxes. */
	atomic_int eventfd_box[EVENTFD_BOXES];
	atomic_bool enabled_box, settings_posted;
	struct reactor_task settings;

	/* Worker. */
	struct virtqueue *ring;			/* owned */
	void *state;				/* the device type's */
	struct reactor_poller poller;
	struct reactor_watch kick;
	struct reactor_task flush;
	unsigned budget, in_flight;
	/* While it quiesces. */
	struct virtqueue_chain **parked;	/* owned; NULL: nothing is withdrawn */
	unsigned parked_count;			/* of in_flight */
	struct reactor_timer patience;
	bool started, stopping, enabled;
	bool deaf;				/* the device type wants no kicks */
	bool kicked, ready;			/* remote rings only: look, pop */
	struct reactor_timer look;		/* remote rings that nobody kicks */
	uint64_t look_ns;			/* how long it waits */
	uint64_t taken, taken_before;		/* requests; when it last waited */
	int eventfd[EVENTFD_KINDS];		/* owned; -1: none */
	struct reactor_task broken;		/* to the control reactor */
	bool broken_told;
	bool homeless;		/* started, and a ring lies in no memory for now */
	const char *reason;			/* static */
	uint64_t kicks;
	uint64_t resumed_ns;	/* when a migration's end asked for the start; 0: it did not, or
				 * something has come back since */
	uint64_t first_return_ns;	/* from then to that, a sum */
	struct counter_group group;
};

/* What migrations cost: sums of nanoseconds, and how often. */
struct virtio_migration {
	uint64_t logs, reports, report_ns;
	uint64_t quiesces, quiesces_refused, quiesce_ns, parked;
	uint64_t saves, save_ns, state_bytes;
	uint64_t loads, loads_refused, load_ns;
	uint64_t resumes, resume_ns;
	uint64_t began_ns;		/* the quiesce or the resume under way */
	struct counter_group group;
};

struct virtio_device {
	const struct virtio_device_type *type;
	void *state;				/* the device type's */
	char name[48];
	struct reactor *control;
	uint16_t queue_size;
	unsigned queue_count;
	uint64_t accepted;			/* features; written while all queues are stopped */
	uint8_t status;
	struct memory_map *map, *old_map;	/* held */
	uint64_t ring_features, masked;		/* offered; never offered */
	struct link_model *link_model;		/* borrowed; NULL: none */
	struct dirty_log *log;			/* borrowed */
	uint64_t drain_ns;
	struct virtio_quiesce *quiesce;		/* borrowed; under way; NULL: none */
	struct virtio_migration *migration;	/* owned */
	int resume_status;			/* of the queues started again so far */
	int *resumed;				/* the caller's, until done */

	void (*config_changed)(void *arg);
	void *config_changed_arg;
	struct reactor_task config_task;

	struct virtio_change {			/* under way */
		struct reactor_task *done;	/* NULL: none is */
		unsigned waiting;		/* orders that have not come back */
		/* NULL: nothing but done.  False: it has sent orders, and is called again. */
		bool (*finish)(struct virtio_device *d);
	} changes[CHANGES];

	struct log_limit log_limit;
	struct virtio_queue queues[];
};

/* virtio_queue.c, control side */
int virtio_queue_open(struct virtio_device *d, unsigned index, struct reactor *worker,
		      struct error *e);
void virtio_queue_close(struct virtio_queue *q);
void virtio_queue_send(struct virtio_queue *q, struct virtio_order *o, enum order_kind kind);

/* virtio_queue.c, on the worker: nothing is looked at any more; it is looked at again. */
void virtio_queue_rest_for_good(struct virtio_queue *q);
void virtio_queue_look_again(struct virtio_queue *q);
void virtio_queue_yield(struct virtio_queue *q);
bool virtio_queue_work(struct virtio_queue *q);	/* whether there was anything to do */
void virtio_queue_send_back(struct virtio_queue *q, enum change_kind kind);

/* virtio_stop.c, on the worker: orders, and what may end them after each flush. */
void virtio_queue_stop_order(struct virtio_queue *q);
void virtio_queue_quiesce_order(struct virtio_queue *q);
void virtio_queue_stop_if_settled(struct virtio_queue *q);
void virtio_queue_patience_is_over(void *queue);

/* virtio_device.c: changes that every queue acknowledges. */
void virtio_change_begin(struct virtio_device *d, enum change_kind kind, struct reactor_task *done,
			 bool (*finish)(struct virtio_device *d));
void virtio_change_send(struct virtio_queue *q, enum order_kind kind);
/* After the last order of a change was sent: it may have been none. */
void virtio_change_sent(struct virtio_device *d, enum change_kind kind);

/* Of a queue's record: it is to be started by a resume; it takes requests; it has met its end. */
enum queue_flag { QUEUE_RUNS = 1, QUEUE_ENABLED = 2, QUEUE_BROKEN = 4 };

/* virtio_device.c: as virtio_device_accept(), nothing changes. */
int virtio_device_check_features(const struct virtio_device *d, uint64_t features,
				 struct error *e);

/* virtio_numbers.c (control) */
int virtio_migration_open(struct virtio_device *d);	/* 0 or -ENOMEM */
void virtio_migration_close(struct virtio_device *d);

/* virtio_quiesce.c (control) */
void virtio_quiesce_is_back(struct virtio_queue *q, const struct virtio_order *o);

/* virtio_device.c: the order arg has come back (control). */
void virtio_order_back(void *arg);
/* A queue has met its end (control). */
void virtio_queue_broke(void *arg);

#endif
