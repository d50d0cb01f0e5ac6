/* user_stack.c - libslirp and the thread that it lives in. */
#include "network/user_stack.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "network/frame_ring.h"

enum {
	FRAMES_PER_TURN = 256, /* of the guest's, before sockets are looked at again */
	LONGEST_WAIT = 60000,  /* milliseconds */
};

struct user_timer {
	struct user_timer *next;
	SlirpTimerCb fn;
	void *arg;
	int64_t due_ms; /* -1: not set */
};

/* All but the ring and `stopping` is the thread's, once it runs. */
struct user_stack {
	char name[48];
	Slirp *slirp;
	struct frame_ring *sent; /* owned: the guest's frames */
	int wake_fd;
	_Atomic bool stopping;
	pthread_t thread;
	void (*come)(void *arg, const uint8_t *frame, size_t n);
	void *arg;
	struct user_timer *timers;
	struct pollfd *polls; /* owned */
	unsigned poll_count, poll_room;
	struct log_limit complaints;
};

/* ---- what the library asks for ---- */

static int64_t now_ns(void *opaque)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static ssize_t packet_comes(const void *bytes, size_t n, void *opaque)
{
	struct user_stack *u = opaque;

	u->come(u->arg, bytes, n);
	return n;
}

static void complain(const char *text, void *opaque)
{
	struct user_stack *u = opaque;

	if (log_limit_take(&u->complaints, 10))
		log_warning("port %s: the guest: %s", u->name, text);
}

/* The library cannot do without: no memory for a timer ends it, as any of its own allocations. */
static void *timer_new(SlirpTimerCb fn, void *arg, void *opaque)
{
	struct user_stack *u = opaque;
	struct user_timer *t = calloc(1, sizeof(*t));

	if (!t)
		abort();
	*t = (struct user_timer){ .next = u->timers, .fn = fn, .arg = arg, .due_ms = -1 };
	u->timers = t;
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct user_stack *u = opaque;
	struct user_timer **link = &u->timers;

	while (*link != timer)
		link = &(*link)->next;
	*link = (*link)->next;
	free(timer);
}

static void timer_mod(void *timer, int64_t due_ms, void *opaque)
{
	struct user_timer *t = timer;

	t->due_ms = due_ms;
}

/* All sockets are named anew before each wait. */
static void socket_registered(int fd, void *opaque)
{
}

static void notified(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = packet_comes,
	.guest_error = complain,
	.clock_get_ns = now_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = socket_registered,
	.unregister_poll_fd = socket_registered,
	.notify = notified,
};

/* ---- waiting ---- */

