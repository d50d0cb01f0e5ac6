/* guest_queue_packed.h - what guest_queue.c does differently for packed rings (virtio 1.3, 2.8). */
#ifndef DRIVER_GUEST_QUEUE_PACKED_H
#define DRIVER_GUEST_QUEUE_PACKED_H

#include <stdbool.h>
#include <stdint.h>

struct guest_layout;
struct guest_memory;
struct guest_queue;
struct guest_segment;

/* The next piece of memory begins a line before a page ends. */
void guest_queue_go_across(struct guest_memory *m);

void packed_locate(struct guest_queue *q, struct guest_memory *m, bool across);
void packed_restart(struct guest_queue *q);
bool packed_add(struct guest_queue *q, const struct guest_segment *segments, unsigned count,
		const struct guest_layout *layout, void *token);
bool packed_publish(struct guest_queue *q);
/* The descriptor at next_used, which is used.  0 or -EPROTO. */
int packed_used(const struct guest_queue *q, uint16_t *id, uint32_t *length);
/* Past a chain's descriptors. */
void packed_advance(struct guest_queue *q, uint16_t id);
void packed_listen(struct guest_queue *q);
void packed_mute(struct guest_queue *q);

#endif
