/* packet_channel.c - one of an interface's channels, by AF_XDP.
 *
 * A chunk is free, with the kernel, or (one that came) with our user.  The first half of the chunks
 * is for frames that come: they wander from the fill ring through the receive ring to our user and
 * back.  The other half is for frames that are sent: from the stack of free ones through the
 * transmit ring, and back through the completion ring.
 *
 * What the kernel names in a ring is believed only when it is a chunk that it has.
 */
#include "network/packet_channel.h"

#include <errno.h>
#include <linux/if_link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <xdp/libxdp.h>
#include <xdp/xsk.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/pages.h"

enum {
	COME = 1024, /* chunks for frames that come, and entries of their rings */
	SEND = 1024, /* likewise */
	CHUNKS = COME + SEND,
	SMALL = 2048,
	LARGE = 4096,      /* bytes of a chunk */
	KERNEL_ROOM = 256, /* bytes: XDP_PACKET_HEADROOM, before each frame that comes */
	TAGS = 8,          /* bytes: two tags, which the MTU does not count */
	KERNEL_BATCH = 32, /* frames that the kernel sends at one request, when it copies */
	BUSY_TRIES = 50,   /* while another socket has the channel */
	BUSY_PAUSE_NS = 10000000,
	SOCKET_ROOM = 4 << 20, /* bytes: frames that the kernel has copied and not yet sent */
};

struct packet_channel {
	struct xsk_umem *umem;     /* owned */
	struct xsk_socket *socket; /* owned */
	struct xsk_ring_prod fill, transmit;
	struct xsk_ring_cons receive, complete;
	uint8_t *memory;         /* owned: CHUNKS of chunk bytes */
	uint32_t chunk, longest; /* bytes: of a chunk, of a frame */
	bool copies;
	uint32_t unseen; /* frames sent since the last flush */
	bool with_kernel[CHUNKS];
	unsigned free_count;
	uint32_t free[SEND]; /* chunks */
	uint32_t taken;      /* the chunk that our user has */
};

/* ---- sending ---- */

/* False: it is no chunk of a frame that was sent. */
static bool take_back(struct packet_channel *c, uint64_t address)
{
	uint64_t chunk = address / c->chunk;

	if (chunk < COME || chunk >= CHUNKS || !c->with_kernel[chunk])
		return false;
	c->with_kernel[chunk] = false;
	c->free[c->free_count++] = chunk;
	return true;
}

static void collect(struct packet_channel *c)
{
	uint32_t at, n = xsk_ring_cons__peek(&c->complete, SEND, &at);

	for (uint32_t i = 0; i < n; i++)
		take_back(c,
			  *(volatile const __u64 *)xsk_ring_cons__comp_addr(&c->complete, at + i));
	if (n)
		xsk_ring_cons__release(&c->complete, n);
}

int packet_channel_send(struct packet_channel *c, const struct iovec *iov, unsigned n, size_t bytes)
{
	uint32_t at, chunk;

	if (unlikely(bytes > c->longest))
		return -EMSGSIZE;
	if (unlikely(!c->free_count))
		collect(c);
	if (unlikely(!c->free_count || !xsk_ring_prod__reserve(&c->transmit, 1, &at)))
		return -ENOBUFS;
	chunk = c->free[--c->free_count];
	iov_copy_from(iov, n, 0, c->memory + (size_t)chunk * c->chunk, bytes);
	*xsk_ring_prod__tx_desc(&c->transmit, at) =
		(struct xdp_desc){ .addr = (uint64_t)chunk * c->chunk, .len = bytes };
	c->with_kernel[chunk] = true;
	c->unseen++;
	return 0;
}

static uint32_t waiting(const struct packet_channel *c)
{
	return c->transmit.cached_prod - __atomic_load_n(c->transmit.consumer, __ATOMIC_ACQUIRE);
}

/* When it copies, the kernel sends a few frames at each request, as long as it can.  False: it is
 * busy, and does not say when it no longer is. */
static bool request(struct packet_channel *c)
{
	uint32_t before = waiting(c);

	for (unsigned i = 0; i <= SEND / KERNEL_BATCH && before; i++) {
		int fd = xsk_socket__fd(c->socket);
		bool good = sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0;
		uint32_t left = waiting(c);

		/* Down, or gone: what waits leaves when it is up, after something else. */
		if (!good && errno != EAGAIN && errno != EBUSY && errno != ENOBUFS)
			return true;
		if (left == before)
			return good;
		before = left;
	}
	return true;
}

