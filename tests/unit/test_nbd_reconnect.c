/* If this fails, a guest sees errors or wrong data when its NBD server is killed, restarted, hangs,
 * or breaks the protocol; or requests wait longer than they may. */
#include <pthread.h>

#include "nbd_bed.h"

static int set_up(void **state)
{
	bed_create();
	file_create();
	return 0;
}

static int tear_down(void **state)
{
	bed_remove();
	return 0;
}

struct progress {
	struct load *load;
	uint64_t wanted;
};

static bool has_progressed(void *arg)
{
	const struct progress *p = arg;

	return p->load->completed >= p->wanted || load_is_over(p->load);
}

static char slow_server[300];

static pid_t slow_server_start(void)
{
	snprintf(slow_server, sizeof(slow_server),
		 "--filter=delay %s delay-read=2ms delay-write=2ms", file_server);
	return nbdkit_start(slow_server);
}

static void test_kills(void **state)
{
	uint64_t resent = nbd_counter("resent"), reconnects = nbd_counter("reconnects");
	pid_t server = slow_server_start();
	struct progress p;
	struct bed b;

	bed_open(&b, uri);
	p.load = load_create(b.storage, 0, BLOCKS);
	load_start(p.load, b.channel, b.reactor, 6000);
	for (int i = 0; i < 6; i++) {
		p.wanted = p.load->completed + 500;
		run_until(b.reactor, has_progressed, &p, 10000);
		process_end(server, SIGKILL);
		run_for(b.reactor, 10);
		server = slow_server_start();
	}
	run_until(b.reactor, load_is_over, p.load, 20000);
	assert_int_equal(p.load->errors, 0);
	assert_int_equal(p.load->mismatches, 0);
	assert_true(nbd_counter("reconnects") - reconnects >= 6);
	assert_true(nbd_counter("resent") - resent >= 6);
	file_check(p.load);
	load_free(p.load);
	bed_close(&b);
	process_end(server, SIGTERM);
}

static uint64_t milliseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / MILLISECOND;
}

/* A burst against a server that does not answer fails within the bound, and not before it. */
static void check_bound(struct bed *b, struct load *l)
{
	uint64_t begin = milliseconds(), waited;

	l->errors = 0;
	load_start(l, b->channel, b->reactor, DEPTH);
	run_until(b->reactor, load_is_over, l, 5000);
	waited = milliseconds() - begin;
	assert_int_equal(l->errors, DEPTH);
	assert_int_equal(l->last_error, -EIO);
	assert_in_range(waited, 190, 1500);
}

static void check_works(struct bed *b, struct load *l)
{
	l->errors = 0;
	load_start(l, b->channel, b->reactor, 200);
	run_until(b->reactor, load_is_over, l, 10000);
	assert_int_equal(l->errors, 0);
}

/* Killed, then silent: SIGSTOP leaves the socket as it is.  One thread: in nbdkit 1.32, a second
 * that writes to a connection that broke ends the process. */
static void test_timeout(void **state)
{
	uint64_t timeouts = nbd_counter("timeouts");
	char bounded[300], single_threaded[140];
	pid_t server;
	struct load *l;
	struct bed b;

	snprintf(single_threaded, sizeof(single_threaded), "-t 1 %s", file_server);
	server = nbdkit_start(single_threaded);
	snprintf(bounded, sizeof(bounded), "%s&timeout=200ms&connect-timeout=300ms", uri);
	bed_open(&b, bounded);
	l = load_create(b.storage, 0, BLOCKS);
	check_works(&b, l);
	process_end(server, SIGKILL);
	check_bound(&b, l);
	server = nbdkit_start(single_threaded);
	run_for(b.reactor, 1000);
	check_works(&b, l);
	assert_int_equal(kill(server, SIGSTOP), 0);
	assert_int_equal(waitpid(server, NULL, WUNTRACED), server); /* it does not stop at once */
	check_bound(&b, l);
	assert_int_equal(kill(server, SIGCONT), 0);
	run_for(b.reactor, 1000);
	check_works(&b, l);
	assert_int_equal(nbd_counter("timeouts") - timeouts, 2 * DEPTH);
	load_free(l);
	bed_close(&b);
	process_end(server, SIGTERM);
}

/* ---- a server that breaks the protocol, in another way on each connection ---- */

enum misdeed {
	CLOSE_AT_ONCE,
	WRONG_MAGIC,
	STRUCTURED_REPLY,
	UNKNOWN_COOKIE,
	WRONG_GENERATION,
	REPLY_TWICE,
	CUT_HEADER,
	CUT_PAYLOAD,
	SHUT_DOWN,
	NOISE,
	HONEST
};

static unsigned char contents[BLOCKS * BLOCK];

static bool take(int fd, void *to, size_t n)
{
	return recv(fd, to, n, MSG_WAITALL) == (ssize_t)n;
}

/* In pieces that fit nothing. */
static bool give(int fd, const void *from, size_t n)
{
	for (size_t at = 0; at < n;) {
		size_t part = minimum_u64(n - at, 997);

		if (send(fd, (const char *)from + at, part, MSG_NOSIGNAL) != (ssize_t)part)
			return false;
		at += part;
	}
	return true;
}

/* NBD protocol, "Option reply": magic, option, type, length. */
static bool option_reply(int fd, uint32_t option, uint32_t type, const void *data, uint32_t length)
{
	unsigned char head[20];

	store_be64(head, 0x3e889045565a9ull);
	store_be32(head + 8, option);
	store_be32(head + 12, type);
	store_be32(head + 16, length);
	return give(fd, head, 20) && give(fd, data, length);
}

