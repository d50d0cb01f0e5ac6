/* file_probe.h - what an open file or block device can do. */
#ifndef STORAGE_FILE_PROBE_H
#define STORAGE_FILE_PROBE_H

#include <stdbool.h>
#include <stdint.h>

struct error;

struct file_abilities {
	bool is_device;            /* block device; otherwise a regular file */
	bool in_memory;            /* tmpfs: reads and writes have nothing to wait for */
	uint32_t granule;          /* bytes, power of two: what the file system allocates */
	uint32_t memory_alignment; /* bytes, power of two: of buffers; 0: no O_DIRECT */
	uint32_t offset_alignment; /* bytes, power of two: of offsets and lengths, for O_DIRECT */
	bool can_punch;            /* fallocate PUNCH_HOLE; only looked at if writable */
};

/* Stores the size in bytes.  0 or -errno.  Does not wait for the disk. */
int file_size(int fd, uint64_t *size);

/* Reads at most a block of the file; writes nothing.  Control thread. */
int file_probe(int fd, bool writable, struct file_abilities *a, struct error *e);

#endif
