/* pcapng.h - the blocks of a capture file (draft-ietf-opsawg-pcapng), written into memory. */
#ifndef NETWORK_PCAPNG_H
#define NETWORK_PCAPNG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { PCAPNG_NAME_MAX = 63, PCAPNG_HEAD_MAX = 256, PCAPNG_PACKET_EXTRA = 64 };

enum pcapng_way { PCAPNG_IN = 1, PCAPNG_OUT = 2 };	/* epb_flags, bits 0..1 */

struct pcapng_packet {
	uint64_t time_ns;		/* since 1970 */
	enum pcapng_way way;
	uint32_t queue;
	uint32_t kept, length;		/* bytes: in the file, of the packet */
};

/* Each writes whole blocks and returns their bytes.
 *
 * The section's header (4.1) and the one interface's (4.2): at most PCAPNG_HEAD_MAX.  name: at
 * most PCAPNG_NAME_MAX bytes of it are used.  snap: bytes that are kept of a packet at most. */
size_t pcapng_head(uint8_t *to, const char *name, uint32_t snap);

/* An enhanced packet (4.3), of p->kept bytes from iov; at most PCAPNG_PACKET_EXTRA more. */
size_t pcapng_packet(uint8_t *to, const struct pcapng_packet *p, const struct iovec *iov,
		     unsigned n);

/* What the interface had (4.6): at most PCAPNG_HEAD_MAX. */
size_t pcapng_statistics(uint8_t *to, uint64_t time_ns, uint64_t received, uint64_t dropped);

#endif
