/* vfio_client_channel.h - messages of a vfio-user client (QEMU docs/interop/vfio-user.rst):
 * requests to the server and their replies, and the server's own DMA_READ and DMA_WRITE, answered
 * from guest_memory.
 *
 * Two ways to run it.  Without a thread, whoever waits for a reply answers the server meanwhile,
 * and vfio_client_channel_serve() does so in between: one thread for a whole guest.  After
 * vfio_client_channel_start() a thread does it all.  Requests come from one thread either way.
 */
#ifndef DRIVER_VFIO_CLIENT_CHANNEL_H
#define DRIVER_VFIO_CLIENT_CHANNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct guest_memory;
struct vfio_client_inbox;

enum {
	VFIO_USER_TIMEOUT_MS = 20000,	/* for a reply */
	VFIO_USER_FDS = 64,		/* in one message; more than any side should offer */
	VFIO_USER_MEMORIES = 64,
	VFIO_USER_HELD = 8192,		/* commands that a judge may hold */
};

enum { /* vfio-user, "Commands" */
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP,
	VFIO_USER_DMA_UNMAP,
	VFIO_USER_DEVICE_GET_INFO,
	VFIO_USER_DEVICE_GET_REGION_INFO,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS,
	VFIO_USER_DEVICE_GET_IRQ_INFO,
	VFIO_USER_DEVICE_SET_IRQS,
	VFIO_USER_REGION_READ,
	VFIO_USER_REGION_WRITE,
	VFIO_USER_DMA_READ,
	VFIO_USER_DMA_WRITE,
	VFIO_USER_DEVICE_RESET,
	VFIO_USER_REGION_WRITE_MULTI = 15,
	VFIO_USER_DEVICE_FEATURE,
};

struct vfio_client_header {
	uint16_t id, command;
	uint32_t size;		/* bytes, with this header */
	uint32_t flags;
#define VFIO_USER_TYPE_MASK UINT32_C(0xf)
#define VFIO_USER_REPLY     UINT32_C(0x1)
#define VFIO_USER_NO_REPLY  UINT32_C(0x10)
#define VFIO_USER_ERROR     UINT32_C(0x20)
	uint32_t error;
};

/* A message as the tests see it: what is sent, or what came back. */
struct vfio_client_message {
	struct vfio_client_header header;
	void *payload;		/* owned by the caller when sent; by the channel, until the next
				 * request, when received */
	int fds[VFIO_USER_FDS];	/* received ones are the caller's to close */
	unsigned fd_count;
};

/* ---- the server's commands ---- */

struct vfio_client_dma {
	struct vfio_client_header header;
	uint64_t address, count;	/* bytes */
	struct vfio_client_inbox *from;	/* where the answer goes */
	bool deferred;			/* held because nobody listened, not by the judge */
	void *data;			/* DMA_WRITE: owned while the command is held */
};

enum vfio_client_verdict {
	VFIO_USER_ANSWER,	/* at once */
	VFIO_USER_HOLD,		/* until vfio_client_channel_release() */
	VFIO_USER_FAIL,		/* an error reply, EFAULT */
};
typedef enum vfio_client_verdict vfio_client_judge_fn(void *arg, const struct vfio_client_dma *d);

struct vfio_client_counters {
	uint64_t reads, writes;			/* messages */
	uint64_t read_bytes, write_bytes;	/* of guest memory */
	uint64_t errors;	/* answered with an error, for whatever reason */
	uint64_t strays;	/* of these, to what is not mapped, or not for that */
	uint64_t malformed;	/* commands that are not as the specification says */
};

struct vfio_client_inbox {
	int fd;				/* owned; -1: none */
	char *bytes;			/* owned */
	size_t begin, end, capacity;
	int fds[VFIO_USER_FDS];
	unsigned fd_count;
	char *answers;			/* owned: what waits to be sent, gathered */
	size_t answers_size, answers_capacity;
};

