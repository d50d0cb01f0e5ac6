/* remote_queue.h - what is on its way over a remote link: the state that fetch*.c and deliver*.c
 * share.
 *
 *   fetch.c          memory, transfers, and chains in the order of the ring
 *   fetch_chain.c    one chain: indirect table, header, payload
 *   fetch_table.c    the indirect tables of a batch of chains
 *   fetch_split.c    the split ring's available part
 *   fetch_packed.c   the packed ring's available descriptors
 *   deliver.c        payload, status and used elements back
 */
#ifndef VIRTQUEUE_REMOTE_QUEUE_H
#define VIRTQUEUE_REMOTE_QUEUE_H

#include "virtqueue/shadow.h"

struct buffer_pool;
struct table_group;

enum {
	POOL_BYTES = 8 << 20,		/* payload on its way, per queue */
	PAYLOAD_MAX = 64 << 20,		/* of one request: more is refused */
};

/* A chain whose memory is not, or not all, mapped.  One per slot, made when first needed; its
 * arrays grow to what the longest chain of the slot has needed. */
struct remote_chain {
	struct virtqueue *queue;
	struct vring_desc *list;	/* owned: our copy of the descriptors */
	unsigned count, list_room;
	struct vring_desc *table;	/* owned: an indirect table, raw */
	unsigned table_room;
	struct link_transfer *transfers;	/* owned: list_room + 2 */
	unsigned pending;		/* transfers under way */
	bool measured;			/* its descriptors are here: how much payload there is */
	bool ready;
	bool parity;			/* of the batch that it is delivered in */
	uint16_t head;
	char *buffer;			/* from the pool; NULL: no payload */
	uint64_t buffer_bytes;
	uint8_t status;
};

/* Bringing the available ring here: one after the other. */
enum sync_state { SYNC_IDLE, SYNC_INDEX, SYNC_ASK, SYNC_HEADS, SYNC_TABLE };

/* Bringing a batch of used elements there. */
enum deliver_state { DELIVER_IDLE, DELIVER_DATA, DELIVER_ELEMENTS, DELIVER_INDEX, DELIVER_EVENT };

/* A batch's part of the descriptor table may lie in pieces that are this many descriptors apart. */
enum { TABLE_GAP = 64 };
#define SYNC_TRANSFERS(size) ((size) / TABLE_GAP + 4)

struct remote_queue {
	struct buffer_pool *pool;	/* owned */
	unsigned transfers;		/* under way, of all kinds */

	enum sync_state sync;
	unsigned sync_pending;
	struct map_epoch *sync_epoch;
	bool again;			/* kicked since the index under way was asked for */
	bool in_sync;			/* fetch_sync() is on the stack */
	unsigned resubmits_out; /* of the chains in fifo, how many came from a former process */
	bool asked; /* the driver knows that we want a notification at asked_index */
	uint16_t asked_index;
	struct link_transfer *sync_transfers;	/* owned, SYNC_TRANSFERS(size_max) */

	struct fetch_split {
		uint16_t new_index;	/* what the last look at the index found */
		bool index_read;	/* the heads under way come with another look */
		bool ask_early;		/* the driver tends to be quiet after each batch */
		bool whole;		/* the table under way is all of it */
		unsigned scattered;	/* so many batches are to read all of the table at once */
		unsigned expected;	/* descriptors, from a head, that a chain likely lies in */
		uint16_t event_word;
		uint16_t *raw_ring;	/* owned, size_max + 1: the index, the heads */
		struct vring_desc *raw_table;	/* owned, size_max */
		uint8_t *place;		/* owned, size_max: enum place, of this batch */
	} split;

	struct fetch_packed {
		struct vring_packed_desc *raw;	/* owned, size_max: from the fetch place on */
		unsigned length;	/* descriptors of it that are being read */
		unsigned known;		/* how far chains begin that were seen available before */
		unsigned taken;		/* descriptors of this round's chains, so far */
		unsigned guess;		/* descriptors that the next round may have */
	} packed;

	struct fetch_table {
		uint16_t *heads;	/* owned, size_max: chains whose tables are to be read */
		unsigned count;
		struct table_group *unused;	/* owned */
	} table;

	uint16_t *fifo;			/* owned, size_max: heads in the order of the ring */
	unsigned fifo_first, fifo_count;
	unsigned allotted;		/* of the chains in fifo, the first so many have a buffer */

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
	struct vring_packed_desc *packed_used;	/* owned, size_max: the batch, by place */
	struct packed_place packed_end;	/* behind the batch */
	struct vring_packed_desc_event wanted_event;
};

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

/* Something the owner waits for may have come about: chains to pop, or quiet. */
void fetch_tell_owner(struct virtqueue *q);
void fetch_append(struct virtqueue *q, unsigned id);	/* this slot's chain is popped next */

/* One transfer of the queue's machine; those of one step are numbered from 0. */
void fetch_sync_transfer(struct virtqueue *q, unsigned which, uint64_t iova, void *local,
			 uint32_t length, bool write);

/* A stop waits for the last transfer, whosever it is. */
void fetch_tell_if_quiet(struct virtqueue *q);

/* fetch_chain.c: starts the machine of the chain whose `count` descriptors, in order, lie in
 * q->walk.  Who starts a batch of them calls fetch_table_read() after the last. */
void fetch_chain_begin(struct virtqueue *q, unsigned id, unsigned count);
/* Its table, checked, in a transfer of its own; its table, raw, that has come otherwise. */
void fetch_chain_read_table(struct virtqueue *q, struct remote_chain *c);
void fetch_chain_table(struct virtqueue *q, struct remote_chain *c, const struct vring_desc *table);
/* Buffers for chains that wait for one, in their order, as far as there are any. */
void fetch_chain_allot(struct virtqueue *q);
void fetch_chain_free(struct remote_chain *c);		/* NULL is ignored */

/* fetch_table.c: the chain's last descriptor names an indirect table, and was checked. */
int fetch_table_open(struct fetch_table *f, size_t size);	/* 0 or -ENOMEM */
void fetch_table_close(struct fetch_table *f);
void fetch_table_want(struct virtqueue *q, unsigned head);
void fetch_table_read(struct virtqueue *q);		/* all that were wanted */

/* fetch_split.c: begins the look at the ring; goes on with the next step of it. */
int fetch_split_open(struct fetch_split *f, size_t size);	/* 0 or -ENOMEM */
void fetch_split_close(struct fetch_split *f);
void fetch_split_begin(struct virtqueue *q);
void fetch_split_step(struct virtqueue *q);

/* fetch_packed.c: likewise. */
int fetch_packed_open(struct fetch_packed *f, size_t size);
void fetch_packed_close(struct fetch_packed *f);
void fetch_packed_begin(struct virtqueue *q);
void fetch_packed_step(struct virtqueue *q);

/* deliver_packed.c: the used descriptors of a batch, all but the first; the first. */
void deliver_packed_put(struct virtqueue *q);
void deliver_packed_show(struct virtqueue *q);
/* One transfer of the batch's machine; those of one step are numbered from 0. */
void deliver_transfer(struct virtqueue *q, unsigned which, uint64_t iova, void *local,
		      uint32_t length, bool write);

#endif
