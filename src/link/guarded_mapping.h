/* guarded_mapping.h - shared memory of somebody who may take it away.
 *
 * The owner of a mapped file can shrink it; touching the missing part raises SIGBUS.  A guarded
 * mapping answers that: the whole mapping is replaced by private zeroes, in place, and is
 * remembered as lost.  The access that found out goes on, reads zeroes or writes into the void,
 * and the user of the mapping notices at its next look and gives up that function only.
 */
#ifndef LINK_GUARDED_MAPPING_H
#define LINK_GUARDED_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

struct guarded_mapping {	/* embedded in its owner, at a stable address while open */
	void *address;		/* page-aligned; NULL: not open */
	size_t length;		/* bytes */
	size_t skew;		/* private: from address to the first byte asked for */
	unsigned place;		/* private */
};

/* Maps [offset, offset + length) of fd, shared; prot as for mmap(2).  fd is borrowed and may be
 * closed afterwards.  Any offset and length.  -EINVAL: the range wraps, is empty or longer than a
 * regular file is; or what mmap said. */
int guarded_mapping_open(struct guarded_mapping *m, int fd, uint64_t offset, uint64_t length,
			 int prot, struct error *e);
void guarded_mapping_close(struct guarded_mapping *m);		/* idempotent */

/* The first byte asked for: the mapping itself begins at a page boundary. */
void *guarded_mapping_start(const struct guarded_mapping *m);

bool guarded_mapping_is_lost(const struct guarded_mapping *m);	/* any thread */

/* How many mappings this process has lost so far: one load tells whether to look closer. */
unsigned guarded_mapping_losses(void);

#endif
