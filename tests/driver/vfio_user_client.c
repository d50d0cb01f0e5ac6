/* vfio_user_client.c - a vfio-user client without a VMM around it. */
#include "driver/vfio_user_client.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "driver/guest_memory.h"

enum {
	TRANSFER_DEFAULT = 1 << 20, /* vfio-user, "VFIO_USER_VERSION" */
	MAPS_DEFAULT = 65535,
	PAGE_SIZES_DEFAULT = 4096,
	REPLY_MAX = 8192, /* what we offer in argsz */
	IOEVENTFD = 0,    /* VFIO_USER_IO_FD_TYPE_IOEVENTFD */
};

/* ---- messages ---- */

static struct vfio_client_message make(struct vfio_user_client *c, uint16_t command,
				       const void *payload, size_t size)
{
	return (struct vfio_client_message){
		.header = { .id = c->channel.next_id++,
			    .command = command,
			    .size = sizeof(struct vfio_client_header) + size },
		.payload = (void *)payload,
	};
}

int vfio_user_client_ask(struct vfio_user_client *c, uint16_t command, const void *payload,
			 size_t size, const int *fds, unsigned fd_count, struct error *e)
{
	struct vfio_client_message m = make(c, command, payload, size);

	if (fd_count)
		memcpy(m.fds, fds, fd_count * sizeof(*fds));
	m.fd_count = fd_count;
	return vfio_client_channel_ask(&c->channel, &m, e);
}

int vfio_user_client_post(struct vfio_user_client *c, uint16_t command, const void *payload,
			  size_t size, uint16_t *id, struct error *e)
{
	struct vfio_client_message m = make(c, command, payload, size);

	if (id)
		*id = m.header.id;
	else
		m.header.flags = VFIO_USER_NO_REPLY;
	return vfio_client_channel_send(&c->channel, &m, e);
}

static size_t reply_size(const struct vfio_user_client *c)
{
	return c->channel.reply.header.size - sizeof(struct vfio_client_header);
}

/* A reply that is at least as long as it has to be. */
static int expect(struct vfio_user_client *c, int err, void *to, size_t size, struct error *e)
{
	if (err)
		return err;
	if (reply_size(c) < size)
		return error_set(e, -EPROTO, "command %u: a reply of %zu bytes, not %zu",
				 c->channel.reply.header.command, reply_size(c), size);
	memcpy(to, c->channel.reply.payload, size);
	return 0;
}

static int expect_nothing(struct vfio_user_client *c, int err, struct error *e)
{
	if (!err && reply_size(c))
		return error_set(e, -EPROTO, "command %u: %zu bytes where no payload is due",
				 c->channel.reply.header.command, reply_size(c));
	return err;
}

static int take_descriptor(struct vfio_user_client *c, unsigned index)
{
	return index < c->channel.reply.fd_count ? fd_take(&c->channel.reply.fds[index]) : -1;
}

/* ---- version ---- */

void vfio_user_client_init(struct vfio_user_client *c)
{
	*c = (struct vfio_user_client){ .minor = 1,
					.transfer_max = TRANSFER_DEFAULT,
					.message_fds = 16 };
	vfio_client_channel_init(&c->channel);
}

void vfio_user_client_like_qemu(struct vfio_user_client *c)
{
	c->minor = 0;
	c->message_fds = 8;
	c->write_multiple = true;
	c->channel.compact_dma = c->channel.deaf_while_waiting = true;
}

void vfio_user_client_disconnect(struct vfio_user_client *c)
{
	vfio_client_channel_close(&c->channel);
	c->has_twin = c->has_write_multiple = false;
}

static json_t *proposal(const struct vfio_user_client *c)
{
	json_t *list = json_object();

	if (c->message_fds)
		json_object_set_new(list, "max_msg_fds", json_integer(c->message_fds));
	if (c->transfer_max)
		json_object_set_new(list, "max_data_xfer_size", json_integer(c->transfer_max));
	if (c->twin_socket)
		json_object_set_new(list, "twin_socket", json_pack("{s:b}", "supported", 1));
	if (c->write_multiple)
		json_object_set_new(list, "write_multiple", json_true());
	return json_pack("{s:o}", "capabilities", list);
}

static uint64_t number(const json_t *list, const char *name, uint64_t otherwise)
{
	const json_t *value = json_object_get(list, name);

	return json_is_integer(value) ? (uint64_t)json_integer_value(value) : otherwise;
}

