/* vfio_user_peer.h - a raw vfio-user client and the function that it talks to, in simulated time:
 * it sends what it likes, in pieces of any size. */
#ifndef UNIT_VFIO_USER_PEER_H
#define UNIT_VFIO_USER_PEER_H

#include <errno.h>
#include <linux/vfio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "device/blk.h"
#include "host/host_transport.h"
#include "host/vfio_user/vfio_user_message.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum {
	STEPS = 500,
	FILE_BYTES = 0x10000,
	QUEUES = 2,
	REPLY_MAX = 4096,
	GONE = 1, /* an answer: the connection was dropped */
	ID = 0x1234,
};

struct stage {
	struct reactor_world *world;
	struct reactor *reactor;
	struct storage *storage;
	struct blk *blk;
	struct host_endpoint *endpoint;
	struct sockaddr_un address;
	socklen_t address_length;
	int client, file;
	bool closed;
};

static inline void steps(struct stage *s)
{
	for (unsigned i = 0; i < STEPS && reactor_world_step(s->world); i++)
		;
}

/* ---- the peer ---- */

static inline void peer_connect(struct stage *s)
{
	s->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(s->client >= 0);
	assert_int_equal(connect(s->client, (struct sockaddr *)&s->address, s->address_length), 0);
	steps(s);
}

static inline bool put_bytes(struct stage *s, const void *bytes, size_t n, const int *fds,
		      unsigned fd_count)
{
	char control[CMSG_SPACE(64 * sizeof(int))] = { 0 };
	struct iovec iov = { (void *)bytes, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *part = (struct cmsghdr *)(void *)control;

	if (fd_count) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		*part = (struct cmsghdr){ .cmsg_len = CMSG_LEN(fd_count * sizeof(int)),
					  .cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(part), fds, fd_count * sizeof(int));
	}
	return sendmsg(s->client, &m, MSG_NOSIGNAL) >= 0;
}

static inline void send_bytes(struct stage *s, const void *bytes, size_t n, const int *fds,
		       unsigned fd_count)
{
	if (put_bytes(s, bytes, n, fds, fd_count))
		steps(s);
}

/* 0, -errno that the reply names, or GONE.  The reply's payload is left in to. */
static inline int answer(struct stage *s, uint16_t command, uint8_t to[REPLY_MAX])
{
	struct vfio_user_header h;
	ssize_t n = recv(s->client, &h, sizeof(h), MSG_DONTWAIT);

	if (n <= 0)
		return GONE;
	assert_int_equal(n, sizeof(h));
	assert_int_equal(h.id, ID);
	assert_int_equal(h.command, command);
	assert_int_equal(h.flags & VFIO_USER_FLAG_TYPE, VFIO_USER_FLAG_REPLY);
	assert_in_range(h.size, sizeof(h), sizeof(h) + REPLY_MAX);
	if (h.size > sizeof(h))
		assert_int_equal(recv(s->client, to, h.size - sizeof(h), MSG_DONTWAIT),
				 h.size - sizeof(h));
	return h.flags & VFIO_USER_FLAG_ERROR ? -(int)h.error : 0;
}

static inline void send_message(struct stage *s, const struct vfio_user_header *h,
				const void *payload, size_t n, const int *fds, unsigned fd_count)
{
	uint8_t wire[sizeof(*h) + 2048];

	assert_true(n <= 2048);
	memcpy(wire, h, sizeof(*h));
	memcpy(wire + sizeof(*h), payload, n);
	send_bytes(s, wire, sizeof(*h) + n, fds, fd_count);
}

static inline int ask(struct stage *s, uint16_t command, const void *payload, size_t n,
		      unsigned fds)
{
	const struct vfio_user_header h = { .id = ID, .command = command, .size = sizeof(h) + n };
	uint8_t reply[REPLY_MAX];
	int same[64];

	for (unsigned i = 0; i < fds; i++)
		same[i] = s->file;
	send_message(s, &h, payload, n, same, fds);
	return answer(s, command, reply);
}

