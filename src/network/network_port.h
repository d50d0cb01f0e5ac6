/* network_port.h - a place that frames go to and come from.  The face for those who use one.
 *
 * A port is opened on the control thread from a URI ("capture+tap:vm1?file=/tmp/x.pcapng") and
 * used through queues, one per pair of a device's queues: a queue is private to its reactor.
 * Frames are Ethernet without the check sequence.  Each comes with a struct virtio_net_hdr
 * (little-endian; virtio 1.3, 5.1.6) that says what checksums and segmentation are still to be
 * done: a port that cannot leave that to others never sees such a frame, and a user that did not
 * ask for it never gets one; both are done in between, in software.
 */
#ifndef NETWORK_NETWORK_PORT_H
#define NETWORK_NETWORK_PORT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

struct error;
struct network_port;
struct network_queue;
struct reactor;

enum {
	NETWORK_HEADER = 14,		/* bytes: addresses and type */
	NETWORK_FRAME_MAX = 65536 + 64,	/* bytes of a frame with all its tags, not yet segmented */
	NETWORK_QUEUES_MAX = 16,
	NETWORK_MTU_MIN = 68,		/* RFC 791 */
	NETWORK_MTU_MAX = 65535,
	NETWORK_HASH_KEY = 40,		/* bytes */
	NETWORK_TABLE_MAX = 128,	/* queues named for what a hash may be */
};

/* What may be left undone in a frame. */
enum network_offload {
	NETWORK_CHECKSUM = 1,		/* VIRTIO_NET_HDR_F_NEEDS_CSUM */
	NETWORK_TSO4 = 2, NETWORK_TSO6 = 4, NETWORK_ECN = 8, NETWORK_UFO = 16,
	NETWORK_USO4 = 32, NETWORK_USO6 = 64,
	NETWORK_ALL = 127,
};

/* A frame that has come. */
struct network_frame {
	struct virtio_net_hdr header;
	uint8_t *bytes;			/* the port's memory, until network_consume() */
	uint32_t length;
	/* Set by network_peek(): VIRTIO_NET_HASH_REPORT_..., and the hash if that is not 0. */
	uint32_t hash;
	uint8_t hash_report;
};

/* Which queue a frame that comes belongs to (virtio 1.3, 5.1.6.5.7). */
struct network_steering {
	uint32_t hash_types;		/* VIRTIO_NET_RSS_HASH_TYPE_...: those to be computed */
	uint8_t key[NETWORK_HASH_KEY];
	bool by_table;			/* false: the port spreads frames as it sees fit */
	uint16_t mask;			/* of the hash: a power of two, less one */
	uint16_t unclassified;		/* the queue of frames that have no hash */
	uint16_t table[NETWORK_TABLE_MAX];
};

/* What a port knows of the network behind it; 0: nothing. */
struct network_limits {
	unsigned queues;		/* it can serve, at least 1 */
	unsigned offloads;		/* enum network_offload: done behind it */
	uint32_t mtu;			/* bytes, the largest that passes */
};

/* Control thread; may block for a moment.  name ("net0") stands in messages and counters.
 * queues: how many will be opened at most.  NULL with *e. */
struct network_port *network_port_open(const char *name, const char *uri, unsigned queues,
				       struct reactor *control, struct error *e);
void network_port_close(struct network_port *p);	/* no queue is open; NULL is ignored */
const struct network_limits *network_port_limits(const struct network_port *p);

/* Whether there is a carrier; fn runs on the control reactor after a change.  One listener. */
bool network_port_link(const struct network_port *p);
void network_port_set_listener(struct network_port *p, void (*fn)(void *arg), void *arg);

/* Any thread.  offloads: what frames that come may have undone.  active: frames are spread over
 * the queues 0..active-1. */
void network_port_set_offloads(struct network_port *p, unsigned offloads);
void network_port_set_active(struct network_port *p, unsigned active);

/* Any thread; never two at once.  Frames on their way are spread as before.  A queue that is named
 * and not open loses its frames.  0, or -EINVAL: there is no such queue, or no such mask. */
int network_port_set_steering(struct network_port *p, const struct network_steering *s);

/* The reactor's own thread.  ready(arg) runs when a frame may have come; it stays quiet until
 * network_peek() has returned 0 once. */
struct network_queue *network_queue_open(struct network_port *p, unsigned index, struct reactor *r,
					 void (*ready)(void *arg), void *arg, struct error *e);
/* What waits for the user is lost, and counted (come_lost_stopping), and so is what comes until the
 * next open (come_lost_stopped, the port's; docs/migration.md says which ports keep some). */
void network_queue_close(struct network_queue *q);

/* The rest: the queue's reactor.  None of it blocks.
 *
 * One frame of `bytes` >= NETWORK_HEADER bytes, as many as iov has.  The memory is the caller's
 * again at return.  0, or -errno: the frame is lost, and counted. */
int network_send(struct network_queue *q, const struct virtio_net_hdr *header,
		 const struct iovec *iov, unsigned n, size_t bytes);

/* Frames sent in a turn may stay in the port until this. */
void network_flush(struct network_queue *q);

/* The next frame: 1; 0 none.  It stays the next until it is consumed. */
int network_peek(struct network_queue *q, struct network_frame *f);
void network_consume(struct network_queue *q);

/* What a URI consists of, then each provider and filter, for --help. */
void network_print_help(FILE *to);

#endif
