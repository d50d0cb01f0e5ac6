/* nbd_connection.h - one connection to an NBD server, over all its lives.
 *
 * Requests stand in one list in the order of their submission until they are answered.  The front
 * of the list has been sent, the rest (from `unsent` on) not; when the connection is lost, nothing
 * counts as sent.  All of it belongs to one reactor, the connection's home.
 */
#ifndef STORAGE_NBD_CONNECTION_H
#define STORAGE_NBD_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/counter.h"
#include "base/log.h"
#include "reactor/reactor.h"
#include "storage/nbd_reply.h"

struct nbd_channel;
struct nbd_connect_job;
struct nbd_disk;
struct nbd_session;
struct nbd_transport;
struct storage_io;

/* A request's state at this layer, in its storage_io. */
struct nbd_request {
	struct storage_io *io;
	struct nbd_channel *channel; /* where it came from */
	struct nbd_request *next, *previous;
	uint64_t submitted_ns; /* when it came to the connection */
	int status;            /* on its way back to another reactor */
	uint32_t slot;         /* the transport's, while sent */
	uint32_t epoch;        /* of the channel, when it was submitted there */
	bool seen;             /* sent, maybe in part, on a connection that is lost */
	unsigned char header[NBD_REQUEST_SIZE];
};

/* nbd_request.slot */
#define NBD_NO_SLOT UINT32_MAX

struct nbd_counters {
	uint64_t connects, reconnects, attempts_failed;
	uint64_t resent, timeouts, protocol_errors, crossings;
	uint64_t sends, receives, sent_bytes, received_bytes, withdrawn;
};

enum nbd_state { NBD_IDLE, NBD_CONNECTING, NBD_READY, NBD_BACKING_OFF };

struct nbd_connection {
	struct nbd_request *head, *tail; /* not yet answered */
	struct nbd_request *unsent;      /* first that is not wholly sent, or NULL */
	enum nbd_state state;
	bool flush_pending; /* flush_task is deferred */
	bool holding;       /* a renewal: send nothing new until what is sent is answered */
	struct reactor *reactor;
	const struct nbd_transport *transport; /* valid when READY */
	void *transport_state;                 /* owned by the transport */
	uint64_t replied_ns;                   /* when the last reply came, on any of its lives */
	struct nbd_counters counters;
	struct reactor_task flush_task;
	struct reactor_timer deadline_timer, retry_timer;

	struct nbd_disk *disk;       /* held */
	struct nbd_connect_job *job; /* while CONNECTING */
	uint64_t connected_ns, loss_ns; /* when it was connected; when a loss was logged, or 0 */
	unsigned retries;            /* attempts in vain, for the back-off */
	bool useful;                 /* a reply came on this connection */
	bool was_connected, renewed; /* renewed: the attempt under way is a renewal's */
	bool deadline_armed;
	bool closed; /* to be freed by flush_task */
	bool loss_logged, failure_logged, return_logged; /* since the last reply */
	bool quiet; /* this outage is not logged: there was one a moment ago */
	struct log_limit timeout_logs;
	struct counter_group group;

	/* Under the disk's lock. */
	struct nbd_connection *next;
	unsigned users;         /* channels */
	uint64_t size;          /* what the server said, bytes */
	bool moving;            /* its first home is going; the control reactor gets it */
	bool adopted;           /* the control reactor has it */
	struct reactor_task move_task;
};

/* ---- for the provider: home thread ---- */

/* Holds the disk.  NULL when out of memory. */
struct nbd_connection *nbd_connection_create(struct nbd_disk *d, struct reactor *home);

/* Goes on with session, which it takes, or, if that is NULL, begins to connect. */
void nbd_connection_start(struct nbd_connection *c, struct nbd_session *session);
void nbd_connection_submit(struct nbd_connection *c, struct nbd_request *request);

/* Ends with -ECANCELED what the channel submitted up to that epoch and no server can have seen. */
void nbd_connection_withdraw(struct nbd_connection *c, const struct nbd_channel *ch,
			     uint32_t epoch);

/* Finish what has been sent, say goodbye, connect afresh: to learn a new size. */
void nbd_connection_renew(struct nbd_connection *c);

/* Leaves its reactor, with everything it has, and goes on in another. */
void nbd_connection_leave(struct nbd_connection *c);
void nbd_connection_enter(struct nbd_connection *c, struct reactor *home);

/* Where messages for it have to go.  Any thread, under the disk's lock. */
struct reactor *nbd_connection_home(const struct nbd_connection *c);

/* Nothing may be outstanding.  keep: where to leave a healthy session; otherwise fd -1. */
void nbd_connection_close(struct nbd_connection *c, struct nbd_session *keep);

/* ---- for transports: home thread ---- */

/* A reply has come; call before the finishes of one reading. */
void nbd_connection_replied(struct nbd_connection *c);

/* The request is answered, and no longer the connection's. */
void nbd_connection_finish(struct nbd_connection *c, struct nbd_request *request, int status);

/* The connection is of no use any more: closes it, and connects again in a while. */
void nbd_connection_lost(struct nbd_connection *c, int status, const char *why);

/* After replies: the queue may go on, or a renewal that waited for them.  The transport may be
 * closed when this returns. */
void nbd_connection_progress(struct nbd_connection *c);

#endif
