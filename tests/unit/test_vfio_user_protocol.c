/* Broken if this fails: a message that is wrong in itself, or wrong here, harms more than the
 * connection that it came by, or gets another answer than vfio-user.rst and <linux/vfio.h> name. */
#include "vfio_user_peer.h"

#include <linux/vfio.h>

/* ---- wrong in itself ---- */

struct bytes {
	const void *at;
	size_t n;
};

#define BYTES(type, ...)                                   \
	{                                                  \
		&(const type){ __VA_ARGS__ }, sizeof(type) \
	}
#define WORDS(...)                                                                           \
	{                                                                                    \
		(const uint32_t[]){ __VA_ARGS__ }, sizeof((const uint32_t[]){ __VA_ARGS__ }) \
	}

enum {
	EVENTFD = VFIO_IRQ_SET_DATA_EVENTFD,
	TRIGGER = VFIO_IRQ_SET_ACTION_TRIGGER,
	BOOL = VFIO_IRQ_SET_DATA_BOOL,
	NONE = VFIO_IRQ_SET_DATA_NONE,
	MASK = VFIO_IRQ_SET_ACTION_MASK,
	UNMASK = VFIO_IRQ_SET_ACTION_UNMASK
};

/* clang-format off */
#define ACCESS(...)	   BYTES(struct vfio_user_region_access, __VA_ARGS__)
#define MAP(...)	   BYTES(struct vfio_user_dma_map, __VA_ARGS__)
#define UNMAP_RANGE(...) BYTES(struct vfio_user_dma_unmap, __VA_ARGS__)

enum { /* short names for a table of long lines */
	IRQS = VFIO_USER_DEVICE_SET_IRQS,
	MULTI = VFIO_USER_REGION_WRITE_MULTI,
	REGION_READ = VFIO_USER_REGION_READ,
	REGION_WRITE = VFIO_USER_REGION_WRITE,
	DMA_MAP = VFIO_USER_DMA_MAP,
	DMA_UNMAP = VFIO_USER_DMA_UNMAP,
	FEATURE = VFIO_USER_DEVICE_FEATURE,
	GET_INFO = VFIO_USER_DEVICE_GET_INFO,
	GET_REGION_INFO = VFIO_USER_DEVICE_GET_REGION_INFO,
	GET_REGION_IO_FDS = VFIO_USER_DEVICE_GET_REGION_IO_FDS,
	GET_IRQ_INFO = VFIO_USER_DEVICE_GET_IRQ_INFO,
	GET = VFIO_DEVICE_FEATURE_GET,
	SET = VFIO_DEVICE_FEATURE_SET,
	PROBE = VFIO_DEVICE_FEATURE_PROBE,
	MIG_READ = VFIO_USER_MIG_DATA_READ,
	MIG_WRITE = VFIO_USER_MIG_DATA_WRITE,
};

/* DMA_LOGGING_START of `count` ranges: the page size, reserved, iova and length of each. */
#define LOG(count, page, ...)                WORDS(99, SET | 6, page, 0, count, __VA_ARGS__)
#define REPORT(argsz, iova, length, page) WORDS(argsz, GET | 8, iova, 0, length, 0, page, 0)

