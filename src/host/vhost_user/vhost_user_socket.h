/* vhost_user_socket.h - whole messages over a non-blocking Unix stream socket.
 *
 * One message at a time: it is received in pieces, answered in place, and the answer is sent in
 * pieces.  A read never goes beyond the message's end, so descriptors stay with their message.
 * Control thread.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_SOCKET_H
#define HOST_VHOST_USER_VHOST_USER_SOCKET_H

#include <stddef.h>

#include "host/vhost_user/vhost_user_message.h"

struct error;

struct vhost_user_socket {	/* fd is -1 when closed */
	int fd;			/* owned */
	size_t moved;		/* bytes of message received or sent so far, header first */
	struct vhost_user_message message;
};

enum vhost_user_receipt { VHOST_USER_MORE, VHOST_USER_WHOLE, VHOST_USER_GONE };

/* Goes on with the message.  Returns VHOST_USER_WHOLE when it is there (with its header checked),
 * VHOST_USER_MORE when the socket has no more yet, VHOST_USER_GONE when the peer closed
 * between two messages, or -errno with *e. */
int vhost_user_socket_receive(struct vhost_user_socket *s, struct error *e);

/* The message has been received: what is stored in it from here on is its answer. */
void vhost_user_socket_answer(struct vhost_user_socket *s);

/* Goes on sending.  0: all is sent, the descriptors are closed, and the next message may be
 * received.  -EAGAIN: call again when the socket is writable.  Else -errno. */
int vhost_user_socket_send(struct vhost_user_socket *s);

/* Makes room for the next message without an answer. */
void vhost_user_socket_next(struct vhost_user_socket *s);

/* Closes the socket and all descriptors that are still with the message.  Idempotent. */
void vhost_user_socket_close(struct vhost_user_socket *s);

#endif
