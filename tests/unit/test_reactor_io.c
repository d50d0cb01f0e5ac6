/* Fails if a file operation is lost, done twice, done inside its submission, or misreports. */
#include "test_reactor_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANY 1000

struct counted_io {
	struct reactor_io io;
	struct bed *bed;
	unsigned calls;
	unsigned *left;
};

static void count(struct reactor_io *io)
{
	struct counted_io *c = (struct counted_io *)io;

	assert_true(reactor_is_home(c->bed->r));
	c->calls++;
	if (!--*c->left)
		reactor_stop(c->bed->r);
}

static void submit(struct bed *b, struct counted_io *c, unsigned *left)
{
	c->bed = b;
	c->left = left;
	c->io.done = count;
	c->io.result = 12345;
	reactor_io_submit(b->r, &c->io);
	assert_int_equal(c->calls, 0);
}

static int perform(struct bed *b, struct reactor_io io)
{
	unsigned left = 1;
	struct counted_io c = { .io = io };

	submit(b, &c, &left);
	reactor_run(b->r);
	assert_int_equal(c.calls, 1);
	return c.io.result;
}

static int open_temporary(void)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void what_is_written_is_read(void **state)
{
	struct bed *b = bed_of(state);
	char text[] = "outboard", a[4], c[100];
	struct iovec whole = { text, 8 }, parts[] = { { a, 4 }, { c, 100 } };
	int fd = open_temporary();

	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_WRITE,
							 .fd = fd,
							 .offset = 4096,
							 .iov = &whole,
							 .iov_count = 1 }),
			 8);
	assert_int_equal(
		perform(b, (struct reactor_io){ .operation = REACTOR_IO_DATASYNC, .fd = fd }), 0);
	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_READ,
							 .fd = fd,
							 .offset = 4096,
							 .iov = parts,
							 .iov_count = 2 }),
			 8);
	assert_memory_equal(a, "outb", 4);
	assert_memory_equal(c, "oard", 4);
	whole.iov_len = 4;
	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_READ,
							 .fd = fd,
							 .offset = 4100,
							 .iov = &whole,
							 .iov_count = 1 }),
			 4);
	assert_memory_equal(text, "oardoard", 8);
	close(fd);
}

/* Past 4 GiB, so that a length cut to 32 bits shows. */
static void fallocate_takes_long_lengths(void **state)
{
	struct bed *b = bed_of(state);
	const uint64_t length = (5ull << 30) + 4096;
	char byte = 'x';
	struct iovec v = { &byte, 1 };
	struct stat st;
	int fd = open_temporary();

	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_WRITE,
							 .fd = fd,
							 .offset = length - 1,
							 .iov = &v,
							 .iov_count = 1 }),
			 1);
	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_FALLOCATE,
							 .fd = fd,
							 .length = length,
							 .mode = FALLOC_FL_PUNCH_HOLE |
								 FALLOC_FL_KEEP_SIZE }),
			 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, length);
	assert_int_equal(pread(fd, &byte, 1, (off_t)length - 1), 1);
	assert_int_equal(byte, 0);
	close(fd);
}

static void errors_are_reported(void **state)
{
	struct bed *b = bed_of(state);
	char byte = 0;
	struct iovec v = { &byte, 1 };
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC), fd = open_temporary();

	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_READ,
							 .fd = 1000000,
							 .iov = &v,
							 .iov_count = 1 }),
			 -EBADF);
	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_WRITE,
							 .fd = full,
							 .iov = &v,
							 .iov_count = 1 }),
			 -ENOSPC);
	assert_int_equal(perform(b, (struct reactor_io){ .operation = REACTOR_IO_FALLOCATE,
							 .fd = fd,
							 .offset = 0,
							 .length = 0 }),
			 -EINVAL);
	close(full);
	close(fd);
}

static void wait_a_while(void *arg)
{
	reactor_stop(arg);
}

/* More than the rings hold; all are submitted in one turn. */
static void many_at_once_are_each_done_once(void **state)
{
	struct bed *b = bed_of(state);
	struct counted_io *many = calloc(MANY, sizeof(*many));
	uint32_t *numbers = calloc(MANY, sizeof(*numbers));
	struct iovec *v = calloc(MANY, sizeof(*v));
	struct reactor_timer t = { .fn = wait_a_while, .arg = b->r };
	unsigned left = MANY;
	int fd = open_temporary();

	assert_true(many && numbers && v);
	for (uint32_t i = 0; i < MANY; i++) {
		assert_int_equal(pwrite(fd, &i, 4, i * 4), 4);
		v[i] = (struct iovec){ &numbers[i], 4 };
		many[i].io = (struct reactor_io){ .operation = REACTOR_IO_READ,
						  .fd = fd,
						  .offset = i * 4,
						  .iov = &v[i],
						  .iov_count = 1 };
		submit(b, &many[i], &left);
	}
	reactor_run(b->r);
	assert_int_equal(reactor_timer_set(b->r, &t, reactor_now(b->r) + 1000000), 0);
	reactor_run(b->r);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(many[i].calls, 1);
		assert_int_equal(many[i].io.result, 4);
		assert_int_equal(numbers[i], i);
	}
	close(fd);
	free(many);
	free(numbers);
	free(v);
}

struct chain {
	struct reactor_io io;
	struct bed *bed;
	unsigned left;
};

static void submit_again(struct reactor_io *io)
{
	struct chain *c = (struct chain *)io;

	assert_int_equal(io->result, 4);
	if (--c->left)
		reactor_io_submit(c->bed->r, io);
	else
		reactor_stop(c->bed->r);
}

/* done() may use its operation again, while a poller keeps the loop from sleeping. */
static bool finds_nothing(void *arg)
{
	return false;
}

static bool stays(void *arg)
{
	return false;
}

static void needs_no_waking(void *arg)
{
}

static void done_may_submit_again(void **state)
{
	struct bed *b = bed_of(state);
	struct reactor_poller busy = { .poll = finds_nothing,
				       .rest = stays,
				       .wake = needs_no_waking };
	char bytes[4] = "abc";
	struct iovec v = { bytes, 4 };
	struct chain c = { .bed = b, .left = 500 };
	int fd = open_temporary();

	c.io = (struct reactor_io){ .operation = REACTOR_IO_WRITE,
				    .fd = fd,
				    .iov = &v,
				    .iov_count = 1,
				    .done = submit_again };
	reactor_poller_add(b->r, &busy);
	reactor_io_submit(b->r, &c.io);
	reactor_run(b->r);
	assert_int_equal(c.left, 0);
	reactor_poller_remove(&busy);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ALL(what_is_written_is_read), ON_ALL(fallocate_takes_long_lengths),
		ON_ALL(errors_are_reported),     ON_ALL(many_at_once_are_each_done_once),
		ON_ALL(done_may_submit_again),
	};

	alarm(50); /* a hanging test fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