/* Either there is a second socket and the reply says where, or neither. */
static int learn_twin(struct vfio_user_client *c, const json_t *list, struct error *e)
{
	const json_t *twin = json_object_get(list, "twin_socket");
	const json_t *index = json_object_get(twin, "fd_index");
	int fd;

	if (!json_is_true(json_object_get(twin, "supported")))
		return 0;
	fd = json_is_integer(index) ? take_descriptor(c, json_integer_value(index)) : -1;
	if (fd < 0 || !c->twin_socket)
		return error_set(e, -EPROTO, "a second socket that is not there, or not wanted");
	vfio_client_channel_add_twin(&c->channel, fd);
	c->has_twin = true;
	return 0;
}

static int learn_capabilities(struct vfio_user_client *c, const char *text, size_t size,
			      struct error *e)
{
	json_error_t why = { 0 };
	json_t *all, *list;
	int err;

	if (size && text[size - 1])
		return error_set(e, -EPROTO, "version data without its final NUL");
	all = size ? json_loads(text, 0, &why) : json_object();
	if (!all)
		return error_set(e, -EPROTO, "version data: %s", why.text);
	list = json_object_get(all, "capabilities");
	c->server_message_fds = number(list, "max_msg_fds", 1);
	c->server_transfer_max = number(list, "max_data_xfer_size", TRANSFER_DEFAULT);
	c->server_maps = number(list, "max_dma_maps", MAPS_DEFAULT);
	c->server_page_sizes = number(list, "pgsizes", PAGE_SIZES_DEFAULT);
	c->has_write_multiple = json_is_true(json_object_get(list, "write_multiple"));
	if (c->has_write_multiple && !c->write_multiple)
		err = error_set(e, -EPROTO, "write_multiple was not proposed");
	else
		err = learn_twin(c, list, e);
	json_decref(all);
	return err;
}

static int agree(struct vfio_user_client *c, struct error *e)
{
	struct {
		uint16_t major, minor;
		char data[1024];
	} m = { .minor = c->minor };
	json_t *data = proposal(c);
	size_t length = json_dumpb(data, m.data, sizeof(m.data) - 1, JSON_COMPACT);
	uint16_t version[2];
	int err;

	json_decref(data);
	err = vfio_user_client_ask(c, VFIO_USER_VERSION, &m, 4 + length + 1, NULL, 0, e);
	err = expect(c, err, version, sizeof(version), e);
	if (err)
		return err;
	c->server_minor = version[1];
	if (version[0] || version[1] > c->minor)
		return error_set(e, -EPROTO, "version %u.%u", version[0], version[1]);
	return learn_capabilities(c, (char *)c->channel.reply.payload + 4, reply_size(c) - 4, e);
}

static int learn_device(struct vfio_user_client *c, struct error *e)
{
	uint32_t info[4] = { sizeof(info) }; /* argsz, flags, regions, irqs */
	int err = vfio_user_client_ask(c, VFIO_USER_DEVICE_GET_INFO, info, sizeof(info), NULL, 0,
				       e);

	err = expect(c, err, info, sizeof(info), e);
	if (err)
		return err;
	c->flags = info[1];
	c->regions = info[2];
	c->irqs = info[3];
	if (!(c->flags & VFIO_DEVICE_FLAGS_PCI) || c->regions < VFIO_PCI_NUM_REGIONS ||
	    c->irqs < VFIO_PCI_MSIX_IRQ_INDEX + 1)
		return error_set(e, -EPROTO, "not a PCI device");
	return 0;
}

int vfio_user_client_adopt(struct vfio_user_client *c, int fd, struct error *e)
{
	int err;

	vfio_user_client_disconnect(c);
	vfio_client_channel_open(&c->channel, fd);
	c->channel.transfer_max = c->transfer_max ? c->transfer_max : TRANSFER_DEFAULT;
	err = agree(c, e);
	if (!err)
		err = learn_device(c, e);
	if (err)
		vfio_user_client_disconnect(c);
	return err;
}

