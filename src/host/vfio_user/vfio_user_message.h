/* vfio_user_message.h - vfio-user messages as they are on the wire, and what they may hold.
 *
 * Specification: QEMU docs/interop/vfio-user.rst, "Protocol Specification"; names are the
 * specification's, those of VFIO itself are in <linux/vfio.h>.  All numbers are in the machine's
 * own byte order.  Everything here is a pure function of bytes: no socket, no device, any thread.
 */
#ifndef HOST_VFIO_USER_VFIO_USER_MESSAGE_H
#define HOST_VFIO_USER_VFIO_USER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP = 2,
	VFIO_USER_DMA_UNMAP = 3,
	VFIO_USER_DEVICE_GET_INFO = 4,
	VFIO_USER_DEVICE_GET_REGION_INFO = 5,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
	VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
	VFIO_USER_DEVICE_SET_IRQS = 8,
	VFIO_USER_REGION_READ = 9,
	VFIO_USER_REGION_WRITE = 10,
	VFIO_USER_DMA_READ = 11,	/* ours, as is the next */
	VFIO_USER_DMA_WRITE = 12,
	VFIO_USER_DEVICE_RESET = 13,
	VFIO_USER_REGION_WRITE_MULTI = 15,
	VFIO_USER_DEVICE_FEATURE = 16,
	VFIO_USER_MIG_DATA_READ = 17,
	VFIO_USER_MIG_DATA_WRITE = 18,
	VFIO_USER_COMMAND_END
};

enum {
	VFIO_USER_FLAG_TYPE = 0xf,
	VFIO_USER_FLAG_REPLY = 0x1,	/* a value of the type bits; 0 is a command */
	VFIO_USER_FLAG_NO_REPLY = 0x10,
	VFIO_USER_FLAG_ERROR = 0x20,
};

enum {
	VFIO_USER_MAJOR = 0,
	VFIO_USER_MINOR = 1,
	VFIO_USER_FDS_MAX = 16,		/* that we take with one message; QEMU knows no more */
	VFIO_USER_TRANSFER_MAX = 1 << 20,	/* bytes in one region or DMA access */
	VFIO_USER_TRANSFER_MIN = 64,	/* a client that takes less cannot be served */
	VFIO_USER_MAPS_MAX = 4096,	/* DMA regions at one time */
	VFIO_USER_PAGE = 4096,		/* the smallest page of a DMA region */
};

struct vfio_user_header {
	uint16_t id, command;
	uint32_t size;			/* bytes, this header included */
	uint32_t flags;
	uint32_t error;			/* an errno, in a reply with the error flag */
};

struct vfio_user_version {
	uint16_t major, minor;
	char data[];			/* JSON, with its NUL */
};

struct vfio_user_dma_map {
	uint32_t argsz, flags;
	uint64_t offset, address, size;	/* bytes */
};

struct vfio_user_dma_unmap {
	uint32_t argsz, flags;
	uint64_t address, size;		/* bytes */
};

struct vfio_user_device_info {
	uint32_t argsz, flags, num_regions, num_irqs;
};

struct vfio_user_region_info {
	uint32_t argsz, flags, index, cap_offset;
	uint64_t size, offset;
};

/* Requests and the head of replies of GET_REGION_IO_FDS and of GET_IRQ_INFO. */
struct vfio_user_indexed {
	uint32_t argsz, flags, index, count;
};

struct vfio_user_io_fd {		/* an ioeventfd */
	uint64_t offset, size;
	uint32_t fd_index, type, flags, padding;
	uint64_t datamatch;
};

struct vfio_user_irq_set {
	uint32_t argsz, flags, index, start, count;
};

struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region, count;
};

struct vfio_user_write_one {		/* of WRITE_MULTI */
	uint64_t offset;
	uint32_t region, count;
	uint8_t data[8];
};

struct vfio_user_dma_access {
	uint64_t address, count;
};

struct vfio_user_feature {
	uint32_t argsz, flags;
};

/* Features, as <linux/vfio.h> of newer kernels numbers them. */
enum {
	VFIO_USER_FEATURE_MIGRATION = 1,
	VFIO_USER_FEATURE_STATE = 2,	/* MIG_DEVICE_STATE */
	VFIO_USER_FEATURE_LOG_START = 6,
	VFIO_USER_FEATURE_LOG_STOP = 7,
	VFIO_USER_FEATURE_LOG_REPORT = 8,
	VFIO_USER_FEATURE_DATA_SIZE = 9,
	VFIO_USER_FEATURE_END
};

enum { VFIO_USER_MIGRATION_STOP_COPY = 1, VFIO_USER_MIGRATION_P2P = 2,
       VFIO_USER_MIGRATION_PRE_COPY = 4 };

enum { VFIO_USER_LOG_RANGES_MAX = 256 };

struct vfio_user_migration {
	struct vfio_user_feature head;
	uint64_t flags;
};

struct vfio_user_mig_state {
	struct vfio_user_feature head;
	uint32_t state;
	int32_t data_fd;		/* not used */
};

struct vfio_user_log_start {
	struct vfio_user_feature head;
	uint64_t page_size;
	uint32_t range_count, reserved;
	struct vfio_user_log_range {
		uint64_t iova, length;	/* bytes */
	} ranges[];
};

struct vfio_user_log_report {
	struct vfio_user_feature head;
	uint64_t iova, length, page_size;	/* bytes; the bitmap follows in the reply */
};

struct vfio_user_data_size {
	struct vfio_user_feature head;
	uint64_t bytes;
};

struct vfio_user_mig_data {
	uint32_t argsz, size;		/* bytes; the data follows */
};

enum {
	VFIO_USER_HEADER_SIZE = sizeof(struct vfio_user_header),
	/* The largest message: a region write. */
	VFIO_USER_MESSAGE_MAX = VFIO_USER_HEADER_SIZE + sizeof(struct vfio_user_region_access) +
				VFIO_USER_TRANSFER_MAX,
};

/* A command as it came.  Payload and descriptors are borrowed; a handler that keeps a descriptor
 * takes it (fd_take). */
struct vfio_user_message {
	struct vfio_user_header header;
	const void *payload;		/* header.size - VFIO_USER_HEADER_SIZE bytes, 8-aligned */
	int *fds;
	unsigned fd_count;
};

static inline size_t vfio_user_payload_size(const struct vfio_user_message *m)
{
	return m->header.size - VFIO_USER_HEADER_SIZE;
}

/* Of a report's bitmap: words of 64 bits, one bit per page. */
static inline uint64_t vfio_user_bitmap_bytes(uint64_t length, uint64_t page_size)
{
	return (((length - 1) / page_size) / 64 + 1) * sizeof(uint64_t);
}

/* Whether a stream can go on with this header: size and type.  0, or -EPROTO with *e. */
int vfio_user_header_check(const struct vfio_user_header *h, struct error *e);

/* The specification's name of a command ("DMA_MAP"); NULL: unknown. */
const char *vfio_user_command_name(uint16_t command);

/* Whether the command is one that a client may send, its size is right, and its fields are possible
 * for some device: reserved bits, counts, ranges that wrap.  What passes can be read by its
 * handler without looking at sizes again.  transfer_max: bytes, as negotiated.  0, or what the
 * error reply says: -EINVAL, -EOPNOTSUPP, with *e. */
int vfio_user_command_check(const struct vfio_user_message *m, uint32_t transfer_max,
			    struct error *e);

#endif
