/* link_watch.h - whether one of the kernel's network interfaces has a carrier, by rtnetlink(7). */
#ifndef NETWORK_LINK_WATCH_H
#define NETWORK_LINK_WATCH_H

#include <stdbool.h>

struct error;
struct link_watch;
struct reactor;

/* Watches the interface of this index, in the calling thread's network namespace.  changed(arg)
 * runs on the control reactor, never inside open, after link_watch_up() has come to answer
 * otherwise; it may close the watch.  Control thread, as is all below.
 * NULL with *e: -ENODEV, there is no such interface; else what the kernel says. */
struct link_watch *link_watch_open(struct reactor *control, int interface,
				   void (*changed)(void *arg), void *arg, struct error *e);
void link_watch_close(struct link_watch *w);	/* NULL is ignored */

/* Set up by its administrator, and with a carrier. */
bool link_watch_up(const struct link_watch *w);

/* It was deleted, or moved to another namespace; it is down for ever. */
bool link_watch_gone(const struct link_watch *w);

#endif
