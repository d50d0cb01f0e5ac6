/* test_storage_bed.h - a disk on virtual reactors, and requests to it, for the storage tests. */
#ifndef TEST_STORAGE_BED_H
#define TEST_STORAGE_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"

struct bed {
	struct reactor_world *world;
	struct reactor *control, *worker[2];
	struct storage *storage;
	struct storage_channel *channel; /* on worker[0] */
};

struct request {
	unsigned done; /* how often it completed */
	bool submitting;
	uint64_t done_ns;
	struct reactor_world *world; /* NULL: real time */
	struct iovec iov;            /* the whole buffer, unless the test brings its own */
	struct storage_io io;
};

static inline void bed_open_world(struct bed *b, const char *uri, bool read_only, uint64_t seed)
{
	struct error e = { 0 };

	b->world = reactor_world_create(seed);
	b->control = reactor_virtual_create(b->world, "control");
	b->worker[0] = reactor_virtual_create(b->world, "worker0");
	b->worker[1] = reactor_virtual_create(b->world, "worker1");
	reactor_world_enter(b->world, b->control);
	b->storage = storage_open("vda", uri, read_only, b->control, &e);
	if (!b->storage)
		fail_msg("%s", e.text);
	reactor_world_enter(b->world, b->worker[0]);
	b->channel = storage_channel_open(b->storage, b->worker[0], &e);
	if (!b->channel)
		fail_msg("%s", e.text);
}

static inline void bed_open_mode(struct bed *b, const char *uri, bool read_only)
{
	bed_open_world(b, uri, read_only, 7);
}

static inline void bed_open_seeded(struct bed *b, const char *uri, uint64_t seed)
{
	bed_open_world(b, uri, false, seed);
}

static inline void bed_open(struct bed *b, const char *uri)
{
	bed_open_mode(b, uri, false);
}

static inline void bed_close(struct bed *b)
{
	reactor_world_enter(b->world, b->worker[0]);
	storage_channel_close(b->channel);
	reactor_world_enter(b->world, b->control);
	storage_close(b->storage);
	reactor_world_enter(b->world, NULL);
	reactor_free(b->worker[1]);
	reactor_free(b->worker[0]);
	reactor_free(b->control);
	reactor_world_free(b->world);
}

static inline void request_done(struct storage_io *io)
{
	struct request *q = CONTAINER_OF(io, struct request, io);

	assert_false(q->submitting);
	q->done++;
	q->done_ns = q->world ? reactor_world_now(q->world) : 0;
}

/* buffer: of length bytes, or NULL. */
static inline struct request *request_create(const struct storage *s, struct reactor_world *world,
					     enum storage_operation operation, uint64_t offset,
					     uint64_t length, void *buffer)
{
	size_t size = sizeof(struct request) - sizeof(struct storage_io) + storage_io_size(s);
	struct request *q = aligned_alloc(16, align_up(size, 16));

	/* Scratch is not cleared by callers: whoever relies on it shall trip. */
	memset(q, 0xa5, align_up(size, 16));
	memset(q, 0, sizeof(*q));
	q->world = world;
	q->iov = (struct iovec){ buffer, length };
	q->io.operation = operation;
	q->io.offset = offset;
	q->io.length = length;
	q->io.iov = &q->iov;
	q->io.iov_count = buffer ? 1 : 0;
	q->io.done = request_done;
	q->io.status = 1;
	return q;
}

static inline struct request *bed_request(struct bed *b, enum storage_operation operation,
					  uint64_t offset, uint64_t length, void *buffer)
{
	return request_create(b->storage, b->world, operation, offset, length, buffer);
}

static inline void request_submit(struct storage_channel *ch, struct request *q)
{
	q->submitting = true;
	storage_submit(ch, &q->io);
	q->submitting = false;
}

static inline void bed_submit(struct bed *b, struct request *q)
{
	reactor_world_enter(b->world, b->worker[0]);
	request_submit(b->channel, q);
}

/* Runs the world until the request is done; once. */
static inline void bed_wait(struct bed *b, struct request *q)
{
	for (unsigned i = 0; !q->done && i < 10000000; i++)
		assert_true(reactor_world_step(b->world));
	assert_int_equal(q->done, 1);
}

static inline void bed_run(struct bed *b)
{
	for (unsigned i = 0; i < 1000; i++)
		if (!reactor_world_step(b->world))
			return;
}

/* One request from beginning to end; returns its status. */
static inline int bed_do(struct bed *b, enum storage_operation operation, unsigned flags,
			 uint64_t offset, uint64_t length, void *buffer)
{
	struct request *q = bed_request(b, operation, offset, length, buffer);
	int status;

	q->io.flags = flags;
	bed_submit(b, q);
	bed_wait(b, q);
	status = q->io.status;
	assert_int_equal(q->io.offset, offset);
	assert_int_equal(q->io.length, length);
	assert_ptr_equal(q->io.iov, &q->iov);
	free(q);
	return status;
}

static inline int bed_read(struct bed *b, uint64_t offset, uint64_t length, void *buffer)
{
	return bed_do(b, STORAGE_READ, 0, offset, length, buffer);
}

static inline int bed_write(struct bed *b, uint64_t offset, uint64_t length, void *buffer)
{
	return bed_do(b, STORAGE_WRITE, 0, offset, length, buffer);
}

/* Bytes that tell where they belong. */
static inline void fill_pattern(unsigned char *buffer, uint64_t length, unsigned seed)
{
	for (uint64_t i = 0; i < length; i++)
		buffer[i] = (unsigned char)((i * 31 + (i >> 9) * 7 + seed) | 1);
}

static inline void refuses_uri(const char *uri, int code, const char *reason)
{
	struct reactor_world *w = reactor_world_create(1);
	struct reactor *r = reactor_virtual_create(w, "control");
	struct error e = { 0 };

	reactor_world_enter(w, r);
	assert_null(storage_open("vda", uri, false, r, &e));
	reactor_world_enter(w, NULL);
	if (!strstr(e.text, reason) || !strstr(e.text, "disk vda: "))
		fail_msg("%s: \"%s\" lacks \"%s\"", uri, e.text, reason);
	assert_int_equal(e.code, code);
	reactor_free(r);
	reactor_world_free(w);
}

#endif
