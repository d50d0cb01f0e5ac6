/* nbd_transport.h - how requests and replies travel once the handshake is over. */
#ifndef STORAGE_NBD_TRANSPORT_H
#define STORAGE_NBD_TRANSPORT_H

struct nbd_connection;
struct nbd_request;
struct nbd_session;

/* All entries: the connection's home thread. */
struct nbd_transport {
	/* Takes the session over into c->transport_state and begins to watch it.  0, or -errno and
	 * the session remains the caller's. */
	int (*open)(struct nbd_connection *c, struct nbd_session *session);

	/* Sends what it can from c->unsent on, and moves that.  While c->holding, only the rest of
	 * a request that is partly sent.  0, or -errno: the connection is lost. */
	int (*send)(struct nbd_connection *c);

	/* Whether a part of c->unsent has been sent. */
	int (*is_within_request)(const struct nbd_connection *c);

	/* May be NULL: a request has a slot only once it counts as sent.  Takes the slot back from
	 * one of which nothing has been sent. */
	void (*forget)(struct nbd_connection *c, struct nbd_request *request);

	/* Stop and start watching, to move to another reactor (c->reactor). */
	void (*detach)(struct nbd_connection *c);
	int (*attach)(struct nbd_connection *c);

	/* Gives the session back in *session; no request that was sent will be answered, and no
	 * memory of a request is touched once this returns. */
	void (*close)(struct nbd_connection *c, struct nbd_session *session);
};

extern const struct nbd_transport nbd_plain; /* a bare socket */
extern const struct nbd_transport nbd_tls;   /* libnbd and GnuTLS */

#endif
