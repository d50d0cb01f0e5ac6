/* vfio_user_connection.h - one client at our socket, from its first byte until the function has let
 * go of everything it gave us.  Control thread.
 *
 * Commands are handled strictly one after the other, in the order of arrival, and are answered at
 * once, but for those that wait for the function: DMA_MAP, DMA_UNMAP, DEVICE_RESET.  While one of
 * those is under way the next command is received and kept, replies before it are taken as ever.
 *
 * QEMU waits for such an answer with its big lock held and meanwhile answers no DMA message of
 * ours.  So nothing that we wait for may need the client:
 * - An unmap of remote memory fails the transfers into it, and is answered.
 * - An unmap of mapped memory waits until the last request has let go of it.  A request that also
 *   waits for remote memory gets RELEASE_PATIENCE, then all remote transfers fail.
 * - A reset, and the end of a connection, begin by failing all remote transfers, and let no new
 *   ones begin until they are done.
 *
 *	OPEN --lost, broken, or asked to end--> ENDING --> CLOSED
 *
 * ENDING resets the function, takes the memory away from it, and waits until nothing of the
 * client's is in use.  Only then the socket is closed.  vfio-user.rst, "Client Disconnection",
 * would have the device keep its state; a client that comes back resets it first (QEMU does),
 * and one that does not is another client, to whom nothing should be left.
 *
 * A client may be silent for ever, but not in the middle of a message, its own or our answer.
 */
#ifndef HOST_VFIO_USER_VFIO_USER_CONNECTION_H
#define HOST_VFIO_USER_VFIO_USER_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "host/vfio_user/vfio_user_channel.h"
#include "host/vfio_user/vfio_user_dma.h"
#include "host/vfio_user/vfio_user_version.h"
#include "reactor/reactor.h"

struct error;
struct host_journal;
struct iovec;
struct memory_map;
struct migrate;
struct pci_function;
struct vfio_user_connection;
struct vfio_user_mask;

typedef void vfio_user_step(struct vfio_user_connection *c);

enum vfio_user_state { VFIO_USER_CLOSED, VFIO_USER_OPEN, VFIO_USER_ENDING };

struct vfio_user_numbers {
	uint64_t connections, disconnects;
	uint64_t commands, commands_refused;	/* answered well; answered with an error */
	uint64_t protocol_errors;		/* that ended a connection */
	uint64_t timeouts;			/* half a message, or an answer not read */
	uint64_t release_timeouts;		/* transfers failed so that an unmap could go on */
	uint64_t maps, unmaps, resets;
	struct vfio_user_dma_numbers dma;
};

struct vfio_user_connection {
	struct pci_function *function;		/* borrowed */
	struct migrate *migrate;		/* borrowed: the function's migration */
	struct reactor *control;		/* borrowed */
	struct vfio_user_numbers *numbers;	/* borrowed */
	struct host_journal *journal;		/* borrowed */
	void (*ended)(void *owner);	/* last thing a connection does; may open it again */
	void *owner;

	enum vfio_user_state state;
	struct vfio_user_channel main;
	struct vfio_user_channel twin;		/* for our commands, if the client offered that */
	bool negotiated;			/* VERSION has been answered */
	struct vfio_user_terms terms;

	/* The command under way, and what it waits for. */
	bool working;
	struct vfio_user_header work;
	struct vfio_user_dma_unmap unmap;	/* its payload, if it is one */
	struct reactor_task change;		/* the function's memory, applied */
	vfio_user_step *after_change;		/* NULL: no change under way */
	struct reactor_task reset;
	bool resetting;
	struct reactor_task migration;		/* a change of state, or of the log, is done */
	bool migrating;
	void *feature;				/* owned: the reply that waits for it; NULL: none */
	size_t feature_bytes;
	struct reactor_task *releases;		/* owned, one per unmapped region; NULL: none */
	unsigned releasing;			/* of those, not released yet */
	struct reactor_timer patience;		/* with releases */
	bool memory_taken;			/* ENDING: the function has been given no memory */

	struct vfio_user_mask *masks;		/* owned; vfio_user_mask.h */
	struct memory_map *map;			/* owned; NULL: nothing mapped */
	struct vfio_user_dma dma;
};

/* Once, before anything else: everything borrowed above is set. */
void vfio_user_connection_prepare(struct vfio_user_connection *c);

/* Serves the socket, which moves to the connection.  CLOSED before.  0 or -errno (then fd is
 * closed). */
int vfio_user_connection_open(struct vfio_user_connection *c, int fd);

/* Not CLOSED.  Ends it, then calls ended. */
void vfio_user_connection_end(struct vfio_user_connection *c);

/* ---- for command handlers ---- */

/* Answers a command that has come in h, with a payload in parts.  Nothing is sent for one that
 * wants no reply. */
void vfio_user_connection_reply(struct vfio_user_connection *c, const struct vfio_user_header *h,
				const struct iovec *parts, unsigned count, const int *fds,
				unsigned fd_count);

/* The task for the one change of the function's memory that is begun next; `after` runs when it is
 * applied. */
struct reactor_task *vfio_user_connection_change(struct vfio_user_connection *c,
						 vfio_user_step *after);

/* Goes on after something that the command under way, or the end, waited for. */
void vfio_user_connection_go_on(struct vfio_user_connection *c);

/* Completes the command whose handler returned VFIO_USER_LATER, with a payload of n bytes. */
void vfio_user_connection_finish(struct vfio_user_connection *c, void *payload, size_t n);

/* Completes it with an error. */
void vfio_user_connection_fail(struct vfio_user_connection *c, const struct error *e);

/* vfio_user_migration.c: what the connection does once, and at the end of a change. */
void vfio_user_migration_prepare(struct vfio_user_connection *c);

/* Drops a connection that cannot go on. */
void vfio_user_connection_break(struct vfio_user_connection *c, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