static const struct {
	int slirp;
	short poll;
} events[] = {
	{ SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

static int add_poll(int fd, int wanted, void *opaque)
{
	struct user_stack *u = opaque;
	struct pollfd *p;

	if (u->poll_count == u->poll_room) {
		p = realloc(u->polls, 2 * u->poll_room * sizeof(*p));
		if (!p)
			return -1;
		u->polls = p;
		u->poll_room *= 2;
	}
	p = &u->polls[u->poll_count];
	*p = (struct pollfd){ .fd = fd };
	for (unsigned i = 0; i < ARRAY_LENGTH(events); i++)
		if (wanted & events[i].slirp)
			p->events |= events[i].poll;
	return u->poll_count++;
}

static int get_events(int index, void *opaque)
{
	struct user_stack *u = opaque;
	int found = 0;

	for (unsigned i = 0; index >= 0 && i < ARRAY_LENGTH(events); i++)
		if (u->polls[index].revents & events[i].poll)
			found |= events[i].slirp;
	return found;
}

static uint32_t until_timers(const struct user_stack *u, uint32_t wait_ms)
{
	int64_t now = now_ns(NULL) / 1000000;

	for (const struct user_timer *t = u->timers; t; t = t->next)
		if (t->due_ms >= 0)
			wait_ms = minimum_u64(wait_ms, maximum_u64(t->due_ms, now) - now);
	return wait_ms;
}

/* A timer may free itself or others: after each the list is looked through again.  None is due
 * twice, since its time is set anew by its function only. */
static void run_timers(struct user_stack *u)
{
	int64_t now = now_ns(NULL) / 1000000;
	struct user_timer *t = u->timers;

	while (t) {
		if (t->due_ms < 0 || t->due_ms > now) {
			t = t->next;
			continue;
		}
		t->due_ms = -1;
		t->fn(t->arg);
		t = u->timers;
	}
}

static void take_frames(struct user_stack *u)
{
	struct network_frame f;

	for (unsigned i = 0; i < FRAMES_PER_TURN && frame_ring_peek(u->sent, &f); i++) {
		slirp_input(u->slirp, f.bytes, f.length);
		frame_ring_consume(u->sent);
	}
}

/* More of the guest's frames than fit into a turn: do not sleep over them. */
static bool has_frames(struct user_stack *u)
{
	struct network_frame f;

	return frame_ring_peek(u->sent, &f);
}

static void turn(struct user_stack *u)
{
	uint32_t wait_ms = LONGEST_WAIT;
	uint64_t count;
	int status;

	u->poll_count = 1;
	slirp_pollfds_fill(u->slirp, &wait_ms, add_poll, u);
	wait_ms = has_frames(u) ? 0 : until_timers(u, wait_ms);
	u->polls[0] = (struct pollfd){ .fd = u->wake_fd, .events = POLLIN };
	status = poll(u->polls, u->poll_count, wait_ms);
	if (status > 0 && u->polls[0].revents && read(u->wake_fd, &count, sizeof(count)) < 0)
		log_debug("port %s: eventfd: read failed", u->name);
	slirp_pollfds_poll(u->slirp, status < 0, get_events, u);
	run_timers(u);
	take_frames(u);
}

static void *run(void *arg)
{
	struct user_stack *u = arg;

	frame_ring_open(u->sent);
	while (!atomic_load(&u->stopping))
		turn(u);
	frame_ring_close(u->sent);
	return NULL;
}

static void wake(void *arg)
{
	struct user_stack *u = arg;
	uint64_t one = 1;

	if (write(u->wake_fd, &one, sizeof(one)) < 0)
		log_debug("port %s: eventfd: write failed", u->name);
}

int user_stack_send(struct user_stack *u, const struct iovec *iov, unsigned n, size_t bytes)
{
	static const struct virtio_net_hdr nothing_undone;

	return frame_ring_put(u->sent, &nothing_undone, iov, n, bytes);
}

/* ---- life ---- */

static struct in_addr host_number(const struct user_stack_options *o, uint32_t number)
{
	return (struct in_addr){ o->net.s_addr | htonl(number) };
}

static Slirp *slirp_create(struct user_stack *u, const struct user_stack_options *o)
{
	SlirpConfig c = {
		.version = 4,
		.restricted = o->restricted,
		.in_enabled = true,
		.vnetwork = o->net,
		.vnetmask = o->mask,
		.vhost = host_number(o, 2),
		.vdhcp_start = host_number(o, 15),
		.vnameserver = host_number(o, 3),
		.in6_enabled = o->ipv6,
		.vprefix_len = 64,
		.vhostname = o->hostname,
		.if_mtu = o->mtu,
		.if_mru = o->mtu,
		.disable_host_loopback = !o->loopback,
	};

	inet_pton(AF_INET6, "fec0::", &c.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &c.vhost6);
	inet_pton(AF_INET6, "fec0::3", &c.vnameserver6);
	return slirp_new(&c, &callbacks, u);
}

static int add_forwards(struct user_stack *u, const struct user_stack_options *o, struct error *e)
{
	for (unsigned i = 0; i < o->forward_count; i++) {
		const struct user_stack_forward *f = &o->forwards[i];

		if (slirp_add_hostfwd(u->slirp, f->udp, f->address, f->port, host_number(o, 15),
				      f->guest_port))
			return error_set(e, -errno,
					 "option \"forward\": %s port %u of the host: %s",
					 f->udp ? "UDP" : "TCP", f->port, strerror(errno));
	}
	return 0;
}

/* Signals are for the control thread. */
static int thread_start(struct user_stack *u, struct error *e)
{
	sigset_t all, old;
	int status;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	status = pthread_create(&u->thread, NULL, run, u);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return status ? error_set(e, -status, "thread: %s", strerror(status)) : 0;
}

static void parts_free(struct user_stack *u)
{
	if (u->slirp)
		slirp_cleanup(u->slirp);
	frame_ring_free(u->sent);
	fd_close(&u->wake_fd);
	free(u->polls);
	free(u);
}

static int parts_create(struct user_stack *u, const struct user_stack_options *o, struct error *e)
{
	u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->wake_fd < 0)
		return error_set(e, -errno, "eventfd: %s", strerror(errno));
	u->poll_room = 64;
	u->polls = calloc(u->poll_room, sizeof(*u->polls));
	u->sent = frame_ring_create(wake, u);
	if (u->polls && u->sent)
		u->slirp = slirp_create(u, o);
	if (!u->slirp)
		return error_set(e, -ENOMEM, "out of memory");
	return add_forwards(u, o, e);
}

struct user_stack *user_stack_start(const struct user_stack_options *o, struct error *e)
{
	struct user_stack *u = calloc(1, sizeof(*u));

	if (!u) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	snprintf(u->name, sizeof(u->name), "%s", o->name);
	u->come = o->come;
	u->arg = o->arg;
	u->wake_fd = -1;
	if (!parts_create(u, o, e) && !thread_start(u, e))
		return u;
	parts_free(u);
	return NULL;
}

void user_stack_stop(struct user_stack *u)
{
	atomic_store(&u->stopping, true);
	wake(u);
	pthread_join(u->thread, NULL);
	parts_free(u);
}
