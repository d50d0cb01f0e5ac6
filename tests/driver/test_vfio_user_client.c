/* Broken if this fails: the vfio-user client of tests and benchmark, which would then find faults
 * that are not there.  A server of a few lines stands against it: it agrees on a version, and when
 * asked for a reset it writes to and reads from the client's memory before it answers. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "driver/guest_memory.h"
#include "driver/vfio_user_client.h"

#define MEMORY UINT64_C(0x100000)

struct message {
	struct vfio_client_header header;
	char payload[512];
};

struct server {
	int fd, commands; /* commands: where it sends them; the same, or the second socket */
	bool twin, compact;
	pthread_t thread;
};

static bool receive(int fd, struct message *m)
{
	size_t size = sizeof(m->header);

	if (recv(fd, &m->header, size, MSG_WAITALL) != (ssize_t)size)
		return false;
	size = m->header.size - size;
	assert(size <= sizeof(m->payload));
	return !size || recv(fd, m->payload, size, MSG_WAITALL) == (ssize_t)size;
}

static void transmit(int fd, struct message *m, uint32_t flags, size_t size, int descriptor)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec iov = { m, sizeof(m->header) + size };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *part = (struct cmsghdr *)(void *)control;

	m->header.flags = flags;
	m->header.size = iov.iov_len;
	if (descriptor >= 0) {
		h.msg_control = control;
		h.msg_controllen = sizeof(control);
		*part = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(part), &descriptor, sizeof(int));
	}
	assert(sendmsg(fd, &h, 0) == (ssize_t)iov.iov_len);
}

static void reply_version(struct server *s, struct message *m)
{
	const char *text = s->twin ? "{\"capabilities\":{\"max_msg_fds\":8,\"twin_socket\":"
				     "{\"supported\":true,\"fd_index\":0}}}"
				   : "{\"capabilities\":{\"max_msg_fds\":8}}";
	int pair[2] = { -1, -1 };

	if (s->twin) {
		assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		s->commands = pair[0];
	}
	strcpy(m->payload + 4, text);
	transmit(s->fd, m, VFIO_USER_REPLY, 4 + strlen(text) + 1, pair[1]);
	if (s->twin)
		close(pair[1]);
}

static void command(struct server *s, uint16_t id, uint64_t address, const char *text)
{
	struct message m = { { .id = id, .command = text ? 12 : 11 }, { 0 } };
	uint64_t count = 16;

	memcpy(m.payload, &address, 8);
	memcpy(m.payload + 8, &count, 8);
	if (text)
		memcpy(m.payload + (s->compact ? 12 : 16), text, 16);
	transmit(s->commands, &m, 0, 16 + (text ? 16 : 0), -1);
}

/* "0123456789abcdef" goes to the memory's begin and comes back from there. */
static void use_memory(struct server *s)
{
	struct message m;

	command(s, 7, MEMORY, "0123456789abcdef");
	assert(receive(s->commands, &m) && m.header.id == 7 && m.header.command == 12);
	assert(m.header.flags == VFIO_USER_REPLY);
	assert(m.header.size == (s->compact ? 16 : 32));
	command(s, 8, MEMORY, NULL);
	assert(receive(s->commands, &m) && m.header.id == 8 && m.header.size == 48);
	assert(!memcmp(m.payload + (s->compact ? 12 : 16), "0123456789abcdef", 16));
	command(s, 9, MEMORY + 4096 - 15, NULL); /* a byte too far */
	assert(receive(s->commands, &m) && m.header.size == 16 && m.header.error == EFAULT);
	assert(m.header.flags == (VFIO_USER_REPLY | VFIO_USER_ERROR));
}

static void *serve(void *arg)
{
	struct server *s = arg;
	struct message m;
	uint32_t info[4] = { 16, 3, 9, 5 };

	while (receive(s->fd, &m))
		switch (m.header.command) {
		case VFIO_USER_VERSION:
			reply_version(s, &m);
			break;
		case VFIO_USER_DEVICE_GET_INFO:
			memcpy(m.payload, info, sizeof(info));
			transmit(s->fd, &m, VFIO_USER_REPLY, sizeof(info), -1);
			break;
		case VFIO_USER_DEVICE_RESET:
			use_memory(s);
			transmit(s->fd, &m, VFIO_USER_REPLY, 0, -1);
			break;
		case VFIO_USER_DMA_UNMAP:
			transmit(s->fd, &m, VFIO_USER_REPLY, m.header.size - 16, -1);
			break;
		case VFIO_USER_REGION_READ:
			m.header.error = EINVAL;
			transmit(s->fd, &m, VFIO_USER_REPLY | VFIO_USER_ERROR, 0, -1);
			break;
		default:
			transmit(s->fd, &m, VFIO_USER_REPLY, 0, -1);
		}
	if (s->commands != s->fd)
		close(s->commands);
	close(s->fd);
	return NULL;
}

static void must(int err, const struct error *e)
{
	if (err)
		fprintf(stderr, "%s\n", e->text);
	assert(!err);
}

static void run(bool twin, bool compact, bool thread)
{
	struct server s = { .twin = twin, .compact = compact };
	struct vfio_client_counters counted;
	struct vfio_user_client c;
	struct guest_memory memory;
	struct error e = { 0 };
	int pair[2];
	char byte;

	assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	s.fd = s.commands = pair[0];
	assert(!pthread_create(&s.thread, NULL, serve, &s));
	guest_memory_open(&memory, MEMORY, 4096);
	vfio_user_client_init(&c);
	c.twin_socket = twin;
	c.channel.compact_dma = compact;
	must(vfio_user_client_adopt(&c, pair[1], &e), &e);
	assert(c.has_twin == twin && c.server_message_fds == 8 && c.irqs == 5);
	if (thread)
		assert(!vfio_client_channel_start(&c.channel));
	must(vfio_user_client_map(&c, &memory, false, &e), &e);
	must(vfio_user_client_reset(&c, &e), &e);
	assert(!memcmp(memory.bytes, "0123456789abcdef", 16));
	counted = vfio_client_channel_counters(&c.channel);
	assert(counted.reads == 1 && counted.read_bytes == 16 && counted.writes == 1);
	assert(counted.errors == 1 && counted.strays == 1 && counted.malformed == 0);
	assert(vfio_user_client_read(&c, 0, 0, &byte, 1, &e) == -EINVAL);
	must(vfio_user_client_unmap(&c, &memory, &e), &e);
	vfio_user_client_disconnect(&c);
	pthread_join(s.thread, NULL);
	guest_memory_close(&memory);
}

int main(void)
{
	for (unsigned i = 0; i < 8; i++)
		run(i & 1, i & 2, i & 4);
	return 0;
}