static const struct wrong {
	const char *what;
	uint16_t command;
	struct bytes payload;
	unsigned fds;
	int code;
} wrongs[] = {
	{ "an unknown command", 77, { "", 0 }, 0, -EOPNOTSUPP },
	{ "command 0", 0, { "", 0 }, 0, -EOPNOTSUPP },
	{ "a command of the server's", VFIO_USER_DMA_READ, WORDS(0, 0, 8, 0), 0, -EOPNOTSUPP },
	{ "a second version", VFIO_USER_VERSION, WORDS(1 << 16), 0, -EINVAL },
	{ "no payload", GET_INFO, { "", 0 }, 0, -EINVAL },
	{ "argsz", GET_INFO, WORDS(15, 0, 0, 0), 0, -EINVAL },
	{ "too long", GET_INFO, WORDS(16, 0, 0, 0, 0), 0, -EINVAL },
	{ "argsz", GET_REGION_INFO, WORDS(31, 0, 0, 0, 0, 0, 0, 0), 0, -EINVAL },
	{ "region 9", GET_REGION_INFO, WORDS(32, 0, 9, 0, 0, 0, 0, 0), 0, -EINVAL },
	{ "region -1", GET_REGION_INFO, WORDS(32, 0, -1, 0, 0, 0, 0, 0), 0, -EINVAL },
	{ "region 9", GET_REGION_IO_FDS, WORDS(16, 0, 9, 0), 0, -EINVAL },
	{ "a count", GET_REGION_IO_FDS, WORDS(16, 0, 4, 1), 0, -EINVAL },
	{ "argsz", GET_REGION_IO_FDS, WORDS(8, 0, 4, 0), 0, -EINVAL },
	{ "argsz", GET_IRQ_INFO, WORDS(15, 0, 2, 0), 0, -EINVAL },
	{ "type 5", GET_IRQ_INFO, WORDS(16, 0, 5, 0), 0, -EINVAL },

	{ "no action", IRQS, WORDS(20, NONE, 2, 0, 1), 0, -EINVAL },
	{ "two actions", IRQS, WORDS(20, NONE | MASK | UNMASK, 2, 0, 1), 0, -EINVAL },
	{ "no data", IRQS, WORDS(20, TRIGGER, 2, 0, 1), 0, -EINVAL },
	{ "two kinds of data", IRQS, WORDS(20, NONE | BOOL | TRIGGER, 2, 0, 1), 0, -EINVAL },
	{ "an unknown flag", IRQS, WORDS(20, NONE | TRIGGER | 64, 2, 0, 1), 0, -EINVAL },
	{ "type 5", IRQS, WORDS(20, NONE | TRIGGER, 5, 0, 1), 0, -EINVAL },
	{ "too many vectors", IRQS, WORDS(20, NONE | TRIGGER, 2, 0, QUEUES + 2), 0, -EINVAL },
	{ "a vector too far", IRQS, WORDS(20, NONE | TRIGGER, 2, QUEUES + 1, 1), 0, -EINVAL },
	{ "vectors that wrap", IRQS, WORDS(20, NONE | TRIGGER, 2, -1, 2), 0, -EINVAL },
	{ "no vectors, but a start", IRQS, WORDS(20, NONE | TRIGGER, 2, 1, 0), 0, -EINVAL },
	{ "booleans missing", IRQS, WORDS(20, BOOL | TRIGGER, 2, 0, 2), 0, -EINVAL },
	{ "argsz without the booleans", IRQS, WORDS(20, BOOL | TRIGGER, 2, 0, 2, 0), 0, -EINVAL },
	{ "eventfds missing", IRQS, WORDS(20, EVENTFD | TRIGGER, 2, 0, 2), 1, -EINVAL },
	{ "eventfds too many", IRQS, WORDS(20, EVENTFD | TRIGGER, 2, 0, 1), 2, -EINVAL },
	{ "a mask by a file", IRQS, WORDS(20, EVENTFD | MASK, 2, 0, 1), 1, -EINVAL },

	{ "region 9", REGION_READ, ACCESS(0, 9, 4), 0, -EINVAL },
	{ "behind the end", REGION_READ, ACCESS(4096, 7, 4), 0, -EINVAL },
	{ "over the end", REGION_READ, ACCESS(4094, 7, 4), 0, -EINVAL },
	{ "wrapping", REGION_READ, ACCESS(-2, 7, 4), 0, -EINVAL },
	{ "too many bytes", REGION_READ, ACCESS(0, 7, 1 << 21), 0, -EINVAL },
	{ "an absent region", REGION_READ, ACCESS(0, 6, 4), 0, -EINVAL },
	{ "data missing", REGION_WRITE, ACCESS(0, 7, 4), 0, -EINVAL },
	{ "too much data", REGION_WRITE, WORDS(0, 0, 7, 4, 1, 2), 0, -EINVAL },
	{ "behind the end", REGION_WRITE, WORDS(4096, 0, 7, 4, 1), 0, -EINVAL },
	{ "writes missing", MULTI, WORDS(2, 0, 0, 0, 7, 4, 1, 1), 0, -EINVAL },
	{ "2^63 writes", MULTI, WORDS(0, 1u << 31), 0, -EINVAL },
	{ "nine bytes in one", MULTI, WORDS(1, 0, 0, 0, 7, 9, 1, 1), 0, -EINVAL },

	{ "nothing", REGION_READ, ACCESS(0, 7, 0), 0, -EINVAL },
	{ "nothing", REGION_WRITE, ACCESS(0x3c, 7, 0), 0, -EINVAL },
	{ "nothing", MULTI, WORDS(1, 0, 0x3c, 0, 7, 0, 0, 0), 0, -EINVAL },
	{ "more bytes than there are", REGION_READ, ACCESS(0, 7, -1), 0, -EINVAL },
	{ "cut", REGION_READ, WORDS(0, 0, 7), 0, -EINVAL },
	{ "with data", REGION_READ, WORDS(0, 0, 7, 4, 0), 0, -EINVAL },
	{ "the last region", REGION_READ, ACCESS(0, -1, 4), 0, -EINVAL },
	{ "a count that lies", REGION_WRITE, WORDS(0, 0, 7, -1, 0), 0, -EINVAL },
	{ "wrapping", REGION_WRITE, WORDS(-2, -1, 7, 4, 0), 0, -EINVAL },
	{ "more writes than said", MULTI, WORDS(0, 0, 0x3c, 0, 7, 4, 0, 0), 0, -EINVAL },
	{ "half a write", MULTI, WORDS(1, 0, 0x3c, 0, 7, 4, 0), 0, -EINVAL },
	{ "a wrap", MULTI, WORDS(0xaaaaaaab, 0x0aaaaaaa, 0x3c, 0, 7, 4, 0, 0), 0, -EINVAL },
	{ "a write and a half", MULTI, WORDS(1, 0, 0x3c, 0, 7, 4, 0, 0, 0), 0, -EINVAL },
	{ "behind the end", MULTI, WORDS(1, 0, 4096, 0, 7, 1, 0, 0), 0, -EINVAL },
	{ "wrapping", MULTI, WORDS(1, 0, -1, -1, 7, 8, 0, 0), 0, -EINVAL },
	{ "a payload", VFIO_USER_DEVICE_RESET, WORDS(0), 0, -EINVAL },

	{ "a type without vectors", IRQS, WORDS(20, NONE | TRIGGER, 1, 0, 1), 0, -EINVAL },
	{ "type -1", IRQS, WORDS(20, NONE | TRIGGER, -1, 0, 1), 0, -EINVAL },
	{ "as many vectors as can be", IRQS, WORDS(20, NONE | MASK, 2, 0, -1), 0, -EINVAL },
	{ "no vectors, but eventfds", IRQS, WORDS(20, EVENTFD | TRIGGER, 2, 0, 0), 0, -EINVAL },
	{ "data without a place", IRQS, WORDS(24, NONE | TRIGGER, 2, 0, 1, 0), 0, -EINVAL },
	{ "cut", IRQS, WORDS(20, NONE | TRIGGER, 2, 0), 0, -EINVAL },
	{ "interrupts into a file", IRQS, WORDS(20, EVENTFD | TRIGGER, 2, 0, 1), 1, -EINVAL },

	{ "no access", DMA_MAP, MAP(32, 0, 0, 0, 4096), 1, -EINVAL },
	{ "unknown access", DMA_MAP, MAP(32, 7, 0, 0, 4096), 1, -EINVAL },
	{ "argsz", DMA_MAP, MAP(31, 3, 0, 0, 4096), 1, -EINVAL },
	{ "empty", DMA_MAP, MAP(32, 3, 0, 0, 0), 1, -EINVAL },
	{ "wrapping", DMA_MAP, MAP(32, 3, 0, -4096, 8192), 0, -EINVAL },
	{ "half a page", DMA_MAP, MAP(32, 3, 0, 0, 2048), 1, -EINVAL },
	{ "two files", DMA_MAP, MAP(32, 3, 0, 0, 4096), 2, -EINVAL },
	{ "beyond the file", DMA_MAP, MAP(32, 3, 0, 0, FILE_BYTES + 4096), 1, -EINVAL },
	{ "an offset beyond the file", DMA_MAP, MAP(32, 3, FILE_BYTES, 0, 4096), 1, -EINVAL },
	{ "an offset that wraps", DMA_MAP, MAP(32, 3, -4096, 0, 8192), 1, -EINVAL },
	{ "a dirty bitmap", DMA_UNMAP, UNMAP_RANGE(24, 1, 0, 4096), 0, -EOPNOTSUPP },
	{ "an unknown flag", DMA_UNMAP, UNMAP_RANGE(24, 8, 0, 4096), 0, -EINVAL },
	{ "everything, and a range", DMA_UNMAP, UNMAP_RANGE(24, 2, 0, 4096), 0, -EINVAL },
	{ "empty", DMA_UNMAP, UNMAP_RANGE(24, 0, 4096, 0), 0, -EINVAL },

	{ "no method", FEATURE, WORDS(8, 1), 0, -EINVAL },
	{ "get and set", FEATURE, WORDS(8, GET | SET | 1), 0, -EINVAL },
	{ "argsz", FEATURE, WORDS(7, GET | 1), 0, -EINVAL },
	{ "none that there is", FEATURE, WORDS(8, GET | 3), 0, -ENOTTY },
	{ "probing none", FEATURE, WORDS(8, GET | PROBE | 10), 0, -ENOTTY },
	{ "what cannot be set", FEATURE, WORDS(16, SET | 1, 0, 0), 0, -EINVAL },
	{ "probing what cannot be set", FEATURE, WORDS(8, SET | PROBE | 8), 0, -EINVAL },
	{ "what cannot be got", FEATURE, WORDS(24, GET | 6, 0, 0, 0, 0), 0, -EINVAL },

	{ "flags without room", FEATURE, WORDS(15, GET | 1), 0, -EINVAL },
	{ "a state without room", FEATURE, WORDS(8, GET | 2), 0, -EINVAL },
	{ "a size without room", FEATURE, WORDS(15, GET | 9), 0, -EINVAL },
	{ "half a state", FEATURE, WORDS(16, SET | 2, 1), 0, -EINVAL },
	{ "state ERROR", FEATURE, WORDS(16, SET | 2, 0, -1), 0, -EINVAL },
	{ "state 8", FEATURE, WORDS(16, SET | 2, 8, -1), 0, -EINVAL },
	{ "state -1", FEATURE, WORDS(16, SET | 2, -1, -1), 0, -EINVAL },
	{ "fewer ranges than said", FEATURE, LOG(1, 4096, 0), 0, -EINVAL },
	{ "too many ranges", FEATURE, LOG(-1, 4096, 0), 0, -EINVAL },
	{ "an empty range", FEATURE, LOG(1, 4096, 0, 0, 0, 0, 0), 0, -EINVAL },
	{ "a range that wraps", FEATURE, LOG(1, 4096, 0, 0, -1, 1, 1), 0, -EINVAL },
	{ "ranges that overlap", FEATURE, LOG(2, 4096, 0, 0, 0, 9, 0, 8, 0, 9, 0), 0, -EINVAL },
	{ "stopping no log", FEATURE, WORDS(8, SET | 7), 0, -EINVAL },
	{ "a report of no log", FEATURE, REPORT(99, 0, 4096, 4096), 0, -EINVAL },
	{ "a report that is cut", FEATURE, WORDS(99, GET | 8, 0, 0, 4096, 0, 4096), 0, -EINVAL },
	{ "a report of nothing", FEATURE, REPORT(99, 0, 0, 4096), 0, -EINVAL },
	{ "a report of small pages", FEATURE, REPORT(99, 0, 4096, 2048), 0, -EINVAL },
	{ "a report of odd pages", FEATURE, REPORT(99, 0, 4096, 12288), 0, -EINVAL },
	{ "a report without room", FEATURE, REPORT(39, 0, 4096, 4096), 0, -EINVAL },
	{ "a report of all there is", FEATURE, WORDS(-1, GET | 8, 0, 0, -1, -1, 4096, 0), 0,
	  -EINVAL },
	{ "reading a state while running", MIG_READ, WORDS(16, 8), 0, -EINVAL },
	{ "reading without room", MIG_READ, WORDS(15, 8), 0, -EINVAL },
	{ "reading too much", MIG_READ, WORDS(-1, 1u << 30), 0, -EINVAL },
	{ "writing a state while running", MIG_WRITE, WORDS(12, 4, 0), 0, -EINVAL },
	{ "writing less than said", MIG_WRITE, WORDS(16, 8, 0), 0, -EINVAL },
	{ "writing more than said", MIG_WRITE, WORDS(16, 0, 0), 0, -EINVAL },
};
/* clang-format on */

