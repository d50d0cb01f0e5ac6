/* file.c - a disk in a regular file or a block device.
 *
 * Every request is a chain of rounds, each one reactor_io that moves as much as can be said in one
 * system call: the caller's own iovecs where they may be used as they are, the rest of one entry
 * after a short transfer, a bounce buffer where O_DIRECT refuses the caller's alignment, zeroes
 * where the file system has no way to write them by itself.  Nearly always one round is all.
 *
 * Zeroes and holes: what the file system refuses once is not tried again (atomic flags in
 * file_state, set late by several reactors at worst).  A discard that cannot be done is no error,
 * for it is only advice.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "base/iov.h"
#include "base/log.h"
#include "reactor/reactor.h"
#include "storage/file_claim.h"
#include "storage/file_probe.h"
#include "storage/storage_list.h"

enum {
	BOUNCE_SIZE = 1 << 20,   /* bytes moved at once through a bounce buffer */
	BOUNCE_ALIGNMENT = 4096, /* bytes, at least: more than any disk asks for */
	ZEROES_SIZE = 1 << 16,   /* bytes */
	ZEROES_COUNT = 16,       /* how often they are named in one round */
	RETRIES_MAX = 100,       /* of one request, after EINTR or EAGAIN */
	AT_ONCE_MAX = 1 << 17,   /* bytes copied to or from tmpfs while the reactor waits */
};

struct file_state {
	int fd;                                 /* owned */
	uint64_t memory_mask, length_mask;      /* alignment of buffers and entries; 0: any */
	bool in_memory;                         /* tmpfs */
	bool punch_refused, zero_range_refused; /* atomic */
};

struct file_io {
	struct reactor_io io;
	struct storage_layer_channel *channel;
	struct storage_io *request;
	uint64_t progress; /* bytes of the request that are done */
	uint64_t round;    /* bytes that the present round asks for */
	unsigned entry;    /* where in request->iov progress lies, and */
	uint64_t skip;     /* how many bytes into that entry */
	unsigned retries;
	unsigned char *bounce; /* owned; NULL: none needed */
	struct iovec own;      /* bounce buffer, rest of an entry, or zeroes */
};

static const unsigned char zero_bytes[ZEROES_SIZE] __attribute__((aligned(BOUNCE_ALIGNMENT)));

#define ZEROES                                  \
	{                                       \
		(void *)zero_bytes, ZEROES_SIZE \
	}
#define ZEROES_4 ZEROES, ZEROES, ZEROES, ZEROES
static const struct iovec zeroes[ZEROES_COUNT] = { ZEROES_4, ZEROES_4, ZEROES_4, ZEROES_4 };

/* ---- requests ---- */

/* A file system in user space may answer with any number, even the one that says withdrawn. */
static void end(struct file_io *f, int status)
{
	if (unlikely(f->bounce))
		free(f->bounce);
	if (unlikely(status == -ECANCELED))
		status = -EIO;
	storage_complete(f->channel, f->request, status);
}

static bool is_short_copy(const struct file_io *f)
{
	const struct file_state *s = storage_channel_layer_state(f->channel);

	return s->in_memory && f->round <= AT_ONCE_MAX &&
	       (f->io.operation == REACTOR_IO_READ || f->io.operation == REACTOR_IO_WRITE);
}

static void start_io(struct file_io *f)
{
	f->io.at_once = is_short_copy(f);
	reactor_io_submit(storage_channel_reactor(f->channel), &f->io);
}

static void use(struct file_io *f, const struct iovec *iov, unsigned count, uint64_t length)
{
	f->io.iov = iov;
	f->io.iov_count = count;
	f->round = length;
}

static void prepare_zeroes(struct file_io *f, uint64_t rest)
{
	uint64_t count = minimum_u64(rest / ZEROES_SIZE, ZEROES_COUNT);

	f->own = (struct iovec){ (void *)zero_bytes, rest };
	if (count)
		use(f, zeroes, count, count * ZEROES_SIZE);
	else
		use(f, &f->own, 1, rest);
}

