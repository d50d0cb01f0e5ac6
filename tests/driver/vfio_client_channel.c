/* vfio_client_channel.c - messages of a vfio-user client, both ways. */
#include "driver/vfio_client_channel.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "driver/vfio_client_dma.h"

enum {
	INBOX_BYTES = 256 << 10,
	MESSAGE_MAX = 64 << 20, /* what is longer is no message */
	POLL_MS = 50,
};

static void *grow(void *bytes, size_t size)
{
	bytes = realloc(bytes, size);
	if (!bytes)
		abort();
	return bytes;
}

static void lose(struct vfio_client_channel *c, int err)
{
	if (!c->lost)
		c->failure = err;
	c->lost = true;
	pthread_cond_broadcast(&c->arrived);
}

/* ---- sending ---- */

static int send_all(int fd, const void *bytes, size_t size)
{
	for (size_t sent = 0; sent < size;) {
		ssize_t n = send(fd, (const char *)bytes + sent, size - sent, MSG_NOSIGNAL);

		if (n < 0)
			return -errno;
		sent += n;
	}
	return 0;
}

/* Sockets that keep no boundaries may take a part; descriptors go with the first byte. */
static int send_message(int fd, const struct vfio_client_message *m)
{
	char control[CMSG_SPACE(sizeof(m->fds))] __attribute__((aligned(8))) = { 0 };
	size_t payload = m->header.size - sizeof(m->header);
	struct iovec iov[2] = { { (void *)&m->header, sizeof(m->header) },
				{ m->payload, payload } };
	struct msghdr h = { .msg_iov = iov, .msg_iovlen = payload ? 2 : 1 };
	ssize_t n;

	if (m->fd_count) {
		struct cmsghdr *part = (struct cmsghdr *)(void *)control;

		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(m->fd_count * sizeof(int));
		part->cmsg_level = SOL_SOCKET;
		part->cmsg_type = SCM_RIGHTS;
		part->cmsg_len = CMSG_LEN(m->fd_count * sizeof(int));
		memcpy(CMSG_DATA(part), m->fds, m->fd_count * sizeof(int));
	}
	n = sendmsg(fd, &h, MSG_NOSIGNAL);
	if (n < (ssize_t)sizeof(m->header))
		return n < 0 ? -errno : -EIO;
	if (n == m->header.size)
		return 0;
	return send_all(fd, (char *)m->payload + (n - sizeof(m->header)), m->header.size - n);
}

static void flush_answers(struct vfio_client_channel *c, struct vfio_client_inbox *b)
{
	int err = b->answers_size ? send_all(b->fd, b->answers, b->answers_size) : 0;

	b->answers_size = 0;
	if (err)
		lose(c, err);
}

static void flush_all(struct vfio_client_channel *c)
{
	flush_answers(c, &c->main);
	flush_answers(c, &c->twin);
}

/* ---- receiving ---- */

static void close_descriptors(int *fds, unsigned *count)
{
	for (unsigned i = 0; i < *count; i++)
		close(fds[i]);
	*count = 0;
}

static void take_descriptors(struct vfio_client_inbox *b, struct msghdr *h)
{
	for (struct cmsghdr *part = CMSG_FIRSTHDR(h); part; part = CMSG_NXTHDR(h, part)) {
		unsigned count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (part->cmsg_type != SCM_RIGHTS || b->fd_count + count > VFIO_USER_FDS)
			continue;
		memcpy(b->fds + b->fd_count, CMSG_DATA(part), count * sizeof(int));
		b->fd_count += count;
	}
}

static void make_room(struct vfio_client_inbox *b, size_t wanted)
{
	if (b->begin) {
		memmove(b->bytes, b->bytes + b->begin, b->end - b->begin);
		b->end -= b->begin;
		b->begin = 0;
	}
	if (b->capacity < wanted)
		b->bytes = grow(b->bytes, b->capacity = wanted);
}

/* One look at the socket.  0, -EAGAIN, or why there will be nothing more. */
static int receive(struct vfio_client_inbox *b)
{
	char control[CMSG_SPACE(VFIO_USER_FDS * sizeof(int))] __attribute__((aligned(8)));
	struct iovec iov = { b->bytes + b->end, b->capacity - b->end };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(b->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n <= 0)
		return n ? -errno : -ECONNRESET;
	b->end += n;
	take_descriptors(b, &h);
	return 0;
}

static void keep_reply(struct vfio_client_channel *c, struct vfio_client_inbox *b,
		       const struct vfio_client_header *h)
{
	size_t payload = h->size - sizeof(*h);

	if (!c->waiting || h->id != c->reply_id || b != &c->main) {
		lose(c, -EPROTO); /* nobody asked */
		return;
	}
	c->reply.header = *h;
	c->reply.payload = grow(c->reply.payload, payload + 1);
	memcpy(c->reply.payload, b->bytes + b->begin + sizeof(*h), payload);
	memcpy(c->reply.fds, b->fds, sizeof(b->fds));
	c->reply.fd_count = b->fd_count;
	b->fd_count = 0;
	c->has_reply = true;
	pthread_cond_broadcast(&c->arrived);
}