static void wrong_commands_are_refused(void **state)
{
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	for (unsigned i = 0; i < ARRAY_LENGTH(wrongs); i++) {
		const struct wrong *w = &wrongs[i];
		int code = ask(&s, w->command, w->payload.at, w->payload.n, w->fds);

		if (code != w->code)
			fail_msg("command %u, %s: %d instead of %d", w->command, w->what, code,
				 w->code);
		works(&s);
	}
	stage_close(&s);
}

/* ---- wrong here ---- */

static void versions(void **state)
{
	static const char *const bad[] = {
		"",
		"{",
		"7",
		"{\"capabilities\":7}",
		"{\"capabilities\":{\"max_msg_fds\":-1}}",
		"{\"capabilities\":{\"max_data_xfer_size\":0}}",
		"{\"capabilities\":{\"pgsizes\":1}}",
		"{\"capabilities\":{\"write_multiple\":1}}",
		"{\"capabilities\":{\"twin_socket\":true}}",
	};
	const uint32_t major = 1, minor = 9 << 16;
	struct stage s;

	stage_open(&s);
	for (unsigned i = 0; i < ARRAY_LENGTH(bad); i++)
		assert_int_equal(negotiate_with(&s, bad[i], strlen(bad[i]) + 1), -EINVAL);
	assert_int_equal(negotiate_with(&s, "{}", 2), -EINVAL); /* without its NUL */
	assert_int_equal(ask(&s, VFIO_USER_VERSION, &major, 2, 0), -EINVAL);
	assert_int_equal(ask(&s, VFIO_USER_DEVICE_RESET, "", 0, 0), -EINVAL); /* too early */
	assert_int_equal(ask(&s, VFIO_USER_VERSION, &minor, 4, 0), 0);
	works(&s);
	close(s.client);
	peer_connect(&s);
	assert_int_equal(ask(&s, VFIO_USER_VERSION, &major, 4, 0), GONE); /* another protocol */
	is_gone_and_comes_back(&s);
	stage_close(&s);
}

