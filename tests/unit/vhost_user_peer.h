/* vhost_user_peer.h - a scripted front-end with its guest, for tests of the vhost-user back-end.
 *
 * Device, endpoint and front-end live in one thread, on virtual reactors; the socket is real.
 */
#ifndef TESTS_UNIT_VHOST_USER_PEER_H
#define TESTS_UNIT_VHOST_USER_PEER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/host_transport.h"
#include "host/vhost_user/vhost_user_message.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "stream/stream.h"
#include "virtio/virtio_device.h"
#include "virtio/virtio_device_type.h"
#include "virtio/virtio_queue.h"

enum { QUEUES = 2, QUEUE_SIZE = 16, STEPS_MAX = 20000 };

#define GUEST_BASE            UINT64_C(0x100000)
#define USER_BASE             UINT64_C(0x7f0000000000)
#define MEMORY                (1u << 20)
#define LOG_ALL               (UINT64_C(1) << VHOST_F_LOG_ALL_BIT)
#define PROTOCOL              (UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES_BIT)
#define VERSION_1             (UINT64_C(1) << 32)
#define ALL_PROTOCOL_FEATURES 0x19b62bu

/* ---- a device that writes 0x5a over the payload of each request ---- */

struct fake {
	bool hold; /* keep requests instead of returning them */
	bool withdraws; /* what is held has not left: a stop may have it back */
	struct virtqueue_chain *held;
	struct virtio_queue *held_by;
	unsigned served;
	uint8_t config[16];
};

static void fake_return(struct fake *f, struct virtio_queue *q, struct virtqueue_chain *c)
{
	for (unsigned i = 0; i < c->writable; i++)
		memset(c->iov[c->readable + i].iov_base, 0x5a, c->iov[c->readable + i].iov_len);
	f->served++;
	virtio_queue_return(q, c, c->writable_bytes, 0);
}

static void fake_work(struct virtio_queue *q)
{
	struct fake *f = virtio_device_state(virtio_queue_device(q));
	struct virtqueue_chain *c;

	while (virtio_queue_take(q, &c) > 0) {
		if (!f->hold) {
			fake_return(f, q, c);
			continue;
		}
		f->held = c;
		f->held_by = q;
	}
}

static uint64_t fake_features(const struct virtio_device *d)
{
	return 1;
}

static void fake_config_read(const struct virtio_device *d, size_t offset, void *to, size_t n)
{
	memcpy(to, ((struct fake *)virtio_device_state(d))->config + offset, n);
}

static int fake_config_write(struct virtio_device *d, size_t offset, const void *from, size_t n)
{
	if (offset != 4 || n != 1)
		return -EINVAL;
	memcpy(((struct fake *)virtio_device_state(d))->config + offset, from, n);
	return 0;
}

static int fake_queue_start(struct virtio_queue *q, struct error *e)
{
	return 0;
}

static void fake_queue_stop(struct virtio_queue *q)
{
}

static void fake_withdraw(struct virtio_queue *q)
{
	struct fake *f = virtio_device_state(virtio_queue_device(q));

	if (f->held && f->withdraws && virtio_queue_park(q, f->held))
		f->held = NULL;
}

static void fake_again(struct virtio_queue *q, struct virtqueue_chain *c)
{
	fake_return(virtio_device_state(virtio_queue_device(q)), q, c);
}

static const char *const fake_records[] = { "fake", NULL };

static void fake_save_identity(const struct virtio_device *d, struct stream_writer *w)
{
}

static void fake_save(const struct virtio_device *d, struct stream_writer *w)
{
	stream_begin(w, "fake", 0);
	stream_bytes(w, ((struct fake *)virtio_device_state(d))->config, 16);
	stream_end(w);
}

static int fake_load(struct virtio_device *d, const char *name, struct stream_reader *r,
		     bool apply, struct error *e)
{
	struct fake *f = virtio_device_state(d);
	uint8_t config[16];

	if (strcmp(name, "fake"))
		return 0;
	stream_get_bytes(r, config, sizeof(config));
	if (apply)
		memcpy(f->config, config, sizeof(config));
	return 1;
}

static uint16_t fake_header_size(const struct virtio_device *d, unsigned queue)
{
	return 4;
}

