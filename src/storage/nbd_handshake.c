/* nbd_handshake.c - connects and negotiates by libnbd.
 *
 * libnbd's state machine is driven by hand, since its blocking calls know neither a deadline nor
 * a way to cancel them.  Without TLS the socket is then taken over: libnbd reads exactly the bytes
 * of the handshake and closes without a word, so a duplicate of its descriptor, made once the
 * negotiation is over, is a connection in the transmission phase with nothing read ahead.
 *
 * Time comes from the clock, not from a reactor: this runs in threads that have none.
 */
#include "storage/nbd_handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "storage/nbd_reply.h"
#include "storage/nbd_target.h"

struct handshake {
	struct nbd_handle *handle; /* owned */
	const struct nbd_target *target;
	uint64_t deadline_ns;
	int cancel_fd;
	bool answered;    /* the option's reply came */
	int option_error; /* what it said: an errno, or 0 */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* libnbd's own words without the name of its function, and what, if it says that itself. */
static int libnbd_error(const char *what, struct error *e)
{
	const char *text = nbd_get_error();
	const char *words = text ? strstr(text, ": ") : NULL;
	int code = nbd_get_errno() ? -nbd_get_errno() : -ECONNABORTED;

	words = words ? words + 2 : text ? text : "libnbd gives no reason";
	if (!strncmp(words, what, strlen(what)))
		return error_set(e, code, "%s", words);
	return error_set(e, code, "%s: %s", what, words);
}

/* Where it finds no authority of ours, libnbd takes the system's, and before 1.20.3 it then does
 * not verify anything.  So there has to be one, or a key, or the user's word that none is needed.
 */
static int check_authority(const struct nbd_target *t, struct error *e)
{
	char path[4096];

	if (!t->tls || !t->tls_verify || t->tls_psk_file)
		return 0;
	if (!t->tls_certificates)
		return error_set(e, -EINVAL,
				 "TLS: whom to trust?  Give tls-certificates=DIR, "
				 "tls-psk-file=FILE or tls-verify-peer=off");
	snprintf(path, sizeof(path), "%s/ca-cert.pem", t->tls_certificates);
	if (access(path, R_OK))
		return error_set(e, -errno, "TLS: %.120s: %s", path, strerror(errno));
	return 0;
}

static int configure_tls(struct nbd_handle *h, const struct nbd_target *t, struct error *e)
{
	int status = check_authority(t, e);

	if (status)
		return status;
	if (nbd_set_tls(h, t->tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE) < 0)
		return libnbd_error("TLS", e);
	if ((t->tls_certificates && nbd_set_tls_certificates(h, t->tls_certificates) < 0) ||
	    (t->tls_psk_file && nbd_set_tls_psk_file(h, t->tls_psk_file) < 0) ||
	    (t->tls_username && nbd_set_tls_username(h, t->tls_username) < 0) ||
	    (t->tls && nbd_set_tls_verify_peer(h, t->tls_verify) < 0))
		return libnbd_error("TLS", e);
	return 0;
}

/* Simple replies are all that we need, and the leanest to parse.  Ranges and alignment are
 * checked by the funnel, once; buffers are the guest's and not to be cleared. */
static int configure(struct nbd_handle *h, const struct nbd_target *t, struct error *e)
{
	if (nbd_set_export_name(h, t->export_name) < 0 ||
	    nbd_set_request_structured_replies(h, false) < 0 ||
	    nbd_set_request_block_size(h, true) < 0 || nbd_set_pread_initialize(h, false) < 0 ||
	    nbd_set_strict_mode(h, 0) < 0)
		return libnbd_error("handshake", e);
	return configure_tls(h, t, e);
}

static int begin(struct handshake *s, struct error *e)
{
	const struct nbd_target *t = s->target;
	int status = t->socket ? nbd_aio_connect_unix(s->handle, t->socket)
			       : nbd_aio_connect_tcp(s->handle, t->host, t->port);

	return status < 0 ? libnbd_error("connect", e) : 0;
}

/* Until the socket is connected there is nothing to read. */
static const char *phase(const struct handshake *s)
{
	bool reads = nbd_aio_get_direction(s->handle) & LIBNBD_AIO_DIRECTION_READ;

	return reads ? "handshake" : "connect";
}

/* Waits until the socket has something for libnbd.  Returns its poll events or -errno. */
static int wait_for_socket(const struct handshake *s, struct error *e)
{
	unsigned direction = nbd_aio_get_direction(s->handle);
	uint64_t now = now_ns();
	struct pollfd p[2] = {
		{ .fd = nbd_aio_get_fd(s->handle) },
		{ .fd = s->cancel_fd, .events = POLLIN },
	};
	int n;

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		p[0].events |= POLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		p[0].events |= POLLOUT;
	if (now >= s->deadline_ns)
		return error_set(e, -ETIMEDOUT, "%s: no answer within the connect timeout",
				 phase(s));
	n = poll(p, 2, (int)minimum_u64((s->deadline_ns - now) / 1000000 + 1, 1000000));
	if (n < 0 && errno != EINTR)
		return error_set(e, -errno, "%s: poll: %s", phase(s), strerror(errno));
	if (n > 0 && p[1].revents)
		return error_set(e, -ECANCELED, "%s: cancelled", phase(s));
	return n > 0 ? p[0].revents : 0;
}

/* Moves the state machine by one event. */
static int step(struct handshake *s, struct error *e)
{
	const char *where = phase(s);
	int events = wait_for_socket(s, e);
	unsigned direction = nbd_aio_get_direction(s->handle);
	int status = 0;

	if (events <= 0)
		return events;
	if ((direction & LIBNBD_AIO_DIRECTION_READ) && (events & ~POLLOUT))
		status = nbd_aio_notify_read(s->handle);
	else if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		status = nbd_aio_notify_write(s->handle);
	if (status < 0)
		return libnbd_error(where, e);
	if (nbd_aio_is_dead(s->handle) || nbd_aio_is_closed(s->handle))
		return error_set(e, -ECONNABORTED, "%s: the server hung up%s", where,
				 s->target->tls ? "; it may not offer TLS" : "");
	return 0;
}

static bool is_settled(const struct handshake *s)
{
	return nbd_aio_is_ready(s->handle) || nbd_aio_is_negotiating(s->handle);
}

static int run_until_settled(struct handshake *s, struct error *e)
{
	int status = 0;

	while (!status && !is_settled(s))
		status = step(s, e);
	return status;
}

static int option_answered(void *arg, int *error)
{
	struct handshake *s = arg;

	s->answered = true;
	s->option_error = *error;
	return 1;
}

static int refused(const struct handshake *s, struct error *e)
{
	const char *name = s->target->export_name;

	switch (s->option_error) {
	case ENOENT:
		return error_set(e, -ENOENT, "handshake: export \"%.80s\" not found", name);
	case EPERM:
	case EACCES:
		return error_set(e, -EACCES, "handshake: export \"%.80s\" is not for us", name);
	case ENOTSUP:
		return error_set(e, -EACCES, "handshake: export \"%.80s\" refused%s", name,
				 s->target->tls ? "" : "; the server may want TLS (nbds:)");
	default:
		return error_set(e, -s->option_error, "handshake: export \"%.80s\": %s", name,
				 strerror(s->option_error));
	}
}

/* NBD_OPT_GO or NBD_OPT_INFO for the export.  A server too old for options is ready already. */
static int choose_export(struct handshake *s, enum nbd_purpose purpose, struct error *e)
{
	nbd_completion_callback done = { .callback = option_answered, .user_data = s };
	int status;

	if (nbd_aio_is_ready(s->handle))
		return 0;
	status = purpose == NBD_TRANSMIT ? nbd_aio_opt_go(s->handle, done)
					 : nbd_aio_opt_info(s->handle, done);
	if (status < 0)
		return libnbd_error("handshake", e);
	status = 0;
	while (!status && (!s->answered || !is_settled(s)))
		status = step(s, e);
	if (!status && s->option_error)
		return refused(s, e);
	return status;
}

static uint64_t known(int64_t value)
{
	return value > 0 ? (uint64_t)value : 0;
}

static int read_export(struct nbd_handle *h, struct nbd_export *x, struct error *e)
{
	int64_t size = nbd_get_size(h);

	if (size < 0)
		return libnbd_error("handshake", e);
	*x = (struct nbd_export){
		.size = (uint64_t)size,
		.minimum_size = known(nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM)),
		.preferred_size = known(nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED)),
		.maximum_size = known(nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM)),
		.read_only = nbd_is_read_only(h) == 1,
		.can_flush = nbd_can_flush(h) == 1,
		.can_trim = nbd_can_trim(h) == 1,
		.can_zero = nbd_can_zero(h) == 1,
		.can_multi_connect = nbd_can_multi_conn(h) == 1,
	};
	return 0;
}

