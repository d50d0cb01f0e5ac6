/* storage.h - a disk somewhere.  The face for those who use one.
 *
 * A storage is opened on the control thread from a URI and used through channels, one per
 * (storage, reactor): a channel is private to its reactor, so nothing below it takes a lock on
 * the data path.  "limit+delay+nbd://host/export?ms=5&iops=100": filters stack in front of one
 * provider, each takes its own options from the query, an option nobody knows is an error.
 */
#ifndef STORAGE_STORAGE_H
#define STORAGE_STORAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

struct error;
struct reactor;
struct storage;
struct storage_channel;

enum storage_operation {
	STORAGE_READ, STORAGE_WRITE, STORAGE_FLUSH, STORAGE_DISCARD, STORAGE_WRITE_ZEROES,
	STORAGE_OPERATIONS
};

enum storage_flag {
	STORAGE_UNMAP = 1,	/* WRITE_ZEROES may deallocate */
	STORAGE_STARTED = 2,	/* a part has been executed: storage_withdraw() leaves it alone */
};

/* Embedded at the end of the caller's request slot, which must give it storage_io_size() bytes at
 * an address that is a multiple of 16: what follows the struct is scratch space for the layers
 * below, and need not be cleared.  The caller fills in the fields up to iov_count, and done; from
 * storage_submit() until done all of it belongs to the layers. */
struct storage_io {
	enum storage_operation operation;
	unsigned flags;			/* enum storage_flag */
	uint64_t offset, length;	/* bytes; 0 for FLUSH */
	const struct iovec *iov;	/* READ, WRITE: borrowed until done; sums up to length */
	unsigned iov_count;
	int status;			/* 0 or -errno, set before done */
	void (*done)(struct storage_io *io);
	struct storage_io *next;	/* private: whoever holds it now */
	_Alignas(16) unsigned char scratch[];
};

struct storage_limits {
	uint64_t size;			/* bytes; see storage_size() for the present one */
	uint32_t block_size; /* bytes, power of two, >= 512: offsets and lengths are multiples */
	uint32_t preferred_size;	/* bytes, power of two: best request granule, 0 unknown */
	uint32_t discard_alignment;	/* bytes */
	uint64_t transfer_max;		/* bytes of one READ or WRITE a layer takes; 0: any */
	uint64_t clear_max;		/* bytes of one DISCARD or WRITE_ZEROES it takes; 0: any */
					/* an open storage cuts what is larger: both are 0 */
	bool read_only, can_discard, can_write_zeroes, volatile_cache;
};

/* Control thread.  Opening may block for the provider's connect timeout.  name ("vda") stands in
 * messages and counters.  control: the reactor on which resize callbacks run. */
struct storage *storage_open(const char *name, const char *uri, bool read_only,
			     struct reactor *control, struct error *e);
void storage_close(struct storage *s);		/* NULL is ignored; no channel may be open */
const struct storage_limits *storage_limits(const struct storage *s);
size_t storage_io_size(const struct storage *s);	/* bytes a struct storage_io needs */

/* The present size in bytes.  Any thread. */
uint64_t storage_size(const struct storage *s);

/* fn runs on the control reactor after the size has changed; one listener; NULL: none. */
void storage_set_resize_listener(struct storage *s, void (*fn)(void *arg), void *arg);

/* Asks the provider to look at its size again (SIGHUP).  Control thread, returns at once. */
void storage_refresh(struct storage *s);

/* The reactor's own thread.  A second open for the same reactor returns the same channel, counted.
 * Does not wait for a server: requests wait for a connection, within the provider's bound. */
struct storage_channel *storage_channel_open(struct storage *s, struct reactor *r, struct error *e);
void storage_channel_close(struct storage_channel *ch);		/* nothing in flight */

/* io->done runs exactly once, on the channel's reactor, never inside submit.  A range outside
 * the disk ends with -ENOSPC, a misaligned one with -EINVAL, a write to a read-only disk with
 * -EROFS, an operation the disk lacks with -EOPNOTSUPP. */
void storage_submit(struct storage_channel *ch, struct storage_io *io);

/* Hands back what has not left us: every io of the channel that was submitted before this call and
 * that no server and no kernel has seen (it waits in a filter, for a rate, for a connection) ends
 * with -ECANCELED, in the way of any io; nothing of it has been executed or ever will be.  No io
 * ends with that status otherwise.  Those that a server or a kernel may have seen, even on a
 * connection that is lost, and those of which a part has been executed go on.  Returns before
 * done runs; an io may come back from another thread, so a while later.  Idempotent.  The channel's
 * reactor. */
void storage_withdraw(struct storage_channel *ch);

/* What a URI consists of, then "scheme:  what it is\n    option=...  help\n" for each provider and
 * filter, for --help. */
void storage_print_help(FILE *to);

#endif
