/* sim_net.h - a network device, its driver and a network behind it in one thread, under a seeded
 * schedule.
 *
 *   sim_net.c           the command line; one seed from beginning to end
 *   sim_net_device.c    the device side: reactors, port, device; queues that start, rest, are reset
 *   sim_net_memory.c    guest memory, mapped or behind a link that takes its time
 *   sim_net_driver.c    the driver side: frames sent and received, hostile ones among them
 *   sim_net_control.c   commands, well-formed and not
 *   sim_net_model.c     what each command must do, written from the specification a second time
 *   sim_net_frame.c     what is in a frame, and whether one may come as it comes
 *   sim_net_migration.c  a VMM that moves the guest, memory, device and all
 *   other_side.c        memory over there, and whether it becomes what it is here
 *   sim_net_far.c       the network behind: it loses frames and mixes flows
 *
 * The device's port is one of a switch; the simulation is at the other.  Each frame has a number in
 * its flow, which says all of its bytes: one that comes twice, late, changed, past the filter or by
 * a wrong queue ends the process with the seed's number.
 */
#ifndef SIM_SIM_NET_H
#define SIM_SIM_NET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "link/link_provider.h"

enum {
	PAIRS_MAX = 4,
	QUEUES_MAX = 2 * PAIRS_MAX + 1,
	RING = 32,
	BUFFERS = 32,		/* per queue */
	ROOM = 2048,		/* bytes per buffer */
	FRAME_MIN = 60, FRAME_MAX = 1514,	/* bytes */
	FLOWS = 12,		/* from the network */
	NUMBERS = 2048,		/* of a flow's frames, more than are ever sent */
	COMMANDS = 4,		/* under way at once */
	WAIT_STEPS = 400000,
	ADDRESSES = 64,		/* in a table of the filter's; with more all of the kind pass */
	TABLE = 128, KEY = 40,	/* of receive-side scaling: entries, bytes */
	PLAIN = 0x88b5, HOSTILE = 0x88b6,	/* EtherTypes for experiments (IEEE 802) */
	FORBIDDEN = 0x88b7,	/* that of frames no device may send */
	RARP = 0x8035,		/* RFC 903 */
};

/* ---- what the device must be like, by the commands that it has answered ---- */

struct model_table {
	bool overflow;
	unsigned count;
	uint64_t list[ADDRESSES];
};

struct model {
	uint64_t features;
	unsigned pairs;			/* of the features */
	uint8_t modes;			/* bit per command of VIRTIO_NET_CTRL_RX */
	uint64_t own, offloads;
	struct model_table tables[2];	/* unicast, multicast */
	uint8_t vlans[4096 / 8];
	unsigned active;
	bool by_table;
	uint16_t mask, unclassified, table[TABLE];
	uint32_t hash_types;
	uint8_t key[KEY];
	uint8_t coalescing[QUEUES_MAX][8];
	bool announcing;		/* it is asked to say where it is now */
};

/* ---- frames ---- */

enum {				/* of one frame */
	SEEN = 1,
	MAY_PASS = 2,		/* by the filter, as it was at some time since it was sent */
	MAY_LACK_CHECKSUM = 4,	/* likewise */
};

struct flow {
	uint8_t destination[6], source, number;
	uint16_t vlan;			/* 0: not tagged */
	bool udp;			/* over IPv4; else of no known protocol */
	uint32_t sent, come;		/* numbers, from 1 */
	uint32_t mixed_until;		/* up to here, by different queues perhaps */
	uint8_t marks[NUMBERS];
};

/* ---- the driver ---- */

struct buffer {
	uint64_t iova;
	uint8_t *bytes;			/* in guest memory */
	uint32_t room;			/* as it was given to the device */
	bool busy;
};

struct queue {
	struct guest_queue ring;
	struct buffer buffers[BUFFERS];
	int kick, call;			/* owned */
	bool started;
};

struct command {
	bool ok, steers;
	uint8_t result[12];
	unsigned result_bytes, writable;
	struct model after;
};

struct sim {
	uint64_t seed, random;
	/* chosen once */
	unsigned pairs, room_least, room_most;
	bool packed, event_index, in_order, hashes, mergeable, storms, hostile, remote, interrupts;
	bool lossless;			/* all that may come does */
	char uri[128];

