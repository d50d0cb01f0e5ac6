/* frame_offload.h - checksums and segmentation that somebody left undone (virtio 1.3, 5.1.6.2).
 *
 * Pure functions on frames in our own memory.  No length or offset in a frame is believed: what
 * does not add up is -EINVAL.
 */
#ifndef NETWORK_FRAME_OFFLOAD_H
#define NETWORK_FRAME_OFFLOAD_H

#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>

/* Whether a header can be true of a frame of so many bytes: 0 or -EINVAL. */
int frame_header_check(const struct virtio_net_hdr *h, size_t bytes);

/* What it leaves undone: enum network_offload. */
unsigned frame_header_needs(const struct virtio_net_hdr *h);

/* The internet checksum (RFC 1071) of bytes, added to sum; fold makes it 16 bits, not inverted. */
uint64_t frame_sum(const void *bytes, size_t n, uint64_t sum);
uint16_t frame_sum_fold(uint64_t sum);

/* Does what NEEDS_CSUM asks for, in place.  The header was checked. */
void frame_finish_checksum(uint8_t *bytes, size_t length, const struct virtio_net_hdr *h);

/* Cuts a frame whose header asks for segmentation: begin, then next until it returns 0. */
struct frame_segments {
	const uint8_t *bytes;		/* the whole frame: borrowed */
	size_t length;
	size_t network, transport;	/* where these headers begin */
	size_t payload;			/* where the payload begins */
	size_t size;			/* bytes of payload in each but the last */
	size_t at;			/* of the payload, so far */
	unsigned count;			/* segments so far */
	uint8_t type;			/* VIRTIO_NET_HDR_GSO_..., without ECN */
	uint32_t datagram;		/* UFO over IPv6: identification */
};

int frame_segments_begin(struct frame_segments *s, uint8_t *bytes, size_t length,
			 const struct virtio_net_hdr *h);
/* Stores the next segment, complete with its checksums, at `to`, which has room for a frame of
 * NETWORK_FRAME_MAX bytes.  Its length; 0: that was all. */
size_t frame_segments_next(struct frame_segments *s, uint8_t *to);

#endif
