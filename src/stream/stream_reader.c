/* stream_reader.c - records, read from memory that somebody else has written. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <zlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "stream/stream_format.h"

static bool is_end(const uint8_t *head)
{
	static const char name[STREAM_NAME] = STREAM_END;

	return !memcmp(head, name, sizeof(name));
}

/* Names go into messages: letters, digits and signs, then zeroes. */
static bool name_is_good(const uint8_t *name)
{
	unsigned i = 0;

	while (i < STREAM_NAME && name[i] > ' ' && name[i] < 0x7f)
		i++;
	if (!i)
		return false;
	while (i < STREAM_NAME && !name[i])
		i++;
	return i == STREAM_NAME;
}

static int check_head(const uint8_t *bytes, size_t n, struct error *e)
{
	if (n >= 4 && load_le32(bytes) != STREAM_MAGIC)
		return error_set(e, -EBADMSG, "state: this is no stream of Outboard's");
	if (n >= STREAM_HEAD && load_le32(bytes + 4) != STREAM_VERSION)
		return error_set(e, -EBADMSG, "state: version %" PRIu32 ", we know %d",
				 load_le32(bytes + 4), STREAM_VERSION);
	return 0;
}

ssize_t stream_measure(const void *from, size_t n, struct error *e)
{
	const uint8_t *bytes = from;
	size_t at = STREAM_HEAD;

	if (check_head(bytes, n, e))
		return -EBADMSG;
	while (at + STREAM_RECORD_HEAD <= n) {
		const uint8_t *head = bytes + at;

		if (!name_is_good(head))
			return error_set(e, -EBADMSG, "state: byte %zu: no record begins here", at);
		at += STREAM_RECORD_HEAD + (size_t)load_le32(head + STREAM_NAME + 4);
		if (is_end(head) && (load_le32(head + STREAM_NAME) ||
				     load_le32(head + STREAM_NAME + 4) != STREAM_SUM))
			return error_set(e, -EBADMSG, "state: its end record is malformed");
		if (at > STREAM_MAX)
			return error_set(e, -EBADMSG, "state: longer than %d bytes", STREAM_MAX);
		if (is_end(head))
			return at <= n ? (ssize_t)at : 0;
	}
	return 0;
}

static int check_sum(const uint8_t *bytes, size_t n, struct error *e)
{
	size_t end = n - STREAM_RECORD_HEAD - STREAM_SUM;

	if (load_le32(bytes + n - STREAM_SUM) != (uint32_t)crc32_z(0, bytes, end))
		return error_set(e, -EBADMSG, "state: the checksum is wrong: bytes were changed");
	return 0;
}

int stream_reader_open(struct stream_reader *r, const void *bytes, size_t n, struct error *e)
{
	ssize_t length = stream_measure(bytes, n, e);

	if (length < 0)
		return length;
	if (!length)
		return error_set(e, -EBADMSG, "state: cut off after %zu bytes", n);
	if ((size_t)length != n)
		return error_set(e, -EBADMSG, "state: %zu bytes behind its end", n - length);
	if (check_sum(bytes, n, e))
		return e ? e->code : -EBADMSG;
	*r = (struct stream_reader){ .bytes = bytes, .end = n - STREAM_RECORD_HEAD - STREAM_SUM };
	stream_reader_rewind(r);
	return 0;
}

void stream_reader_rewind(struct stream_reader *r)
{
	r->next = STREAM_HEAD;
	r->at = r->stop = 0;
	r->short_read = false;
}

int stream_next(struct stream_reader *r, const char **name, unsigned *flags)
{
	const uint8_t *head = r->bytes + r->next;

	if (r->next == r->end)
		return 0;
	memcpy(r->name, head, STREAM_NAME);
	*name = r->name;
	*flags = load_le32(head + STREAM_NAME);
	r->at = r->next + STREAM_RECORD_HEAD;
	r->stop = r->next = r->at + load_le32(head + STREAM_NAME + 4);
	r->short_read = false;
	return 1;
}

size_t stream_left(const struct stream_reader *r)
{
	return r->stop - r->at;
}

void stream_get_bytes(struct stream_reader *r, void *to, size_t n)
{
	if (n > stream_left(r)) {
		r->short_read = true;
		r->at = r->stop;
		memset(to, 0, n);
		return;
	}
	memcpy(to, r->bytes + r->at, n);
	r->at += n;
}

uint8_t stream_get_u8(struct stream_reader *r)
{
	uint8_t v;

	stream_get_bytes(r, &v, sizeof(v));
	return v;
}

uint16_t stream_get_u16(struct stream_reader *r)
{
	uint8_t v[2];

	stream_get_bytes(r, v, sizeof(v));
	return load_le16(v);
}

uint32_t stream_get_u32(struct stream_reader *r)
{
	uint8_t v[4];

	stream_get_bytes(r, v, sizeof(v));
	return load_le32(v);
}

uint64_t stream_get_u64(struct stream_reader *r)
{
	uint8_t v[8];

	stream_get_bytes(r, v, sizeof(v));
	return load_le64(v);
}

int stream_check(struct stream_reader *r, struct error *e)
{
	if (r->short_read)
		return error_set(e, -EBADMSG, "state: record %s is too short", r->name);
	if (stream_left(r))
		return error_set(e, -EBADMSG, "state: record %s is too long by %zu bytes", r->name,
				 stream_left(r));
	return 0;
}
