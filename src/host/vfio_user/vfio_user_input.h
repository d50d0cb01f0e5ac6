/* vfio_user_input.h - messages out of a non-blocking Unix stream socket.
 *
 * Commands are received as a whole; the data of a reply goes straight to whom it is for.  One
 * system call receives the rest of a message and the header of the next, and never more than
 * that header: so descriptors, which the kernel delivers with the first byte sent with them, are
 * always known to belong to the message whose header came last.  Control thread.
 */
#ifndef HOST_VFIO_USER_VFIO_USER_INPUT_H
#define HOST_VFIO_USER_VFIO_USER_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "host/vfio_user/vfio_user_dma.h"
#include "host/vfio_user/vfio_user_message.h"

struct error;

struct vfio_user_head {		/* what is received of a header and what came with it */
	struct vfio_user_header header;
	size_t moved;		/* bytes of the header */
	int fds[VFIO_USER_FDS_MAX];	/* owned */
	unsigned fd_count;
};

struct vfio_user_input {	/* zeroed: nothing received */
	struct vfio_user_dma *dma;	/* borrowed: whose replies these are; set by the owner */
	struct vfio_user_head head;
	struct vfio_user_head ahead;	/* of the next message */
	size_t moved;			/* bytes of the message after its header */
	bool routed;			/* the header has been looked at */
	void *buffer;			/* owned: a command's payload */
	size_t capacity;
	struct vfio_user_sink sink;	/* of a reply */
};

enum vfio_user_receipt { VFIO_USER_MORE, VFIO_USER_WHOLE, VFIO_USER_GONE };

/* Goes on.  VFIO_USER_WHOLE: a command is there, see vfio_user_input_message().  VFIO_USER_MORE:
 * the socket has no more yet, or enough has been done for one turn.  VFIO_USER_GONE: the peer
 * closed between two messages.  Or -errno with *e. */
int vfio_user_input_receive(struct vfio_user_input *in, int fd, struct error *e);

/* Half a message is there. */
bool vfio_user_input_is_cut(const struct vfio_user_input *in);

/* The command that is there: borrowed until vfio_user_input_next(). */
struct vfio_user_message vfio_user_input_message(struct vfio_user_input *in);

/* Makes room for the next message; closes what descriptors the last has left. */
void vfio_user_input_next(struct vfio_user_input *in);

/* Closes all descriptors and frees the buffer.  Idempotent. */
void vfio_user_input_clear(struct vfio_user_input *in);

#endif
