/* If this fails, what a guest wrote to a file is not what it reads, or a file is damaged that was
 * not this disk's to touch. */
#include "test_storage_bed.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/iov.h"

enum { DISK = 1 << 20 };

static unsigned char model[DISK], buffer[DISK] __attribute__((aligned(4096))), other[DISK];

static char path[128], uri[256];

/* A file of `size` bytes in a directory, and its URI. */
static void file_make(const char *directory, uint64_t size, const char *query)
{
	int fd;

	snprintf(path, sizeof(path), "%s/test_storage_XXXXXX", directory);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, size))
		fail_msg("%s: %s", path, strerror(errno));
	close(fd);
	snprintf(uri, sizeof(uri), "file:%s%s", path, query);
}

static bool direct_works(void)
{
	struct reactor_world *w = reactor_world_create(1);
	struct reactor *r = reactor_virtual_create(w, "control");
	struct error e = { 0 };
	struct storage *s;
	bool works;

	file_make("/tmp", DISK, "?direct=on");
	reactor_world_enter(w, r);
	s = storage_open("probe", uri, false, r, &e);
	works = s && storage_limits(s)->block_size == 512;
	if (!works)
		print_message("no O_DIRECT with 512-byte sectors in /tmp: %s\n", e.text);
	storage_close(s);
	reactor_world_enter(w, NULL);
	reactor_free(r);
	reactor_world_free(w);
	unlink(path);
	return works;
}

/* ---- a random history against a model ---- */

/* Where the requests go: the virtual world, or a real reactor of either kind. */
enum place { IN_WORLD, ON_BEST, ON_EPOLL };

struct runner {
	struct bed bed;
	struct reactor *real;
	struct storage *storage;
	struct storage_channel *channel;
};

static void runner_open(struct runner *r, enum place place)
{
	struct reactor_options options = { .name = "real",
					   .kind = place == ON_EPOLL ? REACTOR_EPOLL
								     : REACTOR_AUTO };
	struct error e = { 0 };

	*r = (struct runner){ 0 };
	if (place == IN_WORLD) {
		bed_open(&r->bed, uri);
		r->storage = r->bed.storage;
		return;
	}
	r->real = reactor_create(&options, &e);
	if (r->real)
		r->storage = storage_open("vda", uri, false, r->real, &e);
	if (r->storage)
		r->channel = storage_channel_open(r->storage, r->real, &e);
	if (!r->channel)
		fail_msg("%s", e.text);
}

static void runner_close(struct runner *r)
{
	if (!r->real) {
		bed_close(&r->bed);
		return;
	}
	storage_channel_close(r->channel);
	storage_close(r->storage);
	reactor_free(r->real);
}

static struct reactor *stopping;

static void done_and_stop(struct storage_io *io)
{
	request_done(io);
	reactor_stop(stopping);
}

static int runner_do(struct runner *r, struct request *q)
{
	int status;

	if (r->real) {
		stopping = r->real;
		q->io.done = done_and_stop;
		request_submit(r->channel, q);
		reactor_run(r->real);
		assert_int_equal(q->done, 1);
	} else {
		bed_submit(&r->bed, q);
		bed_wait(&r->bed, q);
	}
	status = q->io.status;
	free(q);
	return status;
}

static unsigned seed;

/* Pieces of 1 byte to 8 KiB, or whole pages, at odd or even addresses. */
static unsigned scatter(struct iovec *iov, unsigned char *bytes, uint64_t length)
{
	unsigned kind = rand_r(&seed) % 4, n = 0;

	for (uint64_t at = 0; at < length; n++) {
		uint64_t part = kind == 0   ? length
				: kind == 1 ? 4096u
				: kind == 2 ? 512u
					    : 1u + rand_r(&seed) % 8192;

		iov[n] = (struct iovec){ bytes + at, minimum_u64(part, length - at) };
		at += iov[n].iov_len;
	}
	return n;
}

