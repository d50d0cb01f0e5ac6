/* file_claim.h - opens a file or block device that nobody else is writing to. */
#ifndef STORAGE_FILE_CLAIM_H
#define STORAGE_FILE_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

struct error;

/* Stores a new descriptor in *fd, the caller's to close.  exclusive: readers share the file, a
 * writer is alone; -EBUSY when it is still in use after wait_ns, as a mounted block device is.
 * The claim goes with the descriptor.  Other errors: -errno, -EINVAL for what is neither a file
 * nor a device.  Control thread; sleeps while it waits. */
int file_claim(const char *path, bool read_only, bool exclusive, uint64_t wait_ns, int *fd,
	       struct error *e);

#endif