int vfio_user_client_connect(struct vfio_user_client *c, const char *path, struct error *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(e, -ENAMETOOLONG, "%s is too long for a socket", path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(e, -errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		int err = -errno;

		close(fd);
		return error_set(e, err, "%s: %s", path, strerror(-err));
	}
	return vfio_user_client_adopt(c, fd, e);
}

/* ---- regions ---- */

static int learn_areas(struct vfio_client_region *r, const char *info, size_t size, uint32_t at,
		       struct error *e)
{
	struct vfio_info_cap_header header;
	uint32_t count;

	for (unsigned looks = 0; at; at = header.next, looks++) {
		if (looks == 16 || !range_fits(at, sizeof(header), size))
			return error_set(e, -EPROTO, "region %u: capabilities", r->index);
		memcpy(&header, info + at, sizeof(header));
		if (header.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP)
			continue;
		if (!range_fits(at, 16, size))
			return error_set(e, -EPROTO, "region %u: capabilities", r->index);
		memcpy(&count, info + at + 8, sizeof(count));
		if (header.version != 1 || count > VFIO_USER_AREAS ||
		    !range_fits(at + 16, count * sizeof(r->areas[0]), size))
			return error_set(e, -EPROTO, "region %u: areas", r->index);
		memcpy(r->areas, info + at + 16, count * sizeof(r->areas[0]));
		r->area_count = count;
	}
	return 0;
}

static int check_region(const struct vfio_client_region *r, const struct vfio_region_info *info,
			size_t size, struct error *e)
{
	bool mappable = r->flags & VFIO_REGION_INFO_FLAG_MMAP;

	if (info->index != r->index || info->argsz != size || mappable != (r->fd >= 0))
		return error_set(e, -EPROTO, "region %u: index %u, argsz %u of %zu, flags 0x%x, %s",
				 r->index, info->index, info->argsz, size, r->flags,
				 r->fd >= 0 ? "a descriptor" : "no descriptor");
	for (unsigned i = 0; i < r->area_count; i++)
		if (!range_fits(r->areas[i].offset, r->areas[i].size, r->size))
			return error_set(e, -EPROTO, "region %u: area %u", r->index, i);
	return 0;
}

int vfio_user_client_region(struct vfio_user_client *c, uint32_t index,
			    struct vfio_client_region *r, struct error *e)
{
	struct vfio_region_info info = { .argsz = REPLY_MAX, .index = index };
	int err = vfio_user_client_ask(c, VFIO_USER_DEVICE_GET_REGION_INFO, &info, sizeof(info),
				       NULL, 0, e);

	*r = (struct vfio_client_region){ .index = index, .fd = -1 };
	err = expect(c, err, &info, sizeof(info), e);
	if (err)
		return err;
	r->flags = info.flags;
	r->size = info.size;
	r->offset = info.offset;
	r->fd = take_descriptor(c, 0);
	r->areas[0] = (struct vfio_region_sparse_mmap_area){ 0, info.size };
	r->area_count = r->flags & VFIO_REGION_INFO_FLAG_MMAP ? 1 : 0;
	if (r->flags & VFIO_REGION_INFO_FLAG_CAPS)
		err = learn_areas(r, c->channel.reply.payload, reply_size(c), info.cap_offset, e);
	if (!err)
		err = check_region(r, &info, reply_size(c), e);
	if (err)
		vfio_client_region_close(r);
	return err;
}

void vfio_client_region_close(struct vfio_client_region *r)
{
	fd_close(&r->fd);
}

void *vfio_client_region_map(const struct vfio_client_region *r, unsigned area, struct error *e)
{
	const struct vfio_region_sparse_mmap_area *a = &r->areas[area];
	void *at;

	if (area >= r->area_count) {
		error_set(e, -ENOENT, "region %u has no area %u", r->index, area);
		return NULL;
	}
	at = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, r->offset + a->offset);
	if (at == MAP_FAILED) {
		error_set(e, -errno, "region %u: mmap: %s", r->index, strerror(errno));
		return NULL;
	}
	return at;
}

struct access { /* as on the wire */
	uint64_t offset;
	uint32_t region, count;
	uint8_t data[4096];
};
enum { ACCESS_HEADER = offsetof(struct access, data) };

static int check_access(struct vfio_user_client *c, const struct access *a, size_t size,
			struct error *e)
{
	struct access answer;
	int err = expect(c, 0, &answer, ACCESS_HEADER, e);

	if (err)
		return err;
	if (answer.offset != a->offset || answer.region != a->region || answer.count != a->count ||
	    reply_size(c) != size)
		return error_set(e, -EPROTO, "region %u at 0x%" PRIx64 ": a strange reply",
				 a->region, a->offset);
	return 0;
}

int vfio_user_client_read(struct vfio_user_client *c, uint32_t region, uint64_t offset, void *to,
			  uint32_t n, struct error *e)
{
	struct access a = { .offset = offset, .region = region, .count = n };
	int err = vfio_user_client_ask(c, VFIO_USER_REGION_READ, &a, ACCESS_HEADER, NULL, 0, e);

	if (!err)
		err = check_access(c, &a, ACCESS_HEADER + n, e);
	if (!err)
		memcpy(to, (char *)c->channel.reply.payload + ACCESS_HEADER, n);
	return err;
}

