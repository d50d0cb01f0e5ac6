/* vfio_user_version.h - what client and server agree on (vfio-user.rst, "VFIO_USER_VERSION").
 * Pure functions of bytes. */
#ifndef HOST_VFIO_USER_VFIO_USER_VERSION_H
#define HOST_VFIO_USER_VFIO_USER_VERSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct vfio_user_message;

struct vfio_user_terms {		/* zeroed: nothing is agreed on */
	uint16_t minor;
	bool proposed_fds, proposed_transfer, proposed_maps, proposed_pages;
	uint32_t client_fds;		/* that the client takes with one message */
	uint32_t transfer_max;		/* bytes in one access, either way */
	uint32_t maps_max;		/* DMA regions at one time */
	uint64_t page_sizes;		/* or'ed together */
	bool write_multiple;
	bool twin_socket;		/* our commands go over a socket of their own */
};

/* Reads a client's proposal and agrees to as much of it as we can.  m has at least the two version
 * numbers.  0, or with *e: -EINVAL malformed or out of bounds, -EPROTONOSUPPORT another major
 * version: the specification's answer is to close. */
int vfio_user_version_read(const struct vfio_user_message *m, struct vfio_user_terms *terms,
			   struct error *e);

/* The reply's payload, of *size bytes, for free(); NULL: out of memory. */
void *vfio_user_version_reply(const struct vfio_user_terms *terms, size_t *size);

#endif
