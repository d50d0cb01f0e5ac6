/* Broken if this fails: a client that answers our DMA messages late, wrongly or not at all harms
 * more than its own requests, or a reset or its own end waits for it. */
#include "vfio_user_peer.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

enum {
	MEMORY_AT = 0x100000, /* of the client's, which it keeps to itself */
	MEMORY_BYTES = 0x4000,
	RING_SIZE = 16,
	AVAILABLE = 0x400, /* the queue's parts and a request's, in that memory */
	USED = 0x600,
	HEADER = 0x900,
	STATUS = 0x980,
	DATA = 0x1000,
	DATA_BYTES = 4096,
	BAR = PCI_REGION_BAR0 + 4,
	NOTIFY = 0x3000,
	ANSWERS = 100, /* at most, in one go */
	WAITING = 16,
};

/* How the client answers DMA messages. */
enum manner { RIGHT, REVERSED, ERROR, LYING_COUNT, WRONG_ADDRESS, SHORT, LONG, TWICE, NEVER };

struct wire {
	struct vfio_user_header header;
	struct vfio_user_dma_access access;
	uint8_t data[MEMORY_BYTES];
};

struct client {
	struct stage stage;
	uint8_t memory[MEMORY_BYTES];
	struct wire waiting[WAITING];
	unsigned waiting_count;
	enum manner manner;
	uint16_t requests;
	int twin;          /* where DMA messages come and go; -1: on the one socket that there is */
	uint32_t most;     /* bytes in one message */
	bool like_qemu;    /* a count has four bytes, data follows, then four of nothing */
	unsigned messages; /* with data */
};

/* ---- answers ---- */

static void send_wire(struct client *c, const struct wire *w)
{
	if (c->twin < 0)
		put_bytes(&c->stage, w, w->header.size, NULL, 0);
	else
		assert_int_equal(send(c->twin, w, w->header.size, MSG_NOSIGNAL), w->header.size);
}

/* QEMU answers a write by a bare header. */
static void do_access_like_qemu(struct client *c, struct wire *w)
{
	uint8_t *data = (uint8_t *)w + sizeof(w->header) + 12;
	uint64_t at = w->access.address - MEMORY_AT;
	uint32_t n = (uint32_t)w->access.count;

	assert_true(w->access.address >= MEMORY_AT && range_fits(at, n, MEMORY_BYTES));
	assert_in_range(n, 0, c->most);
	w->header.flags = VFIO_USER_FLAG_REPLY;
	if (w->header.command == VFIO_USER_DMA_WRITE) {
		memcpy(c->memory + at, data, n);
		w->header.size = sizeof(w->header);
	} else {
		memcpy(data, c->memory + at, n);
		w->header.size += n;
	}
}

static void do_access(struct client *c, struct wire *w)
{
	uint64_t at = w->access.address - MEMORY_AT, n = w->access.count;

	assert_true(w->access.address >= MEMORY_AT && range_fits(at, n, MEMORY_BYTES));
	assert_in_range(n, 0, c->most);
	w->header.flags = VFIO_USER_FLAG_REPLY;
	if (w->header.command == VFIO_USER_DMA_WRITE) {
		memcpy(c->memory + at, w->data, n);
		w->header.size = sizeof(w->header) + sizeof(w->access);
	} else {
		memcpy(w->data, c->memory + at, n);
		w->header.size += n;
	}
}

static void bend(struct client *c, struct wire *w)
{
	if (c->manner == ERROR) {
		w->header.flags |= VFIO_USER_FLAG_ERROR;
		w->header.error = EIO;
		w->header.size = sizeof(w->header);
	}
	w->access.count += c->manner == LYING_COUNT;
	w->access.address += 8 * (c->manner == WRONG_ADDRESS);
	w->header.size -= c->manner == SHORT;
	w->header.size += 8 * (c->manner == LONG);
}

static void answer_one(struct client *c, struct wire *w)
{
	c->messages++;
	if (c->like_qemu)
		do_access_like_qemu(c, w);
	else
		do_access(c, w);
	bend(c, w);
	if (c->manner == REVERSED && c->waiting_count < WAITING) {
		c->waiting[c->waiting_count++] = *w;
		return;
	}
	send_wire(c, w);
	if (c->manner == TWICE)
		send_wire(c, w);
}

static void answer_reversed(struct client *c)
{
	while (c->waiting_count)
		send_wire(c, &c->waiting[--c->waiting_count]);
}

