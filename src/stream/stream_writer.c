/* stream_writer.c - records, written into memory. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "stream/stream_format.h"

enum { ROOM_FIRST = 4096 };

static void fail(struct stream_writer *w)
{
	w->failed = true;
}

static bool make_room(struct stream_writer *w, size_t n)
{
	size_t room = w->room ? w->room : ROOM_FIRST;
	char *bytes;

	while (room < w->length + n)
		room *= 2;
	if (room == w->room)
		return true;
	bytes = realloc(w->bytes, room);
	if (!bytes)
		return false;
	w->bytes = bytes;
	w->room = room;
	return true;
}

void stream_bytes(struct stream_writer *w, const void *from, size_t n)
{
	if (w->failed || !n)
		return;
	if (!make_room(w, n)) {
		fail(w);
		return;
	}
	memcpy(w->bytes + w->length, from, n);
	w->length += n;
}

void stream_u8(struct stream_writer *w, uint8_t v)
{
	stream_bytes(w, &v, sizeof(v));
}

void stream_u16(struct stream_writer *w, uint16_t v)
{
	uint16_t little = htole16(v);

	stream_bytes(w, &little, sizeof(little));
}

void stream_u32(struct stream_writer *w, uint32_t v)
{
	uint32_t little = htole32(v);

	stream_bytes(w, &little, sizeof(little));
}

void stream_u64(struct stream_writer *w, uint64_t v)
{
	uint64_t little = htole64(v);

	stream_bytes(w, &little, sizeof(little));
}

void stream_writer_begin(struct stream_writer *w)
{
	*w = (struct stream_writer){ 0 };
	stream_u32(w, STREAM_MAGIC);
	stream_u32(w, STREAM_VERSION);
}

void stream_begin(struct stream_writer *w, const char *name, unsigned flags)
{
	char padded[STREAM_NAME] = { 0 };

	assert(!w->record && strlen(name) <= STREAM_NAME);
	memcpy(padded, name, strlen(name));
	w->record = w->length;
	stream_bytes(w, padded, sizeof(padded));
	stream_u32(w, flags);
	stream_u32(w, 0);
}

void stream_end(struct stream_writer *w)
{
	assert(w->record || w->failed);
	if (!w->failed)
		store_le32(w->bytes + w->record + STREAM_NAME + 4,
			   w->length - w->record - STREAM_RECORD_HEAD);
	w->record = 0;
}

int stream_writer_end(struct stream_writer *w, struct error *e)
{
	uint32_t sum = w->failed ? 0 : crc32_z(0, (const unsigned char *)w->bytes, w->length);

	stream_begin(w, STREAM_END, 0);
	stream_u32(w, sum);
	stream_end(w);
	return w->failed ? error_set(e, -ENOMEM, "state: out of memory") : 0;
}

void stream_writer_free(struct stream_writer *w)
{
	free(w->bytes);
	*w = (struct stream_writer){ 0 };
}
