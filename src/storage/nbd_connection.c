/* nbd_connection.c - a connection that outlives its servers.
 *
 *	IDLE -> CONNECTING -> READY -> lost -> BACKING_OFF -> CONNECTING -> ...
 *
 * Sending again.  What was sent and not answered when the connection was lost is sent again on
 * the next one, in the order of submission.  That is safe as far as NBD lets it be: reads, writes
 * of given bytes to given places, trims and flushes leave the same disk when they happen twice;
 * none of them had been acknowledged to the guest, so to the guest nothing has happened yet, and
 * overlapping requests that are in flight together may end in any order anyway; and the old socket
 * is closed before the new one is opened, so no late reply can reach a request.  The limit: a
 * server that survives the loss of a connection (a broken network, not a crash) may still carry
 * out what it had received, after the same request has been answered on the new connection, and
 * so on top of something newer.  NBD has no fence against that; no client of it can do better.
 *
 * Waiting.  A request fails with -EIO when for the target's timeout it was outstanding and no
 * reply to any request came.  That covers a server that is gone, that hangs, and that lets itself
 * be connected to again and again without answering; it does not hit a slow queue that moves.
 */
#include "storage/nbd_connection.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "storage/nbd_channel.h"
#include "storage/nbd_connector.h"
#include "storage/nbd_disk.h"
#include "storage/nbd_transport.h"
#include "storage/nbd_withdrawal.h"
#include "storage/storage.h"

#define MILLISECOND 1000000ull
#define SECOND      (1000 * MILLISECOND)

enum { BACK_OFF_FIRST_MS = 50, BACK_OFF_DOUBLINGS = 6 }; /* 50 ms to 3.2 s */

/* ---- the list ---- */

static void append(struct nbd_connection *c, struct nbd_request *request)
{
	request->next = NULL;
	request->previous = c->tail;
	if (c->tail)
		c->tail->next = request;
	else
		c->head = request;
	c->tail = request;
	if (!c->unsent)
		c->unsent = request;
}

static void unlink_request(struct nbd_connection *c, struct nbd_request *request)
{
	if (c->unsent == request)
		c->unsent = request->next;
	if (request->previous)
		request->previous->next = request->next;
	else
		c->head = request->next;
	if (request->next)
		request->next->previous = request->previous;
	else
		c->tail = request->previous;
}

/* ---- the bound on waiting ---- */

static uint64_t deadline_of(const struct nbd_connection *c, const struct nbd_request *request)
{
	return maximum_u64(request->submitted_ns, c->replied_ns) + c->disk->target.timeout_ns;
}

static void arm_deadline(struct nbd_connection *c)
{
	if (c->deadline_armed || !c->head || !c->disk->target.timeout_ns)
		return;
	c->deadline_armed = !reactor_timer_set(c->reactor, &c->deadline_timer,
					       deadline_of(c, c->head));
}

/* The list is in order of submission, so in order of deadlines. */
static void expire(struct nbd_connection *c, uint64_t now)
{
	unsigned failed = 0;

	nbd_connection_lost(c, -ETIMEDOUT, "no reply within the timeout");
	for (; c->head && deadline_of(c, c->head) <= now; failed++)
		nbd_connection_finish(c, c->head, -EIO);
	counter_add(&c->counters.timeouts, failed);
	if (log_limit_take(&c->timeout_logs, 20))
		log_error("disk %s: %s: %u requests failed: the server did not answer in time",
			  c->disk->name, c->disk->target.name, failed);
}

static void check_deadline(void *arg)
{
	struct nbd_connection *c = arg;
	uint64_t now = reactor_now(c->reactor);

	c->deadline_armed = false;
	if (c->head && deadline_of(c, c->head) <= now)
		expire(c, now);
	arm_deadline(c);
}

/* ---- connecting ---- */

/* At first at once, then later and later; but a request that comes meanwhile must see several
 * attempts before its time is over. */
