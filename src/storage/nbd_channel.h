/* nbd_channel.h - a storage channel of an NBD disk: its connection, here or on another reactor.
 *
 * A channel whose connection lives elsewhere sends its requests over in an outbox and gets them
 * back in an inbox; each takes any number of requests for one crossing.
 */
#ifndef STORAGE_NBD_CHANNEL_H
#define STORAGE_NBD_CHANNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "reactor/reactor.h"

struct nbd_connection;
struct nbd_disk;
struct nbd_request;
struct nbd_withdrawal;
struct storage_layer_channel;

/* Requests on their way to one reactor. */
struct nbd_mailbox {
	pthread_mutex_t lock; /* guards the rest */
	struct nbd_request *head, **end;
	bool posted;            /* the task is on its way and has not begun */
	struct reactor *reactor; /* where the task runs */
	struct reactor_task task;
};

struct nbd_channel {
	struct storage_layer_channel *layer;
	struct nbd_disk *disk;
	struct nbd_connection *connection;
	struct reactor *reactor;
	bool local; /* the connection lives on this reactor */
	uint32_t epoch;     /* withdrawals so far, and one */
	uint32_t withdrawn; /* the connection's home: the epoch of the last that came there */
	struct nbd_withdrawal *withdrawal; /* owned, or on its way */
	struct nbd_mailbox outbox, inbox;
	struct nbd_channel *next; /* of the disk's; under its lock */
};

/* The connection's home thread: ends the request on its channel's own reactor. */
void nbd_channel_deliver(struct nbd_request *request, int status);

#endif