/* Takes the next whole message out.  False: there is none. */
static bool dispatch(struct vfio_client_channel *c, struct vfio_client_inbox *b)
{
	struct vfio_client_header h;

	if (c->lost || b->end - b->begin < sizeof(h))
		return false;
	memcpy(&h, b->bytes + b->begin, sizeof(h));
	if (h.size < sizeof(h) || h.size > MESSAGE_MAX) {
		lose(c, -EPROTO);
		return false;
	}
	if (b->end - b->begin < h.size) {
		make_room(b, h.size);
		return false;
	}
	if ((h.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_REPLY)
		keep_reply(c, b, &h);
	else
		vfio_client_dma_command(c, b, &h, b->bytes + b->begin + sizeof(h));
	b->begin += h.size;
	return true;
}

/* Everything that is there.  The number of messages. */
static int drain(struct vfio_client_channel *c, struct vfio_client_inbox *b)
{
	int count = 0, err;

	if (b->fd < 0)
		return 0;
	do {
		make_room(b, INBOX_BYTES);
		err = receive(b);
		while (dispatch(c, b))
			count++;
	} while (!err && !c->lost && b->end == b->capacity);
	if (err && err != -EAGAIN)
		lose(c, err);
	return count;
}

/* With the lock held, which is let go while it sleeps. */
static int turn(struct vfio_client_channel *c, int timeout_ms)
{
	struct pollfd p[3] = { { .fd = c->main.fd, .events = POLLIN },
			       { .fd = c->twin.fd, .events = POLLIN },
			       { .fd = c->wake, .events = POLLIN } };
	int count;

	if (timeout_ms) {
		pthread_mutex_unlock(&c->lock);
		poll(p, 3, timeout_ms);
		pthread_mutex_lock(&c->lock);
	}
	if (c->lost)
		return c->failure;
	count = drain(c, &c->main) + drain(c, &c->twin);
	flush_all(c);
	return count || !c->lost ? count : c->failure;
}

static void *run(void *arg)
{
	struct vfio_client_channel *c = arg;
	uint64_t stop;

	pthread_mutex_lock(&c->lock);
	while (read(c->wake, &stop, sizeof(stop)) < 0 && !c->lost)
		turn(c, -1);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* ---- life ---- */

void vfio_client_channel_init(struct vfio_client_channel *c)
{
	*c = (struct vfio_client_channel){ .main.fd = -1, .twin.fd = -1, .wake = -1, .lost = true };
	c->failure = -ENOTCONN;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->arrived, NULL);
}

void vfio_client_channel_open(struct vfio_client_channel *c, int fd)
{
	c->main.fd = fd;
	c->lost = false;
	c->failure = 0;
	c->counters = (struct vfio_client_counters){ 0 };
	c->held = grow(NULL, VFIO_USER_HELD * sizeof(*c->held));
}

void vfio_client_channel_add_twin(struct vfio_client_channel *c, int fd)
{
	c->twin.fd = fd;
}

static void inbox_close(struct vfio_client_inbox *b)
{
	fd_close(&b->fd);
	close_descriptors(b->fds, &b->fd_count);
	free(b->bytes);
	free(b->answers);
	*b = (struct vfio_client_inbox){ .fd = -1 };
}

void vfio_client_channel_close(struct vfio_client_channel *c)
{
	vfio_client_channel_stop(c);
	inbox_close(&c->main);
	inbox_close(&c->twin);
	while (c->held_count)
		free(c->held[--c->held_count].data);
	free(c->held);
	free(c->reply.payload);
	c->held = NULL;
	c->reply = (struct vfio_client_message){ 0 };
	c->window_count = 0;
	c->waiting = c->has_reply = false;
	c->lost = true;
	c->failure = -ENOTCONN;
}

int vfio_client_channel_start(struct vfio_client_channel *c)
{
	int err;

	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake < 0)
		return -errno;
	err = -pthread_create(&c->thread, NULL, run, c);
	if (err)
		fd_close(&c->wake);
	return err;
}

void vfio_client_channel_stop(struct vfio_client_channel *c)
{
	uint64_t one = 1;

	if (c->wake < 0)
		return;
	if (write(c->wake, &one, sizeof(one)) != sizeof(one))
		abort();
	pthread_join(c->thread, NULL);
	fd_close(&c->wake);
}

int vfio_client_channel_serve(struct vfio_client_channel *c, int timeout_ms)
{
	int count;

	pthread_mutex_lock(&c->lock);
	count = c->lost ? c->failure : turn(c, timeout_ms);
	pthread_mutex_unlock(&c->lock);
	return count;
}

/* ---- requests ---- */

int vfio_client_channel_send(struct vfio_client_channel *c, const struct vfio_client_message *m,
			     struct error *e)
{
	int err;