static uint64_t back_off_ns(const struct nbd_connection *c)
{
	uint64_t timeout = c->disk->target.timeout_ns, delay;

	if (!c->retries)
		return 0;
	delay = (BACK_OFF_FIRST_MS * MILLISECOND)
		<< minimum_u64(c->retries - 1, BACK_OFF_DOUBLINGS);
	return timeout ? minimum_u64(delay, timeout / 4 + MILLISECOND) : delay;
}

static void back_off(struct nbd_connection *c)
{
	uint64_t delay = back_off_ns(c);

	/* Up to a quarter more, lest all clients of a server come back at the same instant. */
	delay += delay ? reactor_random(c->reactor) % (delay / 4) : 0;
	c->retries++;
	c->state = NBD_BACKING_OFF;
	if (reactor_timer_set(c->reactor, &c->retry_timer, reactor_now(c->reactor) + delay))
		log_error("disk %s: %s: out of memory: gives up", c->disk->name,
			  c->disk->target.name);
}

static void attempt_failed(struct nbd_connection *c, const struct error *e)
{
	counter_add(&c->counters.attempts_failed, 1);
	if (!c->quiet && !c->failure_logged)
		log_warning("disk %s: %s: %s; trying again", c->disk->name, c->disk->target.name,
			    e->text);
	c->failure_logged = true;
	back_off(c);
}

/* Stores the size; true when the control thread has to hear of it. */
static bool note_size(struct nbd_connection *c, uint64_t size)
{
	struct nbd_disk *d = c->disk;
	bool news;

	pthread_mutex_lock(&d->lock);
	news = c->renewed || size != d->wanted_size || (c->size && c->size != size);
	c->size = size;
	pthread_mutex_unlock(&d->lock);
	return news;
}

static void note_connected(struct nbd_connection *c, uint64_t size)
{
	bool again = c->was_connected;

	counter_add(again ? &c->counters.reconnects : &c->counters.connects, 1);
	if (!c->quiet && (c->loss_logged || c->failure_logged) && !c->return_logged) {
		log_info("disk %s: %s: connected%s", c->disk->name, c->disk->target.name,
			 again ? " again" : "");
		c->return_logged = true;
	}
	c->was_connected = true;
	c->connected_ns = reactor_now(c->reactor);
	if (note_size(c, size))
		nbd_disk_report_size(c->disk, size, c->renewed);
	c->renewed = false;
}

static void schedule_flush(struct nbd_connection *c)
{
	if (c->flush_pending)
		return;
	c->flush_pending = true;
	reactor_defer(c->reactor, &c->flush_task);
}

/* Takes the session; 0 or -errno with *e. */
static int establish(struct nbd_connection *c, struct nbd_session *session, struct error *e)
{
	uint64_t size = session->export.size;
	int status = nbd_disk_accepts(c->disk, &session->export, e);

	if (status)
		return status;
	c->transport = session->handle ? &nbd_tls : &nbd_plain;
	status = c->transport->open(c, session);
	if (status)
		return error_set(e, status, "cannot watch the connection: %s", strerror(-status));
	c->state = NBD_READY;
	c->holding = false;
	note_connected(c, size);
	if (c->unsent)
		schedule_flush(c);
	return 0;
}

static void attempt_ended(void *arg, int status, struct nbd_session *session, const struct error *e)
{
	struct nbd_connection *c = arg;
	struct error own = *e;

	c->job = NULL;
	status = status ? status : establish(c, session, &own);
	if (!status)
		return;
	nbd_session_close(session);
	attempt_failed(c, &own);
}

static void begin_connect(struct nbd_connection *c)
{
	struct error e = { 0 };

	c->state = NBD_CONNECTING;
	c->job = nbd_connector_start(c->disk, NBD_TRANSMIT, c->reactor, attempt_ended, c, &e);
	if (!c->job)
		attempt_failed(c, &e);
}

static void retry(void *arg)
{
	begin_connect(arg);
}

