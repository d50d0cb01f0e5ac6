/* fuzz_vhost_user.c - bytes at the socket of a whole device: they cost the connection at most, and
 * everything that came with it is given back.
 *
 * The input is a list of messages: one byte for the number of descriptors that go with it, the
 * request's number, its flags, the payload's length, then the payload. */
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "device/blk.h"
#include "fuzz.h"
#include "host/host_transport.h"
#include "host/vhost_user/vhost_user_message.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/virtio_device.h"

enum { MESSAGES_MAX = 32, STEPS = 400, FILE_BYTES = 0x20000, PREFIX = 4 };

struct bed {
	struct reactor_world *world;
	struct reactor *reactor;
	struct storage *storage;
	struct blk *blk;
	struct host_endpoint *endpoint;
	int client, file;
	bool closed;
};

static void steps(struct bed *b, unsigned n)
{
	while (n-- && reactor_world_step(b->world))
		;
}

static int listen_somewhere(struct sockaddr_un *address, socklen_t *length)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*length = sizeof(address->sun_family); /* the kernel chooses an abstract name */
	if (fd < 0 || bind(fd, (struct sockaddr *)address, *length) || listen(fd, 1))
		abort();
	*length = sizeof(*address);
	getsockname(fd, (struct sockaddr *)address, length);
	return fd;
}

static void open_device(struct bed *b)
{
	struct virtio_device_options o = {
		.name = "fuzz", .queues = 2, .queue_size = 16, .worker_count = 1
	};
	struct blk_options blk = { 0 };
	struct error e;

	b->world = reactor_world_create(1);
	b->reactor = reactor_virtual_create(b->world, "fuzz");
	reactor_world_enter(b->world, b->reactor);
	b->storage = storage_open("fuzz", "memory:?size=64K", false, b->reactor, &e);
	blk.storage = b->storage;
	o.control = b->reactor;
	o.workers = &b->reactor;
	b->blk = blk_create(&blk, &o, &e);
	if (!b->blk)
		abort();
}

static void connect_device(struct bed *b)
{
	struct host_address address = { 0 };
	struct sockaddr_un at;
	socklen_t length;
	struct error e;

	address.fd = listen_somewhere(&at, &length);
	b->endpoint = vhost_user_transport.open(&address, blk_device(b->blk), &e);
	b->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	b->file = memfd_create("fuzz", MFD_CLOEXEC);
	if (!b->endpoint || b->client < 0 || connect(b->client, (struct sockaddr *)&at, length) ||
	    ftruncate(b->file, FILE_BYTES))
		abort();
	steps(b, STEPS);
}

static void send_message(struct bed *b, const struct vhost_user_message *m, size_t n, unsigned fds)
{
	char control[CMSG_SPACE(VHOST_USER_FDS_MAX * sizeof(int))] = { 0 };
	struct iovec iov[2] = { { (void *)&m->header, sizeof(m->header) },
				{ (void *)&m->payload, n } };
	struct msghdr h = { .msg_iov = iov, .msg_iovlen = 2 };
	struct cmsghdr *part = (struct cmsghdr *)(void *)control;
	char replies[4096];

	if (fds) {
		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		*part = (struct cmsghdr){ .cmsg_len = CMSG_LEN(fds * sizeof(int)),
					  .cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS };
		for (unsigned i = 0; i < fds; i++)
			memcpy(CMSG_DATA(part) + i * sizeof(int), &b->file, sizeof(int));
	}
	if (sendmsg(b->client, &h, MSG_NOSIGNAL) < 0)
		return;
	steps(b, STEPS);
	while (recv(b->client, replies, sizeof(replies), 0) > 0)
		;
}

/* Bytes used of the input; 0: no more messages. */
static size_t next_message(struct bed *b, const uint8_t *bytes, size_t n)
{
	struct vhost_user_message m = { 0 };
	size_t payload;

	if (n < PREFIX)
		return 0;
	payload = minimum_u64(minimum_u64(bytes[3] * 2u, n - PREFIX), sizeof(m.payload));
	m.header = (struct vhost_user_header){ .request = bytes[1],
					       .flags = bytes[2],
					       .size = payload };
	memcpy(&m.payload, bytes + PREFIX, payload);
	if (bytes[0] & 0x80) /* a length that lies */
		m.header.size = bytes[0];
	send_message(b, &m, payload, bytes[0] % (VHOST_USER_FDS_MAX + 1));
	return PREFIX + payload;
}

static void closed(void *arg)
{
	((struct bed *)arg)->closed = true;
}

static void close_all(struct bed *b)
{
	struct reactor_task done = { .fn = closed, .arg = b };

	close(b->client);
	vhost_user_transport.close(b->endpoint, &done);
	for (unsigned i = 0; i < 100000 && !b->closed; i++)
		reactor_world_step(b->world);
	assert(b->closed);
	steps(b, STEPS);
	blk_free(b->blk);
	storage_close(b->storage);
	steps(b, STEPS);
	reactor_free(b->reactor);
	reactor_world_free(b->world);
	close(b->file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct bed b = { 0 };
	size_t used = 1;

	log_set_level(LOG_LEVEL_ERROR);
	open_device(&b);
	connect_device(&b);
	for (unsigned i = 0; i < MESSAGES_MAX && used; i++) {
		used = next_message(&b, bytes, n);
		bytes += used;
		n -= used;
	}
	close_all(&b);
	return 0;
}
