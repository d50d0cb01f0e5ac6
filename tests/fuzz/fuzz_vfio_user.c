/* fuzz_vfio_user.c - a client of any kind at the socket of a whole PCI function: what it sends, and
 * how it answers our DMA messages, costs the connection at most, and everything that came with it
 * is given back.
 *
 * The input: a byte of options, a list of messages, and at its end what the client's memory holds,
 * in which the rings lie.  A message: one byte for the number of descriptors that go with it, the
 * command, its flags, the payload's length, then the payload.  A command of 0 starts the queues
 * instead, one of 255 chooses how DMA messages are answered from now on, and one of 254 is a step
 * of a migration, with the state that was read before as what is written. */
#include <assert.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
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
#include "host/vfio_user/vfio_user_message.h"
#include "pci/pci_function.h"
#include "reactor/reactor.h"
#include "reactor/reactor_virtual.h"
#include "storage/storage.h"
#include "virtio/migrate.h"
#include "virtio/virtio_device.h"

enum {
	MESSAGES_MAX = 48,
	STEPS = 300,
	PREFIX = 4,
	QUEUES = 2,
	RING_SIZE = 16,
	FILE_BYTES = 0x20000,
	REMOTE_AT = 0x100000, /* the client's memory that it keeps to itself */
	REMOTE_BYTES = 0x10000,
	MEMORY_END = 4096, /* of the input: what lies at that memory's start */
	WIRE_BYTES = 1 << 22,
	REPLY_MAX = 64 + VFIO_USER_TRANSFER_MAX, /* bytes: the largest reports a log */
	STATE_BYTES = 8192,
	VIRTIO_BAR = 4, /* where the function has the common structure, at 0 */
};

/* How the client answers a DMA message. */
enum manner { RIGHT, ERROR, LYING_COUNT, SHORT, NEVER, TWICE, LATER, MANNERS };

struct wire {
	struct vfio_user_header header;
	struct vfio_user_dma_access access;
	uint8_t data[REMOTE_BYTES];
};

struct bed {
	struct reactor_world *world;
	struct reactor *reactor;
	struct storage *storage;
	struct blk *blk;
	struct host_endpoint *endpoint;
	int client, file, event;
	uint16_t id;
	enum manner manner;
	uint8_t memory[REMOTE_BYTES];
	uint8_t *received; /* owned: WIRE_BYTES */
	size_t received_bytes;
	uint8_t state[STATE_BYTES]; /* the device's, as far as it was read */
	size_t state_bytes;
	struct wire later; /* an answer that goes out behind the next one */
	bool has_later, closed;
};

static void steps(struct bed *b, unsigned n)
{
	while (n-- && reactor_world_step(b->world))
		;
}

/* ---- the client's answers ---- */

