/* memory.c - a disk in this process's memory, gone when it is closed.
 *
 * One private anonymous mapping: pages come when they are first written and go when they are
 * discarded, after which they read as zeroes.  Huge pages are refused, so that a disk that is
 * mostly empty stays small.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "storage/storage_list.h"

struct memory_state {
	char *bytes;   /* owned: the mapping */
	uint64_t size; /* bytes */
	uint64_t page; /* bytes: what a discard can release */
};

static int read_options(const struct storage_options *o, struct storage_limits *limits,
			struct error *e)
{
	int status = storage_options_size(o, "size", &limits->size, e);

	status = status ? status : storage_options_block_size(o, &limits->block_size, e);
	status = status ? status
			: storage_options_size(o, "transfer-max", &limits->transfer_max, e);
	if (!status && (!limits->size || limits->size % limits->block_size))
		return error_set(
			e, -EINVAL,
			"option \"size\" is needed: a multiple of the block size, %u bytes",
			limits->block_size);
	return status;
}

static int memory_map(struct memory_state *m, uint64_t size, struct error *e)
{
	void *bytes = size > SIZE_MAX / 2
			      ? MAP_FAILED
			      : mmap(NULL, size, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (bytes == MAP_FAILED)
		return error_set(e, -ENOMEM, "%llu bytes do not fit into the address space",
				 (unsigned long long)size);
	/* A kernel without huge pages knows no such advice. */
	(void)madvise(bytes, size, MADV_NOHUGEPAGE);
	m->bytes = bytes;
	m->size = size;
	return 0;
}

static int memory_open(struct storage_layer *l, const struct storage_options *o,
		       struct storage_limits *limits, struct error *e)
{
	struct memory_state *m = storage_layer_state(l);
	int status;

	m->page = sysconf(_SC_PAGESIZE);
	*limits = (struct storage_limits){
		.preferred_size = m->page,
		.discard_alignment = m->page,
		.can_discard = true,
		.can_write_zeroes = true,
		.volatile_cache = true,
	};
	status = read_options(o, limits, e);
	return status ? status : memory_map(m, limits->size, e);
}

static void memory_close(struct storage_layer *l)
{
	struct memory_state *m = storage_layer_state(l);

	munmap(m->bytes, m->size);
}

/* Gives whole pages back, which zeroes them; the edges are zeroed by hand. */
static int deallocate(const struct memory_state *m, uint64_t offset, uint64_t length)
{
	uint64_t end = offset + length;
	uint64_t first = minimum_u64(align_up(offset, m->page), end);
	uint64_t last = maximum_u64(align_down(end, m->page), first);

	memset(m->bytes + offset, 0, first - offset);
	memset(m->bytes + last, 0, end - last);
	return last > first && madvise(m->bytes + first, last - first, MADV_DONTNEED) ? -errno : 0;
}

static int memory_execute(const struct memory_state *m, const struct storage_io *io)
{
	switch (io->operation) {
	case STORAGE_READ:
		iov_copy_to(io->iov, io->iov_count, 0, m->bytes + io->offset, io->length);
		return 0;
	case STORAGE_WRITE:
		iov_copy_from(io->iov, io->iov_count, 0, m->bytes + io->offset, io->length);
		return 0;
	case STORAGE_DISCARD:
		return deallocate(m, io->offset, io->length);
	case STORAGE_WRITE_ZEROES:
		if (io->flags & STORAGE_UNMAP)
			return deallocate(m, io->offset, io->length);
		memset(m->bytes + io->offset, 0, io->length);
		return 0;
	default:
		return 0;
	}
}

static void memory_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	storage_complete(ch, io, memory_execute(storage_channel_layer_state(ch), io));
}

const struct storage_provider storage_memory = {
	.about.scheme = "memory",
	.about.summary = "a disk in memory, empty at the start and gone at the end",
	.about.help = "size=BYTES          needed\n"
		      "block-size=BYTES    512 unless given\n",
	.state_size = sizeof(struct memory_state),
	.open = memory_open,
	.close = memory_close,
	.submit = memory_submit,
};
