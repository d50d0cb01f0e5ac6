/* vfio_user_channel.c - a socket with what comes and goes on it. */
#include "host/vfio_user/vfio_user_channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/descriptor.h"
#include "base/error.h"

enum { COMMANDS_PER_TURN = 64 }; /* other connections wait */

#define NS_PER_S  UINT64_C(1000000000)
#define HALF_NS   (5 * NS_PER_S)
#define UNREAD_NS (30 * NS_PER_S)

static void unwatch(struct vfio_user_channel *ch)
{
	if (ch->watching)
		reactor_watch_remove(&ch->watch);
	ch->watching = false;
}

/* Level-triggered: what nobody would act on is not watched. */
static int watch(struct vfio_user_channel *ch)
{
	short events = (ch->held ? 0 : POLLIN) | (ch->blocked ? POLLOUT : 0);
	int err;

	if (!events)
		unwatch(ch);
	if (ch->watching)
		return reactor_watch_change(&ch->watch, events);
	if (!events)
		return 0;
	ch->watch.fd = ch->fd;
	ch->watch.events = events;
	err = reactor_watch_add(ch->control, &ch->watch);
	ch->watching = !err;
	return err;
}

static int set_patience(struct vfio_user_channel *ch, struct reactor_timer *t, bool *is_set,
			bool wanted, uint64_t ns)
{
	int err = 0;

	if (!wanted)
		reactor_timer_cancel(t);
	else if (!*is_set)
		err = reactor_timer_set(ch->control, t, reactor_now(ch->control) + ns);
	*is_set = wanted && !err;
	return err;
}

static void half_for_too_long(void *arg)
{
	struct vfio_user_channel *ch = arg;

	ch->half_set = false;
	ch->users->timed_out(ch->owner, "the client does not complete its message");
}

static void unread_for_too_long(void *arg)
{
	struct vfio_user_channel *ch = arg;

	ch->unread_set = false;
	ch->users->timed_out(ch->owner, "the client does not read");
}

/* Watches and timers as they must be now. */
static void adjust(struct vfio_user_channel *ch)
{
	bool half = !ch->held && vfio_user_input_is_cut(&ch->input);

	if (watch(ch) || set_patience(ch, &ch->half, &ch->half_set, half, HALF_NS) ||
	    set_patience(ch, &ch->unread, &ch->unread_set, ch->blocked, UNREAD_NS))
		ch->users->broken(ch->owner, "the socket cannot be watched");
}

void vfio_user_channel_flush(struct vfio_user_channel *ch)
{
	uint64_t before = ch->output.sent;
	int err;

	if (ch->resting)
		return;
	err = vfio_user_output_flush(&ch->output, ch->fd);
	if (ch->output.sent != before)
		(void)set_patience(ch, &ch->unread, &ch->unread_set, false, 0);
	if (err && err != -EAGAIN) {
		ch->users->gone(ch->owner); /* it left without waiting for its answer */
		return;
	}
	ch->blocked = err;
	adjust(ch);
}

/* 1: a command is there.  0: nothing more to do. */
static int receive(struct vfio_user_channel *ch)
{
	struct error e = { 0 };
	int got = vfio_user_input_receive(&ch->input, ch->fd, &e);

	if (got == VFIO_USER_WHOLE)
		return 1;
	if (got == VFIO_USER_GONE)
		ch->users->gone(ch->owner);
	else if (got < 0)
		ch->users->broken(ch->owner, e.text);
	return 0;
}

static void take_commands(void *arg)
{
	struct vfio_user_channel *ch = arg;
	unsigned count = 0;

	while (!ch->resting && (ch->held || receive(ch))) {
		ch->held = count == COMMANDS_PER_TURN || !ch->users->command(ch->owner, ch);
		if (ch->held)
			break;
		vfio_user_input_next(&ch->input);
		count++;
	}
	if (ch->resting)
		return;
	if (count == COMMANDS_PER_TURN &&
	    reactor_timer_set(ch->control, &ch->again, reactor_now(ch->control)))
		ch->users->broken(ch->owner, "out of memory");
	else
		adjust(ch);
}

/* A command may have been held because too many answers waited. */
static void socket_is_ready(void *arg)
{
	struct vfio_user_channel *ch = arg;
	bool was_blocked = ch->blocked;

	if (was_blocked)
		vfio_user_channel_flush(ch);
	if (!ch->resting && (was_blocked || !ch->held))
		take_commands(ch);
}

void vfio_user_channel_go_on(struct vfio_user_channel *ch)
{
	if (ch->held)
		take_commands(ch);
}

int vfio_user_channel_open(struct vfio_user_channel *ch, int fd)
{
	int err;

	ch->fd = fd;
	ch->resting = ch->held = ch->blocked = false;
	ch->watch = (struct reactor_watch){ .fd = fd, .fn = socket_is_ready, .arg = ch };
	ch->half = (struct reactor_timer){ .fn = half_for_too_long, .arg = ch };
	ch->unread = (struct reactor_timer){ .fn = unread_for_too_long, .arg = ch };
	ch->again = (struct reactor_timer){ .fn = take_commands, .arg = ch };
	err = watch(ch);
	ch->resting = err;
	if (err)
		fd_close(&ch->fd);
	return err;
}

void vfio_user_channel_rest(struct vfio_user_channel *ch)
{
	ch->resting = true;
	unwatch(ch);
	reactor_timer_cancel(&ch->again);
	reactor_timer_cancel(&ch->half);
	reactor_timer_cancel(&ch->unread);
	ch->half_set = ch->unread_set = false;
}

void vfio_user_channel_close(struct vfio_user_channel *ch)
{
	if (ch->fd < 0)
		return;
	vfio_user_channel_rest(ch);
	vfio_user_input_clear(&ch->input);
	vfio_user_output_clear(&ch->output);
	fd_close(&ch->fd);
}
