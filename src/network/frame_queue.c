/* frame_queue.c - copies of frames that wait. */
#include "network/frame_queue.h"

#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"

struct frame_copy {
	struct frame_copy *next;
	uint64_t due_ns;
	struct virtio_net_hdr header;
	uint32_t length;
	uint8_t bytes[];
};

bool frame_queue_has_room(const struct frame_queue *q, size_t bytes)
{
	return sizeof(struct frame_copy) + bytes <= q->bytes_max - q->bytes;
}

int frame_queue_put(struct frame_queue *q, const struct virtio_net_hdr *header,
		    const struct iovec *iov, unsigned n, size_t bytes, uint64_t due_ns)
{
	struct frame_copy *c = frame_queue_has_room(q, bytes) ? malloc(sizeof(*c) + bytes) : NULL;

	if (!c)
		return -ENOBUFS;
	c->next = NULL;
	c->due_ns = due_ns;
	c->header = *header;
	c->length = iov_copy_from(iov, n, 0, c->bytes, bytes);
	*(q->head ? &q->tail->next : &q->head) = c;
	q->tail = c;
	q->bytes += sizeof(*c) + c->length;
	return 0;
}

int frame_queue_peek(const struct frame_queue *q, struct network_frame *f, uint64_t *due_ns)
{
	if (!q->head)
		return 0;
	*f = (struct network_frame){ q->head->header, q->head->bytes, q->head->length };
	if (due_ns)
		*due_ns = q->head->due_ns;
	return 1;
}

void frame_queue_consume(struct frame_queue *q)
{
	struct frame_copy *c = q->head;

	q->head = c->next;
	q->bytes -= sizeof(*c) + c->length;
	free(c);
}

void frame_queue_clear(struct frame_queue *q)
{
	while (q->head)
		frame_queue_consume(q);
}
