/* storage_layer.h - how a storage and its channels lie in memory, for storage.c, which opens and
 * closes them, and storage_channel.c, where requests run.
 *
 * A storage is an array of layers, the provider first, the outermost filter last.  A channel is
 * one block of memory: its own fields, an array of layer channels in the same order, then the
 * layers' channel states.  An io's scratch has the layers' io states, again in that order.  All
 * offsets are computed at open, so a request goes from layer to layer by adding or subtracting
 * one from a pointer.
 */
#ifndef STORAGE_STORAGE_LAYER_H
#define STORAGE_STORAGE_LAYER_H

#include <pthread.h>

#include "base/counter.h"
#include "reactor/reactor.h"
#include "storage/storage_provider.h"
#include "base/uri.h"

enum {
	STATE_ALIGNMENT = 16, /* of what a layer gets, bytes: enough for any type */
	CACHE_LINE = 64,      /* bytes: channels of different threads share none */
};

struct storage_layer {
	const struct storage_provider *provider;
	struct storage *storage;
	void *state;           /* owned */
	size_t channel_offset; /* bytes: its state in a channel's block */
	size_t io_offset;      /* bytes: its state in storage_io.scratch */
};

struct storage_layer_channel {
	void (*submit)(struct storage_layer_channel *ch, struct storage_io *io);
	struct storage_layer_channel *above; /* nearest layer that watches completions, or NULL */
	struct storage_channel *channel;
	const struct storage_layer *layer;
	void *state;
	size_t io_offset;
};

struct storage_counters {
	uint64_t requests[STORAGE_OPERATIONS], bytes[STORAGE_OPERATIONS], errors, withdrawn;
};

struct storage_channel {
	/* Read by every request. */
	struct storage_layer_channel *top;
	const uint64_t *size; /* the storage's, atomic */
	uint64_t block_mask;
	unsigned operations; /* bit per enum storage_operation that the disk has */
	unsigned in_flight;  /* submitted, done not yet called */
	struct storage_io *completed, **completed_end; /* waiting for the end of the turn */
	struct reactor *reactor;
	struct reactor_task task; /* queued while completed is not empty */
	struct storage_counters counters;

	struct counter_group group;
	struct storage *storage;
	unsigned opens;
	struct storage_channel *next; /* of the storage's; under its lock */
	struct storage_layer_channel layers[];
};

/* Outlives its storage when that is closed between a resize and the end of the turn. */
struct storage_resize_notice {
	struct reactor_task task;
	struct storage *storage; /* NULL: closed meanwhile */
	bool pending;
};

struct storage {
	char name[48];
	struct reactor *control;
	uint64_t size; /* bytes; atomic, stored on the control thread only */
	struct storage_limits limits;
	size_t channel_size, io_size;         /* bytes of all layers' states */
	struct storage_resize_notice *notice; /* owned, or on its way (pending) */
	void (*resized)(void *arg);
	void *resized_arg;
	pthread_mutex_t lock; /* channels open and close on their own threads */
	struct storage_channel *channels;
	struct uri uri;
	unsigned layer_count;
	struct storage_layer layers[];
};

#endif