static void one_step(struct runner *r)
{
	static struct iovec iov[DISK];
	enum storage_operation operation = rand_r(&seed) % STORAGE_OPERATIONS;
	uint64_t offset = rand_r(&seed) % (DISK / 512) * 512;
	uint64_t length = minimum_u64((1 + rand_r(&seed) % 400) * 512, DISK - offset);
	unsigned char *bytes = buffer + (rand_r(&seed) % 2) * 8;
	struct request *q;

	length = minimum_u64(length, DISK - 4096);
	if (operation == STORAGE_FLUSH)
		offset = length = 0;
	if (operation == STORAGE_WRITE)
		fill_pattern(bytes, length, seed);
	q = request_create(r->storage, r->bed.world, operation, offset, length, NULL);
	q->io.flags = rand_r(&seed) % 2 ? STORAGE_UNMAP : 0;
	if (operation <= STORAGE_WRITE) {
		q->io.iov = iov;
		q->io.iov_count = scatter(iov, bytes, length);
	}
	assert_int_equal(runner_do(r, q), 0);
	if (operation == STORAGE_READ)
		assert_memory_equal(bytes, model + offset, length);
	else if (operation == STORAGE_WRITE)
		memcpy(model + offset, bytes, length);
	else if (operation != STORAGE_FLUSH)
		memset(model + offset, 0, length);
}

/* On the file systems at hand a discarded range reads as zeroes, so the model may say so. */
static void history_at_uri(enum place place, unsigned steps)
{
	struct runner r;
	int fd;

	memset(model, 0, sizeof(model));
	seed = 1;
	runner_open(&r, place);
	for (unsigned i = 0; i < steps; i++)
		one_step(&r);
	runner_close(&r);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, buffer, DISK), DISK);
	assert_memory_equal(buffer, model, DISK);
	close(fd);
}

static void history(const char *directory, const char *query, enum place place, unsigned steps)
{
	file_make(directory, DISK, query);
	history_at_uri(place, steps);
	unlink(path);
}

static void keeps_data_buffered(void **state)
{
	for (enum place p = IN_WORLD; p <= ON_EPOLL; p++)
		history("/tmp", "?direct=off", p, 250);
}

static void keeps_data_direct(void **state)
{
	if (!direct_works())
		skip();
	for (enum place p = IN_WORLD; p <= ON_EPOLL; p++)
		history("/tmp", "?direct=on", p, 250);
}

static void keeps_data_in_memory(void **state)
{
	if (access("/dev/shm", W_OK))
		skip();
	for (enum place p = IN_WORLD; p <= ON_EPOLL; p++)
		history("/dev/shm", "", p, 250);
}

/* ---- block devices ---- */

/* A loop device of DISK zero bytes; -1 where there is none to be had.  It goes when its last
 * descriptor is closed. */
static int loop_open(const char *query, unsigned block_size)
{
	struct loop_config config = { .block_size = block_size };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd = -1, number;

	number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	file_make("/tmp", DISK, "");
	config.fd = open(path, O_RDWR | O_CLOEXEC);
	unlink(path);
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	snprintf(uri, sizeof(uri), "file:%s%s", path, query);
	config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
	if (number >= 0)
		fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config)) {
		close(fd);
		fd = -1;
	}
	close(config.fd);
	if (control >= 0)
		close(control);
	return fd;
}

