/* If this fails, disks on a real NBD server cannot be opened, or return wrong data. */
#include "nbd_bed.h"

static int set_up(void **state)
{
	bed_create();
	return 0;
}

static int tear_down(void **state)
{
	bed_remove();
	return 0;
}

static void check_refused(const char *where, int code, const char *words)
{
	struct reactor_options options = { .name = "test" };
	struct error e = { 0 };
	struct reactor *r = reactor_create(&options, &e);

	assert_null(storage_open("vda", where, false, r, &e));
	if (e.code != code || !strstr(e.text, words))
		fail_msg("%s: %d %s", where, e.code, e.text);
	reactor_free(r);
}

static void test_bad_uris(void **state)
{
	check_refused("nbd:x", -EINVAL, "\"//\" is missing");
	check_refused("nbd:", -EINVAL, "\"//\" is missing");
	check_refused("nbd:///x", -EINVAL, "no host");
	check_refused("nbd://h:0/x", -EINVAL, "not a port");
	check_refused("nbd://h:65536/x", -EINVAL, "not a port");
	check_refused("nbd://h:1a/x", -EINVAL, "not a port");
	check_refused("nbd://[::1/x", -EINVAL, "[address]:port");
	check_refused("nbd://[::1]1/x", -EINVAL, "[address]:port");
	check_refused("nbd://h/x?socket=/s", -EINVAL, "is for nbd+unix:");
	check_refused("nbd+unix:///x", -EINVAL, "no socket");
	check_refused("nbd+unix://h/x?socket=/s", -EINVAL, "has no host");
	check_refused("nbd://h/x?connections=0", -EINVAL, "from 1 to");
	check_refused("nbd://h/x?connections=17", -EINVAL, "from 1 to");
	check_refused("nbd://h/x?timeout=3", -EINVAL, "duration");
	check_refused("nbd://h/x?connect-timeout=0s", -EINVAL, "connect-timeout");
	check_refused("nbd://h/x?tls-psk-file=/f", -EINVAL, "nbds:");
	check_refused("nbds://a@h/x?tls-username=b", -EINVAL, "user name");
	check_refused("nbd://h/x?colour=red", -EINVAL, "unknown option");
}

static void test_no_server(void **state)
{
	check_refused(uri, -ENOENT, "connect: ");
	check_refused("nbd://127.0.0.1:1/x", -ECONNREFUSED, "nbd://127.0.0.1:1/x: connect: ");
	check_refused("nbd://[::1]:1/x", -ECONNREFUSED, "connect: ");
}

static void test_no_export(void **state)
{
	char other[300];
	pid_t server = nbdkit_start("--filter=exportname memory 1M exportname-strict=true "
				    "exportname=there");

	snprintf(other, sizeof(other), "nbd+unix:///missing?socket=%s", socket_path);
	check_refused(other, -ENOENT, "handshake: export \"missing\" not found");
	process_end(server, SIGTERM);
}

struct single {
	struct storage_io *io;
	bool over;
};

static struct single single;

static void single_done(struct storage_io *io)
{
	single.over = true;
}

static bool single_is_over(void *arg)
{
	return single.over;
}

static int single_run(struct bed *b, enum storage_operation operation, uint64_t offset,
		      uint64_t length, struct iovec *iov, unsigned count)
{
	struct storage_io *io = aligned_alloc(16, align_up(storage_io_size(b->storage), 16));
	int status;

	*io = (struct storage_io){ .operation = operation,
				   .offset = offset,
				   .length = length,
				   .iov = iov,
				   .iov_count = count,
				   .done = single_done };
	single.over = false;
	storage_submit(b->channel, io);
	run_until(b->reactor, single_is_over, NULL, 10000);
	status = io->status;
	free(io);
	return status;
}

static void test_limits(void **state)
{
	pid_t server = nbdkit_start("--filter=blocksize-policy memory 4M blocksize-minimum=4096 "
				    "blocksize-preferred=65536 blocksize-maximum=1M "
				    "blocksize-error-policy=error");
	const struct storage_limits *limits;
	struct iovec iov = { malloc(2 << 20), 2 << 20 };
	struct bed b;

	bed_open(&b, uri);
	limits = storage_limits(b.storage);
	assert_int_equal(limits->size, 4 << 20);
	assert_int_equal(limits->block_size, 4096);
	assert_int_equal(limits->preferred_size, 65536);
	assert_true(limits->can_discard && limits->can_write_zeroes && limits->volatile_cache);
	assert_false(limits->read_only);
	assert_int_equal(single_run(&b, STORAGE_READ, 0, 2 << 20, &iov, 1), 0);
	free(iov.iov_base);
	bed_close(&b);
	process_end(server, SIGTERM);
}

