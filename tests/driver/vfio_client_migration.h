/* vfio_client_migration.h - what a VMM does to migrate a device over vfio-user: states, the state's
 * bytes, and the pages that the device writes (QEMU docs/interop/vfio-user.rst, linux/vfio.h).
 * As vfio_user_client.h. */
#ifndef DRIVER_VFIO_CLIENT_MIGRATION_H
#define DRIVER_VFIO_CLIENT_MIGRATION_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct error;
struct vfio_user_client;

/* As enum vfio_device_mig_state of newer kernels. */
enum vfio_client_state {
	CLIENT_ERROR, CLIENT_STOP, CLIENT_RUNNING, CLIENT_STOP_COPY, CLIENT_RESUMING,
	CLIENT_RUNNING_P2P, CLIENT_PRE_COPY, CLIENT_PRE_COPY_P2P, CLIENT_STATES
};

/* Bits: 1 STOP_COPY, 2 P2P, 4 PRE_COPY. */
int vfio_client_migration_flags(struct vfio_user_client *c, uint64_t *flags, struct error *e);
int vfio_client_get_state(struct vfio_user_client *c, uint32_t *state, struct error *e);
/* Serves the device's messages while it waits. */
int vfio_client_set_state(struct vfio_user_client *c, uint32_t state, struct error *e);

/* Bytes of the state: how many, or -errno. */
ssize_t vfio_client_mig_read(struct vfio_user_client *c, void *to, uint32_t n, struct error *e);
int vfio_client_mig_write(struct vfio_user_client *c, const void *from, uint32_t n,
			  struct error *e);
int vfio_client_data_size(struct vfio_user_client *c, uint64_t *bytes, struct error *e);

struct vfio_client_range {
	uint64_t iova, length;		/* bytes */
};

/* No ranges: all that is mapped.  *page_size: what the device chose. */
int vfio_client_log_start(struct vfio_user_client *c, const struct vfio_client_range *ranges,
			  unsigned count, uint64_t *page_size, struct error *e);
int vfio_client_log_stop(struct vfio_user_client *c, struct error *e);
/* bitmap: a bit per page_size bytes, in words of 64 bits, `bytes` of them. */
int vfio_client_log_report(struct vfio_user_client *c, uint64_t iova, uint64_t length,
			   uint64_t page_size, uint64_t *bitmap, size_t bytes, struct error *e);

#endif