struct vfio_client_window { /* memory that the server was told of */
	const struct guest_memory *memory;	/* borrowed until unmapped */
	uint64_t address, size, offset;		/* bytes; offset: into the memory */
	bool readable, writable;
};

struct vfio_client_channel {
	/* QEMU's layout of DMA messages instead of the specification's: count has 4 bytes, data
	 * follows at once, then 4 bytes of nothing; a DMA_WRITE is answered by a header. */
	bool compact_dma;
	/* As QEMU, which holds its big lock while it waits for a reply: the server's commands are
	 * not answered meanwhile.  Not with a thread. */
	bool deaf_while_waiting;
	bool busy;		/* ... and for now does not answer after that either */
	uint32_t transfer_max;		/* bytes; a command for more is malformed */
	vfio_client_judge_fn *judge;	/* may be NULL: all are answered.  With the lock held. */
	void *judge_arg;

	struct vfio_client_inbox main, twin;
	struct vfio_client_window windows[VFIO_USER_MEMORIES];
	unsigned window_count;
	struct vfio_client_dma *held;	/* owned array of VFIO_USER_HELD */
	unsigned held_count;
	struct vfio_client_counters counters;
	uint16_t next_id, reply_id;
	struct vfio_client_message reply;
	bool waiting, has_reply, lost;
	int failure;			/* why it was lost: -errno */
	pthread_mutex_t lock;		/* all of the above */
	pthread_cond_t arrived;
	pthread_t thread;
	int wake;			/* owned eventfd; -1: no thread */
};

/* Answers what was put off meanwhile. */
void vfio_client_channel_catch_up(struct vfio_client_channel *c);
void vfio_client_channel_init(struct vfio_client_channel *c);
/* fd moves in.  Counters begin anew. */
void vfio_client_channel_open(struct vfio_client_channel *c, int fd);
/* The second socket, which moves in. */
void vfio_client_channel_add_twin(struct vfio_client_channel *c, int fd);
/* Stops the thread, closes both sockets, forgets windows and held commands.  Idempotent. */
void vfio_client_channel_close(struct vfio_client_channel *c);

/* The thread that answers.  0 or -errno. */
int vfio_client_channel_start(struct vfio_client_channel *c);
void vfio_client_channel_stop(struct vfio_client_channel *c);
/* Without a thread: answers what has come, waiting at most so long for something.  The number of
 * messages dealt with, or -errno when the connection is lost. */
int vfio_client_channel_serve(struct vfio_client_channel *c, int timeout_ms);

/* Sends m and waits for its reply, which is left in c->reply.  -ECONNRESET: the server hung up;
 * -ETIMEDOUT; -EPROTO: a reply that is none; the negative errno of an error reply (-EREMOTEIO for
 * one without). */
int vfio_client_channel_ask(struct vfio_client_channel *c, const struct vfio_client_message *m,
			  struct error *e);
/* Sends m as it is and waits for nothing. */
int vfio_client_channel_send(struct vfio_client_channel *c, const struct vfio_client_message *m,
			   struct error *e);
/* Waits for the reply to what was sent with this id. */
int vfio_client_channel_await(struct vfio_client_channel *c, uint16_t id, struct error *e);

/* Answers what is held, the latest first if so wanted; how many. */
unsigned vfio_client_channel_release(struct vfio_client_channel *c, bool backwards);
unsigned vfio_client_channel_held(struct vfio_client_channel *c);
struct vfio_client_counters vfio_client_channel_counters(struct vfio_client_channel *c);

/* What DMA commands may reach from now on, or not any more. */
void vfio_client_channel_add_window(struct vfio_client_channel *c,
				    const struct vfio_client_window *w);
void vfio_client_channel_drop_window(struct vfio_client_channel *c); /* the one added last */
void vfio_client_channel_remove_window(struct vfio_client_channel *c, uint64_t address,
				       uint64_t size);

#endif
