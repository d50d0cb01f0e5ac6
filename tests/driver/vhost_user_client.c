/* vhost_user_client.c - a vhost-user front-end without a VMM around it. */
#include "driver/vhost_user_client.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "driver/guest_memory.h"
#include "driver/guest_queue.h"
#include "host/vhost_user/vhost_user_message.h"

#define BIT(n) (UINT64_C(1) << (n))

static const uint64_t known_protocol_features = BIT(VHOST_USER_PROTOCOL_F_MQ) |
						BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
						BIT(VHOST_USER_PROTOCOL_F_CONFIG) |
						BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) |
						BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);

/* ---- messages ---- */

static int send_message(struct vhost_user_client *c, const struct vhost_user_message *m,
			struct error *e)
{
	char control[CMSG_SPACE(sizeof(m->fds))] = { 0 };
	struct iovec iov[2] = { { (void *)&m->header, sizeof(m->header) },
				{ (void *)&m->payload, m->header.size } };
	struct msghdr h = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	if (m->fd_count) {
		struct cmsghdr *part = (struct cmsghdr *)(void *)control;

		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(m->fd_count * sizeof(int));
		part->cmsg_level = SOL_SOCKET;
		part->cmsg_type = SCM_RIGHTS;
		part->cmsg_len = CMSG_LEN(m->fd_count * sizeof(int));
		memcpy(CMSG_DATA(part), m->fds, m->fd_count * sizeof(int));
	}
	n = sendmsg(c->fd, &h, MSG_NOSIGNAL);
	if (n != (ssize_t)(sizeof(m->header) + m->header.size))
		return error_set(e, n < 0 ? -errno : -EIO, "request %" PRIu32 ": not sent",
				 m->header.request);
	return 0;
}

static void take_descriptors(struct vhost_user_message *m, struct msghdr *h)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(h);

	if (!part || part->cmsg_type != SCM_RIGHTS)
		return;
	m->fd_count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(m->fds, CMSG_DATA(part), m->fd_count * sizeof(int));
}

static int receive_bytes(struct vhost_user_client *c, struct vhost_user_message *m, void *to,
			 size_t n, struct error *e)
{
	char control[CMSG_SPACE(sizeof(m->fds))];
	struct iovec iov = { to, n };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	ssize_t got;

	if (poll(&p, 1, VHOST_USER_CLIENT_TIMEOUT_MS) != 1)
		return error_set(e, -ETIMEDOUT, "the back-end does not answer");
	got = recvmsg(c->fd, &h, MSG_CMSG_CLOEXEC | MSG_WAITALL);
	if (got != (ssize_t)n)
		return error_set(e, got < 0 ? -errno : -ECONNRESET, "the back-end hung up");
	take_descriptors(m, &h);
	return 0;
}

static int receive_reply(struct vhost_user_client *c, struct vhost_user_message *m, struct error *e)
{
	uint32_t request = m->header.request;
	int err;

	m->fd_count = 0;
	err = receive_bytes(c, m, &m->header, sizeof(m->header), e);
	if (err)
		return err;
	if (m->header.request != request || !(m->header.flags & VHOST_USER_FLAG_REPLY) ||
	    m->header.size > sizeof(m->payload))
		return error_set(e, -EPROTO, "request %" PRIu32 ": a strange reply", request);
	return m->header.size ? receive_bytes(c, m, &m->payload, m->header.size, e) : 0;
}

static struct vhost_user_message message(uint32_t request, uint32_t size)
{
	return (struct vhost_user_message){
		.header = { .request = request, .flags = VHOST_USER_VERSION, .size = size }
	};
}

/* A request that is answered with a payload. */
static int ask(struct vhost_user_client *c, struct vhost_user_message *m, struct error *e)
{
	int err = send_message(c, m, e);

	return err ? err : receive_reply(c, m, e);
}

static int ask_number(struct vhost_user_client *c, uint32_t request, uint64_t *number,
		      struct error *e)
{
	struct vhost_user_message m = message(request, 0);
	int err = ask(c, &m, e);

	*number = m.payload.u64;
	return err;
}

/* A request that only says something: acknowledged if both know how. */
static int tell(struct vhost_user_client *c, struct vhost_user_message *m, struct error *e)
{
	uint32_t request = m->header.request;
	bool acknowledged = c->protocol_features & BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
	int err;

	if (acknowledged)
		m->header.flags |= VHOST_USER_FLAG_NEED_REPLY;
	err = send_message(c, m, e);
	if (err || !acknowledged)
		return err;
	err = receive_reply(c, m, e);
	if (!err && m->payload.u64)
		return error_set(e, -EREMOTEIO, "request %" PRIu32 " was refused", request);
	return err;
}

static int tell_number(struct vhost_user_client *c, uint32_t request, uint64_t number,
		       struct error *e)
{
	struct vhost_user_message m = message(request, sizeof(number));

