/* vhost_user_request.c - the table of requests, and those about the device as a whole. */
#include "host/vhost_user/vhost_user_request.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_connection.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_features.h"

#define BIT(n)       (UINT64_C(1) << (n))
#define OUR_FEATURES (BIT(VHOST_F_LOG_ALL_BIT) | BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT))
/* Addresses would have to be translated by the front-end's IOTLB messages, which we do not offer.
 */
#define ACCESS_PLATFORM BIT(33)

static const uint64_t protocol_features =
	BIT(VHOST_USER_PROTOCOL_F_MQ) | BIT(VHOST_USER_PROTOCOL_F_LOG_SHMFD) |
	BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) | BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
	BIT(VHOST_USER_PROTOCOL_F_CONFIG) | BIT(VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD) |
	BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) | BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |
	BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) | BIT(VHOST_USER_PROTOCOL_F_STATUS) |
	BIT(VHOST_USER_PROTOCOL_F_DEVICE_STATE) |
	BIT(VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT);

static const uint64_t network_protocol_features = BIT(VHOST_USER_PROTOCOL_F_RARP) |
						  BIT(VHOST_USER_PROTOCOL_F_NET_MTU);

uint64_t vhost_user_protocol_features(const struct vhost_user_connection *c)
{
	/* of a network device front-ends tell the driver themselves, and QEMU warns if we would */
	if (virtio_device_has_network(c->device))
		return (protocol_features & ~BIT(VHOST_USER_PROTOCOL_F_CONFIG)) |
		       network_protocol_features;
	return protocol_features;
}

uint64_t vhost_user_features(const struct vhost_user_connection *c)
{
	return (virtio_device_features(c->device) & ~ACCESS_PLATFORM) | OUR_FEATURES;
}

/* ---- features ---- */

static int get_features(struct vhost_user_connection *c, struct vhost_user_message *m,
			struct error *e)
{
	vhost_user_message_put_number(m, vhost_user_features(c));
	return 0;
}

static bool any_ring_started(const struct vhost_user_connection *c)
{
	for (unsigned i = 0; i < c->ring_count; i++)
		if (virtio_queue_is_started(c->device, i))
			return true;
	return false;
}

/* A migration begins and ends with the same features and VHOST_F_LOG_ALL, on running rings. */
static int set_features(struct vhost_user_connection *c, struct vhost_user_message *m,
			struct error *e)
{
	uint64_t wanted = m->payload.u64;
	uint64_t devices = wanted & ~OUR_FEATURES;
	int err = 0;

	if (wanted & ~vhost_user_features(c))
		return virtio_features_refuse(virtio_device_id(c->device),
					      wanted & ~vhost_user_features(c), e);
	if (wanted & BIT(VHOST_F_LOG_ALL_BIT))
		err = vhost_user_log_may_begin(c, e);
	if (err)
		return err;
	if (!any_ring_started(c))
		err = virtio_device_accept(c->device, devices, e);
	else if (devices != virtio_device_accepted(c->device))
		err = error_set(e, -EBUSY, "other features while a queue is started");
	if (err)
		return err;
	c->features = wanted;
	/* vhost-user.rst, "Ring states": without this bit there is no SET_VRING_ENABLE */
	if (!(wanted & BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT)))
		vhost_user_ring_enable_all(c, true);
	return vhost_user_log_update(c);
}

static int get_protocol_features(struct vhost_user_connection *c, struct vhost_user_message *m,
				 struct error *e)
{
	vhost_user_message_put_number(m, vhost_user_protocol_features(c));
	return 0;
}

static int set_protocol_features(struct vhost_user_connection *c, struct vhost_user_message *m,
				 struct error *e)
{
	uint64_t strange = m->payload.u64 & ~vhost_user_protocol_features(c);

	if (strange)
		return error_set(e, -EINVAL, "protocol features 0x%" PRIx64 " were not offered",
				 strange);
	c->protocol_features = m->payload.u64;
	return 0;
}

static int get_queue_num(struct vhost_user_connection *c, struct vhost_user_message *m,
			 struct error *e)
{
	vhost_user_message_put_number(m, virtio_device_set_count(c->device));
	return 0;
}

/* ---- network devices ---- */

/* The address is in the six bytes of lowest address. */
static int send_rarp(struct vhost_user_connection *c, struct vhost_user_message *m, struct error *e)
{
	virtio_device_announce(c->device, m->payload.bytes);
	return 0;
}

