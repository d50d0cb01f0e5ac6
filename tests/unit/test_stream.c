/* Broken if this fails: a migrated device's state is read as it was written, and nothing else is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "stream/stream.h"

static void write_two(struct stream_writer *w)
{
	struct error e = { 0 };

	stream_writer_begin(w);
	stream_begin(w, "first", 0);
	stream_u8(w, 1);
	stream_u16(w, 0x0203);
	stream_u32(w, 0x04050607);
	stream_u64(w, UINT64_C(0x08090a0b0c0d0e0f));
	stream_end(w);
	stream_begin(w, "eightest", STREAM_OPTIONAL);
	stream_bytes(w, "hello", 5);
	stream_end(w);
	assert_int_equal(stream_writer_end(w, &e), 0);
}

static void what_was_written_is_read(void **state)
{
	struct stream_writer w;
	struct stream_reader r;
	struct error e = { 0 };
	const char *name;
	unsigned flags;
	char text[5];

	write_two(&w);
	assert_int_equal(stream_measure(w.bytes, w.length, &e), w.length);
	assert_int_equal(stream_reader_open(&r, w.bytes, w.length, &e), 0);
	for (unsigned round = 0; round < 2; round++, stream_reader_rewind(&r)) {
		assert_int_equal(stream_next(&r, &name, &flags), 1);
		assert_string_equal(name, "first");
		assert_int_equal(flags, 0);
		assert_int_equal(stream_get_u8(&r), 1);
		assert_int_equal(stream_get_u16(&r), 0x0203);
		assert_int_equal(stream_get_u32(&r), 0x04050607);
		assert_true(stream_get_u64(&r) == UINT64_C(0x08090a0b0c0d0e0f));
		assert_int_equal(stream_check(&r, &e), 0);
		assert_int_equal(stream_next(&r, &name, &flags), 1);
		assert_string_equal(name, "eightest");
		assert_int_equal(flags, STREAM_OPTIONAL);
		stream_get_bytes(&r, text, sizeof(text));
		assert_memory_equal(text, "hello", 5);
		assert_int_equal(stream_check(&r, &e), 0);
		assert_int_equal(stream_next(&r, &name, &flags), 0);
	}
	stream_writer_free(&w);
}

static void records_end_where_they_end(void **state)
{
	struct stream_writer w;
	struct stream_reader r;
	struct error e = { 0 };
	const char *name;
	unsigned flags;

	write_two(&w);
	assert_int_equal(stream_reader_open(&r, w.bytes, w.length, &e), 0);
	stream_next(&r, &name, &flags);
	stream_get_u8(&r);
	assert_int_equal(stream_check(&r, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "first is too long by 14 bytes"));
	stream_next(&r, &name, &flags);
	assert_true(stream_get_u64(&r) == 0);
	assert_int_equal(stream_check(&r, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "eightest is too short"));
	stream_writer_free(&w);
}

/* In memory of exactly its size, so that a reader that goes too far is seen to. */
static int open_copy(const char *bytes, size_t n, struct error *e)
{
	char *copy = malloc(n ? n : 1);
	struct stream_reader r;
	const char *name;
	unsigned flags;
	int err;

	memcpy(copy, bytes, n);
	err = stream_reader_open(&r, copy, n, e);
	while (!err && stream_next(&r, &name, &flags))
		stream_get_u64(&r);
	free(copy);
	return err;
}

static void every_cut_and_every_changed_bit_is_noticed(void **state)
{
	struct stream_writer w;
	struct error e = { 0 };

	write_two(&w);
	for (size_t n = 0; n < w.length; n++) {
		assert_int_equal(open_copy(w.bytes, n, &e), -EBADMSG);
		assert_true(stream_measure(w.bytes, n, &e) == 0);
	}
	for (size_t bit = 0; bit < 8 * w.length; bit++) {
		w.bytes[bit / 8] ^= 1 << bit % 8;
		assert_int_equal(open_copy(w.bytes, w.length, &e), -EBADMSG);
		w.bytes[bit / 8] ^= 1 << bit % 8;
	}
	assert_int_equal(open_copy(w.bytes, w.length, &e), 0);
	stream_writer_free(&w);
}

/* A stream whose checksum is right, and whose lengths lie. */
static void put(char *bytes, size_t at, const char *name, uint32_t length)
{
	memset(bytes + at, 0, STREAM_RECORD_HEAD);
	memcpy(bytes + at, name, strlen(name));
	store_le32(bytes + at + STREAM_NAME + 4, length);
}

static void lengths_that_lie_are_refused(void **state)
{
	struct stream_writer w;
	struct error e = { 0 };
	char bytes[STREAM_HEAD + 3 * STREAM_RECORD_HEAD + 4];
	size_t inner = STREAM_HEAD + 2 * STREAM_RECORD_HEAD;

	stream_writer_begin(&w);
	memcpy(bytes, w.bytes, STREAM_HEAD);
	stream_writer_free(&w);
	put(bytes, STREAM_HEAD, "a", 0);
	/* an end record that has another in its payload */
	put(bytes, STREAM_HEAD + STREAM_RECORD_HEAD, "end", STREAM_RECORD_HEAD + 4);
	put(bytes, inner, "end", 4);
	store_le32(bytes + inner + STREAM_RECORD_HEAD, crc32(0, (unsigned char *)bytes, inner));
	assert_int_equal(open_copy(bytes, sizeof(bytes), &e), -EBADMSG);
	put(bytes, STREAM_HEAD, "a", UINT32_MAX);
	assert_int_equal(open_copy(bytes, sizeof(bytes), &e), -EBADMSG);
	put(bytes, STREAM_HEAD, "a\nb", 0);
	assert_int_equal(open_copy(bytes, sizeof(bytes), &e), -EBADMSG);
	put(bytes, STREAM_HEAD, "", 0);
	assert_int_equal(open_copy(bytes, sizeof(bytes), &e), -EBADMSG);
}

static void foreign_and_future_streams_are_named(void **state)
{
	struct stream_writer w;
	struct error e = { 0 };

	write_two(&w);
	w.bytes[4] = 2;
	assert_int_equal(open_copy(w.bytes, w.length, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "version 2, we know 1"));
	assert_int_equal(open_copy("QEVM....................", 24, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "no stream of Outboard's"));
	stream_writer_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_written_is_read),
		cmocka_unit_test(records_end_where_they_end),
		cmocka_unit_test(every_cut_and_every_changed_bit_is_noticed),
		cmocka_unit_test(lengths_that_lie_are_refused),
		cmocka_unit_test(foreign_and_future_streams_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
