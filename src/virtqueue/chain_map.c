/* chain_map.c - a chain of descriptors, in mapped memory, made into a list of segments: the same
 * for every ring. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "virtqueue/shadow.h"

bool ring_part_locate(const struct memory_map *map, uint64_t iova, uint64_t bytes, unsigned access,
		      void **host)
{
	bool far;

	*host = memory_map_contiguous(map, iova, bytes, access, &far);
	return *host || far;
}

/* Copies the first bytes of the readable part into the slot's header.  The bytes taken. */
static uint64_t header_take(const struct virtqueue *q, struct chain_slot *s, const void *host,
			    uint64_t length)
{
	uint64_t part = minimum_u64(length, q->setup.header_size - s->chain.header_bytes);

	__builtin_memcpy(s->header + s->chain.header_bytes, host, part);
	s->chain.header_bytes += part;
	return part;
}

/* One region's part of one descriptor. */
static bool part_add(struct virtqueue *q, struct chain_slot *s, char *host, uint64_t iova,
		     uint64_t part, bool writable)
{
	uint64_t taken = 0;

	if (!writable && s->chain.header_bytes < q->setup.header_size)
		taken = header_take(q, s, host, part);
	return taken == part ||
	       slot_append(q, s, host + taken, iova + taken, part - taken, writable);
}

static int descriptor_map(struct virtqueue *q, struct chain_slot *s, const struct vring_desc *d)
{
	bool writable = d->flags & VRING_DESC_F_WRITE;
	uint64_t iova = d->addr, left = d->len;

	while (left) {
		void *host;
		uint64_t part = memory_map_part(s->epoch->map, iova, left,
						writable ? MEMORY_WRITE : MEMORY_READ, &host);

		if (unlikely(!part))
			return virtqueue_break(q, "a descriptor points outside the guest's memory");
		if (unlikely(!host))
			return CHAIN_REMOTE;
		if (unlikely(!part_add(q, s, host, iova, part, writable)))
			return virtqueue_break(q, "a descriptor chain is longer than allowed");
		iova += part;
		left -= part;
	}
	return 0;
}

/* Takes the last writable byte off the payload. */
static void status_take(struct virtqueue *q, struct chain_slot *s)
{
	struct iovec *last;

	if (!q->options.has_status || !s->chain.writable_bytes)
		return;
	last = &s->iov[s->segments - 1];
	last->iov_len--;
	s->status = (uint8_t *)last->iov_base + last->iov_len;
	s->status_iova = s->iova[s->segments - 1] + last->iov_len;
	s->chain.has_status = true;
	s->chain.writable_bytes--;
	if (!last->iov_len) {
		s->segments--;
		s->chain.writable--;
	}
}

/* A table that lies across mapped regions, copied together.  NULL: not all of it is mapped. */
static const struct vring_desc *table_copy(struct virtqueue *q, const struct memory_map *map,
					   const struct vring_desc *d)
{
	uint64_t done = 0, part;
	void *host;

	for (; done < d->len; done += part) {
		part = memory_map_part(map, d->addr + done, d->len - done, MEMORY_READ, &host);
		if (!part || !host)
			return NULL;
		memcpy((char *)q->table + done, host, part);
	}
	return q->table;
}

/* Appends the entries of an indirect table to q->walk, in place of the descriptor that names it. */
static int table_walk(struct virtqueue *q, const struct memory_map *map, unsigned count)
{
	const struct vring_desc d = q->walk[count - 1];
	const char *reason = "";
	int entries = descriptor_table_entries(q, &d, &reason);
	const struct vring_desc *table;
	bool far;
	int n;

	if (entries < 0)
		return virtqueue_break(q, reason);
	table = memory_map_contiguous(map, d.addr, d.len, MEMORY_READ, &far);
	if (!table && far)
		return -EREMOTE;
	if (!table)
		table = table_copy(q, map, &d);
	if (!table || d.addr % 8)
		return virtqueue_break(q, "an indirect table is outside the guest's memory");
	n = descriptor_table_walk(q, table, entries, q->walk + count - 1,
				  q->segments_max - (count - 1), &reason);
	if (n < 0)
		return virtqueue_break(q, reason);
	counter_add(&q->numbers.indirect_chains, 1);
	link_count_read(&q->link, LINK_RING, 1, 16ull * n);
	return count - 1 + n;
}

int chain_map(struct virtqueue *q, struct chain_slot *s, unsigned count)
{
	const char *reason = "";
	int n = count;

	if (q->walk[n - 1].flags & VRING_DESC_F_INDIRECT)
		n = table_walk(q, s->epoch->map, n);
	if (unlikely(n > 0 && descriptor_check(q->walk, n, &reason)))
		return virtqueue_break(q, reason);
	if (unlikely(n < 0))
		return n == -EREMOTE ? CHAIN_REMOTE : n;
	for (int i = 0; i < n; i++) {
		int answer = descriptor_map(q, s, &q->walk[i]);

		if (unlikely(answer))
			return answer;
	}
	status_take(q, s);
	link_count_read(&q->link, LINK_HEADER, 1, s->chain.header_bytes);
	if (s->chain.readable)
		link_count_read(&q->link, LINK_PAYLOAD, s->chain.readable, s->chain.readable_bytes);
	return 0;
}