static int net_set_mtu(struct vhost_user_connection *c, struct vhost_user_message *m,
		       struct error *e)
{
	return virtio_device_set_mtu(c->device, m->payload.u64, e);
}

/* ---- owner, reset, status ---- */

/* One client at a time is the owner by being connected. */
static int set_owner(struct vhost_user_connection *c, struct vhost_user_message *m, struct error *e)
{
	return 0;
}

/* Deprecated: "ignore this message, or use it to disable all rings". */
static int reset_owner(struct vhost_user_connection *c, struct vhost_user_message *m,
		       struct error *e)
{
	vhost_user_ring_enable_all(c, false);
	return 0;
}

static void without_features(struct vhost_user_connection *c)
{
	c->features = 0;
	if (vhost_user_log_update(c) != VHOST_USER_LATER)
		vhost_user_connection_finish(c, 0, NULL);
}

static void device_is_reset(struct vhost_user_connection *c)
{
	vhost_user_ring_forget_all(c);
	without_features(c);
}

static int reset_device(struct vhost_user_connection *c, struct vhost_user_message *m,
			struct error *e)
{
	vhost_user_ring_enable_all(c, false);
	virtio_device_reset(c->device, vhost_user_connection_change(c, device_is_reset));
	return VHOST_USER_LATER;
}

static void status_is_reset(struct vhost_user_connection *c)
{
	vhost_user_ring_reset_all(c);
	without_features(c);
}

static void reset_stopped(struct vhost_user_connection *c)
{
	virtio_device_reset(c->device, vhost_user_connection_change(c, status_is_reset));
}

/* virtio 1.3, 2.1: a driver that writes zero resets the device.  QEMU before 8.2 also sends it
 * when it stops the VM, and asks for the rings' bases only then: those go to the destination. */
static int set_status(struct vhost_user_connection *c, struct vhost_user_message *m,
		      struct error *e)
{
	if (!m->payload.u64) {
		vhost_user_ring_enable_all(c, false);
		vhost_user_ring_stop_all(c, reset_stopped);
		return VHOST_USER_LATER;
	}
	virtio_device_set_status(c->device, m->payload.u64);
	return 0;
}

static int get_status(struct vhost_user_connection *c, struct vhost_user_message *m,
		      struct error *e)
{
	vhost_user_message_put_number(m, virtio_device_status(c->device));
	return 0;
}

/* ---- configuration space ---- */

/* A front-end may know a newer, longer configuration space than the device has: what is beyond
 * the end belongs to features that are not offered and reads as zero. */
static int get_config(struct vhost_user_connection *c, struct vhost_user_message *m,
		      struct error *e)
{
	struct vhost_user_config *config = &m->payload.config;
	size_t have = virtio_device_config_size(c->device);
	size_t n = config->offset < have ? minimum_u64(config->size, have - config->offset) : 0;

	memset(config->bytes, 0, sizeof(config->bytes));
	if (n && virtio_device_config_read(c->device, config->offset, config->bytes, n)) {
		vhost_user_connection_warn(c, "GET_CONFIG: bytes %" PRIu32 " + %zu cannot be read",
					   config->offset, n);
		m->header.size = 0; /* the specification's way to say so */
	}
	c->config_changed = false;
	return 0;
}

static int set_config(struct vhost_user_connection *c, struct vhost_user_message *m,
		      struct error *e)
{
	const struct vhost_user_config *config = &m->payload.config;

	if (config->flags > 1)
		return error_set(e, -EINVAL, "unknown flags 0x%" PRIx32, config->flags);
	if (virtio_device_config_write(c->device, config->offset, config->bytes, config->size))
		return error_set(e, -EINVAL,
				 "configuration bytes %" PRIu32 " + %" PRIu32 " cannot be written",
				 config->offset, config->size);
	return 0;
}

/* ---- the table ---- */

#define PAYLOAD_ANY   .size_min = 0, .size_max = 8 /* none is due; some front-ends send a number */
#define PAYLOAD(size) .size_min = (size), .size_max = (size)
#define FDS(min, max) .fds_min = (min), .fds_max = (max)
#define U64           PAYLOAD(sizeof(uint64_t))
#define STATE         PAYLOAD(sizeof(struct vhost_user_vring_state))
#define REGION        PAYLOAD(sizeof(struct vhost_user_single_region))
#define CONFIG                                                                                   \
	.size_min = VHOST_USER_CONFIG_HEADER_SIZE, .size_max = sizeof(struct vhost_user_config), \
	.check = vhost_user_check_config
