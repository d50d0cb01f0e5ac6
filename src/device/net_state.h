/* net_state.h - a network device and its queues, as the net*.c files share them.
 *
 * Queues 2i and 2i+1 are pair i: receive and transmit.  The control queue is behind the last pair
 * of the features accepted (virtio 1.3, 5.1.2).  It lives on one worker, pairs on others: what its
 * commands change is atomic.
 */
#ifndef DEVICE_NET_STATE_H
#define DEVICE_NET_STATE_H

#include <linux/virtio_net.h>
#include <stdatomic.h>

#include "base/counter.h"
#include "device/net.h"
#include "device/net_filter.h"
#include "network/network_port.h"
#include "reactor/reactor.h"
#include "virtio/virtio_queue.h"

struct stream_reader;
struct stream_writer;

enum { NET_QUEUES_MAX = 2 * NET_PAIRS_MAX + 1 };

struct net_numbers {
	uint64_t sent_frames, sent_bytes, sent_refused, sent_lost;
	uint64_t come_frames, come_bytes, come_filtered, come_too_long, come_buffers;
	uint64_t starved;		/* a frame had to wait for buffers */
	uint64_t commands, commands_refused;
};

/* The two queues of a pair live on one worker, and share a queue of the port. */
struct net_pair {
	struct network_queue *port;		/* NULL: neither is started */
	struct net_queue *receive;		/* NULL: not started */
	unsigned users;
};

struct net_queue {
	struct net *net;
	struct virtio_queue *queue;
	struct network_queue *port;		/* its pair's, from start to stop */
	uint16_t header;			/* bytes of the virtio_net_hdr in use */
	bool mergeable;
	/* Receive: buffers taken for a frame that needs more of them than there were. */
	struct virtqueue_chain **held;		/* owned, from start to stop */
	unsigned held_count;
	uint64_t held_bytes;
	_Atomic bool enabled;			/* receive: the driver takes frames from it */
	/* Interrupts: microseconds they may be held for; upper half: for how many frames. */
	_Atomic uint64_t coalescing;		/* as the driver wants it */
	uint64_t coalescing_seen;		/* as it is */
	struct net_numbers numbers;
	struct counter_group group;
};

struct net {
	struct network_port *port;		/* borrowed */
	struct virtio_device *device;		/* owned */
	unsigned pairs;				/* offered */
	uint8_t mac[6];				/* as configured */
	uint32_t mtu;				/* bytes; 0: not told */
	struct net_filter filter;
	_Atomic unsigned active;		/* pairs, by command; 0: by what is enabled */
	_Atomic uint64_t guest_offloads;	/* VIRTIO_NET_F_GUEST_... */
	struct network_steering steering;	/* the control queue's worker; reset */
	bool hashes;				/* offered: net_hash_features */
	_Atomic bool adopted;			/* they have been taken from the features */
	_Atomic bool announcing;		/* VIRTIO_NET_S_ANNOUNCE */
	uint8_t announced[6];			/* whose RARP is to be sent */
	_Atomic bool rarp_wanted, rarp_posted;
	struct reactor_task rarp;		/* to the first pair's worker */
	struct net_pair pair[NET_PAIRS_MAX];
	unsigned queue_count;
	struct net_queue queues[];
};

/* Younger than some kernels' headers. */
enum {
	NET_F_VQ_NOTF_COAL = 52,
	NET_F_NOTF_COAL = 53,
	NET_F_GUEST_USO4 = 54,
	NET_F_GUEST_USO6 = 55,
	NET_F_HOST_USO = 56,
};

/* Those that a driver needs to see the hashes of frames, or to say where each goes. */
static const uint64_t net_hash_features = 1ull << VIRTIO_NET_F_RSS |
					   1ull << VIRTIO_NET_F_HASH_REPORT;

/* A command of the control queue, while it is carried out. */
struct net_command {
	struct net_queue *nq;
	const struct virtqueue_chain *chain;
	uint8_t number;
	uint8_t result[16]; /* behind the answer, if all is well */
	size_t result_bytes;
};

enum net_role { NET_RECEIVE, NET_TRANSMIT, NET_CONTROL, NET_IDLE };

/* net.c: any thread while the features stand. */
enum net_role net_role(const struct net *n, unsigned queue);
uint16_t net_header_size(const struct net *n);	/* bytes before a frame, either way */
bool net_accepted(const struct net *n, unsigned feature);
uint64_t net_guest_features(const struct net *n);	/* those of them that can be switched off */
uint64_t net_offload_features(void);	/* all that there are of them */
void net_apply_offloads(struct net *n);		/* after a change of guest_offloads */
int net_apply_steering(struct net *n, const struct network_steering *s);	/* 0 or -EINVAL */
void net_reset_steering(struct net *n);	/* frames go where the port will, without hashes */
void net_apply_active(struct net *n);	/* after a change of active, or of what is enabled */

/* The queue's worker: nq->port is there until net_pair_close(). */
int net_pair_open(struct net_queue *nq, struct error *e);
void net_pair_close(struct net_queue *nq);

/* net_migration.c: entries of struct virtio_device_type. */
extern const char *const net_records[];
void net_save_identity(const struct virtio_device *d, struct stream_writer *w);
void net_save(const struct virtio_device *d, struct stream_writer *w);
int net_load(struct virtio_device *d, const char *name, struct stream_reader *r, bool apply,
	     struct error *e);

/* net_announce.c: as in virtio_device_type.h; what is left of it: the first pair's worker. */
void net_announce(struct virtio_device *d, const uint8_t *mac);
void net_send_rarp(void *net);

/* The queue's worker: brings the queue to what the driver wants of its interrupts. */
void net_follow_coalescing(struct net_queue *nq);

/* net_receive.c, net_transmit.c, net_control.c: the queue's worker. */
int net_receive_start(struct net_queue *nq, struct error *e);
void net_receive_work(struct net_queue *nq);
void net_receive_yield(struct net_queue *nq);
void net_receive_stop(struct net_queue *nq);
int net_transmit_start(struct net_queue *nq, struct error *e);
void net_transmit_work(struct net_queue *nq);
void net_transmit_stop(struct net_queue *nq);
void net_control_work(struct net_queue *nq);

/* net_steering.c: commands of VIRTIO_NET_CTRL_MQ, on the control queue's worker.  0 or -EINVAL. */
int net_control_pairs(struct net_command *c);

#endif