static void check_device(const char *query, unsigned block_size, unsigned wanted_block_size)
{
	int loop = loop_open(query, block_size);
	struct bed b;

	if (loop < 0) {
		print_message("no loop device: %s\n", strerror(errno));
		skip();
	}
	bed_open(&b, uri);
	assert_int_equal(storage_size(b.storage), DISK);
	assert_int_equal(storage_limits(b.storage)->block_size, wanted_block_size);
	assert_true(storage_limits(b.storage)->can_discard);
	fill_pattern(buffer, 8192, 4);
	assert_int_equal(bed_write(&b, 4096, 8192, buffer), 0);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 4096, 4096, NULL), 0);
	assert_int_equal(bed_do(&b, STORAGE_WRITE_ZEROES, STORAGE_UNMAP, 8192, 4096, NULL), 0);
	assert_int_equal(bed_read(&b, 4096, 8192, other), 0);
	for (unsigned i = 0; i < 8192; i++)
		assert_int_equal(other[i], 0);
	fill_pattern(buffer, 4096, 4);
	assert_int_equal(bed_write(&b, 0, 4096, buffer), 0);
	if (block_size > wanted_block_size) {
		assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 512, 1024, NULL), 0);
		assert_int_equal(bed_do(&b, STORAGE_WRITE_ZEROES, 0, 512, 1024, NULL), 0);
		memset(buffer + 512, 0, 1024);
		assert_int_equal(bed_read(&b, 0, 4096, other), 0);
		assert_memory_equal(buffer, other, 4096);
	}
	bed_close(&b);
	/* Where sectors are larger, discards of 512 bytes are not carried out, which is no error.
	 */
	if (block_size == 512)
		for (enum place p = IN_WORLD; p <= ON_BEST; p++) {
			assert_int_equal(ioctl(loop, BLKDISCARD, (uint64_t[]){ 0, DISK }), 0);
			history_at_uri(p, 200);
		}
	close(loop);
}

/* As if it were mounted. */
static void leaves_a_device_in_use_alone(void **state)
{
	int loop = loop_open("?lock-wait=0s", 512), user;
	char careless[300];
	struct bed b;

	if (loop < 0)
		skip();
	user = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
	assert_true(user >= 0);
	refuses_uri(uri, -EBUSY, "in use by another process, disk or mount");
	snprintf(careless, sizeof(careless), "%s&lock=off", uri);
	bed_open(&b, careless);
	bed_close(&b);
	bed_open_mode(&b, uri, true);
	bed_close(&b);
	close(user);
	bed_open(&b, uri);
	bed_close(&b);
	close(loop);
}

/* A disk of 4 KiB sectors keeps 512 through the page cache, unless the user wants it direct. */
static void keeps_data_on_a_device(void **state)
{
	check_device("", 512, 512);
	check_device("?direct=off", 512, 512);
	check_device("", 4096, 512);
	check_device("?direct=on", 4096, 4096);
}

/* ---- large and odd requests ---- */

static void takes_more_entries_than_the_kernel(void **state)
{
	static struct iovec iov[2 * 1024 * 1024 / 512];
	struct request *q;
	struct bed b;

	file_make("/tmp", DISK, "");
	bed_open(&b, uri);
	fill_pattern(buffer, DISK, 5);
	for (unsigned i = 0; i < DISK / 512; i++)
		iov[i] = (struct iovec){ buffer + i * 512, 512 };
	q = bed_request(&b, STORAGE_WRITE, 0, DISK, NULL);
	q->io.iov = iov;
	q->io.iov_count = DISK / 512;
	bed_submit(&b, q);
	bed_wait(&b, q);
	assert_int_equal(q->io.status, 0);
	free(q);
	assert_int_equal(bed_read(&b, 0, DISK, other), 0);
	assert_memory_equal(buffer, other, DISK);
	bed_close(&b);
	unlink(path);
}

