/* network_layer.h - how a port and its queues lie in memory, for network_port.c, which opens and
 * closes them, and network_queue.c, where frames pass.
 *
 * A port is an array of layers, the provider first, the outermost filter last.  A queue is one
 * block of memory: its own fields, an array of layer queues in the same order, then the layers'
 * queue states.
 */
#ifndef NETWORK_NETWORK_LAYER_H
#define NETWORK_NETWORK_LAYER_H

#include "base/counter.h"
#include "network/frame_offload.h"
#include "network/network_provider.h"
#include "network/steering.h"
#include "reactor/reactor.h"

enum { NETWORK_STATE_ALIGNMENT = 16 };	/* of what a layer gets, bytes */

struct network_layer {
	const struct network_provider *provider;
	struct network_port *port;
	void *state;		/* owned */
	size_t queue_offset;	/* bytes: its state in a queue's block */
	bool down;		/* it has said that there is no carrier */
};

struct network_layer_queue {
	const struct network_provider *provider;
	struct network_queue *queue;
	struct network_layer *layer;
	void *state;
};

struct network_numbers {
	uint64_t sent_frames, sent_bytes, sent_refused, sent_dropped, sent_by_software;
	uint64_t come_frames, come_bytes, come_dropped, come_by_software;
	uint64_t come_handed_over;	/* to the queue that they belong to */
	uint64_t come_lost_stopping;	/* waited when the queue was closed */
};

struct network_queue {
	struct network_layer_queue *top;
	struct network_port *port;
	struct reactor *reactor;
	unsigned index;
	void (*ready)(void *arg);
	void *arg;
	struct network_numbers numbers;

	/* A frame that came and was changed on its way up: the next one until it is consumed. */
	bool holds, segmenting;
	struct network_frame held;
	struct frame_segments segments;
	uint32_t next_bytes;		/* of the frame that was last seen */
	struct steering_queue *steering;	/* owned; NULL: never steered */
	enum steering_source next_from;	/* the next frame, while one is known */
	bool inbox_first;		/* the two take turns */
	/* Owned; NULL until needed; NETWORK_FRAME_MAX bytes each. */
	uint8_t *segment;		/* held */
	uint8_t *whole, *piece;		/* to be sent: as it was given, and cut */

	struct counter_group group;
	struct network_layer_queue layers[];
};

/* Outlives its port when that is closed between a change of the link and the end of the turn. */
struct network_link_notice {
	struct reactor_task task;
	struct network_port *port;	/* NULL: closed meanwhile */
	bool pending;
};

struct network_port_numbers {
	uint64_t come_lost_stopped;	/* atomic: came while a queue was closed */
};

struct network_port {
	char name[48];
	struct reactor *control;
	struct network_limits limits;
	unsigned offloads;		/* atomic: what frames that come may have undone */
	struct steering steering;
	size_t queue_size;		/* bytes of all layers' states */
	struct network_link_notice *notice;	/* owned, or on its way (pending) */
	void (*link_changed)(void *arg);
	void *link_changed_arg;
	bool up;
	struct network_port_numbers numbers;
	struct counter_group group;
	struct uri uri;
	unsigned layer_count;
	struct network_layer layers[];
};

#endif
