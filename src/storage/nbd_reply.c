/* nbd_reply.c - requests and simple replies of the NBD transmission phase. */
#include "storage/nbd_reply.h"

#include <errno.h>

#include "base/bytes.h"
#include "storage/storage.h"

#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC   0x67446698u

enum { FLAG_NO_HOLE = 2 }; /* NBD_CMD_FLAG_NO_HOLE */

int nbd_reply_parse(const void *bytes, size_t length, struct nbd_reply *reply)
{
	const unsigned char *at = bytes;

	if (length < 4)
		return 0;
	if (load_be32(at) != REPLY_MAGIC)
		return -EPROTO;
	if (length < NBD_REPLY_SIZE)
		return 0;
	reply->error = load_be32(at + 4);
	reply->cookie = load_be64(at + 8);
	return NBD_REPLY_SIZE;
}

int nbd_reply_errno(uint32_t error)
{
	switch (error) {
	case 1:
		return -EPERM;
	case 5:
		return -EIO;
	case 12:
		return -ENOMEM;
	case 28:
		return -ENOSPC;
	case 75:
		return -EOVERFLOW;
	case 95:
		return -EOPNOTSUPP;
	case NBD_ERROR_SHUTDOWN:
		return -ESHUTDOWN;
	default: /* "Error values": what is not known counts as NBD_EINVAL */
		return -EINVAL;
	}
}

static void encode(unsigned char *to, uint16_t flags, uint16_t type, uint64_t cookie,
		   uint64_t offset, uint32_t length)
{
	store_be32(to, REQUEST_MAGIC);
	store_be16(to + 4, flags);
	store_be16(to + 6, type);
	store_be64(to + 8, cookie);
	store_be64(to + 16, offset);
	store_be32(to + 24, length);
}

void nbd_request_encode(unsigned char *to, const struct storage_io *io, uint64_t cookie)
{
	static const uint16_t types[STORAGE_OPERATIONS] = {
		[STORAGE_READ] = NBD_READ,
		[STORAGE_WRITE] = NBD_WRITE,
		[STORAGE_FLUSH] = NBD_FLUSH,
		[STORAGE_DISCARD] = NBD_TRIM,
		[STORAGE_WRITE_ZEROES] = NBD_WRITE_ZEROES,
	};
	bool keep = io->operation == STORAGE_WRITE_ZEROES && !(io->flags & STORAGE_UNMAP);
	bool ranged = io->operation != STORAGE_FLUSH;

	encode(to, keep ? FLAG_NO_HOLE : 0, types[io->operation], cookie, ranged ? io->offset : 0,
	       ranged ? (uint32_t)io->length : 0);
}

void nbd_request_encode_disconnect(unsigned char *to)
{
	encode(to, 0, NBD_DISCONNECT, 0, 0, 0);
}
