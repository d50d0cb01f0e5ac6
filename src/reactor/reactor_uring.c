/* reactor_uring.c - waits with io_uring.
 *
 * During a turn nothing is submitted: file operations gather in a list, and watches that are to
 * be armed, cancelled or armed anew gather as dirty slots.  flush() turns both into submission
 * entries, and they reach the kernel in one io_uring_enter() per turn, the same one that sleeps
 * when there is nothing else to do.  While pollers keep the loop awake and nothing was gathered,
 * a turn looks at the completion ring and at the kernel's flags, both in memory, and makes no
 * system call.
 *
 * Watches are one-shot polls, armed anew after each callback: a descriptor that is still ready
 * completes again at once, which makes them level-triggered.
 *
 * The ring is created disabled and enabled in the thread that runs, because the kernel's single
 * issuer modes bind it to the first thread that submits.  Everything before only gathers.
 */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/error.h"
#include "reactor/reactor_loop.h"

#define SQ_ENTRIES 256
#define CQ_ENTRIES 2048

/* Sleep with a timeout, lose no completion; and what came with the latter (Linux 5.13) stands for
 * multishot polls, which have no flag of their own. */
#define NEEDED (IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_RSRC_TAGS)

#define RW_BYTES_MAX 0x7ffff000 /* the most one read(2) or write(2) moves */

/* The low bits of user_data; the rest is a pointer to an operation, or the key of a slot. */
enum { DATA_OPERATION = 0, DATA_WATCH = 1, DATA_WAKE = 2, DATA_CANCEL = 3, DATA_KIND = 3 };
_Static_assert(_Alignof(struct reactor_io) > DATA_KIND, "a pointer leaves its low bits alone");

struct uring_reactor {
	struct reactor reactor;
	struct io_uring ring;
	bool enabled;
	bool wake_armed;                 /* the kernel polls wake_fd */
	struct reactor_slot *dirty;      /* slots whose poll must be armed, cancelled or both */
	struct reactor_io *first, **end; /* operations to submit */
};

static struct uring_reactor *uring_of(struct reactor *r)
{
	return (struct uring_reactor *)((char *)r - offsetof(struct uring_reactor, reactor));
}

/* ---- submission ---- */

static int uring_watch_dirty(struct reactor *r, struct reactor_slot *s)
{
	struct uring_reactor *u = uring_of(r);

	if (!s->dirty) {
		s->dirty = true;
		s->next = u->dirty;
		u->dirty = s;
	}
	return 0;
}

static void uring_io_submit(struct reactor *r, struct reactor_io *io)
{
	struct uring_reactor *u = uring_of(r);

	io->next = NULL;
	*u->end = io;
	u->end = &io->next;
}

static void submit(struct uring_reactor *u)
{
	counter_add(&u->reactor.counts.kernel_entries, 1);
	io_uring_submit_and_get_events(&u->ring);
}

