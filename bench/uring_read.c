/* uring_read.c - outboard-uring-read: what bare io_uring reads from a file, the bound for any
 * server of that file.  Prints one line of JSON, with the names of outboard-load. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096 };

struct run {
	struct io_uring ring;
	int fd;
	unsigned depth;
	uint64_t blocks, state, requests;
	char *buffers;
};

static double clock_seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void give_up(const char *what, int error)
{
	fprintf(stderr, "outboard-uring-read: %s: %s\n", what, strerror(error));
	exit(1);
}

/* xorshift: the requests' places need no better. */
static uint64_t next_random(struct run *r)
{
	r->state ^= r->state << 13;
	r->state ^= r->state >> 7;
	r->state ^= r->state << 17;
	return r->state;
}

static void submit(struct run *r, uint64_t slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	io_uring_prep_read(sqe, r->fd, r->buffers + slot * BLOCK, BLOCK,
			   next_random(r) % r->blocks * BLOCK);
	io_uring_sqe_set_data64(sqe, slot);
}

/* Everything that has completed is sent out again, elsewhere. */
static void turn(struct run *r)
{
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	io_uring_submit_and_wait(&r->ring, 1);
	io_uring_for_each_cqe(&r->ring, head, cqe)
	{
		if (cqe->res != BLOCK)
			give_up("read", cqe->res < 0 ? -cqe->res : EIO);
		submit(r, io_uring_cqe_get_data64(cqe));
		count++;
	}
	io_uring_cq_advance(&r->ring, count);
	r->requests += count;
}

static void run(struct run *r, double seconds)
{
	double start = clock_seconds(CLOCK_MONOTONIC),
	       cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
	double now = start;

	for (unsigned i = 0; i < r->depth; i++)
		submit(r, i);
	while (now - start < seconds) {
		for (unsigned i = 0; i < 16; i++)
			turn(r);
		now = clock_seconds(CLOCK_MONOTONIC);
	}
	cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("{\"iops\": %.0f, \"server_cpu_us\": %.3f, \"errors\": 0}\n",
	       (double)r->requests / (now - start), cpu * 1e6 / (double)r->requests);
}

int main(int argc, char **argv)
{
	struct run r = { .state = 88172645463325252u };
	off_t size;
	int err;

	if (argc != 4) {
		fprintf(stderr, "Usage: outboard-uring-read FILE DEPTH SECONDS\n");
		return 2;
	}
	r.fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	size = r.fd < 0 ? -1 : lseek(r.fd, 0, SEEK_END);
	if (size < BLOCK)
		give_up(argv[1], r.fd < 0 ? errno : EINVAL);
	r.blocks = (uint64_t)size / BLOCK;
	r.depth = strtoul(argv[2], NULL, 10);
	r.buffers = aligned_alloc(BLOCK, (size_t)r.depth * BLOCK);
	err = r.buffers && r.depth ? -io_uring_queue_init(r.depth, &r.ring, 0) : EINVAL;
	if (err)
		give_up("io_uring", err);
	run(&r, strtod(argv[3], NULL));
	return 0;
}
