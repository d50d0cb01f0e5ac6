/* fuzz_migration_stream.c - a state from anywhere, written to a function in RESUMING.  Whatever it
 * holds, it is refused and another can be written, or taken; then what the function saves of itself
 * is a state that it takes again.  Everything is given back.
 *
 * The input: a byte of options, the size of the pieces that it is written in, then the state.  An
 * option puts the checksum right, as hardly an input would get beyond it. */
#include <string.h>
#include <zlib.h>

#include "base/log.h"
#include "fuzz.h"
#include "unit/stream_bed.h"

enum { RIGHT_SUM = 1, STATE_MAX = 1 << 16, SUM = 4, END_RECORD = 20 /* bytes: head and sum */ };

static void put_sum_right(uint8_t *bytes, size_t n)
{
	if (n >= END_RECORD)
		store_le32(bytes + n - SUM, crc32_z(0, bytes, n - END_RECORD));
}

static size_t read_state(struct stream_bed *b, uint8_t *to)
{
	struct error e = { 0 };
	ssize_t n = migrate_read(b->migrate, to, STATE_MAX, &e);

	assert(n > 0 && n < STATE_MAX);
	return n;
}

/* Taken: it runs, as far as its rings are any good, and what it says of itself is good, too. */
static void go_on(struct stream_bed *b)
{
	static uint8_t state[STATE_MAX];
	struct error e = { 0 };
	size_t n;

	if (stream_bed_go(b, MIGRATE_RUNNING, &e)) {
		assert(migrate_state(b->migrate) == MIGRATE_ERROR);
		return;
	}
	assert(!stream_bed_go(b, MIGRATE_STOP_COPY, &e));
	n = read_state(b, state);
	assert(!stream_bed_load(b, state, n, n, &e));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static uint8_t state[STATE_MAX];
	struct stream_bed b;
	struct error e = { 0 };

	if (n < 2 || n - 2 > sizeof(state))
		return 0;
	log_set_level(LOG_LEVEL_ERROR);
	memcpy(state, bytes + 2, n - 2);
	if (bytes[0] & RIGHT_SUM)
		put_sum_right(state, n - 2);
	stream_bed_open(&b);
	if (stream_bed_load(&b, state, n - 2, 64 * bytes[1] + 1, &e))
		assert(migrate_state(b.migrate) == MIGRATE_RESUMING && e.text[0]);
	else
		go_on(&b);
	stream_bed_close(&b);
	return 0;
}
