/* null.c - a disk that does nothing, to measure everything else; the smallest provider. */
#include <string.h>

#include "base/iov.h"
#include "storage/storage_list.h"

struct null_state {
	bool read_zeroes;
};

static int null_open(struct storage_layer *l, const struct storage_options *o,
		     struct storage_limits *limits, struct error *e)
{
	struct null_state *n = storage_layer_state(l);
	int status;

	*limits = (struct storage_limits){
		.size = 1ull << 30,
		.can_discard = true,
		.can_write_zeroes = true,
	};
	status = storage_options_size(o, "size", &limits->size, e);
	status = status ? status : storage_options_block_size(o, &limits->block_size, e);
	return status ? status : storage_options_switch(o, "read-zeroes", &n->read_zeroes, e);
}

static void null_close(struct storage_layer *l)
{
}

static void null_submit(struct storage_layer_channel *ch, struct storage_io *io)
{
	const struct null_state *n = storage_channel_layer_state(ch);

	if (n->read_zeroes && io->operation == STORAGE_READ)
		iov_fill(io->iov, io->iov_count, 0, 0, io->length);
	storage_complete(ch, io, 0);
}

const struct storage_provider storage_null = {
	.about.scheme = "null",
	.about.summary = "forgets what is written; reads leave the buffer as it was",
	.about.help =
		"size=BYTES          1G unless given\n"
		"block-size=BYTES    512 unless given\n"
		"read-zeroes=on|off  fill the buffer of a read with zeroes; off unless given\n",
	.state_size = sizeof(struct null_state),
	.open = null_open,
	.close = null_close,
	.submit = null_submit,
};
