/* vfio_user_channel.h - a socket with what comes and goes on it, watched, and with patience.
 *
 * Half a message, or a reply that is not read, is waited for no longer than a bound: see
 * `timed_out`.
 * Control thread.
 */
#ifndef HOST_VFIO_USER_VFIO_USER_CHANNEL_H
#define HOST_VFIO_USER_VFIO_USER_CHANNEL_H

#include <stdbool.h>

#include "host/vfio_user/vfio_user_input.h"
#include "host/vfio_user/vfio_user_output.h"
#include "reactor/reactor.h"

struct vfio_user_channel;

struct vfio_user_channel_users {	/* of one connection; all required */
	/* A command is there.  false: not now; it is kept, and nothing more received, until
	 * vfio_user_channel_go_on(). */
	bool (*command)(void *owner, struct vfio_user_channel *ch);
	/* The client has hung up, between two messages. */
	void (*gone)(void *owner);
	/* The stream is of no use any more. */
	void (*broken)(void *owner, const char *text);
	/* The client does not complete its message, or does not read ours. */
	void (*timed_out)(void *owner, const char *text);
};

struct vfio_user_channel {	/* fd is -1 when closed */
	int fd;			/* owned */
	struct reactor *control;	/* borrowed */
	const struct vfio_user_channel_users *users;
	void *owner;
	struct vfio_user_input input;
	struct vfio_user_output output;
	struct reactor_watch watch;
	bool watching;
	bool resting;
	bool held;		/* a command is there and has not been taken */
	bool blocked;		/* the socket takes nothing more for now */
	struct reactor_timer half;	/* of a message has come */
	struct reactor_timer unread;	/* blocked */
	bool half_set, unread_set;
	struct reactor_timer again;	/* others have had their turn */
};

/* Takes over fd.  0 or -errno (then fd is closed). */
int vfio_user_channel_open(struct vfio_user_channel *ch, int fd);
void vfio_user_channel_close(struct vfio_user_channel *ch);	/* idempotent */
/* No more callbacks; the socket stays open. */
void vfio_user_channel_rest(struct vfio_user_channel *ch);

/* Sends what waits. */
void vfio_user_channel_flush(struct vfio_user_channel *ch);

/* Offers the command that was kept once more, and goes on receiving. */
void vfio_user_channel_go_on(struct vfio_user_channel *ch);

#endif