/* ---- requests ---- */

static void flush(void *arg)
{
	struct nbd_connection *c = arg;
	int status;

	c->flush_pending = false;
	if (c->closed) {
		free(c);
		return;
	}
	if (c->state != NBD_READY)
		return;
	status = c->transport->send(c);
	if (status)
		nbd_connection_lost(c, status, strerror(-status));
	else if (c->holding)
		nbd_connection_progress(c);
}

void nbd_connection_submit(struct nbd_connection *c, struct nbd_request *request)
{
	request->submitted_ns = reactor_now(c->reactor);
	request->slot = NBD_NO_SLOT;
	request->seen = false;
	append(c, request);
	if (likely(c->state == NBD_READY))
		schedule_flush(c);
	if (unlikely(!c->deadline_armed))
		arm_deadline(c);
}

void nbd_connection_replied(struct nbd_connection *c)
{
	c->replied_ns = reactor_now(c->reactor);
	c->useful = true;
	c->loss_logged = c->failure_logged = c->return_logged = false;
}

void nbd_connection_finish(struct nbd_connection *c, struct nbd_request *request, int status)
{
	unlink_request(c, request);
	nbd_channel_deliver(request, status);
}

/* Of c->unsent, only the first can have been sent in part. */
static bool is_untouched(const struct nbd_connection *c, const struct nbd_request *request)
{
	return request != c->unsent || c->state != NBD_READY || !c->transport->is_within_request(c);
}

void nbd_connection_withdraw(struct nbd_connection *c, const struct nbd_channel *ch, uint32_t epoch)
{
	struct nbd_request *request, *next;

	for (request = c->unsent; request; request = next) {
		next = request->next;
		if (request->channel != ch || !nbd_epoch_is_within(request->epoch, epoch) ||
		    request->seen || request->io->flags & STORAGE_STARTED ||
		    !is_untouched(c, request))
			continue;
		if (request->slot != NBD_NO_SLOT)
			c->transport->forget(c, request);
		counter_add(&c->counters.withdrawn, 1);
		nbd_connection_finish(c, request, -ECANCELED);
	}
}

/* The server has or may have what was sent, whatever becomes of the connection. */
static void note_seen(struct nbd_connection *c)
{
	for (struct nbd_request *r = c->head; r && r != c->unsent; r = r->next)
		r->seen = true;
	if (c->unsent && c->transport->is_within_request(c))
		c->unsent->seen = true;
}

/* Nothing counts as sent any more. */
static unsigned unsend(struct nbd_connection *c)
{
	unsigned sent = 0;

	for (struct nbd_request *r = c->head; r; r = r->next) {
		sent += r->slot != NBD_NO_SLOT;
		r->slot = NBD_NO_SLOT;
	}
	c->unsent = c->head;
	return sent;
}

static void disconnect(struct nbd_connection *c, struct nbd_session *session)
{
	note_seen(c);
	c->transport->close(c, session);
	c->transport_state = NULL;
	c->state = NBD_IDLE;
	counter_add(&c->counters.resent, unsend(c));
}

/* Once per outage; and a server that fails every moment is not worth a line each time. */
static void log_loss(struct nbd_connection *c, const char *why)
{
	uint64_t now = reactor_now(c->reactor);

	if (c->loss_logged)
		return;
	c->quiet = c->loss_ns && now - c->loss_ns < 10 * SECOND;
	c->loss_logged = true;
	if (c->quiet)
		return;
	c->loss_ns = now;
	log_warning("disk %s: %s: connection lost: %s; connecting again", c->disk->name,
		    c->disk->target.name, why);
}

/* One that had served for a while is tried again at once, any other after a pause. */
void nbd_connection_lost(struct nbd_connection *c, int status, const char *why)
{
	struct nbd_session session;

	if (c->state != NBD_READY)
		return;
	if (status == -EPROTO)
		counter_add(&c->counters.protocol_errors, 1);
	disconnect(c, &session);
	nbd_session_drop(&session);
	log_loss(c, why);
	if (c->useful)
		c->retries = reactor_now(c->reactor) - c->connected_ns < SECOND;
	c->useful = false;
	back_off(c);
}

