/* nbd_disk.h - what the connections of one NBD disk share.
 *
 * Lives on the heap and is counted: the layer holds it, and so do its connections and the helper
 * threads that connect, which may outlive the layer for a moment.
 */
#ifndef STORAGE_NBD_DISK_H
#define STORAGE_NBD_DISK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "storage/nbd_handshake.h"
#include "storage/nbd_target.h"

struct nbd_channel;
struct nbd_connect_job;
struct nbd_connection;
struct reactor;
struct storage_layer;

struct nbd_disk {
	struct nbd_target target;
	struct nbd_export export; /* as it was when the disk was opened */
	bool read_only;           /* nothing will be written, whatever the export allows */
	char name[48];            /* "vda" */
	struct reactor *control;
	unsigned connection_limit;
	unsigned references; /* atomic */

	struct storage_layer *layer;     /* control thread; NULL: closed */
	struct nbd_connect_job *inquiry; /* control thread: a refresh under way, or NULL */

	pthread_mutex_t lock; /* channels open and close on their own threads; guards the rest */
	uint64_t wanted_size; /* what the server said last, bytes; changed on the control thread */
	struct nbd_connection *connections;
	struct nbd_channel *channels;
	struct nbd_session spare; /* kept from open, or from the last channel, for the next one */
	bool has_spare;
	bool closed; /* the layer is gone: keep nothing */
};

/* Counted with one reference.  NULL when out of memory. */
struct nbd_disk *nbd_disk_create(void);
void nbd_disk_hold(struct nbd_disk *d);	   /* any thread */
void nbd_disk_release(struct nbd_disk *d); /* any thread; NULL is ignored */

/* Whether requests made for the export as it was opened can go to x.  0, or -errno with *e. */
int nbd_disk_accepts(const struct nbd_disk *d, const struct nbd_export *x, struct error *e);

/* A connection learned the size from the server.  Any thread; the control thread takes it up.
 * size 0: only look again whether all connections agree by now. */
void nbd_disk_report_size(struct nbd_disk *d, uint64_t size, bool renewed);

/* Control thread: asks the server for its size by a connection of its own. */
void nbd_disk_refresh(struct nbd_disk *d);

#endif