static void test_read_only(void **state)
{
	pid_t server = nbdkit_start("-r memory 4M");
	struct bed b;

	bed_open(&b, uri);
	assert_true(storage_limits(b.storage)->read_only);
	bed_close(&b);
	process_end(server, SIGTERM);
}

static void check_load(const char *where, const char *server_arguments, uint64_t requests)
{
	pid_t server = nbdkit_start(server_arguments);
	struct load *l;
	struct bed b;

	bed_open(&b, where);
	l = load_create(b.storage, 0, BLOCKS);
	load_start(l, b.channel, b.reactor, requests);
	run_until(b.reactor, load_is_over, l, 30000);
	assert_int_equal(l->errors, 0);
	assert_int_equal(l->mismatches, 0);
	load_free(l);
	bed_close(&b);
	process_end(server, SIGTERM);
}

static void test_verified_load(void **state)
{
	check_load(uri, "memory 4M", 20000);
}

/* One thread: replies come in order; and the socket is full now and then. */
static void test_verified_load_slow(void **state)
{
	check_load(uri, "-t 1 --filter=delay memory 4M delay-read=1ms", 300);
}

/* 32 MiB in more pieces than one system call takes, out and back. */
static void test_large_scattered(void **state)
{
	enum { PIECES = 2000, LENGTH = 32 << 20 };
	pid_t server = nbdkit_start("memory 64M");
	unsigned char *out = malloc(LENGTH), *back = calloc(1, LENGTH);
	struct iovec iov[PIECES];
	struct bed b;

	bed_open(&b, uri);
	for (unsigned i = 0; i < LENGTH; i++)
		out[i] = (unsigned char)(i * 31 + (i >> 9));
	for (unsigned i = 0; i < PIECES; i++)
		iov[i] = (struct iovec){ out + i * 16000u, 16000 };
	iov[PIECES - 1].iov_len = LENGTH - (PIECES - 1) * 16000u;
	assert_int_equal(single_run(&b, STORAGE_WRITE, 4096, LENGTH, iov, PIECES), 0);
	for (unsigned i = 0; i < PIECES; i++)
		iov[i].iov_base = back + i * 16000u;
	assert_int_equal(single_run(&b, STORAGE_READ, 4096, LENGTH, iov, PIECES), 0);
	assert_memory_equal(out, back, LENGTH);
	assert_int_equal(single_run(&b, STORAGE_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(single_run(&b, STORAGE_DISCARD, 0, 16 << 20, NULL, 0), 0);
	bed_close(&b);
	free(out);
	free(back);
	process_end(server, SIGTERM);
}

static void test_server_errors(void **state)
{
	pid_t server = nbdkit_start(
		"--filter=error memory 4M error-pread=ENOSPC error-pread-rate=1 "
		"error-pwrite=EPERM error-pwrite-rate=1");
	unsigned char bytes[512];
	struct iovec iov = { bytes, sizeof(bytes) };
	struct bed b;

	bed_open(&b, uri);
	assert_int_equal(single_run(&b, STORAGE_READ, 0, 512, &iov, 1), -ENOSPC);
	assert_int_equal(single_run(&b, STORAGE_WRITE, 0, 512, &iov, 1), -EPERM);
	assert_int_equal(single_run(&b, STORAGE_FLUSH, 0, 0, NULL, 0), 0);
	bed_close(&b);
	process_end(server, SIGTERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_uris),           cmocka_unit_test(test_no_server),
		cmocka_unit_test(test_no_export),          cmocka_unit_test(test_limits),
		cmocka_unit_test(test_read_only),          cmocka_unit_test(test_verified_load),
		cmocka_unit_test(test_verified_load_slow), cmocka_unit_test(test_large_scattered),
		cmocka_unit_test(test_server_errors),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