static void discard_gives_space_back(void **state)
{
	struct stat before, after;
	struct bed b;

	file_make("/tmp", DISK, "");
	bed_open(&b, uri);
	if (!storage_limits(b.storage)->can_discard) {
		bed_close(&b);
		unlink(path);
		skip();
	}
	fill_pattern(buffer, DISK, 5);
	assert_int_equal(bed_write(&b, 0, DISK, buffer), 0);
	assert_int_equal(bed_do(&b, STORAGE_FLUSH, 0, 0, 0, NULL), 0);
	stat(path, &before);
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 0, DISK / 2, NULL), 0);
	stat(path, &after);
	assert_in_range(after.st_blocks, 0, before.st_blocks * 3 / 4);
	assert_int_equal(bed_do(&b, STORAGE_WRITE_ZEROES, STORAGE_UNMAP, DISK / 2, DISK / 2, NULL),
			 0);
	stat(path, &after);
	assert_in_range(after.st_blocks, 0, before.st_blocks / 4);
	assert_int_equal(after.st_size, DISK);
	/* Without UNMAP the blocks stay. */
	assert_int_equal(bed_do(&b, STORAGE_WRITE_ZEROES, 0, 0, DISK, NULL), 0);
	assert_int_equal(bed_read(&b, 0, DISK, other), 0);
	for (unsigned i = 0; i < DISK; i++)
		assert_int_equal(other[i], 0);
	stat(path, &after);
	assert_in_range(after.st_blocks, before.st_blocks * 3 / 4, before.st_blocks * 2);
	bed_close(&b);
	unlink(path);
}

/* ---- opening ---- */

static void opens_what_is_a_disk_only(void **state)
{
	refuses_uri("file:/dev/null", -EINVAL, "neither a regular file nor a block device");
	refuses_uri("file:/tmp", -EINVAL, "neither a regular file nor a block device");
	refuses_uri("file:", -EINVAL, "no path");
	refuses_uri("file://host/tmp/x", -EINVAL, "names a host");
	refuses_uri("file:/no%20where", -ENOENT, "No such file");
	file_make("/tmp", DISK, "?direct=perhaps");
	refuses_uri(uri, -EINVAL, "\"direct\"");
	unlink(path);
	file_make("/tmp", DISK, "?lock=maybe");
	refuses_uri(uri, -EINVAL, "\"lock\"");
	unlink(path);
}

static void takes_uris_of_paths(void **state)
{
	char strange[] = "/tmp/test storage %?XXXXXX", *x;
	struct bed b;

	close(mkstemp(strange));
	x = strange + strlen(strange) - 6;
	assert_int_equal(truncate(strange, DISK), 0);
	snprintf(uri, sizeof(uri), "file:///tmp/test%%20storage%%20%%25%%3f%s", x);
	bed_open(&b, uri);
	assert_int_equal(storage_size(b.storage), DISK);
	bed_close(&b);
	unlink(strange);
}

static void one_writer_or_many_readers(void **state)
{
	char careless[300];
	struct bed b, second;

	file_make("/tmp", DISK, "?lock-wait=0s");
	bed_open(&b, uri);
	refuses_uri(uri, -EBUSY, "in use by another");
	snprintf(careless, sizeof(careless), "%s&lock=off", uri);
	bed_open(&second, careless);
	bed_close(&second);
	bed_close(&b);
	bed_open_mode(&b, uri, true);
	bed_open_mode(&second, uri, true);
	refuses_uri(uri, -EBUSY, "in use by another");
	bed_close(&second);
	bed_close(&b);
	bed_open(&b, uri);
	bed_close(&b);
	unlink(path);
}

/* As a process that was killed does while the kernel finishes what it had begun. */
static pid_t hold_for_a_moment(void)
{
	struct flock how = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int ready[2], fd;
	char byte;
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (!child) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		_exit(fcntl(fd, F_OFD_SETLK, &how) || write(ready[1], "", 1) != 1 ||
		      usleep(100 * 1000));
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return child;
}

static void waits_for_a_predecessor(void **state)
{
	int status;
	pid_t child;
	struct bed b;

	file_make("/tmp", DISK, "");
	child = hold_for_a_moment();
	bed_open(&b, uri);
	bed_close(&b);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	unlink(path);
}

static void reads_what_it_may_not_write(void **state)
{
	struct bed b;

	file_make("/tmp", DISK, "");
	chmod(path, 0444);
	if (geteuid())
		refuses_uri(uri, -EACCES, "opening to write");
	bed_open_mode(&b, uri, true);
	assert_int_equal(bed_read(&b, 0, 512, buffer), 0);
	assert_int_equal(bed_write(&b, 0, 512, buffer), -EROFS);
	bed_close(&b);
	unlink(path);
}