/* NULL: the ring is full and the kernel takes no more until completions are collected. */
static struct io_uring_sqe *entry_take(struct uring_reactor *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe) {
		submit(u);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

/* A multishot poll completes anew with every write, so that nobody has to read the eventfd. */
static bool arm_wake(struct uring_reactor *u)
{
	struct io_uring_sqe *sqe = u->wake_armed ? NULL : entry_take(u);

	if (sqe) {
		io_uring_prep_poll_multishot(sqe, u->reactor.wake_fd, POLLIN);
		io_uring_sqe_set_data64(sqe, DATA_WAKE);
		u->wake_armed = true;
	}
	return u->wake_armed;
}

static bool cancel_poll(struct uring_reactor *u, struct reactor_slot *s)
{
	struct io_uring_sqe *sqe;

	if (!s->armed_key || (s->watch && s->armed_key == reactor_slot_key(s)))
		return true;
	sqe = entry_take(u);
	if (!sqe)
		return false;
	io_uring_prep_poll_remove(sqe, s->armed_key | DATA_WATCH);
	io_uring_sqe_set_data64(sqe, DATA_CANCEL);
	s->armed_key = 0;
	return true;
}

static bool arm_poll(struct uring_reactor *u, struct reactor_slot *s)
{
	struct io_uring_sqe *sqe;

	if (!s->watch || s->armed_key)
		return true;
	sqe = entry_take(u);
	if (!sqe)
		return false;
	s->armed_key = reactor_slot_key(s);
	io_uring_prep_poll_add(sqe, s->watch->fd, (unsigned short)s->watch->events);
	io_uring_sqe_set_data64(sqe, s->armed_key | DATA_WATCH);
	return true;
}

static bool flush_slots(struct uring_reactor *u)
{
	struct reactor_slot *s;

	while ((s = u->dirty)) {
		if (!cancel_poll(u, s) || !arm_poll(u, s))
			return false;
		u->dirty = s->next;
		s->dirty = false;
		if (!s->watch)
			reactor_slot_release(&u->reactor, s);
	}
	return true;
}

static void prepare_vectors(struct io_uring_sqe *sqe, const struct reactor_io *io)
{
	bool single = io->iov_count == 1 && io->iov->iov_len <= RW_BYTES_MAX;

	/* A single vector is spared its copy into the kernel. */
	if (io->operation == REACTOR_IO_READ && single)
		io_uring_prep_read(sqe, io->fd, io->iov->iov_base, (unsigned)io->iov->iov_len,
				   io->offset);
	else if (io->operation == REACTOR_IO_READ)
		io_uring_prep_readv(sqe, io->fd, io->iov, io->iov_count, io->offset);
	else if (single)
		io_uring_prep_write(sqe, io->fd, io->iov->iov_base, (unsigned)io->iov->iov_len,
				    io->offset);
	else
		io_uring_prep_writev(sqe, io->fd, io->iov, io->iov_count, io->offset);
}

static void prepare(struct io_uring_sqe *sqe, struct reactor_io *io)
{
	switch (io->operation) {
	case REACTOR_IO_READ:
	case REACTOR_IO_WRITE:
		prepare_vectors(sqe, io);
		break;
	case REACTOR_IO_DATASYNC:
		io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
		break;
	case REACTOR_IO_FALLOCATE:
		io_uring_prep_fallocate(sqe, io->fd, io->mode, (off_t)io->offset,
					(off_t)io->length);
		break;
	}
	io_uring_sqe_set_data64(sqe, (uintptr_t)io);
}

static bool flush_operations(struct uring_reactor *u)
{
	while (u->first) {
		struct reactor_io *io = u->first;
		struct io_uring_sqe *sqe = entry_take(u);

		if (!sqe)
			return false;
		u->first = io->next;
		prepare(sqe, io);
	}
	u->end = &u->first;
	return true;
}

/* False: the kernel wants completions collected first; what is left stays gathered. */
static bool flush(struct uring_reactor *u)
{
	return flush_slots(u) && flush_operations(u);
}

/* ---- completion ---- */

static void watch_complete(struct uring_reactor *u, uint64_t key)
{
	struct reactor_slot *s = reactor_slot_find(&u->reactor, key);

	if (s->armed_key != key)
		return; /* cancelled, too late for the kernel */
	s->armed_key = 0;
	reactor_slot_ready(&u->reactor, key);
	if (s->watch)
		uring_watch_dirty(&u->reactor, s);
}

static void wake_complete(struct uring_reactor *u, const struct io_uring_cqe *cqe)
{
	u->wake_armed = cqe->flags & IORING_CQE_F_MORE;
	if (cqe->res > 0)
		counter_add(&u->reactor.counts.wakeups, 1);
}

/* An operation that a signal ended before it began (a worker of the kernel's was interrupted) has
 * done nothing and is submitted again. */
static void operation_complete(struct uring_reactor *u, struct reactor_io *io, int result)
{
	if (result == -EINTR)
		uring_io_submit(&u->reactor, io);
	else
		reactor_io_complete(&u->reactor, io, result);
}

static void dispatch(struct uring_reactor *u, const struct io_uring_cqe *cqe)
{
	void *pointer = (void *)(uintptr_t)cqe->user_data;

	switch (cqe->user_data & DATA_KIND) {
	case DATA_OPERATION:
		operation_complete(u, pointer, cqe->res);
		break;
	case DATA_WATCH:
		watch_complete(u, cqe->user_data - DATA_WATCH);
		break;
	case DATA_WAKE:
		wake_complete(u, cqe);
		break;
	}
}

/* What is there already; callbacks can only gather, so nothing is added meanwhile but by the
 * kernel, and that waits for the next turn. */
static void dispatch_all(struct uring_reactor *u)
{
	for (unsigned n = io_uring_cq_ready(&u->ring); n; n--) {
		unsigned head = *u->ring.cq.khead & *u->ring.cq.kring_mask;
		struct io_uring_cqe cqe = u->ring.cq.cqes[head];

		io_uring_cq_advance(&u->ring, 1);
		dispatch(u, &cqe);
	}
}

/* Completions that only an entry into the kernel brings into the ring. */
static bool kernel_has_more(const struct uring_reactor *u)
{
	return IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void uring_collect(struct reactor *r)
{
	struct uring_reactor *u = uring_of(r);

	if (u->dirty || u->first)
		flush(u);
	if (io_uring_sq_ready(&u->ring) || kernel_has_more(u))
		submit(u);
	dispatch_all(u);
}

static void uring_sleep(struct reactor *r, uint64_t deadline_ns)
{
	struct uring_reactor *u = uring_of(r);
	uint64_t now = reactor_clock_real(r);
	uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
	struct __kernel_timespec timeout = {
		.tv_sec = (long long)(left / 1000000000),
		.tv_nsec = (long long)(left % 1000000000),
	};
	struct io_uring_cqe *cqe;

	if (!flush(u) || !arm_wake(u))
		return;
	counter_add(&r->counts.kernel_entries, 1);
	io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1,
					 deadline_ns == REACTOR_NEVER ? NULL : &timeout, NULL);
}

/* ---- the rest of the table ---- */

static void uring_run(struct reactor *r)
{
	struct uring_reactor *u = uring_of(r);
	bool registered;

	if (!u->enabled) {
		/* liburing 2.3 does not export its function for this. */
		int err = io_uring_register((unsigned)u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS,
					    NULL, 0);

		assert(!err);
		u->enabled = true;
	}
	/* Spares the kernel a descriptor look-up per entry; it is this thread's, so it goes with
	 * the thread.  Older kernels lack it. */
	registered = io_uring_register_ring_fd(&u->ring) == 1;
	reactor_run_real(r);
	if (registered)
		io_uring_unregister_ring_fd(&u->ring);
}

/* The slot is released by flush_slots(), when its poll has been cancelled. */
static void uring_watch_remove(struct reactor *r, struct reactor_slot *s, int fd)
{
	uring_watch_dirty(r, s);
}

static void uring_free(struct reactor *r)
{
	struct uring_reactor *u = uring_of(r);

	io_uring_queue_exit(&u->ring);
	reactor_destroy(r);
	free(u);
}

static const struct reactor_waiter uring = {
	.run = uring_run,
	.sleep = uring_sleep,
	.collect = uring_collect,
	.clock = reactor_clock_real,
	.watch_add = uring_watch_dirty,
	.watch_change = uring_watch_dirty,
	.watch_remove = uring_watch_remove,
	.io_submit = uring_io_submit,
	.free = uring_free,
};

/* ---- creation ---- */

static int ring_create_with(struct uring_reactor *u, unsigned flags)
{
	struct io_uring_params p = {
		.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
		.cq_entries = CQ_ENTRIES,
	};
	int err = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &p);