/* What a stream cannot go on after. */
static void streams_that_end(void **state)
{
	static const struct vfio_user_header headers[] = {
		{ ID, VFIO_USER_DEVICE_RESET, 0, 0, 0 },
		{ ID, VFIO_USER_DEVICE_RESET, 15, 0, 0 },
		{ ID, VFIO_USER_DEVICE_RESET, UINT32_MAX, 0, 0 },
		{ ID, VFIO_USER_DEVICE_RESET, VFIO_USER_MESSAGE_MAX + 1, 0, 0 },
		{ ID, VFIO_USER_DEVICE_RESET, 16, 2, 0 },                /* no such type */
		{ ID, VFIO_USER_DMA_READ, 16, VFIO_USER_FLAG_REPLY, 0 }, /* nobody asked */
		{ ID, VFIO_USER_DMA_WRITE, 32, VFIO_USER_FLAG_REPLY, 0 },
		{ ID, VFIO_USER_DEVICE_GET_INFO, 16, VFIO_USER_FLAG_REPLY, 0 },
	};
	struct stage s;

	stage_open(&s);
	for (unsigned early = 0; early < 2; early++) {
		for (unsigned i = 0; i < ARRAY_LENGTH(headers); i++) {
			if (!early)
				negotiate(&s);
			send_bytes(&s, &headers[i], sizeof(headers[i]), NULL, 0);
			if (headers[i].size == 32)
				send_bytes(&s, "0123456789abcdef", 16, NULL, 0);
			is_gone_and_comes_back(&s);
			close(s.client);
			peer_connect(&s);
		}
	}
	stage_close(&s);
}