/* ---- size ---- */

static void count_call(void *arg)
{
	++*(unsigned *)arg;
}

static void follows_the_size(void **state)
{
	unsigned calls = 0;
	struct bed b;

	file_make("/tmp", DISK + 700, "?direct=off");
	bed_open(&b, uri);
	assert_int_equal(storage_size(b.storage), DISK + 512);
	assert_int_equal(bed_read(&b, DISK + 512, 512, buffer), -ENOSPC);
	storage_set_resize_listener(b.storage, count_call, &calls);
	reactor_world_enter(b.world, b.control);
	storage_refresh(b.storage);
	bed_run(&b);
	assert_int_equal(calls, 0);

	assert_int_equal(truncate(path, 2 * DISK), 0);
	reactor_world_enter(b.world, b.control);
	storage_refresh(b.storage);
	assert_int_equal(calls, 0);
	bed_run(&b);
	assert_int_equal(calls, 1);
	assert_int_equal(storage_size(b.storage), 2 * DISK);
	assert_int_equal(bed_write(&b, 2 * DISK - 512, 512, buffer), 0);

	/* Cut off without a word: an error, no endless loop. */
	assert_int_equal(truncate(path, DISK), 0);
	assert_int_equal(bed_read(&b, DISK - 512, 1024, buffer), -EIO);
	reactor_world_enter(b.world, b.control);
	storage_refresh(b.storage);
	storage_refresh(b.storage);
	bed_run(&b);
	assert_int_equal(calls, 2);
	assert_int_equal(bed_read(&b, DISK - 512, 1024, buffer), -ENOSPC);
	bed_close(&b);
	unlink(path);
}

/* A notice on its way when the disk is closed finds nobody, and does no harm. */
static void closes_with_a_resize_under_way(void **state)
{
	struct reactor_world *w = reactor_world_create(1);
	struct reactor *r = reactor_virtual_create(w, "control");
	unsigned calls = 0;
	struct storage *s;

	file_make("/tmp", DISK, "");
	reactor_world_enter(w, r);
	s = storage_open("vda", uri, false, r, NULL);
	storage_set_resize_listener(s, count_call, &calls);
	assert_int_equal(truncate(path, 2 * DISK), 0);
	storage_refresh(s);
	storage_close(s);
	for (unsigned i = 0; i < 100 && reactor_world_step(w); i++)
		;
	assert_int_equal(calls, 0);
	reactor_world_enter(w, NULL);
	reactor_free(r);
	reactor_world_free(w);
	unlink(path);
}

/* ---- full disks ---- */

static void set_file_size_limit(uint64_t size)
{
	struct rlimit limit;

	getrlimit(RLIMIT_FSIZE, &limit);
	limit.rlim_cur = size;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A write that the kernel cuts short in the middle of an entry, then refuses. */
static void tells_of_a_limit(enum place place)
{
	struct runner r;
	int fd;

	signal(SIGXFSZ, SIG_IGN);
	file_make("/tmp", DISK, "?direct=off");
	runner_open(&r, place);
	fill_pattern(buffer, DISK, 8);
	set_file_size_limit(DISK / 2 + 1024);
	assert_int_equal(runner_do(&r, request_create(r.storage, r.bed.world, STORAGE_WRITE,
						      DISK / 4, DISK / 2, buffer)),
			 -EFBIG);
	set_file_size_limit(RLIM_INFINITY);
	/* As far as it came it is right, and the next attempt is whole. */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, other, DISK / 4 + 1024, DISK / 4), DISK / 4 + 1024);
	assert_memory_equal(other, buffer, DISK / 4 + 1024);
	close(fd);
	assert_int_equal(runner_do(&r, request_create(r.storage, r.bed.world, STORAGE_WRITE,
						      DISK / 4, DISK / 2, buffer)),
			 0);
	assert_int_equal(runner_do(&r, request_create(r.storage, r.bed.world, STORAGE_READ,
						      DISK / 4, DISK / 2, other)),
			 0);
	assert_memory_equal(other, buffer, DISK / 2);
	runner_close(&r);
	unlink(path);
}

