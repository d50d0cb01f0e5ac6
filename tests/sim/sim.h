/* sim.h - a block device and its driver in one thread, under a seeded schedule.
 *
 *   sim_blk.c      seeds, processes, the command line
 *   sim_plan.c     what a seed chooses once: queues, features, link, disk, troubles
 *   sim_run.c      one seed from beginning to end, and the troubles on the way
 *   sim_device.c   the device side: reactors, storage, device; started, stopped, killed
 *   sim_driver.c   the driver side: requests sent and checked
 *   sim_layout.c   how a request lies in guest memory
 *   sim_memory.c   guest memory: regions that come and go
 *   sim_remote.c   the link to regions that are not mapped
 *   sim_trap.c     kills, and turns of the driver, between any two stores of the device
 *   sim_disk.c     what the disk must hold
 *   sim_migration.c  a VMM that moves the guest, memory, device and all
 *   other_side.c   memory over there, and whether it becomes what it is here
 *
 * The simulation plays the transport and calls virtio_device.h directly.  Whatever it chooses comes
 * from the seed, and all it finds wrong ends the process with the seed's number.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "link/link_provider.h"
#include "reactor/reactor.h"

enum {
	SECTOR = 512,			/* bytes */
	QUEUES_MAX = 3,
	WORKERS_MAX = 2,
	REGIONS = 4,
	REQUESTS_MAX = 24,		/* in flight per queue */
	SEGMENTS_MAX = 48,
	RANGES_MAX = 4,
	PAYLOAD_MAX = 16384,		/* bytes */
	AREA = 26 * 1024,		/* bytes of memory per request: no multiple of a page */
	STAMPS_MAX = 8,
	URI_MAX = 256,
};

/* ---- what a seed chooses once ---- */

struct sim_plan {
	unsigned queues, workers, requests;	/* requests: to send in all */
	uint16_t queue_size;
	bool event_index, indirect, packed, in_order;
	bool across;		/* used rings lie across pages */
	unsigned remote_regions;		/* bit per region; 0: all is mapped */
	bool kinds_change;	/* regions become mapped, or remote, as maps change */
	bool interrupts;	/* the driver looks at used rings only when interrupted */
	bool polled_kicks;	/* queues without a kick descriptor */
	bool link_failures, faults, kills, stops, resets, map_changes, resizes;
	bool migrations;
	bool untracked;		/* no in-flight region: a state has what it would have */
	bool persistent;	/* the disk is a file: it survives a kill */
	uint64_t sectors;	/* of the disk, at first */
	uint32_t block;		/* bytes */
	char filters[64];	/* "delay+limit+" */
	char options[URI_MAX];	/* of the filters: "&time=10us" */
};

/* ---- the disk, as it must be ---- */

/* What a sector may hold: each write has a stamp of its own that stands for its bytes; 0: zeroes.
 * More than one while a failed write, or a discard, leaves it open. */
struct sim_sector {
	uint64_t stamps[STAMPS_MAX];
	uint8_t count, readers;
	bool writer;
};

struct sim_disk {
	struct sim_sector *sectors;	/* owned */
	uint64_t count, room;
	int fd;				/* owned; -1: the disk is not a file */
};

void sim_disk_open(struct sim_disk *d, uint64_t sectors, uint64_t room, bool file);
void sim_disk_close(struct sim_disk *d);
void sim_disk_fill(void *to, uint64_t stamp, uint64_t sector);	/* one sector's bytes */
/* Keeps overlapping requests apart, unless both read.  False: not now. */
bool sim_disk_take(struct sim_disk *d, uint64_t first, uint64_t count, bool write);
void sim_disk_return(struct sim_disk *d, uint64_t first, uint64_t count, bool write);
void sim_disk_written(struct sim_disk *d, uint64_t first, uint64_t count, uint64_t stamp);
void sim_disk_maybe_written(struct sim_disk *d, uint64_t first, uint64_t count, uint64_t stamp);
/* Whether a sector may read so; from now on that is what it holds. */
bool sim_disk_matches(struct sim_disk *d, uint64_t sector, const void *bytes);

/* ---- requests ---- */

struct sim_range {
	uint64_t sector;
	uint32_t sectors;
};

struct sim_request {
	bool busy;
	uint32_t type;
	uint8_t expected;		/* status, if nothing fails */
	uint64_t stamp;
	struct sim_range ranges[RANGES_MAX];	/* of the disk, taken; one for reads and writes */
	unsigned range_count;
	uint32_t payload;		/* bytes, header and status excluded */
	uint32_t readable, writable;	/* bytes, header and status included */
	uint64_t area_iova;
	uint32_t area_used;		/* bytes */
	struct guest_segment segments[SEGMENTS_MAX];
	unsigned segment_count, readable_count;
	struct guest_layout layout;
};

struct sim_queue {
	struct guest_queue ring;
	struct sim_request requests[REQUESTS_MAX];
	unsigned index;
	int kick, call;			/* owned: ours */
	int given_kick, given_call;	/* the device's: closed for it when it is killed */
	bool kick_owed, stopped;
	uint16_t next_available, next_used;	/* packed: where the device goes on */
	void *inflight;			/* owned: pages that survive the device */
	size_t inflight_bytes;
};

/* ---- the whole ---- */

struct sim_remote {
	struct link_remote remote;
	struct sim *sim;
	struct sim_transfer *pending;
	unsigned regions;		/* that are or were remote: bit per region */
};