static inline int negotiate_with(struct stage *s, const char *data, size_t n)
{
	char version[256] = { 0, 0, 1, 0 };

	memcpy(version + 4, data, n);
	return ask(s, VFIO_USER_VERSION, version, 4 + n, 0);
}

static inline void negotiate(struct stage *s)
{
	static const char data[] = "{\"capabilities\":{\"max_msg_fds\":8,\"write_multiple\":true}}";

	assert_int_equal(negotiate_with(s, data, sizeof(data)), 0);
}

/* The client's end of the second socket, from the answer to a proposal that has one in it. */
static inline int negotiate_twin(struct stage *s, const char *data, size_t n)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, reply[512];
	struct iovec iov = { reply, sizeof(reply) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	const struct vfio_user_header h = { ID, VFIO_USER_VERSION, sizeof(h) + 4 + n, 0, 0 };
	char version[256] = { 0, 0, 1, 0 };
	int twin;

	memcpy(version + 4, data, n);
	send_message(s, &h, version, 4 + n, NULL, 0);
	assert_true(recvmsg(s->client, &m, MSG_DONTWAIT) > 0);
	assert_non_null(CMSG_FIRSTHDR(&m));
	memcpy(&twin, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(twin));
	return twin;
}

/* The function lives, and this connection is served. */
static inline void works(struct stage *s)
{
	const struct vfio_user_device_info info = { .argsz = sizeof(info) };

	assert_int_equal(ask(s, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), 0), 0);
}

static inline void is_gone_and_comes_back(struct stage *s)
{
	char byte;

	steps(s);
	assert_true(recv(s->client, &byte, 1, MSG_DONTWAIT) <= 0);
	close(s->client);
	peer_connect(s);
	negotiate(s);
	works(s);
}

/* ---- the stage ---- */

static inline void stage_open_with(struct stage *s, bool doorbell_page)
{
	const struct pci_identity identity = { .card_serial = 1, .count = 1 };
	struct host_address address = { .pci = &identity,
					.vectors = QUEUES + 1,
					.doorbell_page = doorbell_page };
	struct virtio_device_options o = {
		.name = "vda", .queues = QUEUES, .queue_size = 16, .worker_count = 1
	};
	struct blk_options blk = { 0 };
	struct error e;

	*s = (struct stage){ .client = -1, .address = { .sun_family = AF_UNIX } };
	s->world = reactor_world_create(1);
	s->reactor = reactor_virtual_create(s->world, "control");
	reactor_world_enter(s->world, s->reactor);
	s->storage = blk.storage = storage_open("vda", "memory:?size=64K", false, s->reactor, &e);
	o.control = s->reactor;
	o.workers = &s->reactor;
	s->blk = blk_create(&blk, &o, &e);
	assert_non_null(s->blk);
	address.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	s->address_length = sizeof(s->address.sun_family); /* the kernel chooses a name */
	assert_int_equal(bind(address.fd, (struct sockaddr *)&s->address, s->address_length), 0);
	s->address_length = sizeof(s->address);
	getsockname(address.fd, (struct sockaddr *)&s->address, &s->address_length);
	assert_int_equal(listen(address.fd, 1), 0);
	s->endpoint = vfio_user_transport.open(&address, blk_device(s->blk), &e);
	assert_non_null(s->endpoint);
	s->file = memfd_create("protocol", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->file, FILE_BYTES), 0);
	peer_connect(s);
}

static inline void stage_open(struct stage *s)
{
	stage_open_with(s, false);
}

static inline void stage_closed(void *arg)
{
	((struct stage *)arg)->closed = true;
}

static inline void stage_close(struct stage *s)
{
	struct reactor_task done = { .fn = stage_closed, .arg = s };

	vfio_user_transport.close(s->endpoint, &done);
	steps(s);
	assert_true(s->closed);
	blk_free(s->blk);
	storage_close(s->storage);
	steps(s);
	reactor_free(s->reactor);
	reactor_world_free(s->world);
	close(s->client);
	close(s->file);
}

#endif