	pthread_mutex_lock(&c->lock);
	err = c->lost ? c->failure : send_message(c->main.fd, m);
	pthread_mutex_unlock(&c->lock);
	return err ? error_set(e, err, "command %u: %s", m->header.command, strerror(-err)) : 0;
}

static struct timespec deadline(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += VFIO_USER_TIMEOUT_MS / 1000;
	return t;
}

static bool is_past(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec > t->tv_sec || (now.tv_sec == t->tv_sec && now.tv_nsec >= t->tv_nsec);
}

/* With the lock held. */
static int wait_reply(struct vfio_client_channel *c)
{
	struct timespec until = deadline();

	while (!c->has_reply) {
		if (c->lost)
			return c->failure;
		if (is_past(&until))
			return -ETIMEDOUT;
		if (c->wake >= 0)
			pthread_cond_timedwait(&c->arrived, &c->lock, &until);
		else
			turn(c, POLL_MS);
	}
	return 0;
}

static int judge_reply(const struct vfio_client_header *h)
{
	if (!(h->flags & VFIO_USER_ERROR))
		return 0;
	/* vfio-user, "Header": the number is optional */
	return h->error && h->error < 4096 ? -(int)h->error : -EREMOTEIO;
}

static void begin_waiting(struct vfio_client_channel *c, uint16_t id)
{
	close_descriptors(c->reply.fds, &c->reply.fd_count);
	c->reply_id = id;
	c->waiting = true;
	c->has_reply = false;
}

void vfio_client_channel_catch_up(struct vfio_client_channel *c)
{
	if (!c->busy)
		vfio_client_dma_answer_deferred(c);
	flush_all(c);
}

static int end_waiting(struct vfio_client_channel *c, struct error *e)
{
	int err = wait_reply(c);

	c->waiting = false;
	if (!err)
		err = judge_reply(&c->reply.header);
	vfio_client_channel_catch_up(c);
	return err ? error_set(e, err, "vfio-user: %s", strerror(-err)) : 0;
}

int vfio_client_channel_await(struct vfio_client_channel *c, uint16_t id, struct error *e)
{
	int err;

	pthread_mutex_lock(&c->lock);
	begin_waiting(c, id);
	err = end_waiting(c, e);
	pthread_mutex_unlock(&c->lock);
	return err;
}

int vfio_client_channel_ask(struct vfio_client_channel *c, const struct vfio_client_message *m,
			    struct error *e)
{
	int err;

	pthread_mutex_lock(&c->lock);
	begin_waiting(c, m->header.id);
	err = c->lost ? c->failure : send_message(c->main.fd, m);
	if (err)
		error_set(e, err, "not sent: %s", strerror(-err));
	else
		err = end_waiting(c, e);
	c->waiting = false;
	pthread_mutex_unlock(&c->lock);
	if (!err && c->reply.header.command != m->header.command)
		err = error_set(e, -EPROTO, "a reply to command %u", c->reply.header.command);
	return err ? error_wrap(e, "command %u", m->header.command) : 0;
}

/* ---- the server's commands ---- */

unsigned vfio_client_channel_release(struct vfio_client_channel *c, bool backwards)
{
	unsigned count;

	pthread_mutex_lock(&c->lock);
	count = vfio_client_dma_release(c, backwards);
	flush_all(c);
	pthread_mutex_unlock(&c->lock);
	return count;
}

unsigned vfio_client_channel_held(struct vfio_client_channel *c)
{
	unsigned count;

	pthread_mutex_lock(&c->lock);
	count = c->held_count;
	pthread_mutex_unlock(&c->lock);
	return count;
}

struct vfio_client_counters vfio_client_channel_counters(struct vfio_client_channel *c)
{
	struct vfio_client_counters counters;

	pthread_mutex_lock(&c->lock);
	counters = c->counters;
	pthread_mutex_unlock(&c->lock);
	return counters;
}

void vfio_client_channel_add_window(struct vfio_client_channel *c,
				    const struct vfio_client_window *w)
{
	pthread_mutex_lock(&c->lock);
	if (c->window_count == VFIO_USER_MEMORIES)
		abort();
	c->windows[c->window_count++] = *w;
	pthread_mutex_unlock(&c->lock);
}

void vfio_client_channel_drop_window(struct vfio_client_channel *c)
{
	pthread_mutex_lock(&c->lock);
	c->window_count--;
	pthread_mutex_unlock(&c->lock);
}

void vfio_client_channel_remove_window(struct vfio_client_channel *c, uint64_t address,
				       uint64_t size)
{
	pthread_mutex_lock(&c->lock);
	for (unsigned i = c->window_count; i-- > 0;)
		if (c->windows[i].address >= address &&
		    range_fits(c->windows[i].address - address, c->windows[i].size, size))
			c->windows[i] = c->windows[--c->window_count];
	pthread_mutex_unlock(&c->lock);
}
