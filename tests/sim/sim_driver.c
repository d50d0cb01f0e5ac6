/* sim_driver.c - the driver side: requests sent and checked.
 *
 * A driver that wants interrupts looks at a used ring only when its descriptor says so, and tells
 * the device of new chains only when the ring asks for it, if late: so a notification that is
 * missing on either side shows as a request that never comes back. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "sim.h"
#include "virtio/virtio_device.h"

enum {
	UNKNOWN_TYPE = 99,
	SERIAL_BYTES = 20,
	BATCH_MAX = 6,
	PACKED_START = 1 << 15, /* place 0, wrap counter 1 */
};

static const char serial[SERIAL_BYTES] = "simulated";

/* ---- open, close ---- */

static void queue_open(struct sim *s, struct sim_queue *q)
{
	q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->given_kick = q->given_call = -1;
	guest_queue_open_flags(&q->ring, &s->regions[0], s->plan.queue_size,
			       (s->plan.event_index ? GUEST_QUEUE_EVENT_INDEX : 0) |
				       (s->plan.packed ? GUEST_QUEUE_PACKED : 0) |
				       (s->plan.in_order ? GUEST_QUEUE_IN_ORDER : 0) |
				       (s->plan.across ? GUEST_QUEUE_ACROSS : 0));
	q->next_available = q->next_used = PACKED_START;
	guest_queue_restart(&q->ring, sim_pick(s, 65536));
	q->inflight_bytes = virtio_queue_inflight_size(s->plan.queue_size, s->plan.packed);
	q->inflight = mmap(NULL, q->inflight_bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (q->kick < 0 || q->call < 0 || q->inflight == MAP_FAILED)
		sim_fail(s, "out of descriptors or memory");
	for (unsigned i = 0; i < REQUESTS_MAX; i++) {
		struct sim_request *r = &q->requests[i];

		r->area_iova = sim_area_iova(s, q->index, i);
		r->layout.table_iova = guest_memory_allocate(&s->regions[0], SEGMENTS_MAX * 16, 16);
		r->layout.table = guest_memory_at(&s->regions[0], r->layout.table_iova);
	}
}

void sim_driver_open(struct sim *s)
{
	s->avoid_region = -1;
	for (unsigned i = 0; i < s->plan.queues; i++) {
		s->queues[i].index = i;
		queue_open(s, &s->queues[i]);
	}
}

void sim_driver_close(struct sim *s)
{
	for (unsigned i = 0; i < s->plan.queues; i++) {
		struct sim_queue *q = &s->queues[i];

		fd_close(&q->kick);
		fd_close(&q->call);
		munmap(q->inflight, q->inflight_bytes);
		guest_queue_close(&q->ring);
	}
}

/* ---- choosing a request ---- */

static bool writes_disk(uint32_t type)
{
	return type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD ||
	       type == VIRTIO_BLK_T_WRITE_ZEROES;
}

static bool choose_range(struct sim *s, struct sim_request *r, uint32_t bytes_max)
{
	uint32_t unit = s->plan.block / SECTOR;
	uint64_t units = s->disk.count / unit;
	uint32_t length = 1 + sim_pick(s, bytes_max / s->plan.block);
	struct sim_range *range = &r->ranges[r->range_count];

	length = minimum_u64(length, units);
	range->sector = sim_pick(s, units - length + 1) * unit;
	range->sectors = length * unit;
	if (!sim_disk_take(&s->disk, range->sector, range->sectors, writes_disk(r->type)))
		return false;
	r->range_count++;
	return true;
}

static bool choose_transfer(struct sim *s, struct sim_request *r, uint32_t type)
{
	r->type = type;
	if (!choose_range(s, r, sim_chance(s, 4) ? PAYLOAD_MAX : 4096))
		return false;
	r->payload = r->ranges[0].sectors * SECTOR;
	return true;
}

static bool choose_clear(struct sim *s, struct sim_request *r, uint32_t type)
{
	unsigned count = 1 + sim_pick(s, RANGES_MAX);

	r->type = type;
	for (unsigned i = 0; i < count; i++)
		choose_range(s, r, 8192);
	r->payload = r->range_count * sizeof(struct virtio_blk_discard_write_zeroes);
	return r->range_count;
}

/* What a device must refuse. */
static bool choose_wrong(struct sim *s, struct sim_request *r)
{
	r->expected = VIRTIO_BLK_S_IOERR;
	r->payload = SECTOR;
	switch (sim_pick(s, 4)) {
	case 0: /* a range and a bit */
		r->type = VIRTIO_BLK_T_DISCARD;
		r->payload = 20;
		break;
	case 1:
		r->type = UNKNOWN_TYPE;
		r->expected = VIRTIO_BLK_S_UNSUPP;
		break;
	case 2:
		r->type = VIRTIO_BLK_T_IN;
		r->payload = SECTOR - 1;
		break;
	default:
		r->type = VIRTIO_BLK_T_OUT;
		r->payload = SECTOR + 1;
	}
	return true;
}

/* At the end: all of the disk, from the first sector to the last. */
static bool choose_next_read(struct sim *s, struct sim_request *r)
{
	struct sim_range *range = &r->ranges[0];

	range->sector = s->verify_next;
	range->sectors = minimum_u64(PAYLOAD_MAX / SECTOR, s->disk.count - s->verify_next);
	r->type = VIRTIO_BLK_T_IN;
	if (!range->sectors || !sim_disk_take(&s->disk, range->sector, range->sectors, false))
		return false;
	r->range_count = 1;
	r->payload = range->sectors * SECTOR;
	return true;
}

static bool choose(struct sim *s, struct sim_request *r)
{
	r->range_count = r->payload = 0;
	r->expected = VIRTIO_BLK_S_OK;
	r->stamp = ++s->next_stamp;
	if (s->verifying)
		return choose_next_read(s, r);
	switch (sim_pick(s, 20)) {
	case 0:
		r->type = VIRTIO_BLK_T_FLUSH;
		return true;
	case 1:
		r->type = VIRTIO_BLK_T_GET_ID;
		r->payload = SERIAL_BYTES;
		return true;
	case 2:
		return choose_wrong(s, r);
	case 3:
		return choose_clear(s, r, VIRTIO_BLK_T_DISCARD);
	case 4:
		return choose_clear(s, r, VIRTIO_BLK_T_WRITE_ZEROES);
	default:
		return choose_transfer(s, r, sim_chance(s, 2) ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT);
	}
}

static bool device_writes_payload(uint32_t type)
{
	return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
}

static void return_ranges(struct sim *s, struct sim_request *r)
{
	for (unsigned i = 0; i < r->range_count; i++)
		sim_disk_return(&s->disk, r->ranges[i].sector, r->ranges[i].sectors,
				writes_disk(r->type));
}

/* ---- sending ---- */

static bool may_lie(const struct sim *s, const struct sim_request *r)
{
	for (unsigned i = 1; i < REGIONS; i++)
		if ((!s->present[i] || s->avoid_region == (int)i) && sim_area_touches(s, r, i))
			return false;
	return true;
}

static struct sim_request *free_request(struct sim *s, struct sim_queue *q)
{
	unsigned first = sim_pick(s, REQUESTS_MAX);

	for (unsigned i = 0; i < REQUESTS_MAX; i++) {
		struct sim_request *r = &q->requests[(first + i) % REQUESTS_MAX];

		if (!r->busy && may_lie(s, r))
			return r;
	}
	return NULL;
}

static bool place(struct sim *s, struct sim_queue *q, struct sim_request *r)
{
	uint32_t header = sizeof(struct virtio_blk_outhdr);
	bool added;

	r->readable = header + (device_writes_payload(r->type) ? 0 : r->payload);
	r->writable = 1 + (device_writes_payload(r->type) ? r->payload : 0);
	sim_layout_write(s, q, r);
	added = guest_queue_add(&q->ring, r->segments, r->segment_count, &r->layout, r);
	sim_migration_request_written(s, r);
	return added;
}

static bool send_request(struct sim *s, struct sim_queue *q)
{
	struct sim_request *r = q->ring.free_count ? free_request(s, q) : NULL;

	if (!r)
		return false;
	if (!choose(s, r) || !place(s, q, r)) {
		return_ranges(s, r);
		return false;
	}
	r->busy = true;
	if (s->verifying)
		s->verify_next += r->ranges[0].sectors;
	s->sent++;
	s->outstanding++;
	sim_trace(s, "queue %u: request %d, type %u, sector %llu, %u bytes, stamp %llu, head in %u",
		  q->index, (int)(r - q->requests), r->type,
		  (unsigned long long)r->ranges[0].sector, r->payload, (unsigned long long)r->stamp,
		  r->layout.direct);
	return true;
}

static void kick(struct sim_queue *q)
{
	q->kick_owed = false;
	eventfd_write(q->kick, 1);
}

static void publish(struct sim *s, struct sim_queue *q)
{
	q->kick_owed |= guest_queue_publish(&q->ring);
}

static bool has_more_to_send(const struct sim *s)
{
	if (s->verifying)
		return s->verify_next < s->disk.count;
	return !s->draining && s->sent < s->plan.requests;
}

static void send_some(struct sim *s, struct sim_queue *q)
{
	for (unsigned n = sim_pick(s, BATCH_MAX); n; n--)
		if (!has_more_to_send(s) || !send_request(s, q))
			break;
	if (!sim_chance(s, 4))
		publish(s, q);
}

/* ---- checking what comes back ---- */

static void check_read(struct sim *s, const struct sim_request *r)
{
	char bytes[PAYLOAD_MAX];

	sim_layout_read_payload(s, r, bytes);
	for (uint32_t i = 0; i < r->ranges[0].sectors; i++)
		if (!sim_disk_matches(&s->disk, r->ranges[0].sector + i, bytes + i * SECTOR))
			sim_fail(s, "sector %llu reads what was not written there",
				 (unsigned long long)(r->ranges[0].sector + i));
}

static void check_id(struct sim *s, const struct sim_request *r)
{
	char bytes[SERIAL_BYTES];

	sim_layout_read_payload(s, r, bytes);
	if (memcmp(bytes, serial, sizeof(serial)))
		sim_fail(s, "GET_ID: not the serial");
}

/* certain: the request has done what it should. */
static void account_write(struct sim *s, const struct sim_request *r, bool certain)
{
	for (unsigned i = 0; i < r->range_count; i++) {
		const struct sim_range *range = &r->ranges[i];
		uint64_t stamp = r->type == VIRTIO_BLK_T_OUT ? r->stamp : 0;

		/* virtio 1.3, 5.2.6.2: what a discarded sector reads is open */
		if (certain && r->type != VIRTIO_BLK_T_DISCARD)
			sim_disk_written(&s->disk, range->sector, range->sectors, stamp);
		else
			sim_disk_maybe_written(&s->disk, range->sector, range->sectors, stamp);
	}
}

static void check_status(struct sim *s, const struct sim_request *r, uint8_t status)
{
	bool may_fail = s->plan.faults && r->type != VIRTIO_BLK_T_GET_ID;

	if (status != r->expected && !(status == VIRTIO_BLK_S_IOERR && may_fail))
		sim_fail(s, "type %u ends with status %u, not %u", r->type, status, r->expected);
}

/* virtio 1.3, 2.7.8.2: not more than was written, and not more than there is. */
static void check_length(struct sim *s, const struct sim_request *r, uint8_t status,
			 uint32_t length)
{
	if (s->plan.in_order && length == UINT32_MAX) /* not told of: all was used (2.7.9) */
		length = r->writable;
	if (length > r->writable)
		sim_fail(s, "type %u: %u bytes used of %u", r->type, length, r->writable);
	if (status == VIRTIO_BLK_S_OK && length != r->writable)
		sim_fail(s, "type %u: only %u bytes used of %u", r->type, length, r->writable);
}

static void finish(struct sim *s, struct sim_request *r, uint32_t length)
{
	uint8_t status = sim_layout_status(s, r);

	sim_trace(s, "stamp %llu comes back: status %u, %u bytes", (unsigned long long)r->stamp,
		  status, length);
	check_status(s, r, status);
	check_length(s, r, status, length);
	sim_layout_check_gaps(s, r);
	if (r->type == VIRTIO_BLK_T_IN && status == VIRTIO_BLK_S_OK)
		check_read(s, r);
	if (r->type == VIRTIO_BLK_T_GET_ID && status == VIRTIO_BLK_S_OK)
		check_id(s, r);
	if (writes_disk(r->type))
		account_write(s, r, status == VIRTIO_BLK_S_OK);
	return_ranges(s, r);
	r->busy = false;
	s->outstanding--;
	s->completed++;
	s->idle_steps = 0;
}

static void take_all(struct sim *s, struct sim_queue *q)
{
	uint32_t length;
	void *token;
	int answer;

	while ((answer = guest_queue_take(&q->ring, &token, &length)) == 1)
		finish(s, token, length);
	if (answer < 0)
		sim_fail(s, "queue %u: a used element names nothing outstanding", q->index);
}

static void take_interrupted(struct sim *s, struct sim_queue *q)
{
	eventfd_t count;

	if (eventfd_read(q->call, &count))
		return;
	if (sim_chance(s, 4))
		guest_queue_mute(&q->ring);
	do
		take_all(s, q);
	while (!guest_queue_listen(&q->ring));
}

/* ---- turns ---- */

static void queue_turn(struct sim *s, struct sim_queue *q)
{
	if (s->plan.interrupts)
		take_interrupted(s, q);
	else
		take_all(s, q);
	if (has_more_to_send(s))
		send_some(s, q);
	else if (sim_chance(s, 4))
		publish(s, q);
	if ((q->kick_owed && sim_chance(s, 2)) || sim_chance(s, 64))
		kick(q);
}

void sim_driver_turn(struct sim *s)
{
	sim_migration_processors_begin(s);
	queue_turn(s, &s->queues[sim_pick(s, s->plan.queues)]);
	sim_migration_processors_end(s);
}

void sim_driver_push(struct sim *s)
{
	sim_migration_processors_begin(s);
	for (unsigned i = 0; i < s->plan.queues; i++) {
		struct sim_queue *q = &s->queues[i];

		if (s->plan.interrupts)
			take_interrupted(s, q);
		else
			take_all(s, q);
		if (has_more_to_send(s))
			send_some(s, q);
		publish(s, q);
		if (q->kick_owed)
			kick(q);
	}
	sim_migration_processors_end(s);
}

/* ---- the end, or something like it ---- */

void sim_driver_forget(struct sim *s)
{
	for (unsigned i = 0; i < s->plan.queues; i++) {
		for (unsigned j = 0; j < REQUESTS_MAX; j++) {
			struct sim_request *r = &s->queues[i].requests[j];

			if (!r->busy)
				continue;
			if (writes_disk(r->type))
				account_write(s, r, false);
			return_ranges(s, r);
			r->busy = false;
			s->outstanding--;
		}
		s->queues[i].kick_owed = false;
		guest_queue_restart(&s->queues[i].ring, 0);
		s->queues[i].next_available = s->queues[i].next_used = PACKED_START;
		memset(s->queues[i].inflight, 0, s->queues[i].inflight_bytes);
	}
}

static void verify_file(struct sim *s)
{
	char bytes[SECTOR];

	for (uint64_t i = 0; i < s->disk.count; i++)
		if (pread(s->disk.fd, bytes, SECTOR, (off_t)(i * SECTOR)) != SECTOR ||
		    !sim_disk_matches(&s->disk, i, bytes))
			sim_fail(s, "sector %llu holds what was not written there",
				 (unsigned long long)i);
}

void sim_driver_verify(struct sim *s)
{
	if (s->disk.fd >= 0) {
		verify_file(s);
		return;
	}
	s->verifying = true;
	while (s->verify_next < s->disk.count) {
		sim_step(s);
		if (s->needs_reset) /* word of the last failure was still on its way */
			sim_device_reset(s);
	}
	sim_drain(s);
}