/* Takes one of the server's messages.  False: there is none, or it was a reply to ours. */
static bool take(struct client *c, int fd)
{
	struct wire w;

	if (recv(fd, &w.header, sizeof(w.header), MSG_DONTWAIT) != sizeof(w.header))
		return false;
	assert_in_range(w.header.size, sizeof(w.header), sizeof(w));
	if (w.header.size > sizeof(w.header))
		assert_int_equal(
			recv(fd, &w.access, w.header.size - sizeof(w.header), MSG_DONTWAIT),
			w.header.size - sizeof(w.header));
	if (w.header.flags & VFIO_USER_FLAG_TYPE)
		return true;
	assert_true(c->twin < 0 || fd == c->twin);
	if (c->manner != NEVER)
		answer_one(c, &w);
	return true;
}

static void serve(struct client *c)
{
	for (unsigned i = 0; i < ANSWERS; i++) {
		bool some = false;

		steps(&c->stage);
		while (take(c, c->stage.client) || (c->twin >= 0 && take(c, c->twin)))
			some = true;
		answer_reversed(c);
		if (!some)
			break;
	}
}

/* ---- the driver ---- */

static void set_register(struct client *c, uint32_t region, uint64_t offset, uint32_t value,
			 uint32_t bytes)
{
	struct {
		struct vfio_user_header header;
		struct vfio_user_region_access access;
		uint32_t value;
	} m = { { ID, VFIO_USER_REGION_WRITE, 32 + bytes, 0, 0 },
		{ offset, region, bytes },
		htole32(value) };

	assert_true(put_bytes(&c->stage, &m, 32 + bytes, NULL, 0));
	serve(c);
}

