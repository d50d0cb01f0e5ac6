/* nbd.c - disks on NBD servers: the provider, and how channels share connections.
 *
 *	nbd.c             provider, channels, who uses which connection
 *	nbd_target.c      the URI
 *	nbd_handshake.c   connect and negotiate, by libnbd, blocking
 *	nbd_connector.c   the same in a helper thread
 *	nbd_disk.c        what is common to all connections; the size and its changes
 *	nbd_connection.c  requests, loss and return, the bound on waiting
 *	nbd_withdrawal.c  requests that are handed back, across reactors
 *	nbd_plain.c       the transmission phase on a socket
 *	nbd_tls.c         the transmission phase by libnbd
 *	nbd_reply.c       bytes on the wire
 *
 * A server that promises CAN_MULTI_CONN (a flush on one connection covers what completed on any)
 * gets a connection per channel, up to a limit; otherwise there is one for all.  A connection
 * lives on the reactor of the channel that opened it.  When that channel closes while others use
 * the connection, it moves to the control reactor, which outlives every channel.
 *
 * A reactor runs until every channel of the disk is closed: what crosses to it is always met.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "storage/nbd_channel.h"
#include "storage/nbd_connection.h"
#include "storage/nbd_connector.h"
#include "storage/nbd_disk.h"
#include "storage/nbd_withdrawal.h"
#include "storage/storage_list.h"

enum {
	CONNECTIONS_DEFAULT = 4,
	TRANSFER_MAX = 32 << 20, /* bytes: "Block size constraints", what every server takes */
	CLEAR_MAX = 256 << 20, /* bytes: no payload, but a slow server should show signs of life */
};

struct nbd_layer {
	struct nbd_disk *disk; /* held */
};

/* ---- mailboxes ---- */

static void mailbox_open(struct nbd_mailbox *m, struct reactor *to, reactor_fn *fn, void *arg)
{
	pthread_mutex_init(&m->lock, NULL);
	m->end = &m->head;
	m->reactor = to;
	m->task = (struct reactor_task){ .fn = fn, .arg = arg };
}

static void mailbox_post(struct nbd_mailbox *m)
{
	if (!m->posted)
		reactor_post(m->reactor, &m->task);
	m->posted = true;
}

static void mailbox_put(struct nbd_mailbox *m, struct nbd_request *request)
{
	request->next = NULL;
	pthread_mutex_lock(&m->lock);
	*m->end = request;
	m->end = &request->next;
	mailbox_post(m);
	pthread_mutex_unlock(&m->lock);
}

/* What has come, for the task, which runs.  If that is not where the mail belongs, the connection
 * has moved meanwhile: nothing, and the task is sent after it. */
static struct nbd_request *mailbox_take(struct nbd_mailbox *m)
{
	struct nbd_request *list = NULL;

	pthread_mutex_lock(&m->lock);
	m->posted = false;
	if (reactor_is_home(m->reactor)) {
		list = m->head;
		m->head = NULL;
		m->end = &m->head;
	} else {
		mailbox_post(m);
	}
	pthread_mutex_unlock(&m->lock);
	return list;
}

/* ---- requests ---- */

static void nbd_submit(struct storage_layer_channel *lc, struct storage_io *io)
{
	struct nbd_channel *ch = storage_channel_state(lc);
	struct nbd_request *request = storage_io_state(lc, io);

	request->io = io;
	request->channel = ch;
	request->epoch = ch->epoch;
	if (likely(ch->local))
		nbd_connection_submit(ch->connection, request);
	else
		mailbox_put(&ch->outbox, request);
}

void nbd_channel_deliver(struct nbd_request *request, int status)
{
	struct nbd_channel *ch = request->channel;

	if (likely(ch->local)) {
		storage_complete(ch->layer, request->io, status);
		return;
	}
	request->status = status;
	mailbox_put(&ch->inbox, request);
}

/* A withdrawal overtakes requests when the connection moves. */
static void receive_request(struct nbd_channel *ch, struct nbd_request *request)
{
	if (unlikely(nbd_epoch_is_within(request->epoch, ch->withdrawn)) &&
	    !(request->io->flags & STORAGE_STARTED))
		nbd_channel_deliver(request, -ECANCELED);
	else
		nbd_connection_submit(ch->connection, request);
}

