/* host_entrance.c - where clients come from, one at a time. */
#include "host/host_entrance.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/log.h"
#include "host/host_journal.h"
#include "host/host_transport.h"

#define NS_PER_MS      UINT64_C(1000000)
#define PAUSE_FIRST_NS (100 * NS_PER_MS)
#define PAUSE_LAST_NS  (5000 * NS_PER_MS)

static void pause_before_next(struct host_entrance *en)
{
	uint64_t at = reactor_now(en->control) + en->pause_ns;

	en->pause_ns = minimum_u64(en->pause_ns * 2, PAUSE_LAST_NS);
	if (reactor_timer_set(en->control, &en->pause, at))
		log_error("%s: %s: out of memory: no connection will be made any more",
			  en->journal->device, en->journal->transport);
}

static void serve(struct host_entrance *en, int fd)
{
	int err = en->arrived(en->owner, fd);

	en->outage_told = false;
	if (!err)
		return;
	host_journal_warn(en->journal, "connection dropped: %s", strerror(-err));
	pause_before_next(en);
}

static void client_arrived(void *arg)
{
	struct host_entrance *en = arg;
	int fd = host_listener_accept(&en->listener);

	if (fd == -EAGAIN || fd == -ECONNABORTED || fd == -EINTR)
		return;
	reactor_watch_remove(&en->watch); /* others wait in the backlog until this one has left */
	if (fd >= 0) {
		serve(en, fd);
		return;
	}
	host_journal_warn(en->journal, "accept: %s", strerror(-fd));
	pause_before_next(en); /* out of descriptors, probably: that passes */
}

static void listen_again(struct host_entrance *en)
{
	int err = reactor_watch_add(en->control, &en->watch);

	if (!err)
		return;
	host_journal_warn(en->journal, "listen: %s", strerror(-err));
	pause_before_next(en);
}

static void try_to_connect(struct host_entrance *en)
{
	struct error e = { 0 };
	int fd = host_connect(en->connect_path, &e);

	if (fd >= 0) {
		serve(en, fd);
		return;
	}
	if (!en->outage_told)
		host_journal_warn(en->journal, "%s; trying again", e.text);
	en->outage_told = true;
	pause_before_next(en);
}

static void wait_for_client(void *arg)
{
	struct host_entrance *en = arg;

	if (en->connect_path)
		try_to_connect(en);
	else if (en->listener.fd >= 0)
		listen_again(en);
	else if (en->inherited >= 0)
		serve(en, fd_take(&en->inherited));
	else
		log_info("%s: %s: the inherited connection has ended", en->journal->device,
			 en->journal->transport);
}

/* Where the address leads: a listener, a path to connect to, or a connection. */
static int settle(struct host_entrance *en, const struct host_address *a, struct error *e)
{
	int err;

	if (a->connect) {
		en->connect_path = strdup(a->path);
		return en->connect_path ? 0 : error_set(e, -ENOMEM, "out of memory");
	}
	if (a->path)
		return host_listener_open(&en->listener, a->path, e);
	err = host_listener_adopt(&en->listener, a->fd, e);
	if (err == 1)
		en->inherited = a->fd;
	return err < 0 ? err : 0;
}

int host_entrance_open(struct host_entrance *en, const struct host_address *a, struct error *e)
{
	int err;

	en->listener.fd = -1;
	en->inherited = -1;
	en->pause_ns = PAUSE_FIRST_NS;
	en->watch = (struct reactor_watch){
		.fd = -1, .events = POLLIN, .fn = client_arrived, .arg = en
	};
	en->pause = (struct reactor_timer){ .fn = wait_for_client, .arg = en };
	err = settle(en, a, e);
	en->watch.fd = en->listener.fd;
	return err;
}

void host_entrance_begin(struct host_entrance *en)
{
	wait_for_client(en);
}

void host_entrance_again(struct host_entrance *en, bool had_business)
{
	if (had_business)
		en->pause_ns = PAUSE_FIRST_NS;
	if (en->connect_path)
		pause_before_next(en);
	else
		wait_for_client(en);
}

void host_entrance_close(struct host_entrance *en)
{
	reactor_timer_cancel(&en->pause);
	reactor_watch_remove(&en->watch);
	host_listener_close(&en->listener);
	fd_close(&en->inherited);
	free(en->connect_path);
	en->connect_path = NULL;
}