static void prepare_bounce(struct file_io *f, uint64_t rest)
{
	const struct storage_io *io = f->request;

	f->own = (struct iovec){ f->bounce, minimum_u64(rest, BOUNCE_SIZE) };
	if (io->operation == STORAGE_WRITE)
		iov_copy_from(io->iov, io->iov_count, f->progress, f->bounce, f->own.iov_len);
	use(f, &f->own, 1, f->own.iov_len);
}

static void prepare_entries(struct file_io *f, uint64_t rest)
{
	const struct iovec *at = f->request->iov + f->entry;
	unsigned left = f->request->iov_count - f->entry;

	if (f->skip) {
		f->own.iov_base = (char *)at->iov_base + f->skip;
		f->own.iov_len = at->iov_len - f->skip;
		use(f, &f->own, 1, f->own.iov_len);
	} else if (left > IOV_MAX) {
		use(f, at, IOV_MAX, iov_length(at, IOV_MAX));
	} else {
		use(f, at, left, rest);
	}
}

static void send_round(struct file_io *f)
{
	uint64_t rest = f->request->length - f->progress;

	f->io.offset = f->request->offset + f->progress;
	if (f->request->operation == STORAGE_WRITE_ZEROES)
		prepare_zeroes(f, rest);
	else if (f->bounce)
		prepare_bounce(f, rest);
	else
		prepare_entries(f, rest);
	start_io(f);
}

/* Counts `moved` bytes as done. */
static void advance(struct file_io *f, uint64_t moved)
{
	const struct storage_io *io = f->request;

	if (f->bounce && io->operation == STORAGE_READ)
		iov_copy_to(io->iov, io->iov_count, f->progress, f->bounce, moved);
	f->progress += moved;
	if (f->progress == io->length || f->bounce || io->operation == STORAGE_WRITE_ZEROES)
		return;
	for (f->skip += moved; f->skip >= io->iov[f->entry].iov_len; f->entry++)
		f->skip -= io->iov[f->entry].iov_len;
}

static void round_done(struct reactor_io *rio)
{
	struct file_io *f = CONTAINER_OF(rio, struct file_io, io);
	int result = rio->result;

	if (unlikely(result == -EINTR || result == -EAGAIN) && f->retries++ < RETRIES_MAX) {
		start_io(f);
		return;
	}
	/* Nothing moved, and no error: somebody has cut the file off. */
	if (unlikely(result <= 0 || (uint64_t)result > f->round)) {
		end(f, result < 0 ? result : -EIO);
		return;
	}
	advance(f, result);
	if (likely(f->progress == f->request->length))
		end(f, 0);
	else
		send_round(f);
}

static bool is_aligned(const struct file_state *s, const struct storage_io *io)
{
	uintptr_t addresses = 0, lengths = 0;

	if (!s->memory_mask)
		return true;
	for (unsigned i = 0; i < io->iov_count; i++) {
		addresses |= (uintptr_t)io->iov[i].iov_base;
		lengths |= io->iov[i].iov_len;
	}
	return !(addresses & s->memory_mask) && !(lengths & s->length_mask);
}

static void transfer(struct file_io *f, const struct file_state *s, const struct storage_io *io)
{
	size_t alignment = maximum_u64(s->memory_mask + 1, BOUNCE_ALIGNMENT);
	size_t size = align_up(minimum_u64(io->length, BOUNCE_SIZE), alignment);

	f->io.operation = io->operation == STORAGE_READ ? REACTOR_IO_READ : REACTOR_IO_WRITE;
	f->io.done = round_done;
	if (unlikely(!is_aligned(s, io))) {
		f->bounce = aligned_alloc(alignment, size);
		if (!f->bounce) {
			end(f, -ENOMEM);
			return;
		}
	}
	send_round(f);
}

static void flushed(struct reactor_io *rio)
{
	end(CONTAINER_OF(rio, struct file_io, io), rio->result);
}

static void flush(struct file_io *f)
{
	f->io.operation = REACTOR_IO_DATASYNC;
	f->io.done = flushed;
	start_io(f);
}

