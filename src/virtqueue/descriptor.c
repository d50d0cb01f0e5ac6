/* descriptor.c - chains of descriptors, copied out of guest memory into a list. */
#include <errno.h>

#include "virtqueue/shadow.h"

/* Each half is loaded once; nothing looks at the table again. */
static struct vring_desc descriptor_copy(const struct vring_desc *from)
{
	const uint64_t *words = (const uint64_t *)(const void *)from;
	uint64_t copy[2] = { __atomic_load_n(&words[0], __ATOMIC_RELAXED),
			     __atomic_load_n(&words[1], __ATOMIC_RELAXED) };
	struct vring_desc d;

	d.addr = le64toh(copy[0]);
	d.len = load_le32(&copy[1]);
	d.flags = load_le16((const char *)&copy[1] + 4);
	d.next = load_le16((const char *)&copy[1] + 6);
	return d;
}

/* A packed descriptor has its buffer id where a split one has its flags, and its flags in the place
 * of next: virtio 1.3, 2.8.13.  The id comes back as next. */
struct vring_desc descriptor_copy_packed(const struct vring_desc *from, uint16_t flags)
{
	struct vring_desc d = descriptor_copy(from);
	uint16_t id = d.flags;

	d.flags = d.next & flags;
	d.next = id;
	return d;
}

static int refuse(const char **reason, const char *why)
{
	*reason = why;
	return -EPROTO;
}

int descriptor_walk(const struct vring_desc *table, unsigned entries, unsigned head,
		    struct vring_desc *out, unsigned max, const char **reason)
{
	unsigned n = 0, at = head;

	for (;;) {
		if (unlikely(at >= entries))
			return refuse(reason, "a descriptor's next is beyond its table");
		if (unlikely(n == max))
			return refuse(reason,
				      "a descriptor chain is longer than allowed, or loops");
		out[n] = descriptor_copy(&table[at]);
		if (out[n].flags & VRING_DESC_F_INDIRECT)
			return n + 1;
		if (!(out[n++].flags & VRING_DESC_F_NEXT))
			return n;
		at = out[n - 1].next;
	}
}

/* virtio 1.3, 2.8.10: the entries of a packed ring's table lie in order, and only their WRITE flag
 * means anything. */
static int table_list(const struct vring_desc *table, unsigned entries, struct vring_desc *out,
		      unsigned max, const char **reason)
{
	if (unlikely(entries > max))
		return refuse(reason, "a descriptor chain is longer than allowed");
	for (unsigned i = 0; i < entries; i++)
		out[i] = descriptor_copy_packed(&table[i], VRING_DESC_F_WRITE);
	return entries;
}

int descriptor_table_walk(const struct virtqueue *q, const struct vring_desc *table,
			  unsigned entries, struct vring_desc *out, unsigned max,
			  const char **reason)
{
	return q->packed ? table_list(table, entries, out, max, reason)
			 : descriptor_walk(table, entries, 0, out, max, reason);
}

int descriptor_check(const struct vring_desc *list, unsigned count, const char **reason)
{
	bool writable = false;
	uint64_t sum = 0;

	for (unsigned i = 0; i < count; i++) {
		if (unlikely(list[i].flags & VRING_DESC_F_INDIRECT))
			return refuse(reason, "an indirect descriptor in an indirect table");
		/* virtio 1.3, 2.7.4.2: writable after readable */
		if (unlikely(writable && !(list[i].flags & VRING_DESC_F_WRITE)))
			return refuse(reason, "a readable descriptor after a writable one");
		writable = list[i].flags & VRING_DESC_F_WRITE;
		sum += list[i].len;
	}
	/* virtio 1.3, 2.7.5: a chain holds at most 2^32 bytes */
	if (unlikely(sum > UINT32_MAX))
		return refuse(reason, "a descriptor chain of more than 4 GiB");
	return 0;
}

int descriptor_table_entries(const struct virtqueue *q, const struct vring_desc *d,
			     const char **reason)
{
	if (unlikely(!q->indirect))
		return refuse(reason, "an indirect descriptor, but the feature was not negotiated");
	/* virtio 1.3, 2.7.5.3.1: not both INDIRECT and NEXT */
	if (unlikely(d->flags & VRING_DESC_F_NEXT))
		return refuse(reason, "an indirect descriptor with a next");
	if (unlikely(!d->len || d->len % sizeof(*d) || d->len / sizeof(*d) > q->segments_max))
		return refuse(reason, "an indirect table of an impossible length");
	return d->len / sizeof(*d);
}