static int fill_access(struct access *a, uint32_t region, uint64_t offset, const void *from,
		       uint32_t n, struct error *e)
{
	if (n > sizeof(a->data))
		return error_set(e, -E2BIG, "%" PRIu32 " bytes at once", n);
	a->offset = offset;
	a->region = region;
	a->count = n;
	memcpy(a->data, from, n);
	return 0;
}

int vfio_user_client_write(struct vfio_user_client *c, uint32_t region, uint64_t offset,
			   const void *from, uint32_t n, struct error *e)
{
	struct access a;
	int err = fill_access(&a, region, offset, from, n, e);

	if (!err)
		err = vfio_user_client_ask(c, VFIO_USER_REGION_WRITE, &a, ACCESS_HEADER + n, NULL,
					   0, e);
	return err ? err : check_access(c, &a, ACCESS_HEADER, e);
}

int vfio_user_client_write_posted(struct vfio_user_client *c, uint32_t region, uint64_t offset,
				  const void *from, uint32_t n, struct error *e)
{
	struct access a;
	int err = fill_access(&a, region, offset, from, n, e);

	return err ? err
		   : vfio_user_client_post(c, VFIO_USER_REGION_WRITE, &a, ACCESS_HEADER + n, NULL,
					   e);
}

int vfio_user_client_write_multiple(struct vfio_user_client *c,
				    const struct vfio_client_write *writes, unsigned count,
				    struct error *e)
{
	struct {
		uint64_t count;
		struct vfio_client_write writes[64];
	} m = { .count = count };
	uint64_t done = 0;
	int err;

	if (count > ARRAY_LENGTH(m.writes))
		return error_set(e, -E2BIG, "%u writes at once", count);
	memcpy(m.writes, writes, count * sizeof(*writes));
	err = vfio_user_client_ask(c, VFIO_USER_REGION_WRITE_MULTI, &m,
				   sizeof(m.count) + count * sizeof(*writes), NULL, 0, e);
	err = expect(c, err, &done, sizeof(done), e);
	if (!err && done != count)
		return error_set(e, -EPROTO, "%" PRIu64 " of %u writes done", done, count);
	return err;
}

struct sub_region { /* as on the wire, type ioeventfd */
	uint64_t offset, size;
	uint32_t fd_index, type, flags, padding;
	uint64_t datamatch;
};

static int take_doorbell(struct vfio_user_client *c, const struct sub_region *s,
			 struct vfio_client_doorbell *d, struct error *e)
{
	if (s->type != IOEVENTFD || s->fd_index >= c->channel.reply.fd_count)
		return error_set(e, -EPROTO, "sub-region of type %u, descriptor %u of %u", s->type,
				 s->fd_index, c->channel.reply.fd_count);
	*d = (struct vfio_client_doorbell){ .offset = s->offset,
					    .size = s->size,
					    .fd = dup(c->channel.reply.fds[s->fd_index]),
					    .flags = s->flags,
					    .datamatch = s->datamatch };
	return d->fd < 0 ? error_set(e, -errno, "dup: %s", strerror(errno)) : 0;
}

int vfio_user_client_doorbells(struct vfio_user_client *c, uint32_t region,
			       struct vfio_client_doorbell *list, unsigned *count, struct error *e)
{
	uint32_t info[4] = { REPLY_MAX, 0, region, 0 }; /* argsz, flags, index, count */
	unsigned room = *count, stride;
	int err = vfio_user_client_ask(c, VFIO_USER_DEVICE_GET_REGION_IO_FDS, info, sizeof(info),
				       NULL, 0, e);

	*count = 0;
	err = expect(c, err, info, sizeof(info), e);
	if (err || !info[3])
		return err;
	if (info[0] != reply_size(c) || info[2] != region || info[3] > room)
		return error_set(e, -EPROTO, "region %u: argsz %u of %zu, %u sub-regions", region,
				 info[0], reply_size(c), info[3]);
	stride = (info[0] - sizeof(info)) / info[3];
	if (stride < sizeof(struct sub_region))
		return error_set(e, -EPROTO, "region %u: sub-regions of %u bytes", region, stride);
	for (unsigned i = 0; !err && i < info[3]; i++) {
		struct sub_region s;

		memcpy(&s, (char *)c->channel.reply.payload + sizeof(info) + i * stride, sizeof(s));
		err = take_doorbell(c, &s, &list[i], e);
		*count += !err;
	}
	return err;
}

/* ---- memory ---- */

struct dma_map { /* as on the wire */
	uint32_t argsz, flags;
	uint64_t offset, address, size;
};