static bool answer_go(int fd, uint32_t option)
{
	unsigned char info[12];

	store_be16(info, 0);
	store_be64(info + 2, sizeof(contents));
	store_be16(info + 10, 1 | 4 | 64); /* HAS_FLAGS, SEND_FLUSH, SEND_WRITE_ZEROES */
	return option_reply(fd, option, 3, info, 12) && option_reply(fd, option, 1, "", 0);
}

static bool negotiate(int fd)
{
	unsigned char hello[18], flags[4], head[16], data[4096];
	uint32_t option = 0;

	memcpy(hello, "NBDMAGICIHAVEOPT", 16);
	store_be16(hello + 16, 3);
	if (!give(fd, hello, 18) || !take(fd, flags, 4))
		return false;
	while (option != 7) {
		if (!take(fd, head, 16) || load_be32(head + 12) > sizeof(data) ||
		    !take(fd, data, load_be32(head + 12)))
			return false;
		option = load_be32(head + 8);
		if (!(option == 7 ? answer_go(fd, option)
				  : option_reply(fd, option, 0x80000001, "", 0)))
			return false;
	}
	return true;
}

static bool reply(int fd, uint32_t magic, uint64_t cookie, uint32_t error)
{
	unsigned char head[16];

	store_be32(head, magic);
	store_be32(head + 4, error);
	store_be64(head + 8, cookie);
	return give(fd, head, 16);
}

static bool misbehave(int fd, enum misdeed misdeed, uint64_t cookie)
{
	static const unsigned char noise[4096] = { 0x67, 0x44, 0x66, 0x98, 0xff };

	switch (misdeed) {
	case WRONG_MAGIC:
		return reply(fd, 0x67446699, cookie, 0);
	case STRUCTURED_REPLY:
		return reply(fd, 0x668e33ef, cookie, 0);
	case UNKNOWN_COOKIE:
		return reply(fd, 0x67446698, cookie + 1000000, 0);
	case WRONG_GENERATION:
		return reply(fd, 0x67446698, cookie + (1ull << 32), 0);
	case REPLY_TWICE:
		return reply(fd, 0x67446698, cookie, 5) && reply(fd, 0x67446698, cookie, 5);
	case CUT_HEADER:
		return give(fd, noise, 7) && !shutdown(fd, SHUT_RDWR);
	case CUT_PAYLOAD:
		return reply(fd, 0x67446698, cookie, 0) && give(fd, noise, 100) &&
		       !shutdown(fd, SHUT_RDWR);
	case SHUT_DOWN:
		return reply(fd, 0x67446698, cookie, 108);
	default:
		return give(fd, noise, sizeof(noise));
	}
}

static bool serve_honestly(int fd, const unsigned char *head)
{
	uint64_t offset = load_be64(head + 16), length = load_be32(head + 24);
	uint16_t type = load_be16(head + 6);

	if (type == 2 || (type != 3 && !range_fits(offset, length, sizeof(contents))))
		return false;
	if (type == 1 && !take(fd, contents + offset, length))
		return false;
	if (type == 6)
		memset(contents + offset, 0, length);
	return reply(fd, 0x67446698, load_be64(head + 8), 0) &&
	       (type != 0 || give(fd, contents + offset, length));
}

static void serve(int fd, enum misdeed misdeed)
{
	unsigned char head[28];
	int served = 0;

	if (misdeed == CLOSE_AT_ONCE || !negotiate(fd))
		return;
	while (take(fd, head, 28)) {
		if (misdeed != HONEST && ++served > 20 &&
		    (load_be16(head + 6) == 0 || misdeed == SHUT_DOWN)) {
			misbehave(fd, misdeed, load_be64(head + 8));
			while (take(fd, head, 1)) /* until the client has had enough */
				;
			return;
		}
		if (!serve_honestly(fd, head))
			return;
	}
}

/* The first connection opens the disk, and is good for 20 requests. */
static void *hostile_server(void *arg)
{
	int listener = *(int *)arg;

	for (int n = 0;; n++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return NULL;
		serve(fd, n == 0 ? NOISE : n - 1 < HONEST ? (enum misdeed)(n - 1) : HONEST);
		close(fd);
	}
}

static int listen_on(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	unlink(path);
	strncpy(a.sun_path, path, sizeof(a.sun_path) - 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* REPLY_TWICE first fails one request, as it says: all else ends well. */
static void test_hostile_server(void **state)
{
	uint64_t broken = nbd_counter("protocol_errors");
	int listener = listen_on(socket_path);
	pthread_t thread;
	struct load *l;
	struct bed b;

	pthread_create(&thread, NULL, hostile_server, &listener);
	bed_open(&b, uri);
	l = load_create(b.storage, 0, BLOCKS);
	load_start(l, b.channel, b.reactor, 3000);
	run_until(b.reactor, load_is_over, l, 20000);
	assert_in_range(l->errors, 0, 1);
	assert_int_equal(l->mismatches, 0);
	assert_in_range(nbd_counter("protocol_errors") - broken, 6, 7);
	load_free(l);
	bed_close(&b);
	shutdown(listener, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kills),
		cmocka_unit_test(test_timeout),
		cmocka_unit_test(test_hostile_server),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
