/* nbd_reply.h - what NBD looks like on the wire after the handshake (NBD protocol, "Transmission").
 * Bytes in, numbers out, nothing else: what a fuzzer feeds. */
#ifndef STORAGE_NBD_REPLY_H
#define STORAGE_NBD_REPLY_H

#include <stddef.h>
#include <stdint.h>

struct storage_io;

enum { NBD_REQUEST_SIZE = 28, NBD_REPLY_SIZE = 16 }; /* bytes on the wire */

/* Values of the 16-bit request type and of the error field ("Values", "Error values"). */
enum { NBD_READ, NBD_WRITE, NBD_DISCONNECT, NBD_FLUSH, NBD_TRIM, NBD_WRITE_ZEROES = 6 };
enum { NBD_ERROR_SHUTDOWN = 108 };

/* A simple reply without its payload. */
struct nbd_reply {
	uint64_t cookie;
	uint32_t error; /* an NBD error value; 0: success */
};

/* Looks for a simple reply at the start of bytes.  Returns NBD_REPLY_SIZE and fills in *reply, 0
 * when more bytes are needed, or -EPROTO when what is there cannot become one. */
int nbd_reply_parse(const void *bytes, size_t length, struct nbd_reply *reply);

/* A negative errno for an NBD error value other than 0. */
int nbd_reply_errno(uint32_t error);

/* Writes the request header for io, NBD_REQUEST_SIZE bytes.  io->length is at most UINT32_MAX. */
void nbd_request_encode(unsigned char *to, const struct storage_io *io, uint64_t cookie);

/* The same for NBD_CMD_DISC. */
void nbd_request_encode_disconnect(unsigned char *to);

#endif