bool packet_channel_flush(struct packet_channel *c)
{
	if (c->unseen)
		xsk_ring_prod__submit(&c->transmit, c->unseen);
	c->unseen = 0;
	if (!waiting(c) || !xsk_ring_prod__needs_wakeup(&c->transmit))
		return true;
	return request(c);
}

/* ---- receiving ---- */

/* In the chunk of a frame that came, and that the kernel had. */
static bool is_good(struct packet_channel *c, const struct xdp_desc *d)
{
	uint64_t chunk = d->addr / c->chunk;

	if (chunk >= COME || !c->with_kernel[chunk])
		return false;
	if (!range_fits(d->addr % c->chunk, d->len, c->chunk))
		return false;
	c->taken = chunk;
	return true;
}

static void next(struct packet_channel *c)
{
	c->receive.cached_cons++;
	xsk_ring_cons__release(&c->receive, 1);
}

int packet_channel_peek(struct packet_channel *c, struct network_frame *f, uint64_t *refused)
{
	while (xsk_cons_nb_avail(&c->receive, 1)) {
		const volatile struct xdp_desc *at = xsk_ring_cons__rx_desc(&c->receive,
									    c->receive.cached_cons);
		struct xdp_desc d = { .addr = at->addr, .len = at->len };

		if (likely(is_good(c, &d))) {
			*f = (struct network_frame){ .bytes = c->memory + d.addr, .length = d.len };
			return 1;
		}
		++*refused;
		next(c);
	}
	if (xsk_ring_prod__needs_wakeup(&c->fill))
		recvfrom(xsk_socket__fd(c->socket), NULL, 0, MSG_DONTWAIT, NULL, NULL);
	return 0;
}

/* The fill ring has room for all chunks that there are. */
static void give(struct packet_channel *c, uint32_t chunk)
{
	uint32_t at;

	if (!xsk_ring_prod__reserve(&c->fill, 1, &at))
		return;
	*xsk_ring_prod__fill_addr(&c->fill, at) = (uint64_t)chunk * c->chunk;
	c->with_kernel[chunk] = true;
	xsk_ring_prod__submit(&c->fill, 1);
}

void packet_channel_consume(struct packet_channel *c)
{
	next(c);
	give(c, c->taken);
}

unsigned packet_channel_drain(struct packet_channel *c)
{
	struct network_frame f;
	uint64_t refused = 0;
	unsigned count = 0;

	for (; count < COME && packet_channel_peek(c, &f, &refused); count++)
		packet_channel_consume(c);
	return count;
}

/* ---- open and close ---- */

/* What the libraries want to say, several lines even where all is well, is for those who look. */
static int say(const char *format, va_list arguments) __attribute__((format(printf, 1, 0)));
static int say_bpf(enum libbpf_print_level level, const char *format, va_list arguments)
	__attribute__((format(printf, 2, 0)));
static int say_xdp(enum libxdp_print_level level, const char *format, va_list arguments)
	__attribute__((format(printf, 2, 0)));

static int say(const char *format, va_list arguments)
{
	char line[256];
	int length = vsnprintf(line, sizeof(line), format, arguments);

	line[strcspn(line, "\n")] = 0;
	log_debug("%s", line);
	return length;
}

static int say_bpf(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return say(format, arguments);
}

static int say_xdp(enum libxdp_print_level level, const char *format, va_list arguments)
{
	return say(format, arguments);
}

static int umem_create(struct packet_channel *c, struct error *e)
{
	struct xsk_umem_config config = { .fill_size = COME,
					  .comp_size = SEND,
					  .frame_size = c->chunk };
	size_t bytes = (size_t)CHUNKS * c->chunk;
	int status = xsk_umem__create(&c->umem, c->memory, bytes, &c->fill, &c->complete, &config);

	if (status == -EPERM)
		return error_set(e, status, "AF_XDP needs CAP_NET_RAW");
	if (status == -ENOBUFS)
		return error_set(e, status,
				 "AF_XDP: %zu KiB of locked memory are more than the limit "
				 "(ulimit -l), or CAP_IPC_LOCK",
				 bytes / 1024);
	if (status)
		return error_set(e, status, "AF_XDP memory: %s", strerror(-status));
	return 0;
}

