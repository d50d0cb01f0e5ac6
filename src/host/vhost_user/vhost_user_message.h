/* vhost_user_message.h - vhost-user messages as they are on the wire, and what they may hold.
 *
 * Specification: QEMU docs/interop/vhost-user.rst, "Message Specification" and "Front-end message
 * types"; names are the specification's.  All numbers are in the machine's own byte order.
 * Everything here is a pure function of bytes: no socket, no device, any thread.
 */
#ifndef HOST_VHOST_USER_VHOST_USER_MESSAGE_H
#define HOST_VHOST_USER_VHOST_USER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum vhost_user_request_number {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_LOG_BASE = 6,
	VHOST_USER_SET_LOG_FD = 7,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_SEND_RARP = 19,
	VHOST_USER_NET_SET_MTU = 20,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
	VHOST_USER_SET_STATUS = 39,
	VHOST_USER_GET_STATUS = 40,
	VHOST_USER_SET_DEVICE_STATE_FD = 42,
	VHOST_USER_CHECK_DEVICE_STATE = 43,
	VHOST_USER_REQUEST_END
};

/* Sent by us on the channel of SET_BACKEND_REQ_FD. */
enum { VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2 };

/* Bits of GET/SET_FEATURES that belong to the transport, not to the device. */
#define VHOST_F_LOG_ALL_BIT                26
#define VHOST_USER_F_PROTOCOL_FEATURES_BIT 30

enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_F_MQ = 0,
	VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
	VHOST_USER_PROTOCOL_F_RARP = 2,
	VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_F_NET_MTU = 4,
	VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_F_CONFIG = 9,
	VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
	VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PROTOCOL_F_STATUS = 16,
	VHOST_USER_PROTOCOL_F_DEVICE_STATE = 19,
	VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20,
};

enum {
	VHOST_USER_VERSION = 1,
	VHOST_USER_FLAG_VERSION_MASK = 3,
	VHOST_USER_FLAG_REPLY = 1 << 2,
	VHOST_USER_FLAG_NEED_REPLY = 1 << 3,

	VHOST_USER_FDS_MAX = 8,		/* in one message */
	VHOST_USER_TABLE_MAX = 8,	/* regions in one SET_MEM_TABLE */
	VHOST_USER_CONFIG_MAX = 256,	/* bytes in one GET/SET_CONFIG */
	VHOST_USER_RINGS_MAX = 256,	/* SET_VRING_KICK has eight bits for the index */
};

struct vhost_user_header {
	uint32_t request, flags;
	uint32_t size;			/* bytes of payload */
};

struct vhost_user_vring_state {
	uint32_t index, num;
};

struct vhost_user_vring_address {
	uint32_t index, flags;
	uint64_t descriptor, used, available;	/* the front-end's user addresses */
	uint64_t log;
};

struct vhost_user_region {
	uint64_t guest_address;
	uint64_t size;			/* bytes */
	uint64_t user_address;
	uint64_t mmap_offset;		/* bytes into the file */
};

struct vhost_user_memory_table {
	uint32_t count, padding;
	struct vhost_user_region regions[VHOST_USER_TABLE_MAX];
};

struct vhost_user_single_region {
	uint64_t padding;
	struct vhost_user_region region;
};

struct vhost_user_log_area {
	uint64_t size, offset;		/* bytes */
};

struct vhost_user_config {
	uint32_t offset, size, flags;
	uint8_t bytes[VHOST_USER_CONFIG_MAX];
};

struct vhost_user_inflight_area {
	uint64_t mmap_size, mmap_offset;	/* bytes */
	uint16_t queue_count, queue_size;
	/* QEMU's C structure has four more bytes of padding and wants them back: size 20 or 24 */
};

struct vhost_user_device_state {
	uint32_t direction;		/* 0: out of the back-end; 1: into it */
	uint32_t phase;			/* 0: all rings are stopped */
};

enum {
	VHOST_USER_CONFIG_HEADER_SIZE = offsetof(struct vhost_user_config, bytes),
	VHOST_USER_INFLIGHT_AREA_SIZE = 20,
	VHOST_USER_PAYLOAD_MAX = 320,	/* more than any request above has */
};

union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_address address;
	struct vhost_user_memory_table table;
	struct vhost_user_single_region single;
	struct vhost_user_log_area log;
	struct vhost_user_config config;
	struct vhost_user_inflight_area inflight;
	struct vhost_user_device_state device_state;
	uint8_t bytes[VHOST_USER_PAYLOAD_MAX];
};

struct vhost_user_message {
	struct vhost_user_header header;
	union vhost_user_payload payload;
	int fds[VHOST_USER_FDS_MAX];	/* owned; -1 where one was taken */
	unsigned fd_count;
};

/* What a request must look like before its handler sees it. */
struct vhost_user_shape {
	uint16_t size_min, size_max;	/* bytes of payload */
	uint8_t fds_min, fds_max;
	/* May be NULL: every payload of that size will do.  Reads the payload and fd_count only. */
	int (*check)(const struct vhost_user_message *m, struct error *e);
};

/* The version, the direction and the payload's size.  0, or -EPROTO with *e: the stream is lost. */
int vhost_user_header_check(const struct vhost_user_header *h, struct error *e);

/* 0, or -EPROTO with *e. */
int vhost_user_shape_check(const struct vhost_user_shape *s, const struct vhost_user_message *m,
			   struct error *e);

/* Payload checks for tables of shapes: what can be said without knowing the device. */
int vhost_user_check_ring_file(const struct vhost_user_message *m, struct error *e);
int vhost_user_check_table(const struct vhost_user_message *m, struct error *e);
int vhost_user_check_single_region(const struct vhost_user_message *m, struct error *e);
int vhost_user_check_config(const struct vhost_user_message *m, struct error *e);
int vhost_user_check_ring_address(const struct vhost_user_message *m, struct error *e);
int vhost_user_check_enable(const struct vhost_user_message *m, struct error *e);
int vhost_user_check_status(const struct vhost_user_message *m, struct error *e);

/* The fields of SET_VRING_KICK, CALL and ERR, once checked. */
static inline unsigned vhost_user_ring_file_index(const struct vhost_user_message *m)
{
	return m->payload.u64 & 0xff;
}

/* Stores a reply of one number. */
static inline void vhost_user_message_put_number(struct vhost_user_message *m, uint64_t number)
{
	m->payload.u64 = number;
	m->header.size = sizeof(number);
}

/* Closes the descriptors that nobody has taken. */
void vhost_user_message_close(struct vhost_user_message *m);

#endif