static void change_allocation(struct file_io *f, int mode, void (*done)(struct reactor_io *io))
{
	f->io.operation = REACTOR_IO_FALLOCATE;
	f->io.mode = mode | FALLOC_FL_KEEP_SIZE;
	f->io.offset = f->request->offset;
	f->io.length = f->request->length;
	f->io.done = done;
	start_io(f);
}

/* The file system or the device does not know the mode, and never will. */
static bool is_unsupported(int result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
}

static bool is_set(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static void set(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_RELAXED);
}

/* EINVAL: a device that wants this one range aligned otherwise. */
static void discarded(struct reactor_io *rio)
{
	struct file_io *f = CONTAINER_OF(rio, struct file_io, io);
	struct file_state *s = storage_channel_layer_state(f->channel);
	bool unsupported = is_unsupported(rio->result);

	if (unsupported)
		set(&s->punch_refused);
	end(f, unsupported || rio->result == -EINVAL ? 0 : rio->result);
}

static void discard(struct file_io *f, struct file_state *s)
{
	if (is_set(&s->punch_refused))
		end(f, 0);
	else
		change_allocation(f, FALLOC_FL_PUNCH_HOLE, discarded);
}

static void write_zeroes(struct file_io *f, struct file_state *s);

static void write_plain_zeroes(struct file_io *f)
{
	f->io.operation = REACTOR_IO_WRITE;
	f->io.done = round_done;
	send_round(f);
}

static void zeroed(struct reactor_io *rio)
{
	struct file_io *f = CONTAINER_OF(rio, struct file_io, io);
	struct file_state *s = storage_channel_layer_state(f->channel);

	if (is_unsupported(rio->result)) {
		set(rio->mode & FALLOC_FL_PUNCH_HOLE ? &s->punch_refused : &s->zero_range_refused);
		write_zeroes(f, s);
	} else if (rio->result == -EINVAL) {
		write_plain_zeroes(f);
	} else {
		end(f, rio->result);
	}
}

static void write_zeroes(struct file_io *f, struct file_state *s)
{
	if (f->request->flags & STORAGE_UNMAP && !is_set(&s->punch_refused))
		change_allocation(f, FALLOC_FL_PUNCH_HOLE, zeroed);
	else if (!is_set(&s->zero_range_refused))
		change_allocation(f, FALLOC_FL_ZERO_RANGE, zeroed);
	else
		write_plain_zeroes(f);
}

static void file_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct file_state *s = storage_channel_layer_state(ch);
	struct file_io *f = storage_io_state(ch, io);

	f->io.fd = s->fd;
	f->channel = ch;
	f->request = io;
	f->progress = 0;
	f->entry = 0;
	f->skip = 0;
	f->retries = 0;
	f->bounce = NULL;
	switch (io->operation) {
	case STORAGE_FLUSH:
		flush(f);
		break;
	case STORAGE_DISCARD:
		discard(f, s);
		break;
	case STORAGE_WRITE_ZEROES:
		write_zeroes(f, s);
		break;
	default:
		transfer(f, s, io);
	}
}

/* ---- open and close ---- */

/* RFC 8089: "file:/path", "file:///path"; and "file:name", relative. */
static int path_of(const struct storage_options *o, const char **path, struct error *e)
{
	*path = storage_options_path(o);
	if (!strncmp(*path, "//", 2)) {
		*path += 2;
		if (**path != '/')
			return error_set(e, -EINVAL, "\"//%.40s\" names a host; write file:/path",
					 *path);
	}
	return **path ? 0 : error_set(e, -EINVAL, "no path; write file:/path");
}

static int set_direct(struct file_state *s, const struct file_abilities *a,
		      struct storage_limits *limits, struct error *e)
{
	int flags = fcntl(s->fd, F_GETFL);

	if (flags < 0 || fcntl(s->fd, F_SETFL, flags | O_DIRECT))
		return error_set(e, -errno, "O_DIRECT: %s", strerror(errno));
	s->memory_mask = a->memory_alignment - 1;
	s->length_mask = a->offset_alignment - 1;
	limits->block_size = a->offset_alignment;
	return 0;
}