	if (err)
		return err;
	if ((p.features & NEEDED) == NEEDED)
		return 0;
	io_uring_queue_exit(&u->ring);
	return -ENOSYS;
}

/* Completions are to be delivered only when the loop asks for them, not by interrupting it. */
static int ring_create(struct uring_reactor *u)
{
	static const unsigned flags[] = {
		/* Linux 6.1 */
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		/* Linux 5.19 */
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int err = -EINVAL;

	for (unsigned i = 0; err == -EINVAL && i < sizeof(flags) / sizeof(flags[0]); i++)
		err = ring_create_with(u, flags[i]);
	return err;
}

struct reactor *reactor_uring_create(const struct reactor_options *options, struct error *e)
{
	struct uring_reactor *u = reactor_allocate(sizeof(*u));
	int err;

	if (!u) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	err = ring_create(u);
	if (err) {
		error_set(e, err, "io_uring: %s", strerror(-err));
		goto no_ring;
	}
	reactor_init(&u->reactor, &uring, options);
	u->end = &u->first;
	u->reactor.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->reactor.wake_fd < 0) {
		error_set(e, -errno, "eventfd: %s", strerror(errno));
		goto no_eventfd;
	}
	return &u->reactor;

no_eventfd:
	io_uring_queue_exit(&u->ring);
	reactor_destroy(&u->reactor);
no_ring:
	free(u);
	return NULL;
}