static void too_many_descriptors(void **state)
{
	const struct vfio_user_device_info info = { .argsz = sizeof(info) };
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	/* As many as may come, where none is wanted: they are closed. */
	assert_int_equal(ask(&s, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), VFIO_USER_FDS_MAX),
			 0);
	assert_int_equal(
		ask(&s, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), VFIO_USER_FDS_MAX + 1),
		GONE);
	is_gone_and_comes_back(&s);
	stage_close(&s);
}

/* A message's bytes may come one by one, its descriptor with any of them; or the client is gone in
 * the middle of it. */
static void messages_in_pieces(void **state)
{
	struct {
		struct vfio_user_header header;
		struct vfio_user_dma_map map;
	} m = { { ID, VFIO_USER_DMA_MAP, sizeof(m), 0, 0 }, { 32, 3, 0, 0, 4096 } };
	uint8_t reply[REPLY_MAX];
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	for (unsigned with = 0; with < sizeof(m); with += 7) {
		m.map.address = with * 4096ull;
		for (unsigned i = 0; i < sizeof(m); i++) {
			assert_true(put_bytes(&s, (char *)&m + i, 1, &s.file, i == with));
			reactor_world_step(s.world); /* without time that passes */
		}
		steps(&s);
		assert_int_equal(answer(&s, VFIO_USER_DMA_MAP, reply), 0);
	}
	for (unsigned length = 1; length < sizeof(m); length += 5) {
		put_bytes(&s, &m, length, &s.file, 1);
		reactor_world_step(s.world);
		close(s.client);
		steps(&s);
		peer_connect(&s);
		negotiate(&s);
		works(&s);
	}
	stage_close(&s);
}

