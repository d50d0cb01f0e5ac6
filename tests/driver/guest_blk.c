/* guest_blk.c - a block driver over one queue (virtio 1.3, 5.2). */
#include "driver/guest_blk.h"

#include <stddef.h>
#include <stdlib.h>

#include "driver/guest_memory.h"

enum { SEGMENTS_MAX = 3, STATUS_UNSET = 0xee };

static void slot_open(struct guest_blk *b, struct guest_blk_slot *s, struct guest_memory *m)
{
	s->record_iova = guest_memory_allocate(m, sizeof(*s->record), 64);
	s->record = guest_memory_at(m, s->record_iova);
	s->buffer_iova = guest_memory_allocate(m, b->buffer_size, 4096);
	s->buffer = guest_memory_at(m, s->buffer_iova);
}

static void table_open(struct guest_blk_slot *s, struct guest_memory *m, unsigned alignment)
{
	s->indirect.table_iova = guest_memory_allocate(m, SEGMENTS_MAX * 16, alignment);
	s->indirect.table = guest_memory_at(m, s->indirect.table_iova);
}

/* A kernel's allocator puts objects of a size side by side. */
void guest_blk_open(struct guest_blk *b, struct guest_queue *q, struct guest_memory *m,
		    unsigned slots, uint32_t buffer_size, bool indirect)
{
	*b = (struct guest_blk){
		.queue = q, .slot_count = slots, .buffer_size = buffer_size, .indirect = indirect
	};
	b->slots = calloc(slots, sizeof(*b->slots));
	if (!b->slots)
		abort();
	for (unsigned i = 0; i < slots; i++)
		table_open(&b->slots[i], m, 64);
	for (unsigned i = 0; i < slots; i++)
		slot_open(b, &b->slots[i], m);
}

void guest_blk_scatter_tables(struct guest_blk *b, struct guest_memory *m)
{
	for (unsigned i = 0; i < b->slot_count; i++)
		table_open(&b->slots[i], m, 4096);
}

void guest_blk_close(struct guest_blk *b)
{
	free(b->slots);
	*b = (struct guest_blk){ 0 };
}

static void header_set(struct guest_blk_slot *s, uint32_t type, uint64_t sector)
{
	s->record->header.type = htole32(type);
	s->record->header.ioprio = 0;
	s->record->header.sector = htole64(sector);
	s->record->status = STATUS_UNSET;
}

static bool add(struct guest_blk *b, struct guest_blk_slot *s, const struct guest_segment *payload)
{
	struct guest_segment list[SEGMENTS_MAX];
	unsigned n = 0;

	list[n++] = (struct guest_segment){ s->record_iova, sizeof(s->record->header), false };
	if (payload->length)
		list[n++] = *payload;
	list[n++] = (struct guest_segment){
		s->record_iova + offsetof(struct guest_blk_record, status), 1, true
	};
	return guest_queue_add(b->queue, list, n, b->indirect ? &s->indirect : NULL, s);
}

static bool writes_buffer(uint32_t type)
{
	return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

bool guest_blk_add(struct guest_blk *b, struct guest_blk_slot *s, uint32_t type, uint64_t sector,
		   uint32_t length)
{
	struct guest_segment payload = { s->buffer_iova, length, writes_buffer(type) };

	header_set(s, type, sector);
	return add(b, s, &payload);
}

bool guest_blk_add_clear(struct guest_blk *b, struct guest_blk_slot *s, uint32_t type,
			 uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct guest_segment payload = { s->record_iova + offsetof(struct guest_blk_record, ranges),
					 sizeof(s->record->ranges[0]), false };

	header_set(s, type, 0);
	s->record->ranges[0].sector = htole64(sector);
	s->record->ranges[0].num_sectors = htole32(sectors);
	s->record->ranges[0].flags = htole32(flags);
	return add(b, s, &payload);
}

int guest_blk_take(struct guest_blk *b, struct guest_blk_slot **s)
{
	uint32_t length;
	void *token;
	int answer = guest_queue_take(b->queue, &token, &length);

	if (answer == 1)
		*s = token;
	return answer;
}