	m.payload.u64 = number;
	return tell(c, &m, e);
}

static int tell_state(struct vhost_user_client *c, uint32_t request, uint32_t index, uint32_t num,
		      struct error *e)
{
	struct vhost_user_message m = message(request, sizeof(m.payload.state));

	m.payload.state = (struct vhost_user_vring_state){ index, num };
	return tell(c, &m, e);
}

/* ---- connection ---- */

void vhost_user_client_init(struct vhost_user_client *c)
{
	*c = (struct vhost_user_client){ .fd = -1, .inflight_fd = -1 };
	for (unsigned i = 0; i < VHOST_USER_CLIENT_QUEUES; i++)
		c->kick[i] = c->call[i] = -1;
}

void vhost_user_client_disconnect(struct vhost_user_client *c)
{
	fd_close(&c->fd);
	for (unsigned i = 0; i < VHOST_USER_CLIENT_QUEUES; i++) {
		fd_close(&c->kick[i]);
		fd_close(&c->call[i]);
	}
	c->protocol_features = 0;
}

void vhost_user_client_close(struct vhost_user_client *c)
{
	vhost_user_client_disconnect(c);
	fd_close(&c->inflight_fd);
}

static int open_socket(struct vhost_user_client *c, const char *path, struct error *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(e, -ENAMETOOLONG, "%s is too long for a socket", path);
	strcpy(address.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)))
		return error_set(e, -errno, "%s: %s", path, strerror(errno));
	return 0;
}

static int learn_queues(struct vhost_user_client *c, struct error *e)
{
	uint64_t number = 1;
	int err = 0;

	if (c->protocol_features & BIT(VHOST_USER_PROTOCOL_F_MQ))
		err = ask_number(c, VHOST_USER_GET_QUEUE_NUM, &number, e);
	c->queue_max = number;
	return err;
}

static int handshake(struct vhost_user_client *c, struct error *e)
{
	uint64_t protocol = 0;
	int err = ask_number(c, VHOST_USER_GET_FEATURES, &c->offered, e);

	if (!err && c->offered & BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT)) {
		err = ask_number(c, VHOST_USER_GET_PROTOCOL_FEATURES, &protocol, e);
		protocol &= known_protocol_features;
		if (!err)
			err = tell_number(c, VHOST_USER_SET_PROTOCOL_FEATURES, protocol, e);
		c->protocol_features = protocol;
	}
	if (!err)
		err = learn_queues(c, e);
	if (!err) {
		struct vhost_user_message m = message(VHOST_USER_SET_OWNER, 0);

		err = tell(c, &m, e);
	}
	return err;
}

int vhost_user_client_connect(struct vhost_user_client *c, const char *path, struct error *e)
{
	int err;

	vhost_user_client_disconnect(c);
	err = open_socket(c, path, e);
	if (!err)
		err = handshake(c, e);
	if (err)
		vhost_user_client_disconnect(c);
	return err;
}

int vhost_user_client_set_features(struct vhost_user_client *c, uint64_t wanted, struct error *e)
{
	c->features = c->offered & (wanted | BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT));
	return tell_number(c, VHOST_USER_SET_FEATURES, c->features, e);
}

/* ---- memory ---- */

static struct vhost_user_region region_of(const struct guest_memory *m)
{
	return (struct vhost_user_region){ .guest_address = m->iova,
					   .size = m->size,
					   .user_address = m->iova + VHOST_USER_CLIENT_SHIFT };
}

int vhost_user_client_share(struct vhost_user_client *c, const struct guest_memory *const *regions,
			    unsigned count, struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_SET_MEM_TABLE, 0);

	m.header.size = offsetof(struct vhost_user_memory_table, regions) +
			count * sizeof(struct vhost_user_region);
	m.payload.table.count = m.fd_count = count;
	for (unsigned i = 0; i < count; i++) {
		m.payload.table.regions[i] = region_of(regions[i]);
		m.fds[i] = regions[i]->fd;
	}
	return tell(c, &m, e);
}

int vhost_user_client_add_region(struct vhost_user_client *c, const struct guest_memory *memory,
				 struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_ADD_MEM_REG, sizeof(m.payload.single));

	m.payload.single.region = region_of(memory);
	m.fds[0] = memory->fd;
	m.fd_count = 1;
	return tell(c, &m, e);
}

int vhost_user_client_remove_region(struct vhost_user_client *c, const struct guest_memory *memory,
				    struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_REM_MEM_REG, sizeof(m.payload.single));

	m.payload.single.region = region_of(memory);
	return tell(c, &m, e);
}

/* ---- in-flight tracking ---- */

