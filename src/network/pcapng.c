/* pcapng.c - the blocks of a capture file, in this machine's byte order, as the format lets. */
#include "network/pcapng.h"

#include <string.h>

#include "base/bytes.h"
#include "base/iov.h"

enum {
	SECTION = 0x0a0d0d0a,
	INTERFACE = 1,
	STATISTICS = 5,
	PACKET = 6,
	BYTE_ORDER_MAGIC = 0x1a2b3c4d,
	ETHERNET = 1,
	NANOSECONDS = 9, /* if_tsresol: ten to minus so many */
};

enum option { END = 0, NAME = 2, FLAGS = 2, RECEIVED = 4, DROPPED = 5, QUEUE = 6, RESOLUTION = 9 };

struct block {
	uint8_t *bytes;
	size_t length;
};

static void put(struct block *b, const void *bytes, size_t n)
{
	if (n)
		memcpy(b->bytes + b->length, bytes, n);
	b->length += n;
}

static void put_u16(struct block *b, uint16_t value)
{
	put(b, &value, sizeof(value));
}

static void put_u32(struct block *b, uint32_t value)
{
	put(b, &value, sizeof(value));
}

/* The high half comes first whatever the byte order is. */
static void put_time(struct block *b, uint64_t time_ns)
{
	put_u32(b, time_ns >> 32);
	put_u32(b, time_ns);
}

static void pad(struct block *b)
{
	while (b->length % 4)
		b->bytes[b->length++] = 0;
}

static void put_option(struct block *b, enum option code, const void *value, uint16_t n)
{
	put_u16(b, code);
	put_u16(b, n);
	put(b, value, n);
	pad(b);
}

static struct block begin(uint8_t *to, uint32_t type)
{
	struct block b = { to, 0 };

	put_u32(&b, type);
	put_u32(&b, 0);
	return b;
}

/* The length stands at both ends, so that a file can be read backwards. */
static size_t end(struct block *b)
{
	uint32_t length = b->length + 4;

	memcpy(b->bytes + 4, &length, sizeof(length));
	put_u32(b, length);
	return length;
}

static size_t section(uint8_t *to)
{
	struct block b = begin(to, SECTION);

	put_u32(&b, BYTE_ORDER_MAGIC);
	put_u16(&b, 1);
	put_u16(&b, 0);
	put_u32(&b, UINT32_MAX); /* the section's length: to the file's end */
	put_u32(&b, UINT32_MAX);
	return end(&b);
}

static size_t interface(uint8_t *to, const char *name, uint32_t snap)
{
	const uint8_t resolution = NANOSECONDS;
	struct block b = begin(to, INTERFACE);

	put_u16(&b, ETHERNET);
	put_u16(&b, 0);
	put_u32(&b, snap);
	put_option(&b, NAME, name, minimum_u64(strlen(name), PCAPNG_NAME_MAX));
	put_option(&b, RESOLUTION, &resolution, sizeof(resolution));
	put_option(&b, END, NULL, 0);
	return end(&b);
}

size_t pcapng_head(uint8_t *to, const char *name, uint32_t snap)
{
	size_t n = section(to);

	return n + interface(to + n, name, snap);
}

size_t pcapng_packet(uint8_t *to, const struct pcapng_packet *p, const struct iovec *iov,
		     unsigned n)
{
	const uint32_t flags = p->way;
	struct block b = begin(to, PACKET);

	put_u32(&b, 0); /* the interface */
	put_time(&b, p->time_ns);
	put_u32(&b, p->kept);
	put_u32(&b, p->length);
	iov_copy_from(iov, n, 0, b.bytes + b.length, p->kept);
	b.length += p->kept;
	pad(&b);
	put_option(&b, FLAGS, &flags, sizeof(flags));
	put_option(&b, QUEUE, &p->queue, sizeof(p->queue));
	put_option(&b, END, NULL, 0);
	return end(&b);
}

size_t pcapng_statistics(uint8_t *to, uint64_t time_ns, uint64_t received, uint64_t dropped)
{
	struct block b = begin(to, STATISTICS);

	put_u32(&b, 0);
	put_time(&b, time_ns);
	put_option(&b, RECEIVED, &received, sizeof(received));
	put_option(&b, DROPPED, &dropped, sizeof(dropped));
	put_option(&b, END, NULL, 0);
	return end(&b);
}
