/* vfio_user_output.h - messages into a non-blocking Unix stream socket: replies, in order, and
 * between them the messages of the DMA engine whose socket this is.
 *
 * A reply is sent at once if the socket takes it, and waits otherwise.  Control thread.
 */
#ifndef HOST_VFIO_USER_VFIO_USER_OUTPUT_H
#define HOST_VFIO_USER_VFIO_USER_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#include "host/vfio_user/vfio_user_message.h"

struct iovec;
struct vfio_user_dma;
struct vfio_user_reply;

enum { VFIO_USER_REPLY_FDS_MAX = 128 };

struct vfio_user_output {	/* zeroed: nothing to send */
	struct vfio_user_dma *dma;	/* borrowed; NULL: its messages go over another socket */
	struct vfio_user_reply *first, *last;	/* owned */
	size_t bytes;			/* of all that wait */
	uint64_t sent;			/* bytes, ever: whether there is progress */
};

/* Queues a reply: the header, whose size is set here, then the parts, which are copied, as are the
 * descriptors (duplicated, at most VFIO_USER_REPLY_FDS_MAX).  0, -ENOMEM, or what fcntl says. */
int vfio_user_output_put(struct vfio_user_output *out, const struct vfio_user_header *h,
			 const struct iovec *parts, unsigned count, const int *fds,
			 unsigned fd_count);

/* Sends.  0: all is sent.  -EAGAIN: call again when the socket is writable.  Else -errno. */
int vfio_user_output_flush(struct vfio_user_output *out, int fd);

void vfio_user_output_clear(struct vfio_user_output *out);	/* idempotent */

#endif
