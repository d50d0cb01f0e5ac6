/* capture_file.h - a pcapng file and the thread that writes it.
 *
 * Who adds a packet copies it into a buffer under a lock that is held for that copy only; a full
 * buffer, a full disk or a file at its largest size loses packets of the file, never of the port.
 */
#ifndef NETWORK_CAPTURE_FILE_H
#define NETWORK_CAPTURE_FILE_H

#include <stdint.h>

#include "network/pcapng.h"

struct capture_file;
struct error;

struct capture_options {
	const char *path, *name;	/* name: of the port, for the file and for messages */
	uint32_t snap;			/* bytes kept of a packet at most */
	uint64_t size_max;		/* bytes of the file; 0: no limit */
};

/* Control thread.  The file is made anew; it must not be one that somebody writes already.  NULL
 * with *e. */
struct capture_file *capture_file_open(const struct capture_options *o, struct error *e);
void capture_file_close(struct capture_file *c);	/* what was added has been written */

/* Any thread.  The packet's bytes are copied. */
void capture_file_add(struct capture_file *c, enum pcapng_way way, unsigned queue,
		      const struct iovec *iov, unsigned n, size_t bytes);

#endif