static void start(struct client *c)
{
	const uint8_t ready = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
			      VIRTIO_CONFIG_S_FEATURES_OK;

	memset(c->memory, 0, MEMORY_BYTES);
	c->requests = 0;
	set_register(c, PCI_REGION_CONFIG, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	set_register(c, BAR, VIRTIO_PCI_COMMON_STATUS, 3, 1);
	set_register(c, BAR, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	set_register(c, BAR, VIRTIO_PCI_COMMON_GF, 1, 4);
	set_register(c, BAR, VIRTIO_PCI_COMMON_STATUS, ready, 1);
	set_register(c, BAR, VIRTIO_PCI_COMMON_Q_SIZE, RING_SIZE, 2);
	set_register(c, BAR, VIRTIO_PCI_COMMON_Q_DESCLO, MEMORY_AT, 4);
	set_register(c, BAR, VIRTIO_PCI_COMMON_Q_AVAILLO, MEMORY_AT + AVAILABLE, 4);
	set_register(c, BAR, VIRTIO_PCI_COMMON_Q_USEDLO, MEMORY_AT + USED, 4);
	set_register(c, BAR, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	set_register(c, BAR, VIRTIO_PCI_COMMON_STATUS, ready | VIRTIO_CONFIG_S_DRIVER_OK, 1);
}

static void describe(struct client *c, unsigned i, uint64_t at, uint32_t length, uint16_t flags)
{
	uint8_t *d = c->memory + 16 * i;

	store_le64(d, MEMORY_AT + at);
	store_le32(d + 8, length);
	store_le16(d + 12, flags);
	store_le16(d + 14, i + 1);
}

/* A read of the disk's begin. */
static void request(struct client *c)
{
	describe(c, 0, HEADER, 16, VRING_DESC_F_NEXT);
	describe(c, 1, DATA, DATA_BYTES, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
	describe(c, 2, STATUS, 1, VRING_DESC_F_WRITE);
	memset(c->memory + DATA, 0xee, DATA_BYTES);
	c->memory[STATUS] = 0xee;
	store_le16(c->memory + AVAILABLE + 4 + 2 * (c->requests % RING_SIZE), 0);
	store_le16(c->memory + AVAILABLE + 2, ++c->requests);
	set_register(c, BAR, NOTIFY, 0, 2);
}

static bool is_served(const struct client *c)
{
	static const uint8_t zeroes[DATA_BYTES];

	return load_le16(c->memory + USED + 2) == c->requests && !c->memory[STATUS] &&
	       !memcmp(c->memory + DATA, zeroes, DATA_BYTES);
}

/* ---- the client as a whole ---- */

static void map_memory(struct client *c)
{
	const struct vfio_user_dma_map map = { sizeof(map), 3, 0, MEMORY_AT, MEMORY_BYTES };

	assert_int_equal(ask(&c->stage, VFIO_USER_DMA_MAP, &map, sizeof(map), 0), 0);
}

static void client_begin(struct client *c)
{
	map_memory(c);
	start(c);
	request(c);
	assert_true(is_served(c));
}

static void client_open(struct client *c)
{
	memset(c, 0, sizeof(*c));
	c->twin = -1;
	c->most = VFIO_USER_TRANSFER_MAX;
	stage_open(&c->stage);
	negotiate(&c->stage);
	client_begin(c);
}

/* Resets the device, which must not wait for an answer that never comes. */
static void start_again(struct client *c)
{
	assert_int_equal(ask(&c->stage, VFIO_USER_DEVICE_RESET, "", 0, 0), 0);
	c->manner = RIGHT;
	start(c);
	request(c);
	assert_true(is_served(c));
}

/* ---- clients that do as they should ---- */

#define SMALL "\"max_data_xfer_size\":64"
#define TWIN  "\"twin_socket\":{\"supported\":true}"

static const struct kind {
	const char *text;
	bool twin, like_qemu;
	uint32_t most;
} kinds[] = {
	{ "{\"capabilities\":{" SMALL "}}", false, false, 64 },
	{ "{\"capabilities\":{" TWIN "}}", true, false, 1 << 20 },
	{ "{\"capabilities\":{" SMALL "," TWIN "}}", true, false, 64 },
	{ "{\"capabilities\":{\"max_msg_fds\":8}}", false, true, 1 << 20 },
	{ "{\"capabilities\":{" SMALL "}}", false, true, 64 },
	{ "{\"capabilities\":{" SMALL "," TWIN "}}", true, true, 64 },
};

static void clients_of_every_kind(void **state)
{
	static struct client c;

	for (unsigned i = 0; i < ARRAY_LENGTH(kinds); i++) {
		const struct kind *k = &kinds[i];

		memset(&c, 0, sizeof(c));
		stage_open(&c.stage);
		c.most = k->most;
		c.like_qemu = k->like_qemu;
		c.twin = k->twin ? negotiate_twin(&c.stage, k->text, strlen(k->text) + 1) : -1;
		if (!k->twin)
			assert_int_equal(negotiate_with(&c.stage, k->text, strlen(k->text) + 1), 0);
		client_begin(&c);
		assert_true(c.messages > DATA_BYTES / c.most);
		c.manner = REVERSED;
		for (unsigned j = 0; j < 20; j++) {
			request(&c);
			assert_true(is_served(&c));
		}
		start_again(&c);
		stage_close(&c.stage);
		if (k->twin)
			close(c.twin);
	}
}

/* ---- and others ---- */

static void answers_in_reverse(void **state)
{
	static struct client c;

	client_open(&c);
	c.manner = REVERSED;
	for (unsigned i = 0; i < 40; i++) {
		request(&c);
		assert_true(is_served(&c));
	}
	stage_close(&c.stage);
}

/* The queue is broken then, and only that. */
static void errors_break_the_queue(void **state)
{
	static struct client c;

	client_open(&c);
	c.manner = ERROR;
	request(&c);
	assert_false(is_served(&c));
	works(&c.stage);
	c.manner = RIGHT;
	request(&c);
	assert_false(is_served(&c)); /* until the driver resets the device */
	start_again(&c);
	stage_close(&c.stage);
}

static void lies_cost_the_connection(void **state)
{
	static const enum manner lies[] = { LYING_COUNT, WRONG_ADDRESS, SHORT, LONG, TWICE };
	static struct client c;

	client_open(&c);
	for (unsigned i = 0; i < ARRAY_LENGTH(lies); i++) {
		c.manner = lies[i];
		request(&c);
		is_gone_and_comes_back(&c.stage);
		map_memory(&c);
		start_again(&c);
	}
	stage_close(&c.stage);
}

/* Neither a reset nor an unmap nor the client's end waits for what it owes us. */
static void silence(void **state)
{
	const struct vfio_user_dma_unmap all = { sizeof(all), 2, 0, 0 };
	static struct client c;

	client_open(&c);
	c.manner = NEVER;
	request(&c);
	start_again(&c);

	c.manner = NEVER;
	request(&c);
	assert_int_equal(ask(&c.stage, VFIO_USER_DMA_UNMAP, &all, sizeof(all), 0), 0);
	map_memory(&c);
	start_again(&c);

	c.manner = NEVER;
	request(&c);
	close(c.stage.client);
	steps(&c.stage);
	peer_connect(&c.stage);
	negotiate(&c.stage);
	map_memory(&c);
	start_again(&c);
	c.manner = NEVER;
	request(&c);
	stage_close(&c.stage);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_of_every_kind),
		cmocka_unit_test(answers_in_reverse),
		cmocka_unit_test(errors_break_the_queue),
		cmocka_unit_test(lies_cost_the_connection),
		cmocka_unit_test(silence),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
