/* stream.h - the bytes of a migration: versioned, self-describing records.
 *
 *	stream  = magic, version, record..., end record
 *	record  = name, flags, length, payload
 *
 * All numbers are little-endian.  A name has at most eight ASCII characters.  The end record's
 * payload is the CRC-32 of every byte before it.  The version is that of this framing; a record's
 * meaning never changes: what is new goes into a record of a new name, which is STREAM_OPTIONAL if
 * those who do not know it may go on without.  A reader has seen the whole stream, and its sum,
 * before it hands out the first record.
 *
 * Any thread; one at a time.
 */
#ifndef STREAM_STREAM_H
#define STREAM_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct error;

enum stream_flag { STREAM_OPTIONAL = 1 };

enum {
	STREAM_NAME = 8,		/* bytes */
	STREAM_HEAD = 8,		/* bytes: magic and version */
	STREAM_RECORD_HEAD = 16,	/* bytes: name, flags, length */
	STREAM_MAX = 64 << 20,		/* bytes: nobody's state is longer */
};

/* ---- writing ---- */

struct stream_writer {
	char *bytes;		/* owned */
	size_t length, room;
	size_t record;		/* where the open record begins; 0: none is open */
	bool failed;		/* out of memory: told by stream_writer_end() */
};

void stream_writer_begin(struct stream_writer *w);
void stream_begin(struct stream_writer *w, const char *name, unsigned flags);
void stream_u8(struct stream_writer *w, uint8_t v);
void stream_u16(struct stream_writer *w, uint16_t v);
void stream_u32(struct stream_writer *w, uint32_t v);
void stream_u64(struct stream_writer *w, uint64_t v);
void stream_bytes(struct stream_writer *w, const void *from, size_t n);
void stream_end(struct stream_writer *w);
/* 0, or -ENOMEM with *e.  The bytes are the writer's until stream_writer_free(). */
int stream_writer_end(struct stream_writer *w, struct error *e);
void stream_writer_free(struct stream_writer *w);

/* ---- reading ---- */

struct stream_reader {
	const uint8_t *bytes;		/* borrowed */
	size_t end;			/* of the last record */
	size_t next;			/* the next record */
	size_t at, stop;		/* what is left of the present record */
	bool short_read;		/* more was asked of it than it has */
	char name[STREAM_NAME + 1];
};

/* How long the stream is that bytes begin with: 0 for one that is not all there yet; -EBADMSG, with
 * *e, for what cannot be the beginning of one, or of none that we take. */
ssize_t stream_measure(const void *bytes, size_t n, struct error *e);

/* bytes, all n of them one stream, are borrowed.  0, or -EBADMSG with *e. */
int stream_reader_open(struct stream_reader *r, const void *bytes, size_t n, struct error *e);
void stream_reader_rewind(struct stream_reader *r);

/* The next record: 1 with its name, borrowed until the next call, and flags; 0 at the end. */
int stream_next(struct stream_reader *r, const char **name, unsigned *flags);

/* From the record: zeroes past its end ... */
uint8_t stream_get_u8(struct stream_reader *r);
uint16_t stream_get_u16(struct stream_reader *r);
uint32_t stream_get_u32(struct stream_reader *r);
uint64_t stream_get_u64(struct stream_reader *r);
void stream_get_bytes(struct stream_reader *r, void *to, size_t n);
size_t stream_left(const struct stream_reader *r);	/* bytes */
/* ... and -EBADMSG here, with *e; also when bytes are left over. */
int stream_check(struct stream_reader *r, struct error *e);

#endif