static void receive_requests(void *arg)
{
	struct nbd_channel *ch = arg;
	struct nbd_request *request, *next;

	for (request = mailbox_take(&ch->outbox); request; request = next) {
		next = request->next;
		counter_add(&ch->connection->counters.crossings, 1);
		receive_request(ch, request);
	}
}

static void receive_replies(void *arg)
{
	struct nbd_channel *ch = arg;
	struct nbd_request *request, *next;

	for (request = mailbox_take(&ch->inbox); request; request = next) {
		next = request->next;
		storage_complete(ch->layer, request->io, request->status);
	}
}

static void nbd_withdraw(struct storage_layer_channel *lc)
{
	struct nbd_channel *ch = storage_channel_state(lc);

	if (ch->local)
		nbd_connection_withdraw(ch->connection, ch, ch->epoch++);
	else
		nbd_withdrawal_post(ch->withdrawal);
}

/* ---- who uses which connection; the disk's lock is held where a comment says so ---- */

static unsigned count_connections(const struct nbd_disk *d)
{
	unsigned count = 0;

	for (const struct nbd_connection *c = d->connections; c; c = c->next)
		count++;
	return count;
}

/* Under the lock. */
static struct nbd_connection *least_used(const struct nbd_disk *d)
{
	struct nbd_connection *best = d->connections;

	for (struct nbd_connection *c = d->connections; c; c = c->next)
		if (c->users < best->users)
			best = c;
	return best;
}

/* Under the lock. */
static void remove_connection(struct nbd_disk *d, struct nbd_connection *c)
{
	struct nbd_connection **at = &d->connections;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
}

/* Home thread, not under the lock; c is in no list and has no user. */
static void retire(struct nbd_connection *c)
{
	struct nbd_disk *d = c->disk;
	struct nbd_session session;
	bool kept = false, stale;

	nbd_disk_hold(d);
	pthread_mutex_lock(&d->lock);
	stale = c->size && c->size != d->wanted_size;
	pthread_mutex_unlock(&d->lock);
	nbd_connection_close(c, &session);
	pthread_mutex_lock(&d->lock);
	if (!d->connections && !d->has_spare && !d->closed && (session.fd >= 0 || session.handle) &&
	    session.export.size == d->wanted_size) {
		d->spare = session;
		d->has_spare = kept = true;
	}
	pthread_mutex_unlock(&d->lock);
	if (!kept)
		nbd_session_close(&session);
	if (stale)
		nbd_disk_report_size(d, 0, false); /* the last that stood in the way of a resize? */
	nbd_disk_release(d);
}

static void retire_posted(void *arg)
{
	retire(arg);
}

/* On the control reactor: takes in a connection whose home is gone. */
static void adopt(void *arg)
{
	struct nbd_connection *c = arg;
	struct nbd_disk *d = c->disk;
	bool used;

	nbd_disk_hold(d);
	pthread_mutex_lock(&d->lock);
	c->adopted = true;
	used = c->users > 0;
	pthread_mutex_unlock(&d->lock);
	if (used)
		nbd_connection_enter(c, d->control);
	else
		retire(c);
	nbd_disk_report_size(d, 0, false);
	nbd_disk_release(d);
}

/* Under the lock.  Mail that is on its way to the old home is sent on by mailbox_take(); the
 * adoption is posted before any mail to the new one, and posts keep their order. */
static void move_to_control(struct nbd_connection *c)
{
	struct nbd_disk *d = c->disk;

	c->move_task = (struct reactor_task){ .fn = adopt, .arg = c };
	reactor_post(d->control, &c->move_task);
	for (struct nbd_channel *ch = d->channels; ch; ch = ch->next) {
		if (ch->connection != c)
			continue;
		pthread_mutex_lock(&ch->outbox.lock);
		ch->outbox.reactor = d->control;
		pthread_mutex_unlock(&ch->outbox.lock);
	}
}

/* On the old home, in a turn of its own: no flush is pending then, unless mail came before us. */
static void depart(void *arg)
{
	struct nbd_connection *c = arg;
	struct nbd_disk *d = c->disk;
	bool used;

	if (c->flush_pending) {
		reactor_post(c->reactor, &c->move_task);
		return;
	}
	nbd_connection_leave(c);
	pthread_mutex_lock(&d->lock);
	used = c->users > 0;
	if (used)
		move_to_control(c);
	pthread_mutex_unlock(&d->lock);
	if (!used)
		retire(c);
}

/* ---- channels ---- */

