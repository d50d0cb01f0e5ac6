/* split.c - cuts requests down to what the layer below takes at once.
 *
 * storage.c puts this filter above a layer that states a transfer_max or a clear_max; a URI may
 * name it too, to cut smaller.  A large request is sent down as one chunk after another in the same
 * storage_io, whose own values are kept in the io state and put back at the end.  The first error
 * ends it.  With its first chunk done a request is STORAGE_STARTED, so the rest is not withdrawn.
 *
 * A layer below may complete inside submit, so chunks follow each other in a loop, never by
 * recursion: completed() only notes the result while the loop is on the stack (`looping`).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/iov.h"
#include "storage/storage_list.h"

enum { SPLIT_IOV = 16 };

struct split_state {
	uint64_t transfer_max, clear_max;     /* bytes, 0: any */
	uint32_t block_size, clear_alignment; /* bytes, powers of two */
};

struct split_io {
	uint64_t offset, length; /* the caller's, as are the next three */
	const struct iovec *iov;
	unsigned iov_count, flags;
	bool whole;   /* not cut: nothing here but this is set */
	bool looping; /* send_chunks() is on the stack */
	bool below;   /* a chunk is on its way */
	int status;
	uint64_t progress;  /* bytes of length that are done */
	struct iovec *many; /* owned: iov_count entries, or NULL */
	struct iovec few[SPLIT_IOV];
};

/* The smaller of what the layer below takes and what the URI says; 0 is no limit in either. */
static int read_max(const struct storage_options *o, const char *name, uint64_t below,
		    uint32_t block_size, uint64_t *max, struct error *e)
{
	int status = storage_options_size(o, name, max, e);

	if (status)
		return status;
	if (*max && *max < block_size)
		return error_set(e, -EINVAL, "option \"%s\": less than a block, %u bytes", name,
				 block_size);
	if (!*max || (below && below < *max))
		*max = below;
	*max = align_down(*max, block_size);
	return 0;
}

static int split_open(struct storage_layer *l, const struct storage_options *o,
		      struct storage_limits *limits, struct error *e)
{
	struct split_state *state = storage_layer_state(l);
	int status = read_max(o, "transfer-max", limits->transfer_max, limits->block_size,
			      &state->transfer_max, e);

	status = status ? status
			: read_max(o, "clear-max", limits->clear_max, limits->block_size,
				   &state->clear_max, e);
	state->block_size = limits->block_size;
	state->clear_alignment = maximum_u64(limits->discard_alignment, limits->block_size);
	limits->transfer_max = 0;
	limits->clear_max = 0;
	return status;
}

static void split_close(struct storage_layer *l)
{
}

/* The longest run of whole entries from byte `progress` on: they can be lent as they are.  Stores
 * the first in *first and returns the bytes, or 0 when progress lies inside an entry or the run
 * would not end with a block. */
static uint64_t whole_entries(const struct split_io *s, uint64_t want, uint32_t block_size,
			      unsigned *first, unsigned *count)
{
	uint64_t before = 0, sum = 0;
	unsigned i = 0, end;

	while (i < s->iov_count && before < s->progress)
		before += s->iov[i++].iov_len;
	for (end = i; end < s->iov_count && s->iov[end].iov_len <= want - sum; end++)
		sum += s->iov[end].iov_len;
	*first = i;
	*count = end - i;
	return before == s->progress && !(sum & (block_size - 1)) ? sum : 0;
}

/* Describes as much of the next `want` bytes as whole blocks of it fit into the array. */
static uint64_t slice_entries(const struct split_io *s, struct iovec *array, unsigned max,
			      uint64_t want, uint32_t block_size, unsigned *count)
{
	uint64_t covered;

	*count = iov_slice(s->iov, s->iov_count, s->progress, want, array, max, &covered);
	if (covered & (block_size - 1)) {
		want = align_down(covered, block_size);
		*count = iov_slice(s->iov, s->iov_count, s->progress, want, array, max, &covered);
	}
	return covered;
}

/* Points the io at the next chunk of a READ or WRITE.  Allocates only when a single block lies in
 * more than SPLIT_IOV pieces. */
