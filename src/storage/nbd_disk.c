/* nbd_disk.c - what the connections of one NBD disk share; its size and how that changes.
 *
 * A server fixes an export's size for the length of a connection.  So a new size reaches the
 * guest in three steps: an inquiry over a connection of its own, or a reconnection that happened
 * anyway, finds it; each connection that still has the old one finishes what it has sent and
 * connects afresh; when all agree, the storage is told.
 */
#include "storage/nbd_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "reactor/reactor.h"
#include "storage/nbd_connection.h"
#include "storage/nbd_connector.h"
#include "storage/storage_provider.h"

struct size_notice {
	struct reactor_task task;
	struct nbd_disk *disk; /* held */
	uint64_t size;
	bool renewed;
};

struct nbd_disk *nbd_disk_create(void)
{
	struct nbd_disk *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->references = 1;
	d->spare.fd = -1;
	pthread_mutex_init(&d->lock, NULL);
	return d;
}

void nbd_disk_hold(struct nbd_disk *d)
{
	__atomic_add_fetch(&d->references, 1, __ATOMIC_RELAXED);
}

void nbd_disk_release(struct nbd_disk *d)
{
	if (!d || __atomic_sub_fetch(&d->references, 1, __ATOMIC_ACQ_REL))
		return;
	if (d->has_spare)
		nbd_session_close(&d->spare);
	nbd_target_clear(&d->target);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

int nbd_disk_accepts(const struct nbd_disk *d, const struct nbd_export *x, struct error *e)
{
	const struct nbd_export *old = &d->export;

	if (x->read_only && !d->read_only)
		return error_set(e, -EROFS, "handshake: the export came back read-only");
	if (x->minimum_size > old->minimum_size && x->minimum_size > 512)
		return error_set(e, -EINVAL, "handshake: the export came back with larger blocks");
	if (x->maximum_size && (!old->maximum_size || x->maximum_size < old->maximum_size) &&
	    x->maximum_size < 32 << 20)
		return error_set(e, -EINVAL, "handshake: the export came back with a lower limit");
	if ((old->can_flush && !x->can_flush) ||
	    (!d->read_only && ((old->can_trim && !x->can_trim) || (old->can_zero && !x->can_zero))))
		return error_set(e, -EINVAL,
				 "handshake: the export came back without commands "
				 "that it had");
	return 0;
}

/* ---- size ---- */

/* For one connection.  It may close or move while this is under way, so it is looked up again on
 * arrival; another one at the same address would only connect afresh without need. */
struct renewal {
	struct reactor_task task;
	struct nbd_disk *disk; /* held */
	struct nbd_connection *connection;
};

/* Under the lock. */
static bool is_here(const struct nbd_disk *d, const struct nbd_connection *wanted)
{
	for (const struct nbd_connection *c = d->connections; c; c = c->next)
		if (c == wanted)
			return c->moving ? c->adopted && reactor_is_home(d->control)
					 : reactor_is_home(c->reactor);
	return false;
}

/* A connection is closed by its home thread only, which is this one if it is here. */
static void renewal_arrived(void *arg)
{
	struct renewal *r = arg;
	struct nbd_disk *d = r->disk;
	bool here;

	pthread_mutex_lock(&d->lock);
	here = is_here(d, r->connection);
	pthread_mutex_unlock(&d->lock);
	if (here)
		nbd_connection_renew(r->connection);
	nbd_disk_release(d);
	free(r);
}

static void post_renewal(struct nbd_disk *d, struct nbd_connection *c)
{
	struct renewal *r = malloc(sizeof(*r));

	if (!r)
		return;
	*r = (struct renewal){ { .fn = renewal_arrived, .arg = r }, d, c };
	nbd_disk_hold(d);
	reactor_post(nbd_connection_home(c), &r->task);
}

/* Asks the connections that know another size to connect afresh.  Returns how many do. */
static unsigned renew_stale(struct nbd_disk *d, uint64_t size)
{
	struct nbd_session old = { .fd = -1 };
	unsigned stale = 0;

	pthread_mutex_lock(&d->lock);
	d->wanted_size = size;
	for (struct nbd_connection *c = d->connections; c; c = c->next) {
		if (!c->size || c->size == size)
			continue;
		post_renewal(d, c);
		stale++;
	}
	if (d->has_spare && d->spare.export.size != size) {
		old = d->spare;
		d->has_spare = false;
	}
	pthread_mutex_unlock(&d->lock);
	nbd_session_close(&old);
	return stale;
}

/* Control thread. */
static void take_up_size(struct nbd_disk *d, uint64_t size)
{
	if (d->layer && !renew_stale(d, size))
		storage_layer_resized(d->layer, size);
}

/* A connection that was renewed for one size and reports another is not renewed again: a server
 * that tells everyone something else would keep us busy for ever. */
static void size_noticed(void *arg)
{
	struct size_notice *n = arg;
	struct nbd_disk *d = n->disk;

	if (n->renewed && n->size != d->wanted_size)
		log_warning("disk %s: %s: size %llu, then %llu bytes: refresh again", d->name,
			    d->target.name, (unsigned long long)d->wanted_size,
			    (unsigned long long)n->size);
	else
		take_up_size(d, n->size ? n->size : d->wanted_size);
	nbd_disk_release(d);
	free(n);
}

void nbd_disk_report_size(struct nbd_disk *d, uint64_t size, bool renewed)
{
	struct size_notice *n = malloc(sizeof(*n));

	if (!n)
		return;
	*n = (struct size_notice){ { .fn = size_noticed, .arg = n }, d, size, renewed };
	nbd_disk_hold(d);
	reactor_post(d->control, &n->task);
}

static void inquiry_ended(void *arg, int status, struct nbd_session *session, const struct error *e)
{
	struct nbd_disk *d = arg;

	d->inquiry = NULL;
	if (status)
		log_warning("disk %s: %s: size not refreshed: %s", d->name, d->target.name,
			    e->text);
	else
		take_up_size(d, session->export.size);
}

void nbd_disk_refresh(struct nbd_disk *d)
{
	struct error e = { 0 };

	if (d->inquiry)
		return;
	d->inquiry = nbd_connector_start(d, NBD_INQUIRE, d->control, inquiry_ended, d, &e);
	if (!d->inquiry)
		log_warning("disk %s: %s: size not refreshed: %s", d->name, d->target.name, e.text);
}
