/* nbd_tls.c - the transmission phase by libnbd, for connections inside TLS.
 *
 * libnbd queues commands, and its state machine moves when the socket can be read or written.  A
 * scatter list of more than one entry goes through a bounce buffer: libnbd takes flat ones, and
 * with TLS every byte is copied anyway.
 */
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/iov.h"
#include "reactor/reactor.h"
#include "storage/nbd_connection.h"
#include "storage/nbd_handshake.h"
#include "storage/nbd_transport.h"
#include "storage/storage.h"

enum { IN_FLIGHT_MAX = 256 };

/* One command in libnbd. */
struct command {
	struct nbd_connection *connection;
	struct nbd_request *request;
	struct command *next, **link; /* of those in flight */
	char *bounce;                 /* owned, or NULL */
};

struct nbd_tls {
	struct nbd_handle *handle; /* owned */
	struct reactor_watch watch;
	struct nbd_export export;
	struct command *commands;
	unsigned in_flight;
	bool shutting_down; /* the server said so */
};

static void command_free(struct command *command)
{
	*command->link = command->next;
	if (command->next)
		command->next->link = command->link;
	free(command->bounce);
	free(command);
}

/* Whether the answer came from the server: a command that libnbd gave up with the connection has
 * to be sent again, and so has one that met a server about to go. */
static bool is_answer(struct nbd_tls *t, int error)
{
	t->shutting_down |= error == ESHUTDOWN;
	return error != ENOTCONN && error != ESHUTDOWN;
}

/* libnbd calls this with its lock held; nothing below calls libnbd.  1: forget the command. */
static int completed(void *arg, int *error)
{
	struct command *command = arg;
	struct nbd_connection *c = command->connection;
	struct nbd_tls *t = c->transport_state;
	struct nbd_request *request = command->request;
	const struct storage_io *io = request->io;

	t->in_flight--;
	if (is_answer(t, *error)) {
		if (command->bounce && io->operation == STORAGE_READ && !*error)
			iov_copy_to(io->iov, io->iov_count, 0, command->bounce, io->length);
		nbd_connection_replied(c);
		counter_add(&c->counters.received_bytes,
			    io->operation == STORAGE_READ ? io->length : 0);
		nbd_connection_finish(c, request, -*error);
	}
	command_free(command);
	return 1;
}

/* ---- out ---- */

static struct command *command_create(struct nbd_connection *c, struct nbd_tls *t,
				      struct nbd_request *request)
{
	struct command *command = calloc(1, sizeof(*command));
	const struct storage_io *io = request->io;
	bool payload = io->operation == STORAGE_READ || io->operation == STORAGE_WRITE;

	if (!command)
		return NULL;
	command->connection = c;
	command->request = request;
	command->next = t->commands;
	command->link = &t->commands;
	if (command->next)
		command->next->link = &command->next;
	t->commands = command;
	if (!payload || io->iov_count == 1)
		return command;
	command->bounce = malloc(io->length);
	if (!command->bounce) {
		command_free(command);
		return NULL;
	}
	if (io->operation == STORAGE_WRITE)
		iov_copy_from(io->iov, io->iov_count, 0, command->bounce, io->length);
	return command;
}