/* Under the lock.  NULL: out of memory. */
static struct nbd_connection *add_connection(struct nbd_disk *d, struct reactor *home)
{
	struct nbd_connection *c = nbd_connection_create(d, home);

	if (!c)
		return NULL;
	c->next = d->connections;
	d->connections = c;
	return c;
}

static void add_channel(struct nbd_disk *d, struct nbd_channel *ch)
{
	ch->next = d->channels;
	d->channels = ch;
	ch->connection->users++;
}

static void remove_channel(struct nbd_disk *d, struct nbd_channel *ch)
{
	struct nbd_channel **at = &d->channels;

	while (*at != ch)
		at = &(*at)->next;
	*at = ch->next;
	if (!--ch->connection->users)
		remove_connection(d, ch->connection);
}

static int nbd_channel_open(struct storage_layer_channel *lc, struct error *e)
{
	struct nbd_channel *ch = storage_channel_state(lc);
	struct nbd_layer *s = storage_channel_layer_state(lc);
	struct nbd_disk *d = s->disk;
	struct nbd_session session = { .fd = -1 };
	bool has_session = false;

	*ch = (struct nbd_channel){
		.layer = lc, .disk = d, .epoch = 1, .reactor = storage_channel_reactor(lc)
	};
	ch->withdrawal = nbd_withdrawal_create(ch);
	if (!ch->withdrawal)
		return error_set(e, -ENOMEM, "out of memory");
	pthread_mutex_lock(&d->lock);
	ch->local = count_connections(d) < d->connection_limit;
	ch->connection = ch->local ? add_connection(d, ch->reactor) : least_used(d);
	if (ch->connection)
		add_channel(d, ch);
	if (ch->connection && ch->local && d->has_spare) {
		session = d->spare;
		has_session = true;
		d->has_spare = false;
	}
	if (ch->connection)
		mailbox_open(&ch->outbox, nbd_connection_home(ch->connection), receive_requests,
			     ch);
	pthread_mutex_unlock(&d->lock);
	if (!ch->connection) {
		nbd_withdrawal_free(ch->withdrawal);
		return error_set(e, -ENOMEM, "out of memory");
	}
	mailbox_open(&ch->inbox, ch->reactor, receive_replies, ch);
	if (ch->local)
		nbd_connection_start(ch->connection, has_session ? &session : NULL);
	return 0;
}

static void nbd_channel_close(struct storage_layer_channel *lc)
{
	struct nbd_channel *ch = storage_channel_state(lc);
	struct nbd_connection *c = ch->connection;
	struct nbd_disk *d = ch->disk;
	bool last;

	pthread_mutex_lock(&d->lock);
	remove_channel(d, ch);
	nbd_withdrawal_free(ch->withdrawal);
	last = !c->users;
	if (ch->local && !last) {
		c->moving = true;
		c->move_task = (struct reactor_task){ .fn = depart, .arg = c };
		reactor_post(c->reactor, &c->move_task);
	} else if (!ch->local && last && c->adopted) {
		c->move_task = (struct reactor_task){ .fn = retire_posted, .arg = c };
		reactor_post(d->control, &c->move_task);
	}
	pthread_mutex_unlock(&d->lock);
	if (ch->local && last)
		retire(c);
	pthread_mutex_destroy(&ch->outbox.lock);
	pthread_mutex_destroy(&ch->inbox.lock);
}

/* ---- the disk ---- */

static int set_limits(const struct nbd_export *x, struct storage_limits *limits, struct error *e)
{
	uint64_t block = maximum_u64(x->minimum_size, 512);
	uint64_t most = x->maximum_size ? minimum_u64(x->maximum_size, TRANSFER_MAX) : TRANSFER_MAX;

	if (!is_power_of_two(block) || block > 65536)
		return error_set(e, -EPROTO, "handshake: a minimum block size of %llu bytes",
				 (unsigned long long)x->minimum_size);
	if (most < block)
		return error_set(e, -EPROTO,
				 "handshake: a maximum block size of %llu bytes, "
				 "where the minimum is %llu",
				 (unsigned long long)x->maximum_size, (unsigned long long)block);
	*limits = (struct storage_limits){
		.size = x->size,
		.block_size = (uint32_t)block,
		.preferred_size = is_power_of_two(x->preferred_size) && x->preferred_size <= most
					  ? (uint32_t)x->preferred_size
					  : 0,
		.transfer_max = align_down(most, block),
		.clear_max = CLEAR_MAX,
		.read_only = x->read_only,
		.can_discard = x->can_trim && !x->read_only,
		.can_write_zeroes = x->can_zero && !x->read_only,
		.volatile_cache = x->can_flush,
	};
	limits->discard_alignment = limits->preferred_size ? limits->preferred_size
							   : limits->block_size;
	return 0;
}