int vfio_user_client_map_part(struct vfio_user_client *c, const struct vfio_client_window *w,
			      bool shared, struct error *e)
{
	struct dma_map m = { .argsz = sizeof(m),
			     .flags = w->readable | w->writable << 1,
			     .offset = shared ? w->offset : 0,
			     .address = w->address,
			     .size = w->size };
	int err;

	/* from the moment that the server knows of it, before its reply */
	vfio_client_channel_add_window(&c->channel, w);
	err = vfio_user_client_ask(c, VFIO_USER_DMA_MAP, &m, sizeof(m), &w->memory->fd, shared, e);
	err = expect_nothing(c, err, e);
	if (err)
		vfio_client_channel_drop_window(&c->channel);
	return err;
}

int vfio_user_client_map(struct vfio_user_client *c, const struct guest_memory *m, bool shared,
			 struct error *e)
{
	const struct vfio_client_window w = {
		.memory = m, .address = m->iova, .size = m->size, .readable = true, .writable = true
	};

	return vfio_user_client_map_part(c, &w, shared, e);
}

int vfio_user_client_unmap_range(struct vfio_user_client *c, uint64_t address, uint64_t size,
				 struct error *e)
{
	struct {
		uint32_t argsz, flags;
		uint64_t address, size;
	} m = { .argsz = sizeof(m), .address = address, .size = size }, done;
	int err = vfio_user_client_ask(c, VFIO_USER_DMA_UNMAP, &m, sizeof(m), NULL, 0, e);

	err = expect(c, err, &done, sizeof(done), e);
	if (err)
		return err;
	if (done.address != address || done.size != size)
		return error_set(e, -EPROTO, "unmapped something else");
	vfio_client_channel_remove_window(&c->channel, address, size);
	return 0;
}

int vfio_user_client_unmap(struct vfio_user_client *c, const struct guest_memory *m,
			   struct error *e)
{
	return vfio_user_client_unmap_range(c, m->iova, m->size, e);
}

int vfio_user_client_remap(struct vfio_user_client *c, const struct guest_memory *m, bool shared,
			   struct error *e)
{
	int err;

	c->channel.busy = true;
	err = vfio_user_client_unmap(c, m, e);
	if (!err)
		err = vfio_user_client_map(c, m, shared, e);
	c->channel.busy = false;
	vfio_client_channel_catch_up(&c->channel);
	return err;
}

/* ---- interrupts and reset ---- */

int vfio_user_client_irq_info(struct vfio_user_client *c, uint32_t index, uint32_t *flags,
			      uint32_t *count, struct error *e)
{
	uint32_t info[4] = { sizeof(info), 0, index, 0 };
	int err = vfio_user_client_ask(c, VFIO_USER_DEVICE_GET_IRQ_INFO, info, sizeof(info), NULL,
				       0, e);

	err = expect(c, err, info, sizeof(info), e);
	if (!err && info[2] != index)
		return error_set(e, -EPROTO, "interrupts %u, not %u", info[2], index);
	*flags = info[1];
	*count = info[3];
	return err;
}

int vfio_user_client_set_irqs(struct vfio_user_client *c, uint32_t flags, uint32_t index,
			      uint32_t start, uint32_t count, const uint8_t *bools, const int *fds,
			      unsigned fd_count, struct error *e)
{
	struct {
		uint32_t argsz, flags, index, start, count;
		uint8_t data[2048];
	} m = { .flags = flags, .index = index, .start = start, .count = count };
	size_t extra = bools ? count : 0;

	if (extra > sizeof(m.data) || fd_count > VFIO_USER_FDS)
		return error_set(e, -E2BIG, "%u interrupts at once", count);
	if (extra)
		memcpy(m.data, bools, extra);
	m.argsz = offsetof(typeof(m), data) + extra;
	return expect_nothing(
		c,
		vfio_user_client_ask(c, VFIO_USER_DEVICE_SET_IRQS, &m, m.argsz, fds, fd_count, e),
		e);
}

/* As many at once as the server takes in one message. */
int vfio_user_client_connect_irqs(struct vfio_user_client *c, uint32_t index, uint32_t start,
				  const int *fds, unsigned count, struct error *e)
{
	unsigned most = minimum_u64(c->server_message_fds, VFIO_USER_FDS);
	int err = 0;

	for (unsigned i = 0; !err && i < count; i += most) {
		unsigned n = minimum_u64(most, count - i);

		err = vfio_user_client_set_irqs(
			c, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index,
			start + i, n, NULL, fds + i, n, e);
	}
	return err;
}

int vfio_user_client_reset(struct vfio_user_client *c, struct error *e)
{
	return expect_nothing(
		c, vfio_user_client_ask(c, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0, e), e);
}
