/* nbd_handshake.h - from nothing to a server that is ready for requests. */
#ifndef STORAGE_NBD_HANDSHAKE_H
#define STORAGE_NBD_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct nbd_handle;
struct nbd_target;

/* What the server said of the export. */
struct nbd_export {
	uint64_t size;                                         /* bytes */
	uint64_t minimum_size, preferred_size, maximum_size;   /* of requests, bytes; 0: unknown */
	bool read_only, can_flush, can_trim, can_zero, can_multi_connect;
};

/* A negotiated connection: a bare socket, or, with TLS, libnbd's handle. */
struct nbd_session {
	int fd;                    /* owned; -1 with TLS */
	struct nbd_handle *handle; /* owned; NULL without TLS */
	struct nbd_export export;
};

enum nbd_purpose {
	NBD_TRANSMIT, /* go on to the transmission phase */
	NBD_INQUIRE,  /* fill in session->export and hang up */
};

/* Connects and negotiates.  Blocks, at most for the target's connect timeout (and for name
 * resolution, which has its own); cancel_fd, if not -1, ends it with -ECANCELED as soon as it is
 * readable.  For the control thread while a disk is opened, and for helper threads; never for a
 * reactor that serves requests.  0, or -errno with *e; *session is then empty. */
int nbd_handshake(const struct nbd_target *t, enum nbd_purpose purpose, int cancel_fd,
		  struct nbd_session *session, struct error *e);

/* Says NBD_CMD_DISC, if that goes without waiting, and closes.  Only between two requests: in the
 * midst of one, the server would take the goodbye for the payload.  An empty one is ignored. */
void nbd_session_close(struct nbd_session *session);

/* Closes without a word. */
void nbd_session_drop(struct nbd_session *session);

#endif
