/* host_listener.h - Unix sockets by path: to be found at one, and to find one. */
#ifndef HOST_HOST_LISTENER_H
#define HOST_HOST_LISTENER_H

#include <sys/types.h>

struct error;

struct host_listener {	/* fd is -1 when closed */
	int fd;			/* owned, non-blocking */
	char *path;		/* owned; removed at close; NULL: an inherited socket */
	dev_t device;		/* of the socket's file, so that nobody else's is removed */
	ino_t inode;
};

/* Listens at path.  A socket file that nobody listens at is replaced.  0, or -errno with *e:
 * -EADDRINUSE somebody listens there or it is no socket, -ENAMETOOLONG, or what bind(2) said. */
int host_listener_open(struct host_listener *l, const char *path, struct error *e);

/* Takes over an inherited Unix stream socket.  0: it listens, and is l's now.  1: it is connected
 * already; l stays closed, and fd (non-blocking now) remains the caller's.  -ENOTSOCK, -EINVAL: it
 * is neither. */
int host_listener_adopt(struct host_listener *l, int fd, struct error *e);

void host_listener_close(struct host_listener *l);	/* idempotent */

/* A connected, non-blocking socket, or -errno. */
int host_listener_accept(struct host_listener *l);

/* Connects to path, at once or not at all.  A non-blocking socket, or -errno with *e. */
int host_connect(const char *path, struct error *e);

#endif
