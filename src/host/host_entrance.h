/* host_entrance.h - where clients come from, one at a time.
 *
 * A server listens, serves the client that it accepts until that leaves, and accepts the next.
 * A client (address.connect) connects, again and again with growing pauses, whenever it is not
 * connected.  An inherited socket that is connected already is served once.  Control thread.
 */
#ifndef HOST_HOST_ENTRANCE_H
#define HOST_HOST_ENTRANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "host/host_listener.h"
#include "reactor/reactor.h"

struct error;
struct host_address;
struct host_journal;

struct host_entrance {		/* embedded; the first four are set by its owner */
	struct reactor *control;	/* borrowed */
	struct host_journal *journal;	/* borrowed */
	/* A client has come; the connected, non-blocking socket moves to the owner.  0 or -errno,
	 * then it is closed and the entrance tries again later. */
	int (*arrived)(void *owner, int fd);
	void *owner;

	/* The rest is private. */
	struct host_listener listener;	/* closed in client mode */
	struct reactor_watch watch;	/* of the listener, while nobody is connected */
	char *connect_path;		/* owned; NULL: not in client mode */
	int inherited;			/* owned: connected from the start; else -1 */
	struct reactor_timer pause;	/* before the next attempt to connect or accept */
	uint64_t pause_ns;		/* the next one's length */
	bool outage_told;		/* why there is nobody to connect to, once */
};

/* address->fd moves to the entrance, unless it fails.  0, or -errno with *e. */
int host_entrance_open(struct host_entrance *en, const struct host_address *address,
		       struct error *e);

/* Nobody is connected: from here on the next client arrives, even before this returns. */
void host_entrance_begin(struct host_entrance *en);

/* The client has left, the next may come.  had_business: it did not hang up at once; whoever does
 * is not called back at once. */
void host_entrance_again(struct host_entrance *en, bool had_business);

/* Nobody finds us any more; idempotent. */
void host_entrance_close(struct host_entrance *en);

#endif