static void tells_of_a_file_size_limit(void **state)
{
	for (enum place p = IN_WORLD; p <= ON_EPOLL; p++)
		tells_of_a_limit(p);
}

/* Cut short in the middle of an entry, then let through: the rest follows where it stopped. */
static void continues_after_a_short_write(void **state)
{
	struct request *q;
	struct bed b;
	int fd;

	signal(SIGXFSZ, SIG_IGN);
	file_make("/tmp", DISK, "?direct=off");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	bed_open(&b, uri);
	fill_pattern(buffer, DISK, 9);
	q = bed_request(&b, STORAGE_WRITE, 0, DISK, buffer);
	set_file_size_limit(DISK / 2 + 1000);
	bed_submit(&b, q);
	while (pread(fd, other, 512, 0) != 512 || memcmp(buffer, other, 512))
		assert_true(reactor_world_step(b.world));
	assert_int_equal(q->done, 0);
	set_file_size_limit(RLIM_INFINITY);
	bed_wait(&b, q);
	assert_int_equal(q->io.status, 0);
	free(q);
	assert_int_equal(pread(fd, other, DISK, 0), DISK);
	assert_memory_equal(buffer, other, DISK);
	bed_close(&b);
	close(fd);
	unlink(path);
}

/* A thin image on a file system that fills up. */
static void tells_of_a_full_disk(void **state)
{
	char directory[] = "/tmp/test_storage_XXXXXX";
	struct bed b;
	unsigned written = 0;

	if (geteuid() || unshare(CLONE_NEWNS) ||
	    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		skip();
	assert_non_null(mkdtemp(directory));
	assert_int_equal(mount("none", directory, "tmpfs", 0, "size=256k"), 0);
	file_make(directory, DISK, "");
	bed_open(&b, uri);
	fill_pattern(buffer, DISK, 8);
	while (bed_write(&b, written * 4096, 4096, buffer + written * 4096) == 0)
		written++;
	assert_in_range(written, 32, 64);
	assert_int_equal(bed_write(&b, written * 4096, 4096, buffer), -ENOSPC);
	assert_int_equal(bed_read(&b, 0, written * 4096, other), 0);
	assert_memory_equal(buffer, other, written * 4096);
	/* What is discarded can be written again. */
	assert_int_equal(bed_do(&b, STORAGE_DISCARD, 0, 0, 8192, NULL), 0);
	assert_int_equal(bed_write(&b, written * 4096, 4096, buffer), 0);
	bed_close(&b);
	umount(directory);
	rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_data_buffered),
		cmocka_unit_test(keeps_data_direct),
		cmocka_unit_test(keeps_data_in_memory),
		cmocka_unit_test(keeps_data_on_a_device),
		cmocka_unit_test(leaves_a_device_in_use_alone),
		cmocka_unit_test(takes_more_entries_than_the_kernel),
		cmocka_unit_test(discard_gives_space_back),
		cmocka_unit_test(opens_what_is_a_disk_only),
		cmocka_unit_test(takes_uris_of_paths),
		cmocka_unit_test(one_writer_or_many_readers),
		cmocka_unit_test(waits_for_a_predecessor),
		cmocka_unit_test(reads_what_it_may_not_write),
		cmocka_unit_test(follows_the_size),
		cmocka_unit_test(closes_with_a_resize_under_way),
		cmocka_unit_test(tells_of_a_file_size_limit),
		cmocka_unit_test(continues_after_a_short_write),
		cmocka_unit_test(tells_of_a_full_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
