/* remote_queue.h - the state of fetch.c and deliver.c: what is on its way over a remote link. */
#ifndef VIRTQUEUE_REMOTE_QUEUE_H
#define VIRTQUEUE_REMOTE_QUEUE_H

#include "virtqueue/shadow.h"

struct buffer_pool;

enum {
	POOL_BYTES = 8 << 20,		/* payload on its way, per queue */
	PAYLOAD_MAX = 64 << 20,		/* of one request: more is refused */
};

/* A chain whose memory is not, or not all, mapped.  One per slot, made when first needed. */
struct remote_chain {
	struct virtqueue *queue;
	struct vring_desc *list;	/* owned, segments_max: our copy of the descriptors */
	unsigned count;
	struct vring_desc *table;	/* owned, segments_max: an indirect table, raw */
	struct link_transfer *transfers;	/* owned, segments_max + 2 */
	unsigned pending;		/* transfers under way */
	bool waits_for_buffer, ready;
	bool parity;			/* of the batch that it is delivered in */
	uint16_t head;
	char *buffer;			/* from the pool; NULL: no payload */
	uint64_t buffer_bytes;
	uint8_t status;
};

/* Bringing the available ring here: one after the other. */
enum sync_state { SYNC_IDLE, SYNC_INDEX, SYNC_HEADS, SYNC_TABLE, SYNC_LISTEN };

/* Bringing a batch of used elements there. */
enum deliver_state { DELIVER_IDLE, DELIVER_DATA, DELIVER_ELEMENTS, DELIVER_INDEX, DELIVER_EVENT };

struct remote_queue {
	struct buffer_pool *pool;	/* owned */
	unsigned transfers;		/* under way, of all kinds */

	enum sync_state sync;
	unsigned sync_pending;
	struct map_epoch *sync_epoch;
	bool again;			/* kicked while a sync was under way */
	bool in_sync;			/* fetch_sync() is on the stack */
	bool starved;			/* a chain waits for a buffer: so must all behind it */
	unsigned resubmits_out; /* of the chains in fifo, how many came from a former process */
	bool asked; /* the driver knows that we want a notification at seen_index */
	uint16_t asked_index;
	uint16_t new_index;		/* what the last look at the index found */
	struct link_transfer sync_transfer[2];
	uint16_t index_words[2];	/* available flags, index: raw */
	uint16_t event_word;
	uint16_t *raw_heads;		/* owned, size_max */
	struct vring_desc *raw_table;	/* owned, size_max */

	uint16_t *fifo;			/* owned, size_max: heads in the order of the ring */
	unsigned fifo_first, fifo_count;

	enum deliver_state deliver;
	unsigned collected;		/* pushed and not published */
	bool parity;			/* of the batch that is being collected */
	unsigned data_pending[2];	/* transfers under way, by parity */
	unsigned deliver_pending;
	struct map_epoch *deliver_epoch;
	uint16_t batch_end;		/* used index after the batch under way */
	uint16_t old_published;
	bool flush_wanted;
	struct vring_used_elem *elements;	/* owned, size_max: shadow of the used ring */
	struct link_transfer deliver_transfer[2];
	uint16_t used_word, wanted_word;
};

/* NULL: out of memory, the queue is broken. */
struct remote_queue *remote_queue_get(struct virtqueue *q);
void remote_chain_drop_buffer(struct virtqueue *q, struct remote_chain *c);

/* Begin a transfer within the epoch, which is held, and counted in *pending, if it does not end at
 * once.  A failure breaks the queue. */
void remote_read(struct virtqueue *q, struct map_epoch *epoch, struct link_transfer *t,
		 unsigned *pending);
void remote_write(struct virtqueue *q, struct map_epoch *epoch, struct link_transfer *t,
		  unsigned *pending);
/* To be called first in each done. */
void remote_ended(struct virtqueue *q, struct map_epoch *epoch, const struct link_transfer *t,
		  unsigned *pending);

void fetch_retry(struct virtqueue *q);	/* a buffer came back */

#endif
