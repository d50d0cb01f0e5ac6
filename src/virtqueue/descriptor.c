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