struct sim {
	uint64_t seed, random;
	bool verbose;
	struct sim_plan plan;

	struct guest_memory regions[REGIONS];
	bool present[REGIONS];
	struct sim_remote remote;
	struct sim_queue queues[QUEUES_MAX];
	struct sim_disk disk;
	uint64_t next_stamp;
	unsigned sent, completed, outstanding;
	bool draining;			/* send nothing more */
	bool calm;			/* the link fails no more */
	bool verifying;			/* send reads, from this sector on */
	uint64_t verify_next;
	int avoid_region;		/* send nothing that lies there; -1 */
	uint64_t idle_steps;		/* since a request has completed */

	/* The device, as long as it lives. */
	struct reactor_world *world;
	struct reactor *control, *workers[WORKERS_MAX];
	struct storage *storage;
	struct blk *blk;
	struct virtio_device *device;
	struct memory_map *map;
	bool needs_reset;

	struct other_side *other_side;	/* owned; NULL: no migration is under way */

	sigjmp_buf kill_point;
	unsigned kill_after;		/* stores; 0: no kill is due */
	bool racing;			/* the driver runs between stores */
};

void sim_fail(struct sim *s, const char *format, ...)
	__attribute__((noreturn, format(printf, 2, 3)));
void sim_trace(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t sim_pick(struct sim *s, uint64_t n);		/* 0..n-1 */
bool sim_chance(struct sim *s, unsigned n);		/* once in n */

void sim_plan_choose(struct sim *s);
void sim_run(struct sim *s);				/* one seed */

/* One step of the device's world, then perhaps one of the driver. */
void sim_step(struct sim *s);
/* Steps until nothing is outstanding; sends nothing more if `draining`. */
void sim_drain(struct sim *s);

/* sim_memory.c */
void sim_memory_open(struct sim *s);
void sim_memory_close(struct sim *s);
void sim_guest_copy(struct sim *s, uint64_t iova, void *local, uint32_t length, bool to_guest);
uint64_t sim_area_iova(const struct sim *s, unsigned queue, unsigned request);
bool sim_area_touches(const struct sim *s, const struct sim_request *r, unsigned region);
struct memory_map *sim_memory_map(struct sim *s);	/* of the regions present; new */

/* sim_remote.c */
void sim_remote_open(struct sim *s);
void sim_remote_kill(struct sim *s);	/* what is under way still arrives, or does not */

/* What the device acknowledges.  quiet: the driver does nothing meanwhile. */
struct sim_order {
	struct reactor_task task;
	bool done;
};

struct reactor_task *sim_order_task(struct sim_order *o);
void sim_order_wait(struct sim *s, const struct sim_order *o, bool quiet, const char *what);

/* sim_migration.c: from the first page to the end, whichever that is. */
void sim_migrate(struct sim *s);
/* Around all that the guest's processors do with the rings, and after a request was written: what
 * they store gets to the other side by itself, byte by byte, so that what the device stores must
 * get there by its log alone. */
void sim_migration_processors_begin(struct sim *s);
void sim_migration_processors_end(struct sim *s);
void sim_migration_request_written(struct sim *s, const struct sim_request *r);

/* sim_device.c: each returns when the device has acknowledged. */
void sim_device_start(struct sim *s);	/* a new process, which takes up what it finds */
void sim_device_end(struct sim *s);	/* an orderly exit */
/* A new process that goes on from a state. */
void sim_device_receive(struct sim *s, const char *bytes, size_t n);
void sim_device_abandon(struct sim *s);	/* kill -9 */
void sim_device_reset(struct sim *s);
void sim_device_change_memory(struct sim *s);
void sim_device_resize(struct sim *s, uint64_t sectors);
void sim_device_replace_eventfds(struct sim *s, struct sim_queue *q);
void sim_queue_start(struct sim *s, struct sim_queue *q, uint16_t index);
void sim_queue_stop(struct sim *s, struct sim_queue *q);

/* What the used ring says; packed: it says nothing, the queue's positions are kept instead. */
static inline uint16_t sim_queue_used_index(const struct sim_queue *q)
{
	return q->ring.packed ? 0 : le16toh(q->ring.used->idx);
}

/* sim_trap.c */
/* From now on: die at so many stores (0: do not), or let the driver run between them. */
void sim_trap_arm(struct sim *s, unsigned kill_after, bool racing);
void sim_trap_disarm(struct sim *s);
void sim_trap_store(struct sim *s);	/* a store is about to happen */

/* sim_driver.c */
void sim_driver_open(struct sim *s);
void sim_driver_close(struct sim *s);
void sim_driver_turn(struct sim *s);
void sim_driver_push(struct sim *s);	/* nothing happens: do all that is owed */
void sim_driver_forget(struct sim *s);	/* the device was reset: nothing comes back */
void sim_driver_verify(struct sim *s);	/* nothing is outstanding: is all of the disk right? */

/* sim_layout.c: puts r, whose type, ranges and payload are chosen, into guest memory. */
void sim_layout_write(struct sim *s, struct sim_queue *q, struct sim_request *r);
void sim_layout_read_payload(struct sim *s, const struct sim_request *r, void *to);
uint8_t sim_layout_status(struct sim *s, const struct sim_request *r);
void sim_layout_check_gaps(struct sim *s, const struct sim_request *r);

#endif