static const struct virtio_device_type fake_type = {
	.name = "fake",
	.device_id = 2,
	.config_size = sizeof(((struct fake *)0)->config),
	.header_size = fake_header_size,
	.has_status = true,
	.features = fake_features,
	.config_read = fake_config_read,
	.config_write = fake_config_write,
	.queue_start = fake_queue_start,
	.queue_work = fake_work,
	.queue_stop = fake_queue_stop,
	.queue_withdraw = fake_withdraw,
	.queue_again = fake_again,
	.save_identity = fake_save_identity,
	.save = fake_save,
	.load = fake_load,
	.records = fake_records,
};

/* ---- the stage ---- */

struct stage {
	struct reactor_world *world;
	struct reactor *control, *worker;
	struct fake fake;
	struct virtio_device *device;
	struct host_endpoint *endpoint;
	char path[64];
	struct reactor_task closed;
	bool is_closed;

	int client; /* the front-end's socket */
	int memory; /* memfd: the guest's RAM */
	uint8_t *ram;
	int kick[QUEUES], call[QUEUES];
	uint16_t available[QUEUES];
};

static void set_true(void *arg)
{
	*(bool *)arg = true;
}

static inline void steps(struct stage *s, unsigned n)
{
	while (n-- && reactor_world_step(s->world))
		;
	reactor_world_enter(s->world, s->control);
}

static inline void stage_open_address(struct stage *s, const struct host_address *address)
{
	struct error e = { 0 };

	s->endpoint = vhost_user_transport.open(address, s->device, &e);
	if (!s->endpoint)
		fail_msg("%s", e.text);
}

static inline void stage_prepare(struct stage *s)
{
	struct error e = { 0 };
	struct virtio_device_options options = {
		.name = "vdt", .queues = QUEUES, .queue_size = QUEUE_SIZE, .worker_count = 1
	};

	memset(s, 0, sizeof(*s));
	s->client = -1;
	s->world = reactor_world_create(7);
	s->control = reactor_virtual_create(s->world, "control");
	s->worker = reactor_virtual_create(s->world, "worker");
	reactor_world_enter(s->world, s->control);
	options.control = s->control;
	options.workers = &s->worker;
	for (unsigned i = 0; i < sizeof(s->fake.config); i++)
		s->fake.config[i] = 0x10 + i;
	s->device = virtio_device_create(&fake_type, &s->fake, &options, &e);
	if (!s->device)
		fail_msg("%s", e.text);
	snprintf(s->path, sizeof(s->path), "/tmp/outboard-test-%d.sock", (int)getpid());
	s->closed = (struct reactor_task){ .fn = set_true, .arg = &s->is_closed };
	s->memory = memfd_create("ram", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->memory, MEMORY), 0);
	s->ram = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, s->memory, 0);
	for (unsigned i = 0; i < QUEUES; i++) {
		s->kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		s->call[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
}

static inline void stage_open(struct stage *s)
{
	stage_prepare(s);
	stage_open_address(s, &(struct host_address){ .path = s->path, .fd = -1 });
}

static inline void stage_close_endpoint(struct stage *s)
{
	vhost_user_transport.close(s->endpoint, &s->closed);
	for (unsigned i = 0; i < STEPS_MAX && !s->is_closed; i++)
		steps(s, 1);
	assert_true(s->is_closed);
}

static inline void stage_free(struct stage *s)
{
	steps(s, 100);
	virtio_device_free(s->device);
	reactor_free(s->worker);
	reactor_free(s->control);
	reactor_world_free(s->world);
	munmap(s->ram, MEMORY);
	close(s->memory);
	for (unsigned i = 0; i < QUEUES; i++) {
		close(s->kick[i]);
		close(s->call[i]);
	}
	if (s->client >= 0)
		close(s->client);
}

static inline void stage_close(struct stage *s)
{
	stage_close_endpoint(s);
	stage_free(s);
}

/* ---- messages ---- */

static inline int peer_connect(struct stage *s)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, s->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return s->client = fd;
}

