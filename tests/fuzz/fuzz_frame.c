/* fuzz_frame.c - a frame from a guest, with a header of any kind: ten bytes, then the frame. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "fuzz.h"
#include "network/frame_offload.h"
#include "network/network_port.h"

/* At most this often, so that one input does not cost a second. */
enum { SEGMENTS_MAX = 4096 };

static void cut(uint8_t *frame, size_t n, const struct virtio_net_hdr *h)
{
	uint8_t *piece = malloc(NETWORK_FRAME_MAX);
	struct frame_segments s;
	int status = frame_segments_begin(&s, frame, n, h);

	assert(piece && (status == 0 || status == -EINVAL));
	for (unsigned count = 0; !status && count < SEGMENTS_MAX; count++) {
		size_t length = frame_segments_next(&s, piece);

		if (!length)
			break;
		assert(length >= NETWORK_HEADER && length <= n + 8);
		assert(!memcmp(piece, frame, 12));
		assert(count <= n);
	}
	free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct virtio_net_hdr h;
	uint8_t *frame;

	if (n < sizeof(h))
		return 0;
	memcpy(&h, bytes, sizeof(h));
	n -= sizeof(h);
	if (frame_header_check(&h, n))
		return 0;
	frame = malloc(n);
	assert(frame);
	memcpy(frame, bytes + sizeof(h), n);
	if (frame_header_needs(&h) & ~NETWORK_CHECKSUM)
		cut(frame, n, &h);
	else if (frame_header_needs(&h))
		frame_finish_checksum(frame, n, &h);
	free(frame);
	return 0;
}
