/* nbd_bed.h - what the tests of NBD disks stand on: a temporary directory, a real nbdkit in it, and
 * a load that checks every byte it reads.  Processes are ended by their own id. */
#ifndef NBD_BED_H
#define NBD_BED_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "reactor/reactor.h"
#include "reactor/reactor_thread.h"
#include "storage/storage.h"

enum { BLOCK = 4096, BLOCKS = 1024, DEPTH = 32, MILLISECOND = 1000 * 1000 };

static char directory[64], socket_path[96], uri[128], file_path[96], file_server[128];

static inline void bed_create(void)
{
	strcpy(directory, "/tmp/outboard-nbd-XXXXXX");
	assert_non_null(mkdtemp(directory));
	snprintf(socket_path, sizeof(socket_path), "%s/s", directory);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", socket_path);
}

static inline void bed_remove(void)
{
	unlink(socket_path);
	unlink(file_path);
	rmdir(directory);
}

static inline bool can_connect(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool connected;

	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	connected = !connect(fd, (struct sockaddr *)&a, sizeof(a));
	close(fd);
	return connected;
}

/* Starts "nbdkit -f -U socket ARGUMENTS", words separated by spaces, and waits until it listens. */
static inline pid_t nbdkit_start(const char *arguments)
{
	char *text = strdup(arguments), *rest = text, *word;
	char *argv[32] = { "nbdkit", "--exit-with-parent", "-f", "-U", socket_path };
	unsigned n = 5;
	pid_t pid;

	while ((word = strsep(&rest, " ")) && n < 31)
		argv[n++] = word;
	unlink(socket_path);
	pid = fork();
	if (pid == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	for (int i = 0; i < 500 && !can_connect(socket_path); i++)
		usleep(10000);
	assert_true(can_connect(socket_path));
	free(text);
	return pid;
}

static inline void process_end(pid_t pid, int signal)
{
	assert_int_equal(kill(pid, signal), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- running reactors ---- */

struct watchdog {
	struct reactor *reactor;
	struct reactor_timer timer;
	bool (*is_over)(void *arg);
	void *arg;
	uint64_t deadline_ns;
	bool over;
};

static inline void watchdog_look(void *arg)
{
	struct watchdog *w = arg;
	uint64_t now = reactor_now(w->reactor);

	w->over = w->is_over(w->arg);
	if (w->over || now >= w->deadline_ns)
		reactor_stop(w->reactor);
	else
		reactor_timer_set(w->reactor, &w->timer, now + MILLISECOND);
}

/* Runs r in this thread until is_over, or fails after ms milliseconds. */
static inline void run_until(struct reactor *r, bool (*is_over)(void *), void *arg, unsigned ms)
{
	struct watchdog w = { .reactor = r, .is_over = is_over, .arg = arg };
	struct timespec t;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	w.deadline_ns = now + (uint64_t)ms * MILLISECOND;
	w.timer = (struct reactor_timer){ .fn = watchdog_look, .arg = &w };
	reactor_timer_set(r, &w.timer, now);
	reactor_run(r);
	reactor_timer_cancel(&w.timer);
	assert_true(w.over);
}

/* Lets r run for a while. */
static inline bool is_past(void *arg)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec >= *(uint64_t *)arg;
}

static inline void run_for(struct reactor *r, unsigned ms)
{
	struct timespec t;
	uint64_t end;

	clock_gettime(CLOCK_MONOTONIC, &t);
	end = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec + (uint64_t)ms * MILLISECOND;
	run_until(r, is_past, &end, ms + 5000);
}

/* ---- a load ---- */

struct load_slot {
	struct load *load;
	unsigned block;
	uint64_t version;         /* being written, or expected by a read */
	struct iovec iov[2];
	unsigned char *bytes;     /* BLOCK */
	struct storage_io *io;
};

/* Reads, writes and zeroes random blocks of its own, one request per block at a time. */
struct load {
	struct storage_channel *channel;
	struct reactor *reactor;
	unsigned first, count;    /* blocks */
	uint64_t versions[BLOCKS]; /* what a block holds; 0: zeroes */
	bool busy[BLOCKS];
	uint64_t next_version;
	struct load_slot slots[DEPTH];
	uint64_t left;            /* requests to submit */
	unsigned in_flight;
	bool over;                /* atomic */
	unsigned errors, mismatches;
	unsigned withdrawn;       /* and submitted again */
	int last_error;
	uint64_t completed;       /* atomic */
};

static inline void block_fill(unsigned char *bytes, unsigned block, uint64_t version)
{
	for (unsigned i = 0; i < BLOCK; i += 8)
		store_le64(bytes + i, version ? version << 20 ^ ((uint64_t)block << 10) ^ i : 0);
}

static inline bool block_is(const unsigned char *bytes, unsigned block, uint64_t version)
{
	unsigned char wanted[BLOCK];

	block_fill(wanted, block, version);
	return !memcmp(bytes, wanted, BLOCK);
}

static inline void load_submit(struct load *l, struct load_slot *s)
{
	static const enum storage_operation operations[] = {
		STORAGE_READ, STORAGE_WRITE, STORAGE_READ, STORAGE_WRITE, STORAGE_WRITE_ZEROES,
	};
	struct storage_io *io = s->io;
	unsigned cut = 512 * (unsigned)(1 + reactor_random(l->reactor) % 7);

	do
		s->block = l->first + (unsigned)(reactor_random(l->reactor) % l->count);
	while (l->busy[s->block]);
	l->busy[s->block] = true;
	io->operation = operations[reactor_random(l->reactor) % 5];
	io->flags = reactor_random(l->reactor) % 2 ? STORAGE_UNMAP : 0;
	io->offset = (uint64_t)s->block * BLOCK;
	io->length = BLOCK;
	io->iov = s->iov;
	io->iov_count = 2;
	s->iov[0] = (struct iovec){ s->bytes, cut };
	s->iov[1] = (struct iovec){ s->bytes + cut, BLOCK - cut };
	s->version = io->operation == STORAGE_READ    ? l->versions[s->block]
		     : io->operation == STORAGE_WRITE ? ++l->next_version
						      : 0;
	if (io->operation == STORAGE_WRITE)
		block_fill(s->bytes, s->block, s->version);
	else
		memset(s->bytes, 0xEE, BLOCK);
	l->left--;
	l->in_flight++;
	storage_submit(l->channel, io);
}

static inline void load_done(struct storage_io *io)
{
	struct load_slot *s = *(struct load_slot **)((char *)io - 16);
	struct load *l = s->load;

	if (io->status == -ECANCELED) {
		l->withdrawn++;
		storage_submit(l->channel, io);
		return;
	}
	l->busy[s->block] = false;
	l->in_flight--;
	__atomic_add_fetch(&l->completed, 1, __ATOMIC_RELAXED);
	if (io->status) {
		l->errors++;
		l->last_error = io->status;
	} else if (io->operation == STORAGE_READ) {
		l->mismatches += !block_is(s->bytes, s->block, s->version);
	} else {
		l->versions[s->block] = s->version;
	}
	if (l->left)
		load_submit(l, s);
	else if (!l->in_flight)
		__atomic_store_n(&l->over, true, __ATOMIC_RELEASE);
}

static inline struct load *load_create(const struct storage *s, unsigned first, unsigned count)
{
	struct load *l = calloc(1, sizeof(*l));

	l->first = first;
	l->count = count;
	for (unsigned i = 0; i < DEPTH; i++) {
		size_t size = align_up(16 + storage_io_size(s), 16);
		char *memory = aligned_alloc(16, size);

		memset(memory, 0xA5, size);
		*(struct load_slot **)memory = &l->slots[i];
		l->slots[i].load = l;
		l->slots[i].bytes = malloc(BLOCK);
		l->slots[i].io = (struct storage_io *)(memory + 16);
		l->slots[i].io->done = load_done;
	}
	return l;
}

static inline void load_free(struct load *l)
{
	for (unsigned i = 0; i < DEPTH; i++) {
		free(l->slots[i].bytes);
		free((char *)l->slots[i].io - 16);
	}
	free(l);
}

/* On the channel's thread: `requests` requests from now on, DEPTH at a time. */
static inline void load_start(struct load *l, struct storage_channel *channel, struct reactor *r,
			      uint64_t requests)
{
	l->channel = channel;
	l->reactor = r;
	l->left = requests;
	__atomic_store_n(&l->over, false, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < DEPTH && l->left; i++)
		load_submit(l, &l->slots[i]);
}

static inline bool load_is_over(void *arg)
{
	return __atomic_load_n(&((struct load *)arg)->over, __ATOMIC_ACQUIRE);
}

/* The sum over the whole process so far; see base/counter.h. */
static inline uint64_t nbd_counter(const char *name)
{
	char *text = NULL, wanted[64];
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	const char *at;
	uint64_t value;

	snprintf(wanted, sizeof(wanted), "nbd vda %s ", name);
	counter_print_all(f);
	fclose(f);
	at = strstr(text, wanted);
	value = at ? strtoull(at + strlen(wanted), NULL, 10) : 0;
	free(text);
	return value;
}

/* A file of the disk's size in the directory, for nbdkit's file plugin: it outlives servers. */
static inline void file_create(void)
{
	int fd;

	snprintf(file_path, sizeof(file_path), "%s/disk", directory);
	snprintf(file_server, sizeof(file_server), "file %s", file_path);
	fd = open(file_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, BLOCKS * BLOCK), 0);
	close(fd);
}

/* What the server's side holds, seen without us, is what the load wrote. */
static inline void file_check(const struct load *l)
{
	int fd = open(file_path, O_RDONLY | O_CLOEXEC);
	unsigned char bytes[BLOCK];

	for (unsigned i = l->first; i < l->first + l->count; i++) {
		assert_int_equal(pread(fd, bytes, BLOCK, (off_t)i * BLOCK), BLOCK);
		assert_true(block_is(bytes, i, l->versions[i]));
	}
	close(fd);
}

/* ---- a disk whose control and only queue share one reactor ---- */

struct bed {
	struct reactor *reactor;
	struct storage *storage;
	struct storage_channel *channel;
};

static inline void bed_open(struct bed *b, const char *where)
{
	struct reactor_options options = { .name = "test" };
	struct error e = { 0 };

	b->reactor = reactor_create(&options, &e);
	assert_non_null(b->reactor);
	b->storage = storage_open("vda", where, false, b->reactor, &e);
	if (!b->storage)
		fail_msg("%s", e.text);
	b->channel = storage_channel_open(b->storage, b->reactor, &e);
	assert_non_null(b->channel);
}

static inline void bed_close(struct bed *b)
{
	storage_channel_close(b->channel);
	storage_close(b->storage);
	run_for(b->reactor, 5);
	reactor_free(b->reactor);
}

#endif