#define INFLIGHT                                   \
	.size_min = VHOST_USER_INFLIGHT_AREA_SIZE, \
	.size_max = sizeof(struct vhost_user_inflight_area)
#define NEEDS(feature) .needs = BIT(VHOST_USER_PROTOCOL_F_##feature)
#define ANSWERED       .reply = VHOST_USER_REPLY_PAYLOAD

/* clang-format off */
static const struct vhost_user_request requests[VHOST_USER_REQUEST_END] = {
	[VHOST_USER_GET_FEATURES] = {
		"GET_FEATURES", get_features, { PAYLOAD_ANY }, ANSWERED },
	[VHOST_USER_SET_FEATURES] = {
		"SET_FEATURES", set_features, { U64 } },
	[VHOST_USER_SET_OWNER] = {
		"SET_OWNER", set_owner, { PAYLOAD_ANY } },
	[VHOST_USER_RESET_OWNER] = {
		"RESET_OWNER", reset_owner, { PAYLOAD_ANY } },
	[VHOST_USER_SET_MEM_TABLE] = {
		"SET_MEM_TABLE", vhost_user_set_mem_table,
		{ .size_min = offsetof(struct vhost_user_memory_table, regions),
		  .size_max = sizeof(struct vhost_user_memory_table),
		  FDS(0, VHOST_USER_TABLE_MAX), vhost_user_check_table } },
	[VHOST_USER_SET_LOG_BASE] = {
		"SET_LOG_BASE", vhost_user_set_log_base,
		{ .size_min = sizeof(uint64_t), .size_max = sizeof(struct vhost_user_log_area),
		  FDS(0, 1) },
		VHOST_USER_REPLY_LOG },
	[VHOST_USER_SET_LOG_FD] = {
		"SET_LOG_FD", vhost_user_set_log_fd, { PAYLOAD_ANY, FDS(0, 1) } },
	[VHOST_USER_SET_VRING_NUM] = {
		"SET_VRING_NUM", vhost_user_set_vring_num, { STATE } },
	[VHOST_USER_SET_VRING_ADDR] = {
		"SET_VRING_ADDR", vhost_user_set_vring_addr,
		{ PAYLOAD(sizeof(struct vhost_user_vring_address)),
		  .check = vhost_user_check_ring_address } },
	[VHOST_USER_SET_VRING_BASE] = {
		"SET_VRING_BASE", vhost_user_set_vring_base, { STATE } },
	[VHOST_USER_GET_VRING_BASE] = {
		"GET_VRING_BASE", vhost_user_get_vring_base, { STATE }, ANSWERED },
	[VHOST_USER_SET_VRING_KICK] = {
		"SET_VRING_KICK", vhost_user_set_vring_kick,
		{ U64, FDS(0, 1), vhost_user_check_ring_file } },
	[VHOST_USER_SET_VRING_CALL] = {
		"SET_VRING_CALL", vhost_user_set_vring_call,
		{ U64, FDS(0, 1), vhost_user_check_ring_file } },
	[VHOST_USER_SET_VRING_ERR] = {
		"SET_VRING_ERR", vhost_user_set_vring_err,
		{ U64, FDS(0, 1), vhost_user_check_ring_file } },
	[VHOST_USER_GET_PROTOCOL_FEATURES] = {
		"GET_PROTOCOL_FEATURES", get_protocol_features, { PAYLOAD_ANY }, ANSWERED },
	[VHOST_USER_SET_PROTOCOL_FEATURES] = {
		"SET_PROTOCOL_FEATURES", set_protocol_features, { U64 } },
	[VHOST_USER_GET_QUEUE_NUM] = {
		"GET_QUEUE_NUM", get_queue_num, { PAYLOAD_ANY }, ANSWERED },
	[VHOST_USER_SET_VRING_ENABLE] = {
		"SET_VRING_ENABLE", vhost_user_set_vring_enable,
		{ STATE, .check = vhost_user_check_enable } },
	[VHOST_USER_SEND_RARP] = {
		"SEND_RARP", send_rarp, { U64 }, NEEDS(RARP) },
	[VHOST_USER_NET_SET_MTU] = {
		"NET_SET_MTU", net_set_mtu, { U64 }, NEEDS(NET_MTU) },
	[VHOST_USER_SET_BACKEND_REQ_FD] = {
		"SET_BACKEND_REQ_FD", vhost_user_set_backend_req_fd, { PAYLOAD_ANY, FDS(1, 1) } },
	[VHOST_USER_GET_CONFIG] = {
		"GET_CONFIG", get_config, { CONFIG }, ANSWERED, NEEDS(CONFIG) },
	[VHOST_USER_SET_CONFIG] = {
		"SET_CONFIG", set_config, { CONFIG }, NEEDS(CONFIG) },
	[VHOST_USER_GET_INFLIGHT_FD] = {
		"GET_INFLIGHT_FD", vhost_user_get_inflight_fd, { INFLIGHT }, ANSWERED,
		NEEDS(INFLIGHT_SHMFD) },
	[VHOST_USER_SET_INFLIGHT_FD] = {
		"SET_INFLIGHT_FD", vhost_user_set_inflight_fd, { INFLIGHT, FDS(1, 1) },
		NEEDS(INFLIGHT_SHMFD) },
	[VHOST_USER_RESET_DEVICE] = {
		"RESET_DEVICE", reset_device, { PAYLOAD_ANY } },
	[VHOST_USER_GET_MAX_MEM_SLOTS] = {
		"GET_MAX_MEM_SLOTS", vhost_user_get_max_mem_slots, { PAYLOAD_ANY }, ANSWERED,
		NEEDS(CONFIGURE_MEM_SLOTS) },
	[VHOST_USER_ADD_MEM_REG] = {
		"ADD_MEM_REG", vhost_user_add_mem_reg,
		{ REGION, FDS(1, 1), vhost_user_check_single_region },
		NEEDS(CONFIGURE_MEM_SLOTS) },
	/* "MAY accept messages with one file descriptor", which is closed */
	[VHOST_USER_REM_MEM_REG] = {
		"REM_MEM_REG", vhost_user_rem_mem_reg,
		{ REGION, FDS(0, 1), vhost_user_check_single_region },
		NEEDS(CONFIGURE_MEM_SLOTS) },
	[VHOST_USER_SET_STATUS] = {
		"SET_STATUS", set_status, { U64, .check = vhost_user_check_status },
		NEEDS(STATUS) },
	[VHOST_USER_GET_STATUS] = {
		"GET_STATUS", get_status, { PAYLOAD_ANY }, ANSWERED, NEEDS(STATUS) },
	[VHOST_USER_SET_DEVICE_STATE_FD] = {
		"SET_DEVICE_STATE_FD", vhost_user_set_device_state_fd,
		{ PAYLOAD(sizeof(struct vhost_user_device_state)), FDS(1, 1) }, ANSWERED,
		NEEDS(DEVICE_STATE) },
	[VHOST_USER_CHECK_DEVICE_STATE] = {
		"CHECK_DEVICE_STATE", vhost_user_check_device_state, { PAYLOAD_ANY }, ANSWERED,
		NEEDS(DEVICE_STATE) },
};
/* clang-format on */

const struct vhost_user_request *vhost_user_request_find(uint32_t number)
{
	if (number >= ARRAY_LENGTH(requests) || !requests[number].name)
		return NULL;
	return &requests[number];
}

int vhost_user_message_decode(const void *bytes, size_t n, unsigned fd_count,
			      struct vhost_user_message *m, struct error *e)
{
	const struct vhost_user_request *r;

	memset(m, 0, sizeof(*m));
	m->fd_count = fd_count;
	if (n < sizeof(m->header))
		return error_set(e, -EPROTO, "%zu bytes are no header", n);
	memcpy(&m->header, bytes, sizeof(m->header));
	if (vhost_user_header_check(&m->header, e))
		return e->code;
	if (n - sizeof(m->header) != m->header.size)
		return error_set(e, -EPROTO, "%zu bytes of payload, the header says %" PRIu32,
				 n - sizeof(m->header), m->header.size);
	memcpy(m->payload.bytes, (const char *)bytes + sizeof(m->header), m->header.size);
	r = vhost_user_request_find(m->header.request);
	if (!r)
		return error_set(e, -EPROTO, "unknown request %" PRIu32, m->header.request);
	return vhost_user_shape_check(&r->shape, m, e);
}