static int map(struct stage *s, uint64_t address, uint64_t size, bool shared)
{
	const struct vfio_user_dma_map m = { sizeof(m), 3, 0, address, size };

	return ask(s, VFIO_USER_DMA_MAP, &m, sizeof(m), shared);
}

static int unmap(struct stage *s, uint64_t address, uint64_t size)
{
	const struct vfio_user_dma_unmap m = { sizeof(m), size ? 0 : 2, address, size };

	return ask(s, VFIO_USER_DMA_UNMAP, &m, sizeof(m), 0);
}

static void maps(void **state)
{
	const uint64_t page = 4096;
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	assert_int_equal(map(&s, 2 * page, 4 * page, true), 0);
	assert_int_equal(map(&s, 8 * page, page, false), 0);
	assert_int_equal(map(&s, 2 * page, 4 * page, true), -EEXIST); /* repeated */
	assert_int_equal(map(&s, page, 2 * page, true), -EEXIST);     /* overlapping */
	assert_int_equal(map(&s, 3 * page, page, false), -EEXIST);
	assert_int_equal(map(&s, 0, 16 * page, true), -EEXIST);
	assert_int_equal(unmap(&s, 2 * page, page), -EINVAL); /* a part */
	assert_int_equal(unmap(&s, 5 * page, 4 * page), -EINVAL);
	assert_int_equal(unmap(&s, 32 * page, page), 0); /* nothing, as VFIO has it */
	assert_int_equal(unmap(&s, 0, 16 * page), 0);    /* both */
	assert_int_equal(unmap(&s, 2 * page, 4 * page), 0);
	assert_int_equal(map(&s, 2 * page, 4 * page, true), 0);
	assert_int_equal(unmap(&s, 0, 0), 0); /* all */
	assert_int_equal(map(&s, 2 * page, 4 * page, true), 0);
	works(&s);
	stage_close(&s);
}

static void maps_without_number(void **state)
{
	static const char few[] = "{\"capabilities\":{\"max_dma_maps\":5}}";
	struct stage s;

	stage_open(&s);
	assert_int_equal(negotiate_with(&s, few, sizeof(few)), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(map(&s, i * 8192, 4096, i & 1), 0);
	assert_int_equal(map(&s, 5 * 8192, 4096, true), -ENOSPC);
	assert_int_equal(unmap(&s, 0, 4096), 0);
	assert_int_equal(map(&s, 5 * 8192, 4096, true), 0);
	stage_close(&s);
}

static void nothing_is_answered_that_wants_no_reply(void **state)
{
	const struct vfio_user_header h = { ID, VFIO_USER_DEVICE_RESET, sizeof(h),
					    VFIO_USER_FLAG_NO_REPLY, 0 };
	const struct vfio_user_header bad = { ID, 77, sizeof(bad), VFIO_USER_FLAG_NO_REPLY, 0 };
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	send_bytes(&s, &h, sizeof(h), NULL, 0);
	send_bytes(&s, &bad, sizeof(bad), NULL, 0);
	works(&s); /* the first reply is that to the next command */
	stage_close(&s);
}

/* What registers answer may be longer than the client's argsz: it learns so. */
static void areas_that_do_not_fit(void **state)
{
	const struct vfio_user_indexed asked = { sizeof(asked), 0, PCI_REGION_BAR4, 0 };
	const struct vfio_user_header h = { ID, VFIO_USER_DEVICE_GET_REGION_IO_FDS,
					    sizeof(h) + sizeof(asked), 0, 0 };
	uint8_t reply[REPLY_MAX];
	struct vfio_user_indexed info;
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	send_message(&s, &h, &asked, sizeof(asked), NULL, 0);
	assert_int_equal(answer(&s, h.command, reply), 0);
	memcpy(&info, reply, sizeof(info));
	assert_int_equal(info.argsz, sizeof(info) + QUEUES * sizeof(struct vfio_user_io_fd));
	works(&s);
	stage_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong_commands_are_refused),
		cmocka_unit_test(versions),
		cmocka_unit_test(streams_that_end),
		cmocka_unit_test(too_many_descriptors),
		cmocka_unit_test(messages_in_pieces),
		cmocka_unit_test(maps),
		cmocka_unit_test(maps_without_number),
		cmocka_unit_test(nothing_is_answered_that_wants_no_reply),
		cmocka_unit_test(areas_that_do_not_fit),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
