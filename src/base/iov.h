/* iov.h - sums, copies and slices of scatter lists.  No function allocates. */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Sum of all lengths, bytes. */
uint64_t iov_length(const struct iovec *iov, unsigned count);

/* Copy up to n bytes between a flat buffer and iov, starting `offset` bytes into iov.
 * Return the bytes copied: less than n when iov ends first. */
size_t iov_copy_to(const struct iovec *iov, unsigned count, uint64_t offset, const void *from,
		   size_t n);
size_t iov_copy_from(const struct iovec *iov, unsigned count, uint64_t offset, void *to, size_t n);

/* Stores `byte` n times, likewise. */
size_t iov_fill(const struct iovec *iov, unsigned count, uint64_t offset, int byte, size_t n);

/* Describes bytes [offset, offset + length) of iov in at most max entries of out.  Stores in
 * *covered how many of them fitted (less than length when max or iov ended).  Returns entries. */
unsigned iov_slice(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length,
		   struct iovec *out, unsigned max, uint64_t *covered);

#endif