static inline void peer_send_raw(struct stage *s, const void *bytes, size_t n, const int *fds,
				 unsigned count)
{
	char control[CMSG_SPACE(8 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec iov = { (void *)bytes, n };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c = (struct cmsghdr *)control;

	if (count) {
		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	assert_int_equal(sendmsg(s->client, &h, MSG_NOSIGNAL), n);
}

static inline void peer_send_flags(struct stage *s, uint32_t request, uint32_t flags,
				   const void *payload, uint32_t size, const int *fds,
				   unsigned count)
{
	struct {
		struct vhost_user_header header;
		uint8_t payload[VHOST_USER_PAYLOAD_MAX];
	} __attribute__((packed)) m = { { request, VHOST_USER_VERSION | flags, size }, { 0 } };

	if (size)
		memcpy(m.payload, payload, size);
	peer_send_raw(s, &m, sizeof(m.header) + size, fds, count);
}

/* Waits for up to n bytes: fewer when the back-end hung up. */
static inline size_t peer_receive(struct stage *s, void *to, size_t n, int *fd)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	size_t got = 0;

	for (unsigned i = 0; i < STEPS_MAX && got < n; i++) {
		struct iovec iov = { (char *)to + got, n - got };
		struct msghdr h = { .msg_iov = &iov,
				    .msg_iovlen = 1,
				    .msg_control = control,
				    .msg_controllen = sizeof(control) };
		ssize_t part = recvmsg(s->client, &h, MSG_DONTWAIT);
		struct cmsghdr *c = part > 0 ? CMSG_FIRSTHDR(&h) : NULL;

		if (c && fd)
			memcpy(fd, CMSG_DATA(c), sizeof(*fd));
		if (part > 0)
			got += part;
		else if (!part || errno != EAGAIN)
			return got;
		else
			steps(s, 1);
	}
	return got;
}

/* Returns the payload's size.  The test fails when no such reply comes. */
static inline uint32_t peer_reply_fd(struct stage *s, uint32_t request, void *payload, int *fd)
{
	struct vhost_user_header h = { 0 };

	assert_int_equal(peer_receive(s, &h, sizeof(h), fd), sizeof(h));
	assert_int_equal(h.request, request);
	assert_int_equal(h.flags, VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY);
	assert_true(h.size <= VHOST_USER_PAYLOAD_MAX);
	if (h.size)
		assert_int_equal(peer_receive(s, payload, h.size, fd), h.size);
	return h.size;
}

static inline uint64_t peer_reply_number(struct stage *s, uint32_t request)
{
	uint8_t payload[VHOST_USER_PAYLOAD_MAX];
	uint64_t number;

	assert_int_equal(peer_reply_fd(s, request, payload, NULL), sizeof(number));
	memcpy(&number, payload, sizeof(number));
	return number;
}

static inline uint64_t peer_get(struct stage *s, uint32_t request)
{
	peer_send_flags(s, request, 0, NULL, 0, NULL, 0);
	return peer_reply_number(s, request);
}

/* With need_reply: what REPLY_ACK says. */
static inline uint64_t peer_ask_fds(struct stage *s, uint32_t request, const void *payload,
				    uint32_t size, const int *fds, unsigned count)
{
	peer_send_flags(s, request, VHOST_USER_FLAG_NEED_REPLY, payload, size, fds, count);
	return peer_reply_number(s, request);
}

static inline uint64_t peer_ask(struct stage *s, uint32_t request, const void *payload,
				uint32_t size)
{
	return peer_ask_fds(s, request, payload, size, NULL, 0);
}

static inline uint64_t peer_set(struct stage *s, uint32_t request, uint64_t number)
{
	return peer_ask(s, request, &number, sizeof(number));
}

static inline uint64_t peer_set_state(struct stage *s, uint32_t request, uint32_t index,
				      uint32_t num)
{
	struct vhost_user_vring_state state = { index, num };

	return peer_ask(s, request, &state, sizeof(state));
}

/* Closed by the back-end, without another byte. */
static inline void peer_expect_end(struct stage *s)
{
	uint8_t byte;

	assert_int_equal(peer_receive(s, &byte, 1, NULL), 0);
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		ssize_t n = recv(s->client, &byte, 1, MSG_DONTWAIT);

		if (!n || (n < 0 && errno == ECONNRESET))
			break;
		assert_true(n < 0 && errno == EAGAIN && i + 1 < STEPS_MAX);
		steps(s, 1);
	}
	close(s->client);
	s->client = -1;
}

/* ---- the guest ---- */

static inline struct vhost_user_region peer_region(void)
{
	return (struct vhost_user_region){ .guest_address = GUEST_BASE,
					   .size = MEMORY,
					   .user_address = USER_BASE };
}

static inline void peer_negotiate(struct stage *s)
{
	uint64_t protocol = peer_get(s, VHOST_USER_GET_PROTOCOL_FEATURES);

	peer_send_flags(s, VHOST_USER_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
	peer_send_flags(s, VHOST_USER_SET_OWNER, 0, NULL, 0, NULL, 0);
	assert_int_equal(peer_set(s, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL), 0);
}

static inline void peer_share_memory(struct stage *s)
{
	struct vhost_user_memory_table t = { .count = 1, .regions = { peer_region() } };

	assert_int_equal(peer_ask_fds(s, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &s->memory, 1), 0);
}

static inline uint32_t ring_at(unsigned queue)
{
	return queue * 0x10000;
}

static inline struct vhost_user_vring_address peer_address(unsigned queue)
{
	uint64_t base = USER_BASE + ring_at(queue);

	return (struct vhost_user_vring_address){ .index = queue,
						  .descriptor = base,
						  .available = base + 0x1000,
						  .used = base + 0x2000 };
}

static inline void peer_describe_ring(struct stage *s, unsigned queue, uint16_t base)
{
	struct vhost_user_vring_address a = peer_address(queue);
	uint64_t index = queue;

	assert_int_equal(peer_set_state(s, VHOST_USER_SET_VRING_NUM, queue, QUEUE_SIZE), 0);
	assert_int_equal(peer_set_state(s, VHOST_USER_SET_VRING_BASE, queue, base), 0);
	assert_int_equal(peer_ask(s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_equal(peer_ask_fds(s, VHOST_USER_SET_VRING_CALL, &index, 8, &s->call[queue], 1),
			 0);
}

static inline uint64_t peer_kick_ring(struct stage *s, unsigned queue)
{
	uint64_t index = queue;

	return peer_ask_fds(s, VHOST_USER_SET_VRING_KICK, &index, 8, &s->kick[queue], 1);
}

static inline void peer_start_ring(struct stage *s, unsigned queue, uint16_t base)
{
	peer_describe_ring(s, queue, base);
	assert_int_equal(peer_kick_ring(s, queue), 0);
	assert_int_equal(peer_set_state(s, VHOST_USER_SET_VRING_ENABLE, queue, 1), 0);
}

/* Connects and does all that a request needs, on queue 0. */
static inline void peer_start(struct stage *s)
{
	peer_connect(s);
	peer_negotiate(s);
	peer_share_memory(s);
	peer_start_ring(s, 0, s->available[0]);
}

static inline uint16_t *ring_u16(struct stage *s, unsigned queue, uint32_t offset)
{
	return (uint16_t *)(s->ram + ring_at(queue) + offset);
}

static inline uint16_t guest_used(struct stage *s, unsigned queue)
{
	return *ring_u16(s, queue, 0x2002);
}

static inline void guest_descriptor(struct stage *s, unsigned queue, unsigned i, uint64_t address,
				    uint32_t length, uint16_t flags, uint16_t next)
{
	uint8_t *d = s->ram + ring_at(queue) + i * 16;

	store_le64(d, address);
	store_le32(d + 8, length);
	store_le16(d + 12, flags);
	store_le16(d + 14, next);
}

/* Makes one request available (4 bytes to read, 512 + a status to write at guest address
 * `payload`) and kicks. */
static inline void guest_submit_at(struct stage *s, unsigned queue, uint64_t payload)
{
	uint64_t one = 1;
	uint16_t slot = s->available[queue] % QUEUE_SIZE;

	guest_descriptor(s, queue, 0, GUEST_BASE + ring_at(queue) + 0x3000, 4, 1, 1);
	guest_descriptor(s, queue, 1, payload, 513, 2, 0);
	*ring_u16(s, queue, 0x1004 + 2 * slot) = 0;
	__atomic_store_n(ring_u16(s, queue, 0x1002), ++s->available[queue], __ATOMIC_SEQ_CST);
	assert_int_equal(write(s->kick[queue], &one, sizeof(one)), sizeof(one));
}

static inline void guest_submit(struct stage *s, unsigned queue)
{
	memset(s->ram + ring_at(queue) + 0x4000, 0, 513);
	guest_submit_at(s, queue, GUEST_BASE + ring_at(queue) + 0x4000);
}

static inline bool guest_is_served(struct stage *s, unsigned queue)
{
	for (unsigned i = 0; i < 1000 && guest_used(s, queue) != s->available[queue]; i++)
		steps(s, 1);
	return guest_used(s, queue) == s->available[queue];
}

static inline void guest_works(struct stage *s, unsigned queue)
{
	guest_submit(s, queue);
	assert_true(guest_is_served(s, queue));
	assert_int_equal(s->ram[ring_at(queue) + 0x4000 + 511], 0x5a);
	assert_int_equal(s->ram[ring_at(queue) + 0x4000 + 512], 0);
}

#endif