static int get_inflight(struct vhost_user_client *c, uint16_t queues, uint16_t queue_size,
			struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_GET_INFLIGHT_FD,
					      sizeof(m.payload.inflight));
	int err;

	m.payload.inflight = (struct vhost_user_inflight_area){ .queue_count = queues,
								.queue_size = queue_size };
	err = ask(c, &m, e);
	if (err)
		return err;
	if (m.fd_count != 1 || !m.payload.inflight.mmap_size)
		return error_set(e, -EOPNOTSUPP, "the back-end gave no in-flight buffer");
	c->inflight_fd = m.fds[0];
	c->inflight_size = m.payload.inflight.mmap_size;
	c->inflight_offset = m.payload.inflight.mmap_offset;
	c->inflight_queues = queues;
	c->inflight_queue_size = queue_size;
	return 0;
}

int vhost_user_client_track_inflight(struct vhost_user_client *c, uint16_t queues,
				     uint16_t queue_size, struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_SET_INFLIGHT_FD,
					      sizeof(m.payload.inflight));
	int err;

	if (!(c->protocol_features & BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)))
		return error_set(e, -EOPNOTSUPP, "the back-end does not track what is in flight");
	if (c->inflight_fd < 0) {
		err = get_inflight(c, queues, queue_size, e);
		if (err)
			return err;
	}
	m.payload.inflight =
		(struct vhost_user_inflight_area){ .mmap_size = c->inflight_size,
						   .mmap_offset = c->inflight_offset,
						   .queue_count = c->inflight_queues,
						   .queue_size = c->inflight_queue_size };
	m.fds[0] = c->inflight_fd;
	m.fd_count = 1;
	return tell(c, &m, e);
}

/* ---- queues ---- */

static int tell_addresses(struct vhost_user_client *c, unsigned index, const struct guest_queue *q,
			  struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_SET_VRING_ADDR, sizeof(m.payload.address));

	m.payload.address = (struct vhost_user_vring_address){
		.index = index,
		.descriptor = q->descriptor_iova + VHOST_USER_CLIENT_SHIFT,
		.available = q->driver_iova + VHOST_USER_CLIENT_SHIFT,
		.used = q->device_iova + VHOST_USER_CLIENT_SHIFT,
	};
	return tell(c, &m, e);
}

static int tell_eventfd(struct vhost_user_client *c, uint32_t request, unsigned index, int *keep,
			struct error *e)
{
	struct vhost_user_message m = message(request, sizeof(m.payload.u64));

	fd_close(keep);
	*keep = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*keep < 0)
		return error_set(e, -errno, "eventfd: %s", strerror(errno));
	m.payload.u64 = index;
	m.fds[0] = *keep;
	m.fd_count = 1;
	return tell(c, &m, e);
}

int vhost_user_client_enable_queue(struct vhost_user_client *c, unsigned index, bool on,
				   struct error *e)
{
	return tell_state(c, VHOST_USER_SET_VRING_ENABLE, index, on, e);
}

int vhost_user_client_start_queue(struct vhost_user_client *c, unsigned index,
				  const struct guest_queue *q, uint16_t base, struct error *e)
{
	int err = tell_state(c, VHOST_USER_SET_VRING_NUM, index, q->size, e);

	if (!err)
		err = tell_state(c, VHOST_USER_SET_VRING_BASE, index,
				 q->packed ? guest_queue_base(q) : base, e);
	if (!err)
		err = tell_addresses(c, index, q, e);
	if (!err)
		err = tell_eventfd(c, VHOST_USER_SET_VRING_CALL, index, &c->call[index], e);
	if (!err)
		err = tell_eventfd(c, VHOST_USER_SET_VRING_KICK, index, &c->kick[index], e);
	if (!err && c->features & BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT))
		err = vhost_user_client_enable_queue(c, index, true, e);
	return err ? error_wrap(e, "queue %u", index) : 0;
}

int vhost_user_client_stop_queue(struct vhost_user_client *c, unsigned index, uint16_t *base,
				 struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_GET_VRING_BASE, sizeof(m.payload.state));
	int err;

	m.payload.state.index = index;
	err = ask(c, &m, e);
	*base = m.payload.state.num;
	return err;
}

int vhost_user_client_read_config(struct vhost_user_client *c, size_t offset, void *to, size_t n,
				  struct error *e)
{
	struct vhost_user_message m = message(VHOST_USER_GET_CONFIG,
					      VHOST_USER_CONFIG_HEADER_SIZE + n);
	int err;

	m.payload.config.offset = offset;
	m.payload.config.size = n;
	err = ask(c, &m, e);
	if (!err && m.header.size != VHOST_USER_CONFIG_HEADER_SIZE + n)
		return error_set(e, -EINVAL, "the back-end gave no configuration");
	if (!err)
		memcpy(to, m.payload.config.bytes, n);
	return err;
}

void vhost_user_client_kick(const struct vhost_user_client *c, unsigned index)
{
	uint64_t one = 1;

	/* a full counter is a notification too */
	if (write(c->kick[index], &one, sizeof(one)) < 0)
		return;
}