/* "auto" takes O_DIRECT only where it does not change what the guest sees as a sector. */
static int choose_caching(struct file_state *s, const struct storage_options *o,
			  const struct file_abilities *a, struct storage_limits *limits,
			  struct error *e)
{
	const char *direct = storage_options_text(o, "direct");

	if (!direct || !strcmp(direct, "auto")) {
		if (!a->memory_alignment || a->offset_alignment > limits->block_size)
			return 0;
		(void)set_direct(s, a, limits, NULL); /* refused: buffered, then */
		return 0;
	}
	if (!strcmp(direct, "off"))
		return 0;
	if (strcmp(direct, "on"))
		return error_set(e, -EINVAL, "option \"direct\": \"%.40s\" is not on, off or auto",
				 direct);
	if (!a->memory_alignment)
		return error_set(e, -EOPNOTSUPP, "this file system has no O_DIRECT");
	return set_direct(s, a, limits, e);
}

static int set_up(struct storage_layer *l, const struct storage_options *o,
		  struct storage_limits *limits, struct error *e)
{
	struct file_state *s = storage_layer_state(l);
	struct file_abilities a = { 0 };
	int status = file_probe(s->fd, !storage_options_read_only(o), &a, e);

	status = status ? status : choose_caching(s, o, &a, limits, e);
	if (status)
		return status;
	s->in_memory = a.in_memory;
	s->punch_refused = !a.can_punch;
	limits->preferred_size = limits->discard_alignment = a.granule;
	limits->can_discard = a.can_punch;
	status = file_size(s->fd, &limits->size);
	if (status)
		return error_set(e, status, "size: %s", strerror(-status));
	if (limits->size % limits->block_size)
		log_warning("disk %s: the last %llu bytes of %s are no whole block, and left out",
			    storage_layer_name(l),
			    (unsigned long long)(limits->size % limits->block_size),
			    storage_options_path(o));
	return 0;
}

static int file_open(struct storage_layer *l, const struct storage_options *o,
		     struct storage_limits *limits, struct error *e)
{
	struct file_state *s = storage_layer_state(l);
	bool read_only = storage_options_read_only(o), exclusive = true;
	uint64_t wait_ns = 5000ull * 1000 * 1000;
	const char *path;
	int status = path_of(o, &path, e);

	*limits = (struct storage_limits){
		.block_size = 512,
		.can_write_zeroes = true,
		.volatile_cache = true,
	};
	s->fd = -1;
	status = status ? status : storage_options_switch(o, "lock", &exclusive, e);
	status = status ? status : storage_options_duration(o, "lock-wait", &wait_ns, e);
	status = status ? status : file_claim(path, read_only, exclusive, wait_ns, &s->fd, e);
	status = status ? status : set_up(l, o, limits, e);
	if (status)
		fd_close(&s->fd);
	return status;
}

static void file_close(struct storage_layer *l)
{
	struct file_state *s = storage_layer_state(l);

	fd_close(&s->fd);
}

static void file_refresh(struct storage_layer *l)
{
	struct file_state *s = storage_layer_state(l);
	uint64_t size;
	int status = file_size(s->fd, &size);

	if (status)
		log_warning("disk %s: size: %s", storage_layer_name(l), strerror(-status));
	else
		storage_layer_resized(l, size);
}

const struct storage_provider storage_file = {
	.about.scheme = "file",
	.about.summary = "a regular file or a block device: file:/path",
	.about.help =
		"direct=on|off|auto  O_DIRECT, past the page cache; auto: where 512-byte sectors "
		"allow it\n"
		"lock=on|off         refuse a file that is in use; on unless given\n"
		"lock-wait=DURATION  but wait so long for it; 5s unless given\n",
	.state_size = sizeof(struct file_state),
	.io_size = sizeof(struct file_io),
	.open = file_open,
	.close = file_close,
	.refresh = file_refresh,
	.submit = file_submit,
};