static int64_t issue(struct nbd_tls *t, struct command *command)
{
	const struct storage_io *io = command->request->io;
	nbd_completion_callback done = { .callback = completed, .user_data = command };
	char *bytes = command->bounce ? command->bounce
		      : io->iov_count ? io->iov[0].iov_base
				      : NULL;

	switch (io->operation) {
	case STORAGE_READ:
		return nbd_aio_pread(t->handle, bytes, io->length, io->offset, done, 0);
	case STORAGE_WRITE:
		return nbd_aio_pwrite(t->handle, bytes, io->length, io->offset, done, 0);
	case STORAGE_FLUSH:
		return nbd_aio_flush(t->handle, done, 0);
	case STORAGE_DISCARD:
		return nbd_aio_trim(t->handle, io->length, io->offset, done, 0);
	default:
		return nbd_aio_zero(t->handle, io->length, io->offset, done,
				    io->flags & STORAGE_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
	}
}

static bool is_gone(const struct nbd_tls *t)
{
	return nbd_aio_is_dead(t->handle) || nbd_aio_is_closed(t->handle) || t->shutting_down;
}

/* Waits for what libnbd waits for.  0 or -errno. */
static int watch_direction(struct nbd_tls *t)
{
	unsigned direction = nbd_aio_get_direction(t->handle);
	short events = (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
		       (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);

	if (is_gone(t))
		return t->shutting_down ? -ESHUTDOWN : -ECONNRESET;
	return events == t->watch.events ? 0 : reactor_watch_change(&t->watch, events);
}

static bool is_in_flight(const struct nbd_tls *t, const struct command *command)
{
	const struct command *at = t->commands;

	while (at && at != command)
		at = at->next;
	return at;
}

/* Hands a command to libnbd.  When it ends inside the call already, libnbd (1.14) takes the value
 * that it returns from memory it has freed: whether the command was refused is asked of our own
 * list then, where completed() has taken it out. */
static bool is_refused(struct nbd_tls *t, struct command *command)
{
	return issue(t, command) < 0 && is_in_flight(t, command);
}

/* A command that libnbd refuses, or that finds no memory, fails alone: sending it again would be
 * in vain.  One refused because the connection died meanwhile stays. */
static int send_one(struct nbd_connection *c, struct nbd_tls *t)
{
	struct nbd_request *request = c->unsent;
	struct command *command = command_create(c, t, request);

	if (!command) {
		nbd_connection_finish(c, request, -ENOMEM);
		return 0;
	}
	request->slot = 0;
	c->unsent = request->next;
	t->in_flight++;
	if (!is_refused(t, command))
		return 0;
	t->in_flight--;
	command_free(command);
	if (is_gone(t))
		return -ECONNRESET;
	nbd_connection_finish(c, request, -EIO);
	return 0;
}

static int tls_send(struct nbd_connection *c)
{
	struct nbd_tls *t = c->transport_state;
	int status = 0;

	if (is_gone(t))
		return -ECONNRESET;
	while (!status && c->unsent && !c->holding && t->in_flight < IN_FLIGHT_MAX)
		status = send_one(c, t);
	counter_add(&c->counters.sends, 1);
	return status ? status : watch_direction(t);
}

/* ---- in ---- */

static void socket_ready(void *arg)
{
	struct nbd_connection *c = arg;
	struct nbd_tls *t = c->transport_state;
	unsigned direction = nbd_aio_get_direction(t->handle);
	int status = 0;

	counter_add(&c->counters.receives, 1);
	if (direction & LIBNBD_AIO_DIRECTION_READ)
		status = nbd_aio_notify_read(t->handle);
	else if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		status = nbd_aio_notify_write(t->handle);
	status = status < 0 ? -ECONNRESET : watch_direction(t);
	if (status)
		nbd_connection_lost(c, status, strerror(-status));
	else
		nbd_connection_progress(c);
}

/* ---- life ---- */

static int tls_attach(struct nbd_connection *c)
{
	struct nbd_tls *t = c->transport_state;

	t->watch = (struct reactor_watch){
		.fd = nbd_aio_get_fd(t->handle), .events = POLLIN, .fn = socket_ready, .arg = c
	};
	return reactor_watch_add(c->reactor, &t->watch);
}

static void tls_detach(struct nbd_connection *c)
{
	struct nbd_tls *t = c->transport_state;

	reactor_watch_remove(&t->watch);
}

static int tls_open(struct nbd_connection *c, struct nbd_session *session)
{
	struct nbd_tls *t = calloc(1, sizeof(*t));
	int status;

	if (!t)
		return -ENOMEM;
	t->handle = session->handle;
	t->export = session->export;
	c->transport_state = t;
	status = tls_attach(c);
	if (status) {
		free(t);
		return status;
	}
	session->handle = NULL;
	return 0;
}

static int tls_is_within_request(const struct nbd_connection *c)
{
	return 0; /* what libnbd has taken it sends, and counts as sent */
}

/* With requests in flight libnbd may be in the midst of one: then the handle is closed here, and
 * with it the commands that point into memory of requests. */
static void tls_close(struct nbd_connection *c, struct nbd_session *session)
{
	struct nbd_tls *t = c->transport_state;

	tls_detach(c);
	*session = (struct nbd_session){ .fd = -1, .handle = t->handle, .export = t->export };
	if (t->commands || is_gone(t))
		nbd_session_drop(session);
	while (t->commands)
		command_free(t->commands);
	free(t);
}

const struct nbd_transport nbd_tls = {
	.open = tls_open,
	.send = tls_send,
	.is_within_request = tls_is_within_request,
	.detach = tls_detach,
	.attach = tls_attach,
	.close = tls_close,
};