void nbd_connection_progress(struct nbd_connection *c)
{
	struct nbd_session session;

	if (likely(!c->holding)) {
		if (c->unsent)
			schedule_flush(c);
		return;
	}
	if (c->head != c->unsent || c->transport->is_within_request(c))
		return;
	disconnect(c, &session);
	nbd_session_close(&session);
	c->holding = false;
	c->renewed = true;
	begin_connect(c);
}

void nbd_connection_renew(struct nbd_connection *c)
{
	if (c->state != NBD_READY)
		return; /* what connects from now on learns the new size anyway */
	c->holding = true;
	nbd_connection_progress(c);
}

/* ---- life ---- */

static const struct counter_field counter_fields[] = {
#define FIELD(member)                                          \
	{                                                      \
#member, offsetof(struct nbd_counters, member) \
	}
	FIELD(connects), FIELD(reconnects),      FIELD(attempts_failed), FIELD(resent),
	FIELD(timeouts), FIELD(protocol_errors), FIELD(crossings),       FIELD(sends),
	FIELD(receives), FIELD(sent_bytes),      FIELD(received_bytes),  FIELD(withdrawn),
#undef FIELD
};

struct nbd_connection *nbd_connection_create(struct nbd_disk *d, struct reactor *home)
{
	struct nbd_connection *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->disk = d;
	nbd_disk_hold(d);
	c->reactor = home;
	c->flush_task = (struct reactor_task){ .fn = flush, .arg = c };
	c->deadline_timer = (struct reactor_timer){ .fn = check_deadline, .arg = c };
	c->retry_timer = (struct reactor_timer){ .fn = retry, .arg = c };
	c->group = (struct counter_group){
		.room = "nbd",
		.fields = counter_fields,
		.count = ARRAY_LENGTH(counter_fields),
		.values = &c->counters,
	};
	strncpy(c->group.name, d->name, sizeof(c->group.name) - 1);
	counter_group_add(&c->group);
	return c;
}

void nbd_connection_start(struct nbd_connection *c, struct nbd_session *session)
{
	struct error e = { 0 };

	if (session && !establish(c, session, &e))
		return;
	if (session)
		nbd_session_close(session);
	begin_connect(c);
}

void nbd_connection_leave(struct nbd_connection *c)
{
	nbd_connector_abandon(c->job);
	c->job = NULL;
	reactor_timer_cancel(&c->retry_timer);
	reactor_timer_cancel(&c->deadline_timer);
	c->deadline_armed = false;
	if (c->state == NBD_READY)
		c->transport->detach(c);
}

void nbd_connection_enter(struct nbd_connection *c, struct reactor *home)
{
	int status = 0;

	c->reactor = home;
	if (c->state != NBD_READY)
		begin_connect(c);
	else
		status = c->transport->attach(c);
	if (status)
		nbd_connection_lost(c, status, strerror(-status));
	else if (c->state == NBD_READY)
		schedule_flush(c);
	arm_deadline(c);
}

/* c->reactor itself changes in the move only, where moving stands for it. */
struct reactor *nbd_connection_home(const struct nbd_connection *c)
{
	return c->moving ? c->disk->control : c->reactor;
}

void nbd_connection_close(struct nbd_connection *c, struct nbd_session *keep)
{
	struct nbd_session session = { .fd = -1 };

	nbd_connection_leave(c);
	if (c->state == NBD_READY)
		disconnect(c, &session);
	if (keep)
		*keep = session;
	else
		nbd_session_close(&session);
	counter_group_remove(&c->group);
	nbd_disk_release(c->disk);
	if (!c->flush_pending) {
		free(c);
		return;
	}
	c->closed = true;
}