static int next_transfer(const struct split_state *state, struct split_io *s, struct storage_io *io)
{
	uint64_t want = minimum_u64(state->transfer_max, s->length - s->progress);
	unsigned first, whole_count, count;
	uint64_t whole = whole_entries(s, want, state->block_size, &first, &whole_count);
	uint64_t covered = slice_entries(s, s->many ? s->many : s->few,
					 s->many ? s->iov_count : SPLIT_IOV, want,
					 state->block_size, &count);

	if (whole && whole >= covered) {
		io->iov = s->iov + first;
		io->iov_count = whole_count;
		io->length = whole;
		return 0;
	}
	if (!covered && !s->many) {
		s->many = calloc(s->iov_count, sizeof(s->many[0]));
		return s->many ? next_transfer(state, s, io) : -ENOMEM;
	}
	io->iov = s->many ? s->many : s->few;
	io->iov_count = count;
	io->length = covered;
	return covered ? 0 : -EINVAL; /* the caller's iov is shorter than its length */
}

/* Points the io at the next chunk of a DISCARD or WRITE_ZEROES, which ends on the provider's
 * granule if it can. */
static int next_clear(const struct split_state *state, struct split_io *s, struct storage_io *io)
{
	uint64_t rest = s->length - s->progress;
	uint64_t end = io->offset + minimum_u64(state->clear_max, rest);

	if (rest > state->clear_max && align_down(end, state->clear_alignment) > io->offset)
		end = align_down(end, state->clear_alignment);
	io->length = end - io->offset;
	return 0;
}

static bool is_transfer(const struct storage_io *io)
{
	return io->operation == STORAGE_READ || io->operation == STORAGE_WRITE;
}

static int next_chunk(const struct split_state *state, struct split_io *s, struct storage_io *io)
{
	io->offset = s->offset + s->progress;
	return is_transfer(io) ? next_transfer(state, s, io) : next_clear(state, s, io);
}

static void end(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct split_io *s = storage_io_state(ch, io);

	io->flags = s->flags;
	io->offset = s->offset;
	io->length = s->length;
	io->iov = s->iov;
	io->iov_count = s->iov_count;
	free(s->many);
	storage_complete(ch, io, s->status);
}

static void send_chunks(struct storage_layer_channel *ch, struct storage_io *io)
{
	struct split_io *s = storage_io_state(ch, io);

	while (!s->status && s->progress < s->length) {
		s->status = next_chunk(storage_channel_layer_state(ch), s, io);
		if (s->status)
			break;
		s->looping = true;
		s->below = true;
		storage_forward(ch, io);
		s->looping = false;
		if (s->below)
			return;
	}
	end(ch, io);
}

static void split_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	const struct split_state *state = storage_channel_layer_state(ch);
	struct split_io *s = storage_io_state(ch, io);
	uint64_t max = is_transfer(io) ? state->transfer_max : state->clear_max;

	s->whole = io->operation == STORAGE_FLUSH || !max || io->length <= max;
	if (s->whole) {
		storage_forward(ch, io);
		return;
	}
	s->offset = io->offset;
	s->length = io->length;
	s->iov = io->iov;
	s->iov_count = io->iov_count;
	s->flags = io->flags;
	s->looping = false;
	s->status = 0;
	s->progress = 0;
	s->many = NULL;
	send_chunks(ch, io);
}

static void split_completed(struct storage_layer_channel *ch, struct storage_io *io, int status)
{
	struct split_io *s = storage_io_state(ch, io);

	if (s->whole) {
		storage_complete(ch, io, status);
		return;
	}
	s->below = false;
	s->status = status;
	s->progress += io->length;
	io->flags |= STORAGE_STARTED;
	if (!s->looping)
		send_chunks(ch, io);
}

const struct storage_provider storage_split = {
	.about.scheme = "split",
	.about.summary = "cuts large requests; added where a provider needs it",
	.about.help = "transfer-max=BYTES     of a read or write\n"
		      "clear-max=BYTES        of a discard or write-zeroes\n",
	.about.is_filter = true,
	.state_size = sizeof(struct split_state),
	.io_size = sizeof(struct split_io),
	.open = split_open,
	.close = split_close,
	.submit = split_submit,
	.completed = split_completed,
};
