/* nbd_target.h - which server and export, and how to reach it: an NBD URI (the NBD project's URI
 * specification) with our own options, taken apart. */
#ifndef STORAGE_NBD_TARGET_H
#define STORAGE_NBD_TARGET_H

#include <stdbool.h>
#include <stdint.h>

struct error;
struct storage_options;

struct nbd_target {
	char *host, *port;   /* owned; NULL: a unix socket */
	char *socket;        /* owned; path, or NULL: TCP */
	char *export_name;   /* owned; "" is the default export */
	bool tls;
	bool tls_verify;
	char *tls_certificates, *tls_psk_file, *tls_username; /* owned; may be NULL */
	unsigned connections;        /* at most; 0: the provider's default */
	uint64_t timeout_ns;         /* how long a request waits; 0: for ever */
	uint64_t connect_timeout_ns; /* for one attempt, handshake included */
	char name[128];              /* for messages: "nbd://host:10809/export" */
};

/* Fills in *t from the layer's URI.  0, or -EINVAL or -ENOMEM with *e; *t is then empty. */
int nbd_target_parse(struct nbd_target *t, const struct storage_options *o, struct error *e);
void nbd_target_clear(struct nbd_target *t); /* frees what *t owns */

#endif
