/* nbd_connector.h - a handshake in a helper thread, whose outcome is posted home.
 *
 * Name resolution blocks, and so may a server; a reactor must not. */
#ifndef STORAGE_NBD_CONNECTOR_H
#define STORAGE_NBD_CONNECTOR_H

#include "storage/nbd_handshake.h"

struct nbd_connect_job;
struct nbd_disk;
struct reactor;

/* Runs on the home reactor, once.  status 0: session is the callee's to keep; otherwise *e says
 * why.  The job is gone when this returns. */
typedef void nbd_connected_fn(void *arg, int status, struct nbd_session *session,
			      const struct error *e);

/* Home thread; holds the disk meanwhile.  NULL with *e. */
struct nbd_connect_job *nbd_connector_start(struct nbd_disk *d, enum nbd_purpose purpose,
					    struct reactor *home, nbd_connected_fn *fn, void *arg,
					    struct error *e);

/* Home thread, before fn ran: it will not, and the thread ends as soon as it notices.  NULL is
 * ignored. */
void nbd_connector_abandon(struct nbd_connect_job *job);

#endif