static void describe(struct nbd_disk *d, struct storage_layer *l, const struct storage_options *o)
{
	d->layer = l;
	d->control = storage_layer_control(l);
	d->read_only = storage_options_read_only(o) || d->export.read_only;
	d->wanted_size = d->export.size;
	d->connection_limit = d->target.connections ? d->target.connections : CONNECTIONS_DEFAULT;
	if (!d->export.can_multi_connect)
		d->connection_limit = 1;
	strncpy(d->name, storage_layer_name(l), sizeof(d->name) - 1);
}

static int check_connections(const struct nbd_disk *d, struct error *e)
{
	if (d->target.connections > 1 && !d->export.can_multi_connect)
		return error_set(e, -EOPNOTSUPP,
				 "connections=%u: the server does not promise that "
				 "several connections see the same data",
				 d->target.connections);
	return 0;
}

static int nbd_open(struct storage_layer *l, const struct storage_options *o,
		    struct storage_limits *limits, struct error *e)
{
	struct nbd_layer *s = storage_layer_state(l);
	struct nbd_disk *d = nbd_disk_create();
	int status;

	if (!d)
		return error_set(e, -ENOMEM, "out of memory");
	status = nbd_target_parse(&d->target, o, e);
	if (!status) {
		status = nbd_handshake(&d->target, NBD_TRANSMIT, -1, &d->spare, e);
		d->has_spare = !status;
		d->export = d->spare.export;
		status = status ? status : set_limits(&d->export, limits, e);
		status = status ? status : check_connections(d, e);
	}
	if (status) {
		nbd_disk_release(d);
		return status;
	}
	describe(d, l, o);
	s->disk = d;
	return 0;
}

static void nbd_close_layer(struct storage_layer *l)
{
	struct nbd_layer *s = storage_layer_state(l);
	struct nbd_disk *d = s->disk;
	struct nbd_session spare = { .fd = -1 };

	nbd_connector_abandon(d->inquiry);
	d->inquiry = NULL;
	d->layer = NULL;
	pthread_mutex_lock(&d->lock);
	d->closed = true;
	if (d->has_spare)
		spare = d->spare;
	d->has_spare = false;
	pthread_mutex_unlock(&d->lock);
	nbd_session_close(&spare);
	nbd_disk_release(d);
}

static void nbd_refresh(struct storage_layer *l)
{
	struct nbd_layer *s = storage_layer_state(l);

	nbd_disk_refresh(s->disk);
}

const struct storage_provider storage_nbd = {
	.about.scheme = "nbd nbd+unix nbds nbds+unix",
	.about.summary =
		"an NBD server: nbd://host[:port]/export, nbd+unix:///export?socket=/path; "
		"nbds: with TLS",
	.about.help =
		"socket=PATH             the server's unix socket, for +unix\n"
		"connections=N           at most so many, one per queue; 4 unless given, and "
		"always\n"
		"                        1 if the server does not allow several\n"
		"timeout=DURATION        how long a request waits for a server that is lost or\n"
		"                        silent before it fails; 30s unless given, 0s: for ever\n"
		"connect-timeout=DURATION  for one attempt to connect; 10s unless given\n"
		"tls-certificates=DIR    X.509: ca-cert.pem, and client-cert.pem with "
		"client-key.pem\n"
		"tls-psk-file=FILE       pre-shared keys instead\n"
		"tls-username=NAME       the key to use; also nbds://NAME@host/export\n"
		"tls-verify-peer=on|off  check a TCP server's certificate and name; on unless "
		"given\n",
	.state_size = sizeof(struct nbd_layer),
	.channel_size = sizeof(struct nbd_channel),
	.io_size = sizeof(struct nbd_request),
	.open = nbd_open,
	.close = nbd_close_layer,
	.refresh = nbd_refresh,
	.channel_open = nbd_channel_open,
	.channel_close = nbd_channel_close,
	.submit = nbd_submit,
	.withdraw = nbd_withdraw,
};