static int take_socket(struct handshake *s, struct nbd_session *session, struct error *e)
{
	int one = 1, size = 4 << 20; /* the kernel cuts it to its limit */

	session->fd = fcntl(nbd_aio_get_fd(s->handle), F_DUPFD_CLOEXEC, 3);
	if (session->fd < 0)
		return error_set(e, -errno, "handshake: dup: %s", strerror(errno));
	nbd_close(s->handle);
	s->handle = NULL;
	(void)setsockopt(session->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (!s->target->socket)
		(void)setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

static int finish(struct handshake *s, enum nbd_purpose purpose, struct nbd_session *session,
		  struct error *e)
{
	int status = read_export(s->handle, &session->export, e);

	if (status || purpose == NBD_INQUIRE)
		return status;
	if (!s->target->tls)
		return take_socket(s, session, e);
	session->handle = s->handle;
	s->handle = NULL;
	return 0;
}

int nbd_handshake(const struct nbd_target *t, enum nbd_purpose purpose, int cancel_fd,
		  struct nbd_session *session, struct error *e)
{
	struct handshake s = {
		.handle = nbd_create(),
		.target = t,
		.deadline_ns = now_ns() + t->connect_timeout_ns,
		.cancel_fd = cancel_fd,
	};
	int status;

	*session = (struct nbd_session){ .fd = -1 };
	if (!s.handle)
		return libnbd_error("libnbd", e);
	status = configure(s.handle, t, e);
	status = status ? status : nbd_set_opt_mode(s.handle, true);
	status = status ? status : begin(&s, e);
	status = status ? status : run_until_settled(&s, e);
	status = status ? status : choose_export(&s, purpose, e);
	status = status ? status : finish(&s, purpose, session, e);
	if (s.handle && purpose == NBD_INQUIRE && nbd_aio_is_negotiating(s.handle))
		(void)nbd_aio_opt_abort(s.handle);
	nbd_close(s.handle);
	return status;
}

void nbd_session_close(struct nbd_session *session)
{
	unsigned char bye[NBD_REQUEST_SIZE];

	if (session->fd >= 0) {
		nbd_request_encode_disconnect(bye);
		(void)!send(session->fd, bye, sizeof(bye), MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	if (session->handle)
		(void)nbd_aio_disconnect(session->handle, 0);
	nbd_session_drop(session);
}

void nbd_session_drop(struct nbd_session *session)
{
	nbd_close(session->handle);
	session->handle = NULL;
	fd_close(&session->fd);
}
