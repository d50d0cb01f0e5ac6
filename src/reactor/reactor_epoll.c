/* reactor_epoll.c - waits with epoll, where the kernel refuses io_uring.
 *
 * While pollers keep the loop awake, looking at the descriptors costs a system call each time, so
 * it is done every LOOK_NS only, or every turn for as long as something is found.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "reactor/reactor_io_pool.h"
#include "reactor/reactor_loop.h"

#define EVENTS_MAX 64
#define LOOK_NS    20000
#define WAKE_KEY   0 /* no slot's */

struct epoll_reactor {
	struct reactor reactor;
	int epoll_fd;                 /* owned */
	struct reactor_io_pool *pool; /* owned */
	struct epoll_event events[EVENTS_MAX];
	int count;  /* of them, not yet dispatched */
	bool slept; /* and so has just looked */
	uint64_t look_again_ns;
	bool coarse; /* timeouts are milliseconds: before Linux 5.11 */
};

static struct epoll_reactor *epoll_of(struct reactor *r)
{
	return (struct epoll_reactor *)((char *)r - offsetof(struct epoll_reactor, reactor));
}

/* ---- waiting ---- */

static void took_events(struct epoll_reactor *ep, int count)
{
	counter_add(&ep->reactor.counts.kernel_entries, 1);
	ep->count = count > 0 ? count : 0;
}

/* Rounded up, so that a timer is due when its sleep is over. */
static int milliseconds(uint64_t left_ns)
{
	uint64_t left = left_ns / 1000000 + 1;

	return left > 1000000 ? 1000000 : (int)left;
}

static int wait_coarse(struct epoll_reactor *ep, bool forever, uint64_t left_ns)
{
	return epoll_wait(ep->epoll_fd, ep->events, EVENTS_MAX,
			  forever ? -1 : milliseconds(left_ns));
}

static int wait_fine(struct epoll_reactor *ep, bool forever, uint64_t left_ns)
{
	struct timespec timeout = {
		.tv_sec = (time_t)(left_ns / 1000000000),
		.tv_nsec = (long)(left_ns % 1000000000),
	};

	return epoll_pwait2(ep->epoll_fd, ep->events, EVENTS_MAX, forever ? NULL : &timeout, NULL);
}

static void epoll_sleep(struct reactor *r, uint64_t deadline_ns)
{
	struct epoll_reactor *ep = epoll_of(r);
	uint64_t now = reactor_clock_real(r);
	uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
	bool forever = deadline_ns == REACTOR_NEVER;
	int count = -1;

	if (!ep->coarse) {
		count = wait_fine(ep, forever, left);
		ep->coarse = count < 0 && (errno == ENOSYS || errno == EPERM);
	}
	if (ep->coarse)
		count = wait_coarse(ep, forever, left);
	took_events(ep, count);
	ep->slept = true;
}

static void look(struct epoll_reactor *ep)
{
	if (ep->slept)
		ep->slept = false;
	else if (ep->reactor.now_ns >= ep->look_again_ns)
		took_events(ep, epoll_wait(ep->epoll_fd, ep->events, EVENTS_MAX, 0));
	else
		return;
	ep->look_again_ns = ep->reactor.now_ns + (ep->count ? 0 : LOOK_NS);
}

static void wake_drain(struct epoll_reactor *ep)
{
	uint64_t writes;

	counter_add(&ep->reactor.counts.kernel_entries, 1);
	if (read(ep->reactor.wake_fd, &writes, sizeof(writes)) == sizeof(writes))
		counter_add(&ep->reactor.counts.wakeups, writes);
}

static void epoll_collect(struct reactor *r)
{
	struct epoll_reactor *ep = epoll_of(r);

	look(ep);
	for (int i = 0; i < ep->count; i++) {
		if (ep->events[i].data.u64 == WAKE_KEY)
			wake_drain(ep);
		else
			reactor_slot_ready(r, ep->events[i].data.u64);
	}
	ep->count = 0;
}

/* ---- the rest of the table ---- */

static int control(struct epoll_reactor *ep, int operation, struct reactor_slot *s)
{
	struct epoll_event event = {
		.events = (unsigned short)s->watch->events,
		.data.u64 = reactor_slot_key(s),
	};

	counter_add(&ep->reactor.counts.kernel_entries, 1);
	return epoll_ctl(ep->epoll_fd, operation, s->watch->fd, &event) ? -errno : 0;
}

static int epoll_watch_add(struct reactor *r, struct reactor_slot *s)
{
	return control(epoll_of(r), EPOLL_CTL_ADD, s);
}

static int epoll_watch_change(struct reactor *r, struct reactor_slot *s)
{
	return control(epoll_of(r), EPOLL_CTL_MOD, s);
}

static void epoll_watch_remove(struct reactor *r, struct reactor_slot *s, int fd)
{
	counter_add(&r->counts.kernel_entries, 1);
	epoll_ctl(epoll_of(r)->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	reactor_slot_release(r, s);
}

static void epoll_io_submit(struct reactor *r, struct reactor_io *io)
{
	reactor_io_pool_submit(epoll_of(r)->pool, io);
}

static void epoll_free(struct reactor *r)
{
	struct epoll_reactor *ep = epoll_of(r);

	reactor_io_pool_free(ep->pool);
	fd_close(&ep->epoll_fd);
	reactor_destroy(r);
	free(ep);
}

static const struct reactor_waiter epoll = {
	.run = reactor_run_real,
	.sleep = epoll_sleep,
	.collect = epoll_collect,
	.clock = reactor_clock_real,
	.watch_add = epoll_watch_add,
	.watch_change = epoll_watch_change,
	.watch_remove = epoll_watch_remove,
	.io_submit = epoll_io_submit,
	.free = epoll_free,
};

/* ---- creation ---- */

static int open_descriptors(struct epoll_reactor *ep)
{
	struct epoll_event wake = { .events = EPOLLIN, .data.u64 = WAKE_KEY };

	ep->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	ep->reactor.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ep->epoll_fd < 0 || ep->reactor.wake_fd < 0 ||
	    epoll_ctl(ep->epoll_fd, EPOLL_CTL_ADD, ep->reactor.wake_fd, &wake))
		return -errno;
	return 0;
}

struct reactor *reactor_epoll_create(const struct reactor_options *options, struct error *e)
{
	struct epoll_reactor *ep = reactor_allocate(sizeof(*ep));
	int err;

	if (!ep) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	reactor_init(&ep->reactor, &epoll, options);
	ep->pool = reactor_io_pool_create(&ep->reactor);
	err = open_descriptors(ep);
	if (!err && !ep->pool)
		err = -ENOMEM;
	if (err) {
		error_set(e, err, "epoll: %s", strerror(-err));
		epoll_free(&ep->reactor);
		return NULL;
	}
	return &ep->reactor;
}
