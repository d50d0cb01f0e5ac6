/* vfio_user_dma.h - the client's memory by messages: DMA_READ and DMA_WRITE (vfio-user.rst), many
 * in flight, answered in any order.
 *
 * A queue's reactor posts each transfer to the control reactor.  There it waits in `waiting` until
 * a slot is free, becomes a job of one message or more (split at the negotiated size), each in a
 * slot whose index is in the message's id, and goes back to the queue's reactor when the last reply
 * is there.  Per transfer nothing is allocated and nothing copied: payload is sent from and
 * received to transfer->local.
 *
 * A transfer may be failed while its messages are under way.  Its slots are then orphans: a reply
 * frees them and its data is thrown away, since nobody owns the local memory any more.
 *
 * The specification has the data of an access 32 bytes into the message.  QEMU's has it after 28,
 * and four bytes of padding behind it, so that sizes do not tell.  Answers do: to a write QEMU
 * sends the bare header, others the address and the count.  So the first message to a client is a
 * write of nothing, and no transfer begins before its answer.
 *
 * Control thread, but for the link_remote itself.
 */
#ifndef HOST_VFIO_USER_VFIO_USER_DMA_H
#define HOST_VFIO_USER_VFIO_USER_DMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "host/vfio_user/vfio_user_message.h"
#include "link/link_provider.h"
#include "reactor/reactor.h"

struct error;
struct link_transfer;
struct memory_map;
struct vfio_user_dma_tables;

struct vfio_user_dma_numbers {
	uint64_t dma_reads, dma_read_bytes;	/* messages */
	uint64_t dma_writes, dma_write_bytes;
	uint64_t dma_errors;			/* transfers that failed */
	uint64_t dma_batches;			/* system calls that sent them */
};

struct vfio_user_dma {		/* embedded; outlives every map made with it */
	struct link_remote remote;
	struct reactor *control;		/* borrowed, as are the next three */
	struct vfio_user_dma_numbers *numbers;
	void (*ready)(void *owner);	/* there is something to send: once a turn, at its end */
	void *owner;

	/* Set by the owner as it goes. */
	uint32_t transfer_max;		/* bytes in one message */
	bool refusing;			/* every transfer fails: nobody would answer */

	/* Private. */
	struct vfio_user_dma_tables *tables;	/* owned; NULL until opened */
	enum vfio_user_dma_layout {
		LAYOUT_UNKNOWN, LAYOUT_ASKED, LAYOUT_PLAIN, LAYOUT_QEMU
	} layout;
	const struct memory_map *map;	/* the client's memory as it is now; NULL: none */
	struct link_transfer *waiting, **waiting_end;
	/* To memory that the client has taken away and may give back: it rearranges it so. */
	struct link_transfer *stranded, **stranded_end;
	struct reactor_timer patience;	/* set while there are any */
	struct reactor_task turn;
	size_t sent;		/* bytes of the first queued message that have been sent */
	void *leftover;		/* owned: the rest of it, if its transfer has failed; or NULL */
};

/* Where the rest of a reply goes. */
struct vfio_user_sink {
	struct vfio_user_dma_access fields;	/* the first fields_size bytes */
	size_t fields_size;
	char *data;			/* borrowed; NULL: to nowhere */
	size_t data_size;
	uint8_t padding[4];		/* behind the data, the first padding_size bytes */
	size_t padding_size;
	unsigned slot;
};

void vfio_user_dma_prepare(struct vfio_user_dma *d);
/* The client's memory is this from now on; borrowed until the next call; NULL: none. */
void vfio_user_dma_set_map(struct vfio_user_dma *d, const struct memory_map *map);
/* Room for messages, before the first remote region is in a map; idempotent.  0 or -ENOMEM. */
int vfio_user_dma_open(struct vfio_user_dma *d);
/* With nothing waiting or under way but orphans, whose replies will not come.  Idempotent. */
void vfio_user_dma_close(struct vfio_user_dma *d);

/* ---- sending ---- */

bool vfio_user_dma_has_output(const struct vfio_user_dma *d);
/* A message has been sent in part: nothing else may be sent before its rest. */
bool vfio_user_dma_is_cut(const struct vfio_user_dma *d);

/* Describes what is to be sent, in at most `max` parts.  Every message begins in the first 32 KiB:
 * the kernel takes so much as one piece, and QEMU gives up on a header in two. */
unsigned vfio_user_dma_gather(struct vfio_user_dma *d, struct iovec *iov, unsigned max);
void vfio_user_dma_sent(struct vfio_user_dma *d, size_t bytes);

/* ---- receiving ---- */

/* A reply begins: where it goes.  0, or -EPROTO with *e: nobody asked for it, or not so. */
int vfio_user_dma_reply_begin(struct vfio_user_dma *d, const struct vfio_user_header *h,
			      struct vfio_user_sink *sink, struct error *e);
/* It is there as a whole. */
int vfio_user_dma_reply_end(struct vfio_user_dma *d, const struct vfio_user_header *h,
			    const struct vfio_user_sink *sink, struct error *e);
/* Whether anybody still wants what goes to the sink. */
bool vfio_user_dma_is_wanted(const struct vfio_user_dma *d, const struct vfio_user_sink *sink);

/* ---- failing ---- */

/* Fails every transfer.  0, or -ENOMEM: the connection must end, as a message that has been sent in
 * part cannot be completed. */
int vfio_user_dma_fail_all(struct vfio_user_dma *d, int status);

#endif