static int socket_error(int status, const struct packet_interface *i, unsigned number,
			const struct packet_channel_options *o, struct error *e)
{
	if (status == -EPERM || status == -EACCES)
		return error_set(e, status, "AF_XDP needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF");
	if (status == -EBUSY)
		return error_set(e, status, "AF_XDP: channel %u is used by another program",
				 number);
	if (status == -EOPNOTSUPP && o->zero_copy)
		return error_set(e, status, "AF_XDP: the driver %s has no zero-copy", i->driver);
	if (status == -EOPNOTSUPP)
		return error_set(e, status, "AF_XDP: the driver %s does not serve it", i->driver);
	return error_set(e, status, "AF_XDP: channel %u: %s", number, strerror(-status));
}

static int socket_create(struct packet_channel *c, const struct packet_interface *i,
			 unsigned number, const struct packet_channel_options *o, struct error *e)
{
	struct xsk_socket_config config = {
		.rx_size = COME,
		.tx_size = SEND,
		.xdp_flags = o->generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE,
		.bind_flags = XDP_USE_NEED_WAKEUP,
	};
	const int room = SOCKET_ROOM;
	int status;

	/* Offered to the generic mode, a driver's zero-copy would see no frame. */
	if (o->copy || (o->generic && !o->zero_copy))
		config.bind_flags |= XDP_COPY;
	if (o->zero_copy)
		config.bind_flags |= XDP_ZEROCOPY;
	status = xsk_socket__create(&c->socket, i->name, number, c->umem, &c->receive, &c->transmit,
				    &config);
	if (status)
		return socket_error(status, i, number, o, e);
	setsockopt(xsk_socket__fd(c->socket), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	return 0;
}

static void ask_copies(struct packet_channel *c)
{
	struct xdp_options about = { 0 };
	socklen_t size = sizeof(about);

	getsockopt(xsk_socket__fd(c->socket), SOL_XDP, XDP_OPTIONS, &about, &size);
	c->copies = !(about.flags & XDP_OPTIONS_ZEROCOPY);
}

static int channel_start(struct packet_channel *c, const struct packet_interface *i,
			 unsigned number, const struct packet_channel_options *o, struct error *e)
{
	int status;

	c->memory = pages_allocate((size_t)CHUNKS * c->chunk);
	if (!c->memory)
		return error_set(e, -ENOMEM, "out of memory");
	status = umem_create(c, e);
	status = status ? status : socket_create(c, i, number, o, e);
	if (status)
		return status;
	ask_copies(c);
	for (uint32_t chunk = 0; chunk < COME; chunk++)
		give(c, chunk);
	for (uint32_t chunk = COME; chunk < CHUNKS; chunk++)
		c->free[c->free_count++] = chunk;
	return 0;
}

static int open_once(struct packet_channel **to, const struct packet_interface *i, unsigned number,
		     const struct packet_channel_options *o, struct error *e)
{
	struct packet_channel *c = calloc(1, sizeof(*c));
	int status;

	if (!c)
		return error_set(e, -ENOMEM, "out of memory");
	c->longest = i->mtu + NETWORK_HEADER + TAGS;
	c->chunk = c->longest + KERNEL_ROOM <= SMALL ? SMALL : LARGE;
	status = channel_start(c, i, number, o, e);
	if (status)
		packet_channel_close(c);
	else
		*to = c;
	return status;
}

/* The kernel takes a socket that was closed just now, perhaps by the program that we follow, off
 * its channel in its own time. */
int packet_channel_open(struct packet_channel **to, const struct packet_interface *i,
			unsigned number, const struct packet_channel_options *o, struct error *e)
{
	const struct timespec pause = { .tv_nsec = BUSY_PAUSE_NS };
	int status;

	if (i->mtu > PACKET_CHANNEL_MTU_MAX)
		return error_set(e, -EMSGSIZE, "AF_XDP takes an MTU of at most %d, not %u",
				 PACKET_CHANNEL_MTU_MAX, i->mtu);
	libbpf_set_print(say_bpf);
	libxdp_set_print(say_xdp);
	status = open_once(to, i, number, o, e);
	for (unsigned tries = 0; status == -EBUSY && tries < BUSY_TRIES; tries++) {
		nanosleep(&pause, NULL);
		status = open_once(to, i, number, o, e);
	}
	return status;
}

void packet_channel_close(struct packet_channel *c)
{
	if (!c)
		return;
	if (c->socket)
		xsk_socket__delete(c->socket);
	if (c->umem)
		xsk_umem__delete(c->umem);
	pages_free(c->memory, (size_t)CHUNKS * c->chunk);
	free(c);
}

int packet_channel_fd(const struct packet_channel *c)
{
	return xsk_socket__fd(c->socket);
}

bool packet_channel_copies(const struct packet_channel *c)
{
	return c->copies;
}