	struct guest_memory memory;
	struct link_remote link;
	struct memory_map *map;
	struct queue queues[QUEUES_MAX];
	struct reactor_world *world;
	struct reactor *control, *workers[2];
	unsigned worker_count;
	struct network_port *port, *far_port;
	struct network_queue *far;
	struct net *net;
	struct virtio_device *device;
	bool needs_reset, may_break;
	struct migration *migration;	/* NULL: none is under way */

	struct model model;
	struct command commands[COMMANDS];	/* under way: a ring, the oldest first */
	unsigned first_command, command_count;
	struct flow to_guest[FLOWS], from_guest[PAIRS_MAX];
	unsigned arrived, taken;	/* by the guest, by the network */
	bool rarp_wanted;		/* a broadcast that says where the guest is now */
};

/* sim_net.c */
void fail(const struct sim *s, const char *format, ...)
	__attribute__((noreturn, format(printf, 2, 3)));
uint64_t pick(struct sim *s, uint64_t n);	/* 0..n-1 */
void traffic(struct sim *s);	/* what driver and network do next; the device does not run */

/* sim_net_device.c: each returns when the device has acknowledged. */
void device_open(struct sim *s);
void device_close(struct sim *s);
void device_reset(struct sim *s);
void driver_start(struct sim *s);		/* agrees on features, starts all queues */
void queue_reset(struct sim *s, unsigned index);	/* what it held is gone */
void queue_rest(struct sim *s, unsigned index);		/* stops it, and goes on from there */
void device_announce(struct sim *s);		/* the guest has moved */
void device_check_config(struct sim *s);	/* while no command is under way */
void come_to_rest(struct sim *s);		/* steps until nothing can happen */
struct queue *control_queue(struct sim *s);	/* NULL: there is none */
void set_flag(void *arg);			/* a task's: *(bool *)arg */
void wait_for(struct sim *s, const bool *flag, const char *what);
void device_resume(struct sim *s);		/* after virtio_device_quiesce() */
/* The device ends; another, elsewhere, goes on from its state. */
void device_receive(struct sim *s, const char *bytes, size_t n);

/* sim_net_memory.c */
void memory_open(struct sim *s);
void memory_map_open(struct sim *s);		/* s->map, of the kind that s->remote says */
void memory_close(struct sim *s);

/* sim_net_driver.c */
struct buffer *buffer_free(struct queue *q);
void queue_add(struct queue *q, const struct guest_segment *segments, unsigned count,
	       struct buffer *b);
void queue_publish(struct queue *q);
bool queue_is_due(struct sim *s, struct queue *q);	/* interrupted, or need not be */
struct buffer *queue_take(struct sim *s, struct queue *q, uint32_t *length);
void receive_fill(struct sim *s, struct queue *q);
void transmit(struct sim *s, unsigned pair, bool hostile);
void collect(struct sim *s);			/* all that has come back */

/* sim_net_control.c */
void control_send(struct sim *s);
void control_take(struct sim *s);
void control_forget(struct sim *s);		/* those under way are gone */

/* sim_net_model.c */
void model_reset(struct model *m, uint64_t features, unsigned pairs);
/* What a command of so many bytes does, with that room for the answer. */
void model_command(struct model *m, const uint8_t *bytes, size_t n, struct command *c);
bool model_passes(const struct model *m, const struct flow *f);
bool model_accepted(const struct model *m, unsigned feature);
unsigned model_header(const struct model *m);	/* bytes before a frame */

/* sim_net_frame.c */
void flows_open(struct sim *s);
size_t frame_write(uint8_t *to, const struct flow *f, uint32_t number);	/* its length */
/* The same with its checksum left undone: f->udp. */
size_t frame_write_partial(uint8_t *to, const struct flow *f, uint32_t number,
			   struct virtio_net_hdr *header);
void frame_sent(struct sim *s, struct flow *f);		/* f->sent is on its way to the guest */
void frames_mark(struct sim *s, const struct model *m);	/* m may be in force from now on */
void frames_mix(struct sim *s, bool done);	/* queues are about to change, or have done so */
struct flow *frame_check(struct sim *s, struct flow *flows, unsigned count, const uint8_t *bytes,
			 size_t n);
/* One that came by this pair, with its header in front. */
void frame_check_received(struct sim *s, unsigned pair, uint8_t *bytes, size_t n);

/* sim_net_migration.c: from the first page to the end, whichever that is. */
void migrate(struct sim *s);

/* sim_net_far.c */
void far_open(struct sim *s);
void far_send(struct sim *s, unsigned flow, bool loses);

#endif
