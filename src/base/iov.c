/* iov.c - sums, copies and slices of scatter lists. */
#include "base/iov.h"

#include <string.h>

#include "base/bytes.h"

uint64_t iov_length(const struct iovec *iov, unsigned count)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* Skips whole entries that end at or before *offset; leaves *offset inside the entry returned. */
static unsigned skip_to(const struct iovec *iov, unsigned count, uint64_t *offset)
{
	unsigned i = 0;

	while (i < count && *offset >= iov[i].iov_len)
		*offset -= iov[i++].iov_len;
	return i;
}

size_t iov_copy_to(const struct iovec *iov, unsigned count, uint64_t offset, const void *from,
		   size_t n)
{
	size_t copied = 0;

	for (unsigned i = skip_to(iov, count, &offset); i < count && copied < n; i++, offset = 0) {
		size_t part = minimum_u64(iov[i].iov_len - offset, n - copied);

		if (part) /* an empty entry may have no base */
			memcpy((char *)iov[i].iov_base + offset, (const char *)from + copied, part);
		copied += part;
	}
	return copied;
}

size_t iov_copy_from(const struct iovec *iov, unsigned count, uint64_t offset, void *to, size_t n)
{
	size_t copied = 0;

	for (unsigned i = skip_to(iov, count, &offset); i < count && copied < n; i++, offset = 0) {
		size_t part = minimum_u64(iov[i].iov_len - offset, n - copied);

		if (part) /* an empty entry may have no base */
			memcpy((char *)to + copied, (const char *)iov[i].iov_base + offset, part);
		copied += part;
	}
	return copied;
}

size_t iov_fill(const struct iovec *iov, unsigned count, uint64_t offset, int byte, size_t n)
{
	size_t filled = 0;

	for (unsigned i = skip_to(iov, count, &offset); i < count && filled < n; i++, offset = 0) {
		size_t part = minimum_u64(iov[i].iov_len - offset, n - filled);

		if (part) /* an empty entry may have no base */
			memset((char *)iov[i].iov_base + offset, byte, part);
		filled += part;
	}
	return filled;
}

unsigned iov_slice(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length,
		   struct iovec *out, unsigned max, uint64_t *covered)
{
	unsigned n = 0;

	*covered = 0;
	for (unsigned i = skip_to(iov, count, &offset); i < count && n < max && *covered < length;
	     i++, offset = 0) {
		size_t part = minimum_u64(iov[i].iov_len - offset, length - *covered);

		if (!part)
			continue;
		out[n].iov_base = (char *)iov[i].iov_base + offset;
		out[n++].iov_len = part;
		*covered += part;
	}
	return n;
}
