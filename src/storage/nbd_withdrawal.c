/* nbd_withdrawal.c - storage_withdraw() on its way to the connection's reactor.
 *
 * The message is met by three others: requests that the channel sent before it and that, because
 * the connection has moved, arrive after it (receive_requests() in nbd.c compares epochs, by what
 * is noted here); requests that were sent after it and arrive before it (they carry a later epoch);
 * and the end of the channel, which cuts the message loose.
 */
#include "storage/nbd_withdrawal.h"

#include <stdlib.h>

#include "reactor/reactor.h"
#include "storage/nbd_channel.h"
#include "storage/nbd_connection.h"
#include "storage/nbd_disk.h"

struct nbd_withdrawal {
	struct reactor_task task;
	struct nbd_disk *disk; /* held while it is posted */

	/* Under the disk's lock. */
	struct nbd_channel *channel; /* NULL: closed */
	uint32_t epoch;              /* what the channel submitted until this */
	bool posted;
};

/* Under the lock.  Where the channel's requests go: the connection is there, or will be when what
 * is posted now arrives. */
static struct reactor *destination(const struct nbd_withdrawal *w)
{
	struct nbd_mailbox *m = &w->channel->outbox;
	struct reactor *r;

	pthread_mutex_lock(&m->lock);
	r = m->reactor;
	pthread_mutex_unlock(&m->lock);
	return r;
}

/* Under the lock.  The connection to withdraw from, or NULL: the channel has closed, or its
 * connection has moved, and the message goes after it. */
static struct nbd_connection *arrive(struct nbd_withdrawal *w)
{
	struct nbd_channel *ch = w->channel;
	struct reactor *home = ch ? destination(w) : NULL;

	if (!ch)
		return NULL;
	if (!reactor_is_home(home)) {
		reactor_post(home, &w->task);
		return NULL;
	}
	w->posted = false;
	ch->withdrawn = w->epoch;
	return ch->connection;
}

/* The connection ends in its home thread only, which is this one; the channel may close as soon as
 * the lock is gone, if none of its requests is here: only its address is used then. */
static void arrived(void *arg)
{
	struct nbd_withdrawal *w = arg;
	struct nbd_disk *d = w->disk;
	struct nbd_connection *c;
	struct nbd_channel *ch;
	uint32_t epoch;
	bool over;

	pthread_mutex_lock(&d->lock);
	ch = w->channel;
	epoch = w->epoch;
	c = arrive(w);
	over = c || !ch;
	pthread_mutex_unlock(&d->lock);
	if (c)
		nbd_connection_withdraw(c, ch, epoch);
	if (!ch)
		free(w);
	if (over)
		nbd_disk_release(d);
}

struct nbd_withdrawal *nbd_withdrawal_create(struct nbd_channel *ch)
{
	struct nbd_withdrawal *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->task = (struct reactor_task){ .fn = arrived, .arg = w };
	w->disk = ch->disk;
	w->channel = ch;
	return w;
}

void nbd_withdrawal_free(struct nbd_withdrawal *w)
{
	w->channel = NULL;
	if (!w->posted)
		free(w);
}

void nbd_withdrawal_post(struct nbd_withdrawal *w)
{
	struct nbd_disk *d = w->disk;

	pthread_mutex_lock(&d->lock);
	w->epoch = w->channel->epoch++;
	if (!w->posted) {
		w->posted = true;
		nbd_disk_hold(d);
		reactor_post(destination(w), &w->task);
	}
	pthread_mutex_unlock(&d->lock);
}