/* What does not fit into the socket is lost: so may a client do. */
static void answer(struct bed *b, const struct wire *w)
{
	if (send(b->client, w, w->header.size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

static void do_access(struct bed *b, const struct wire *asked, struct wire *w)
{
	uint64_t at = asked->access.address - REMOTE_AT, n = asked->access.count;

	if (asked->access.address < REMOTE_AT || at > REMOTE_BYTES || n > REMOTE_BYTES - at) {
		w->header.flags |= VFIO_USER_FLAG_ERROR;
		return;
	}
	if (asked->header.command == VFIO_USER_DMA_WRITE) {
		memcpy(b->memory + at, asked->data, n);
		return;
	}
	memcpy(w->data, b->memory + at, n);
	w->header.size += n;
}

static void bend(struct bed *b, struct wire *w)
{
	switch (b->manner) {
	case ERROR:
		w->header.flags |= VFIO_USER_FLAG_ERROR;
		w->header.error = 5;
		break;
	case LYING_COUNT:
		w->access.count++;
		break;
	case SHORT:
		w->header.size--;
		break;
	case TWICE:
		answer(b, w);
		break;
	default:
		break;
	}
}

static void answer_dma(struct bed *b, const struct wire *asked)
{
	static struct wire w;

	w.header = asked->header;
	w.header.flags = VFIO_USER_FLAG_REPLY;
	w.header.size = sizeof(w.header) + sizeof(w.access);
	w.access = asked->access;
	do_access(b, asked, &w);
	bend(b, &w);
	if (b->manner == NEVER)
		return;
	if (b->manner == LATER && !b->has_later) {
		b->later = w;
		b->has_later = true;
		return;
	}
	answer(b, &w);
	if (b->has_later)
		answer(b, &b->later);
	b->has_later = false;
}

/* The state's next bytes are kept. */
static void take_reply(struct bed *b, const struct vfio_user_header *h)
{
	const uint8_t *payload = b->received + sizeof(*h);
	struct vfio_user_mig_data data;

	if (h->command != VFIO_USER_MIG_DATA_READ || h->flags & VFIO_USER_FLAG_ERROR)
		return;
	memcpy(&data, payload, sizeof(data));
	assert(h->size == sizeof(*h) + sizeof(data) + data.size);
	data.size = minimum_u64(data.size, STATE_BYTES - b->state_bytes);
	memcpy(b->state + b->state_bytes, payload + sizeof(data), data.size);
	b->state_bytes += data.size;
}

static void take_command(struct bed *b, size_t size)
{
	static struct wire w;

	memcpy(&w, b->received, size);
	answer_dma(b, &w);
}

/* Takes one message off what was received.  False: none is whole. */
static bool take_message(struct bed *b)
{
	struct vfio_user_header h;
	bool is_reply;

	if (b->received_bytes < sizeof(h))
		return false;
	memcpy(&h, b->received, sizeof(h));
	is_reply = h.flags & VFIO_USER_FLAG_TYPE;
	/* ours: it keeps to the limits */
	assert(h.size >= sizeof(h) && h.size <= (is_reply ? REPLY_MAX : sizeof(struct wire)));
	if (h.size > b->received_bytes)
		return false;
	if (is_reply)
		take_reply(b, &h);
	else
		take_command(b, h.size);
	b->received_bytes -= h.size;
	memmove(b->received, b->received + h.size, b->received_bytes);
	return true;
}

static void serve(struct bed *b)
{
	for (unsigned i = 0; i < 20; i++) {
		ssize_t n;

		steps(b, STEPS);
		n = recv(b->client, b->received + b->received_bytes, WIRE_BYTES - b->received_bytes,
			 MSG_DONTWAIT);
		if (n <= 0)
			return;
		b->received_bytes += n;
		while (take_message(b))
			;
	}
}

/* ---- the client's commands ---- */

static void send_with(struct bed *b, const struct vfio_user_header *h, const void *payload,
		      size_t n, unsigned fds)
{
	char control[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))] = { 0 };
	struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { (void *)payload, n } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };
	struct cmsghdr *part = (struct cmsghdr *)(void *)control;
	const int *fd = h->command == VFIO_USER_DEVICE_SET_IRQS ? &b->event : &b->file;

	if (fds) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(fds * sizeof(int));
		*part = (struct cmsghdr){ .cmsg_len = CMSG_LEN(fds * sizeof(int)),
					  .cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS };
		for (unsigned i = 0; i < fds; i++)
			memcpy(CMSG_DATA(part) + i * sizeof(int), fd, sizeof(int));
	}
	if (sendmsg(b->client, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		serve(b);
}

static void tell(struct bed *b, uint16_t command, const void *payload, size_t n, unsigned fds)
{
	const struct vfio_user_header h = { .id = b->id++,
					    .command = command,
					    .size = sizeof(h) + n };

	send_with(b, &h, payload, n, fds);
}

static void set_register(struct bed *b, uint32_t region, uint64_t offset, uint64_t value,
			 uint32_t bytes)
{
	struct {
		struct vfio_user_region_access access;
		uint64_t value;
	} m = { { offset, region, bytes }, htole64(value) };

	tell(b, VFIO_USER_REGION_WRITE, &m, sizeof(m.access) + bytes, 0);
}

static void start_queue(struct bed *b, unsigned index, unsigned common)
{
	uint64_t at = REMOTE_AT + index * 0x800;

	set_register(b, common, VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
	set_register(b, common, VIRTIO_PCI_COMMON_Q_SIZE, RING_SIZE, 2);
	set_register(b, common, VIRTIO_PCI_COMMON_Q_DESCLO, at, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_Q_AVAILLO, at + 0x400, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_Q_USEDLO, at + 0x600, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

/* What a driver does, with packed rings or not. */
static void start_queues(struct bed *b, bool packed)
{
	const unsigned common = PCI_REGION_BAR0 + VIRTIO_BAR;
	const uint8_t ready = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			      VIRTIO_CONFIG_S_FEATURES_OK;

	set_register(b, PCI_REGION_CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	set_register(b, common, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	set_register(b, common, VIRTIO_PCI_COMMON_STATUS, 3, 1);
	set_register(b, common, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_GF, 1u << VIRTIO_RING_F_INDIRECT_DESC, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_GF, 1 | packed << 2, 4);
	set_register(b, common, VIRTIO_PCI_COMMON_STATUS, ready, 1);
	for (unsigned i = 0; i < QUEUES; i++)
		start_queue(b, i, common);
	set_register(b, common, VIRTIO_PCI_COMMON_STATUS, ready | VIRTIO_CONFIG_S_DRIVER_OK, 1);
}

/* ---- migration ---- */

enum { SET_STATE, GET, LOG_START, LOG_REPORT, LOG_STOP, READ, WRITE, STEPS_OF_MIGRATION };

static struct vfio_user_feature feature(uint32_t bytes, uint32_t index, uint32_t method)
{
	return (struct vfio_user_feature){ bytes, index | method };
}

static void set_state(struct bed *b, uint32_t state)
{
	struct vfio_user_mig_state m = {
		feature(sizeof(m), VFIO_USER_FEATURE_STATE, VFIO_DEVICE_FEATURE_SET), state, -1
	};

	b->state_bytes = state == MIGRATE_RESUMING ? b->state_bytes : 0;
	tell(b, VFIO_USER_DEVICE_FEATURE, &m, sizeof(m), 0);
}

/* All that is mapped, or one range of what is. */
static void start_log(struct bed *b, uint8_t how)
{
	struct vfio_user_log_start start = { .page_size = UINT64_C(1024) << how % 8,
					     .range_count = how >> 7 };
	const struct vfio_user_log_range range = { how & 8 ? REMOTE_AT : 0,
						   how & 16 ? UINT64_C(1) << 40 : FILE_BYTES };
	uint8_t bytes[sizeof(start) + sizeof(range)];

	start.head = feature(sizeof(bytes), VFIO_USER_FEATURE_LOG_START, VFIO_DEVICE_FEATURE_SET);
	memcpy(bytes, &start, sizeof(start));
	memcpy(bytes + sizeof(start), &range, sizeof(range));
	tell(b, VFIO_USER_DEVICE_FEATURE, bytes, sizeof(start) + start.range_count * sizeof(range),
	     0);
}

/* Of a large range, the bitmap has up to 1 MiB. */
static void report_log(struct bed *b, uint8_t how)
{
	struct vfio_user_log_report m = {
		feature(0, VFIO_USER_FEATURE_LOG_REPORT, VFIO_DEVICE_FEATURE_GET),
		how & 8 ? REMOTE_AT : 0, how & 16 ? UINT64_C(1) << (30 + how % 8) : REMOTE_BYTES,
		UINT64_C(4096) << (how >> 5)
	};

	m.head.argsz = minimum_u64(sizeof(m) + vfio_user_bitmap_bytes(m.length, m.page_size),
				   UINT32_MAX);
	tell(b, VFIO_USER_DEVICE_FEATURE, &m, sizeof(m), 0);
}

/* What was read before, cut or changed where `how` says so. */
static void write_state(struct bed *b, uint8_t how)
{
	struct {
		struct vfio_user_mig_data head;
		uint8_t bytes[STATE_BYTES];
	} m = { { 0, b->state_bytes }, { 0 } };

	memcpy(m.bytes, b->state, b->state_bytes);
	if (how & 1 && b->state_bytes)
		m.bytes[how * 13 % b->state_bytes] ^= how;
	else if (how)
		m.head.size = how * b->state_bytes / 256;
	m.head.argsz = sizeof(m.head) + m.head.size;
	tell(b, VFIO_USER_MIG_DATA_WRITE, &m, m.head.argsz, 0);
}

static void migration_step(struct bed *b, uint8_t step, uint8_t how)
{
	struct vfio_user_feature get = feature(64, how, VFIO_DEVICE_FEATURE_GET);
	struct vfio_user_mig_data read = { sizeof(read) + how * 64u, how * 64u };

	switch (step % STEPS_OF_MIGRATION) {
	case SET_STATE:
		set_state(b, how);
		break;
	case GET:
		tell(b, VFIO_USER_DEVICE_FEATURE, &get, sizeof(get), 0);
		break;
	case LOG_START:
		start_log(b, how);
		break;
	case LOG_REPORT:
		report_log(b, how);
		break;
	case LOG_STOP:
		get = feature(sizeof(get), VFIO_USER_FEATURE_LOG_STOP, VFIO_DEVICE_FEATURE_SET);
		tell(b, VFIO_USER_DEVICE_FEATURE, &get, sizeof(get), 0);
		break;
	case READ:
		tell(b, VFIO_USER_MIG_DATA_READ, &read, sizeof(read), 0);
		break;
	case WRITE:
		write_state(b, how);
		break;
	}
}

/* ---- the input ---- */

/* Bytes used of the input; 0: no more messages. */
static size_t next_message(struct bed *b, const uint8_t *bytes, size_t n)
{
	struct vfio_user_header h;
	size_t payload;

	if (n < PREFIX)
		return 0;
	if (!bytes[1] || bytes[1] == 255) {
		b->manner = bytes[1] ? bytes[2] % MANNERS : b->manner;
		if (!bytes[1])
			start_queues(b, bytes[2] & 1);
		return PREFIX;
	}
	if (bytes[1] == 254) {
		migration_step(b, bytes[0], bytes[2]);
		return PREFIX;
	}
	payload = minimum_u64(bytes[3], n - PREFIX);
	h = (struct vfio_user_header){
		.id = b->id++, .command = bytes[1], .flags = bytes[2], .size = sizeof(h) + payload
	};
	if (bytes[0] & 0x80) /* a length that lies */
		h.size = bytes[0];
	send_with(b, &h, bytes + PREFIX, payload, bytes[0] % (VFIO_USER_FDS_MAX + 1));
	return PREFIX + payload;
}

/* ---- the bed ---- */

static void open_device(struct bed *b)
{
	struct virtio_device_options o = { .name = "fuzz",
					   .queues = QUEUES,
					   .queue_size = RING_SIZE,
					   .packed = true,
					   .worker_count = 1 };
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

static void connect_device(struct bed *b)
{
	const struct pci_identity identity = { .card_serial = 1, .count = 1 };
	struct host_address address = { .pci = &identity, .vectors = QUEUES + 1 };
	struct sockaddr_un at;
	socklen_t length;
	struct error e;

	address.fd = listen_somewhere(&at, &length);
	b->endpoint = vfio_user_transport.open(&address, blk_device(b->blk), &e);
	b->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	b->file = memfd_create("fuzz", MFD_CLOEXEC);
	b->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!b->endpoint || b->client < 0 || connect(b->client, (struct sockaddr *)&at, length) ||
	    ftruncate(b->file, FILE_BYTES))
		abort();
	steps(b, STEPS);
}

/* Otherwise hardly an input would get beyond the first message. */
static void introduce(struct bed *b)
{
	static const char version[] = "\0\0\1\0{\"capabilities\":{\"max_msg_fds\":8,"
				      "\"max_data_xfer_size\":1048576,"
				      "\"write_multiple\":true}}";
	const struct vfio_user_dma_map shared = { sizeof(shared), 3, 0, 0, FILE_BYTES };
	const struct vfio_user_dma_map remote = { sizeof(remote), 3, 0, REMOTE_AT, REMOTE_BYTES };

	tell(b, VFIO_USER_VERSION, version, sizeof(version), 0);
	tell(b, VFIO_USER_DMA_MAP, &shared, sizeof(shared), 1);
	tell(b, VFIO_USER_DMA_MAP, &remote, sizeof(remote), 0);
}

static void closed(void *arg)
{
	((struct bed *)arg)->closed = true;
}

static void close_all(struct bed *b)
{
	struct reactor_task done = { .fn = closed, .arg = b };

	close(b->client);
	vfio_user_transport.close(b->endpoint, &done);
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
	close(b->event);
	free(b->received);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static struct bed b;
	size_t used = 1, held = minimum_u64(n, MEMORY_END);

	if (!n)
		return 0;
	b = (struct bed){ .received = malloc(WIRE_BYTES) };
	if (!b.received)
		abort();
	memcpy(b.memory, bytes + n - held, held);
	log_set_level(LOG_LEVEL_ERROR);
	open_device(&b);
	connect_device(&b);
	if (!(bytes[0] & 1))
		introduce(&b);
	bytes++;
	n--;
	for (unsigned i = 0; i < MESSAGES_MAX && used; i++) {
		used = next_message(&b, bytes, n);
		bytes += used;
		n -= used;
	}
	close_all(&b);
	return 0;
}
