/* capture_file.c - a pcapng file and the thread that writes it. */
#include "network/capture_file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "base/pages.h"

enum { BUFFER = 4 << 20 };

struct buffer {
	uint8_t *bytes; /* owned: BUFFER */
	size_t used;
};

struct capture_file {
	char path[256], name[48];
	uint32_t snap;
	uint64_t size_max; /* bytes; 0: none */
	int fd;            /* owned; the thread's, once it runs */
	uint64_t size;     /* bytes written or lost: the thread's */
	bool broken;       /* the thread's: nothing more is written */
	pthread_t thread;

	pthread_mutex_t lock; /* for what follows */
	pthread_cond_t filled;
	struct buffer front, back; /* that is filled; that is written, by the thread only */
	uint64_t seen, dropped;
	bool stopping;
};

static uint64_t wall_clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* ---- adding ---- */

void capture_file_add(struct capture_file *c, enum pcapng_way way, unsigned queue,
		      const struct iovec *iov, unsigned n, size_t bytes)
{
	struct pcapng_packet p = { wall_clock_ns(), way, queue, minimum_u64(bytes, c->snap),
				   bytes };
	bool wake = false;

	pthread_mutex_lock(&c->lock);
	c->seen++;
	if (c->front.used + p.kept + PCAPNG_PACKET_EXTRA > BUFFER) {
		c->dropped++;
	} else {
		wake = !c->front.used;
		c->front.used += pcapng_packet(c->front.bytes + c->front.used, &p, iov, n);
	}
	pthread_mutex_unlock(&c->lock);
	if (wake)
		pthread_cond_signal(&c->filled);
}

/* ---- writing ---- */

static int write_whole(int fd, const uint8_t *bytes, size_t n)
{
	while (n) {
		ssize_t written = write(fd, bytes, n);

		if (written < 0 && errno != EINTR)
			return -errno;
		if (written > 0) {
			bytes += written;
			n -= written;
		}
	}
	return 0;
}

/* So that what follows a failure is not taken for part of the packet that was cut off by it. */
static void take_back(struct capture_file *c)
{
	if (ftruncate(c->fd, c->size))
		log_warning("port %s: %s: %s: its end is no whole packet", c->name, c->path,
			    strerror(errno));
}

static void write_buffer(struct capture_file *c, const uint8_t *bytes, size_t n)
{
	int status;

	if (c->broken)
		return;
	if (c->size_max && c->size + n > c->size_max) {
		c->broken = true;
		log_warning("port %s: %s has reached file-max, the capture ends", c->name, c->path);
		return;
	}
	status = write_whole(c->fd, bytes, n);
	if (status) {
		c->broken = true;
		log_error("port %s: %s: %s: the capture ends", c->name, c->path, strerror(-status));
		take_back(c);
		return;
	}
	c->size += n;
}

/* Takes what has been filled; false: nothing has, and nothing will be. */
static bool take(struct capture_file *c)
{
	struct buffer filled;

	pthread_mutex_lock(&c->lock);
	while (!c->front.used && !c->stopping)
		pthread_cond_wait(&c->filled, &c->lock);
	filled = c->front;
	c->front = (struct buffer){ c->back.bytes, 0 };
	c->back = filled;
	pthread_mutex_unlock(&c->lock);
	return filled.used > 0;
}

static void *run(void *arg)
{
	struct capture_file *c = arg;

	while (take(c))
		write_buffer(c, c->back.bytes, c->back.used);
	return NULL;
}

/* ---- life ---- */

static int file_open(struct capture_file *c, struct error *e)
{
	c->fd = open(c->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (c->fd < 0)
		return error_set(e, -errno, "option \"file\": %s: %s", c->path, strerror(errno));
	if (flock(c->fd, LOCK_EX | LOCK_NB))
		return error_set(e, -EBUSY, "option \"file\": %s: another one captures into it",
				 c->path);
	if (ftruncate(c->fd, 0) && errno != EINVAL) /* a pipe has no length */
		return error_set(e, -errno, "option \"file\": %s: %s", c->path, strerror(errno));
	return 0;
}

static int head_write(struct capture_file *c, struct error *e)
{
	uint8_t head[PCAPNG_HEAD_MAX];
	size_t n = pcapng_head(head, c->name, c->snap);
	int status = write_whole(c->fd, head, n);

	c->size = n;
	return status ? error_set(e, status, "option \"file\": %s: %s", c->path, strerror(-status))
		      : 0;
}

static int buffers_allocate(struct capture_file *c, struct error *e)
{
	c->front.bytes = pages_allocate(BUFFER);
	c->back.bytes = pages_allocate(BUFFER);
	return c->front.bytes && c->back.bytes ? 0 : error_set(e, -ENOMEM, "out of memory");
}

/* Signals are for the control thread. */
static int thread_start(struct capture_file *c, struct error *e)
{
	sigset_t all, old;
	int status;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	status = pthread_create(&c->thread, NULL, run, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return status ? error_set(e, -status, "thread: %s", strerror(status)) : 0;
}

static void release(struct capture_file *c)
{
	pages_free(c->front.bytes, BUFFER);
	pages_free(c->back.bytes, BUFFER);
	fd_close(&c->fd);
	pthread_cond_destroy(&c->filled);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

struct capture_file *capture_file_open(const struct capture_options *o, struct error *e)
{
	struct capture_file *c = calloc(1, sizeof(*c));

	if (!c) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->filled, NULL);
	c->fd = -1;
	c->snap = o->snap;
	c->size_max = o->size_max;
	snprintf(c->name, sizeof(c->name), "%s", o->name);
	if (snprintf(c->path, sizeof(c->path), "%s", o->path) >= (int)sizeof(c->path))
		error_set(e, -ENAMETOOLONG, "option \"file\": longer than %zu bytes",
			  sizeof(c->path) - 1);
	else if (!file_open(c, e) && !head_write(c, e) && !buffers_allocate(c, e) &&
		 !thread_start(c, e))
		return c;
	release(c);
	return NULL;
}

void capture_file_close(struct capture_file *c)
{
	uint8_t end[PCAPNG_HEAD_MAX];

	pthread_mutex_lock(&c->lock);
	c->stopping = true;
	pthread_mutex_unlock(&c->lock);
	pthread_cond_signal(&c->filled);
	pthread_join(c->thread, NULL);
	write_buffer(c, end, pcapng_statistics(end, wall_clock_ns(), c->seen, c->dropped));
	if (c->dropped)
		log_warning("port %s: %s lacks %llu of %llu packets: it was not written as fast",
			    c->name, c->path, (unsigned long long)c->dropped,
			    (unsigned long long)c->seen);
	release(c);
}
