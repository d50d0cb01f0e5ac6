/* vfio_user_client.h - a vfio-user client (QEMU docs/interop/vfio-user.rst, linux/vfio.h) without a
 * VMM around it: what a VMM does to find, drive and lose a device.
 *
 * Functions return 0 or -errno with *e: that of the server's error reply, -ECONNRESET when it hung
 * up, -ETIMEDOUT.  One thread, but see vfio_client_channel.h for who answers the server.
 */
#ifndef DRIVER_VFIO_USER_CLIENT_H
#define DRIVER_VFIO_USER_CLIENT_H

#include <linux/vfio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver/vfio_client_channel.h"

struct error;
struct guest_memory;

enum { VFIO_USER_AREAS = 16, VFIO_USER_DOORBELLS = 64 };

struct vfio_user_client {
	struct vfio_client_channel channel;

	/* what the next connection proposes */
	uint16_t minor;			/* of version 0 */
	bool twin_socket;
	bool write_multiple;
	uint32_t transfer_max;		/* bytes; 0: says nothing, which means 1 MiB */
	uint32_t message_fds;		/* 0: says nothing, which means 1 */

	/* what came of it */
	bool has_twin, has_write_multiple;
	uint32_t server_transfer_max, server_message_fds, server_maps;
	uint64_t server_page_sizes;
	uint16_t server_minor;
	uint32_t flags, regions, irqs;	/* of the device */
};

/* Nothing is connected.  Proposes version 0.1 with neither twin socket nor write_multiple,
 * transfers of 1 MiB, 16 descriptors. */
void vfio_user_client_init(struct vfio_user_client *c);
/* Proposes what QEMU 11.1 does, and behaves as it does. */
void vfio_user_client_like_qemu(struct vfio_user_client *c);

/* Connects (again), agrees on the version, asks for the device's information. */
int vfio_user_client_connect(struct vfio_user_client *c, const char *path, struct error *e);
/* As before on a socket that is connected, which moves in. */
int vfio_user_client_adopt(struct vfio_user_client *c, int fd, struct error *e);
/* Hangs up.  Idempotent. */
void vfio_user_client_disconnect(struct vfio_user_client *c);

/* A request with any payload, for what the functions below would not send; the reply is in
 * c->channel.reply. */
int vfio_user_client_ask(struct vfio_user_client *c, uint16_t command, const void *payload,
			 size_t size, const int *fds, unsigned fd_count, struct error *e);
/* The same without waiting; *id is for vfio_client_channel_await().  NULL: asks for no reply. */
int vfio_user_client_post(struct vfio_user_client *c, uint16_t command, const void *payload,
			  size_t size, uint16_t *id, struct error *e);

/* ---- regions ---- */

struct vfio_client_region {
	uint32_t index, flags;		/* VFIO_REGION_INFO_FLAG_* */
	uint64_t size, offset;		/* bytes */
	int fd;				/* owned; -1: cannot be mapped */
	struct vfio_region_sparse_mmap_area areas[VFIO_USER_AREAS]; /* all of it: one area */
	unsigned area_count;
};

int vfio_user_client_region(struct vfio_user_client *c, uint32_t index,
			    struct vfio_client_region *r, struct error *e);
void vfio_client_region_close(struct vfio_client_region *r);
/* Maps an area; to be unmapped by the caller.  NULL with *e. */
void *vfio_client_region_map(const struct vfio_client_region *r, unsigned area, struct error *e);

int vfio_user_client_read(struct vfio_user_client *c, uint32_t region, uint64_t offset, void *to,
			  uint32_t n, struct error *e);
int vfio_user_client_write(struct vfio_user_client *c, uint32_t region, uint64_t offset,
			   const void *from, uint32_t n, struct error *e);
/* Does not wait: as VMMs write memory BARs. */
int vfio_user_client_write_posted(struct vfio_user_client *c, uint32_t region, uint64_t offset,
				  const void *from, uint32_t n, struct error *e);

struct vfio_client_write { /* as on the wire */
	uint64_t offset;
	uint32_t region, count;	/* count: bytes, at most 8 */
	uint8_t data[8];
};
int vfio_user_client_write_multiple(struct vfio_user_client *c,
				    const struct vfio_client_write *writes, unsigned count,
				    struct error *e);

struct vfio_client_doorbell { /* a sub-region of GET_REGION_IO_FDS, of type ioeventfd */
	uint64_t offset, size;	/* bytes */
	int fd;			/* owned by whoever asked */
	uint32_t flags;
	uint64_t datamatch;
};
/* -EPROTO for what is not an ioeventfd.  *count: in, room; out, how many. */
int vfio_user_client_doorbells(struct vfio_user_client *c, uint32_t region,
			       struct vfio_client_doorbell *list, unsigned *count, struct error *e);

/* ---- memory ---- */

/* The whole memory, readable and writable; shared: its descriptor goes with it, else the server
 * has to send DMA messages. */
int vfio_user_client_map(struct vfio_user_client *c, const struct guest_memory *m, bool shared,
			 struct error *e);
int vfio_user_client_unmap(struct vfio_user_client *c, const struct guest_memory *m,
			   struct error *e);
/* Both, with nothing answered between them: a VMM that rearranges its memory. */
int vfio_user_client_remap(struct vfio_user_client *c, const struct guest_memory *m, bool shared,
			   struct error *e);
/* A part of m at any address; flags 1: readable, 2: writable. */
int vfio_user_client_map_part(struct vfio_user_client *c, const struct vfio_client_window *w,
			      bool shared, struct error *e);
int vfio_user_client_unmap_range(struct vfio_user_client *c, uint64_t address, uint64_t size,
				 struct error *e);

/* ---- interrupts and reset ---- */

/* *count: of vectors. */
int vfio_user_client_irq_info(struct vfio_user_client *c, uint32_t index, uint32_t *flags,
			      uint32_t *count, struct error *e);
/* flags: VFIO_IRQ_SET_*.  bools: with DATA_BOOL, `count` of them; fds: with DATA_EVENTFD. */
int vfio_user_client_set_irqs(struct vfio_user_client *c, uint32_t flags, uint32_t index,
			      uint32_t start, uint32_t count, const uint8_t *bools, const int *fds,
			      unsigned fd_count, struct error *e);
/* Each of `count` vectors from `start` on raises its descriptor (borrowed). */
int vfio_user_client_connect_irqs(struct vfio_user_client *c, uint32_t index, uint32_t start,
				  const int *fds, unsigned count, struct error *e);
int vfio_user_client_reset(struct vfio_user_client *c, struct error *e);

#endif
