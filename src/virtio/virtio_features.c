/* virtio_features.c - feature bits by name. */
#include "virtio/virtio_features.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

#define BIT(n) (UINT64_C(1) << (n))

enum { VERSION_1 = 32, EVERY_DEVICE = 0 };

/* Bits of network devices that others require. */
enum {
	CSUM = 0,
	GUEST_CSUM = 1,
	GUEST_TSO4 = 7,
	GUEST_TSO6 = 8,
	HOST_TSO4 = 11,
	HOST_TSO6 = 12,
	CTRL_VQ = 17
};

struct feature {
	uint32_t device_id; /* or EVERY_DEVICE */
	unsigned bit;
	const char *name;
	uint64_t needs; /* one of these; 0: nothing */
};

/* virtio 1.3: 5.2.3 and 5.2.3.1; 5.1.3 to 5.1.3.2; 6.  The first name of a bit is the one we say.
 */
/* clang-format off */
static const struct feature table[] = {
	{ VIRTIO_ID_BLOCK, 0, "barrier", 0 },
	{ VIRTIO_ID_BLOCK, 1, "size_max", 0 },
	{ VIRTIO_ID_BLOCK, 2, "seg_max", 0 },
	{ VIRTIO_ID_BLOCK, 4, "geometry", 0 },
	{ VIRTIO_ID_BLOCK, 5, "ro", 0 },
	{ VIRTIO_ID_BLOCK, 6, "blk_size", 0 },
	{ VIRTIO_ID_BLOCK, 7, "scsi", 0 },
	{ VIRTIO_ID_BLOCK, 9, "flush", 0 },
	{ VIRTIO_ID_BLOCK, 10, "topology", 0 },
	{ VIRTIO_ID_BLOCK, 11, "config_wce", 0 },
	{ VIRTIO_ID_BLOCK, 12, "mq", 0 },
	{ VIRTIO_ID_BLOCK, 13, "discard", 0 },
	{ VIRTIO_ID_BLOCK, 14, "write_zeroes", 0 },
	{ VIRTIO_ID_BLOCK, 15, "lifetime", 0 },
	{ VIRTIO_ID_BLOCK, 16, "secure_erase", 0 },
	{ VIRTIO_ID_BLOCK, 17, "zoned", 0 },
	{ VIRTIO_ID_NET, CSUM, "csum", 0 },
	{ VIRTIO_ID_NET, GUEST_CSUM, "guest_csum", 0 },
	{ VIRTIO_ID_NET, 2, "ctrl_guest_offloads", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 3, "mtu", 0 },
	{ VIRTIO_ID_NET, 5, "mac", 0 },
	{ VIRTIO_ID_NET, 6, "gso", 0 },
	{ VIRTIO_ID_NET, GUEST_TSO4, "guest_tso4", BIT(GUEST_CSUM) },
	{ VIRTIO_ID_NET, GUEST_TSO6, "guest_tso6", BIT(GUEST_CSUM) },
	{ VIRTIO_ID_NET, 9, "guest_ecn", BIT(GUEST_TSO4) | BIT(GUEST_TSO6) },
	{ VIRTIO_ID_NET, 10, "guest_ufo", BIT(GUEST_CSUM) },
	{ VIRTIO_ID_NET, HOST_TSO4, "host_tso4", BIT(CSUM) },
	{ VIRTIO_ID_NET, HOST_TSO6, "host_tso6", BIT(CSUM) },
	{ VIRTIO_ID_NET, 13, "host_ecn", BIT(HOST_TSO4) | BIT(HOST_TSO6) },
	{ VIRTIO_ID_NET, 14, "host_ufo", BIT(CSUM) },
	{ VIRTIO_ID_NET, 15, "mrg_rxbuf", 0 },
	{ VIRTIO_ID_NET, 16, "status", 0 },
	{ VIRTIO_ID_NET, CTRL_VQ, "ctrl_vq", 0 },
	{ VIRTIO_ID_NET, 18, "ctrl_rx", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 19, "ctrl_vlan", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 20, "ctrl_rx_extra", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 21, "guest_announce", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 22, "mq", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 23, "ctrl_mac_addr", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 50, "device_stats", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 52, "vq_notf_coal", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 53, "notf_coal", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 54, "guest_uso4", BIT(GUEST_CSUM) },
	{ VIRTIO_ID_NET, 55, "guest_uso6", BIT(GUEST_CSUM) },
	{ VIRTIO_ID_NET, 56, "host_uso", BIT(CSUM) },
	{ VIRTIO_ID_NET, 57, "hash_report", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 59, "guest_hdrlen", 0 },
	{ VIRTIO_ID_NET, 60, "rss", BIT(CTRL_VQ) },
	{ VIRTIO_ID_NET, 61, "rsc_ext", BIT(HOST_TSO4) | BIT(HOST_TSO6) },
	{ VIRTIO_ID_NET, 62, "standby", 0 },
	{ VIRTIO_ID_NET, 63, "speed_duplex", 0 },
	{ EVERY_DEVICE, 24, "notify_on_empty", 0 },
	{ EVERY_DEVICE, 27, "any_layout", 0 },
	{ EVERY_DEVICE, 28, "indirect_desc", 0 },
	{ EVERY_DEVICE, 29, "event_idx", 0 },
	{ EVERY_DEVICE, VERSION_1, "version_1", 0 },
	{ EVERY_DEVICE, 33, "access_platform", 0 },
	{ EVERY_DEVICE, 34, "packed", 0 },
	{ EVERY_DEVICE, 34, "ring_packed", 0 },
	{ EVERY_DEVICE, 35, "in_order", 0 },
	{ EVERY_DEVICE, 36, "order_platform", 0 },
	{ EVERY_DEVICE, 37, "sr_iov", 0 },
	{ EVERY_DEVICE, 38, "notification_data", 0 },
	{ EVERY_DEVICE, 39, "notif_config_data", 0 },
	{ EVERY_DEVICE, 40, "ring_reset", 0 },
	{ EVERY_DEVICE, 41, "admin_vq", 0 },
};
/* clang-format on */

static bool is_of(const struct feature *f, uint32_t device_id)
{
	return f->device_id == EVERY_DEVICE || f->device_id == device_id;
}

/* ---- names ---- */

static const struct feature *find_name(uint32_t device_id, const char *name, size_t length)
{
	for (unsigned i = 0; i < ARRAY_LENGTH(table); i++)
		if (is_of(&table[i], device_id) && strlen(table[i].name) == length &&
		    !memcmp(table[i].name, name, length))
			return &table[i];
	return NULL;
}

static const struct feature *find_bit(uint32_t device_id, unsigned bit)
{
	for (unsigned i = 0; i < ARRAY_LENGTH(table); i++)
		if (is_of(&table[i], device_id) && table[i].bit == bit)
			return &table[i];
	return NULL;
}

static uint64_t all_of(uint32_t device_id)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < ARRAY_LENGTH(table); i++)
		if (is_of(&table[i], device_id))
			all |= BIT(table[i].bit);
	return all;
}

static int print_one(uint32_t device_id, unsigned bit, char *to, size_t room)
{
	const struct feature *f = find_bit(device_id, bit);

	return f ? snprintf(to, room, "%s", f->name) : snprintf(to, room, "bit %u", bit);
}

void virtio_features_describe(uint32_t device_id, uint64_t features, char *to, size_t room)
{
	static const char more[] = " ...";
	size_t used = 0;

	*to = '\0';
	for (; features; features &= features - 1) {
		char name[32];
		int n = print_one(device_id, __builtin_ctzll(features), name, sizeof(name));

		if (used + n + 2 + sizeof(more) > room) {
			snprintf(to + used, room - used, "%s", more);
			return;
		}
		used += snprintf(to + used, room - used, "%s%s", used ? ", " : "", name);
	}
}

int virtio_features_refuse(uint32_t device_id, uint64_t features, struct error *e)
{
	char names[160];

	virtio_features_describe(device_id, features, names, sizeof(names));
	return error_set(e, -EINVAL,
			 "the driver has negotiated %s, which this device does not offer "
			 "(see --features)",
			 names);
}

void virtio_features_print_help(FILE *to)
{
	static const struct {
		uint32_t device_id;
		const char *text;
	} kinds[] = {
		{ VIRTIO_ID_BLOCK, "of disks" },
		{ VIRTIO_ID_NET, "of network devices" },
		{ EVERY_DEVICE, "of every device" },
	};

	fputs("--features=-NAME[,-NAME]... offers all that the device can do but these;\n"
	      "--features=only:NAME[,NAME]... offers none but these, and version_1.\n"
	      "What requires a feature that is left out is left out with it.  Names:\n",
	      to);
	for (unsigned k = 0; k < ARRAY_LENGTH(kinds); k++) {
		fprintf(to, "\n%s:\n", kinds[k].text);
		for (unsigned i = 0; i < ARRAY_LENGTH(table); i++)
			if (table[i].device_id == kinds[k].device_id)
				fprintf(to, "    %s\n", table[i].name);
	}
}

/* ---- what requires what ---- */

uint64_t virtio_features_close(uint32_t device_id, uint64_t features)
{
	uint64_t before;

	do {
		before = features;
		for (unsigned i = 0; i < ARRAY_LENGTH(table); i++)
			if (is_of(&table[i], device_id) && table[i].needs &&
			    !(features & table[i].needs))
				features &= ~BIT(table[i].bit);
	} while (features != before);
	return features;
}

/* ---- what the user wants ---- */

static int unknown(uint32_t device_id, const char *name, size_t length, struct error *e)
{
	char known[600];

	virtio_features_describe(device_id, all_of(device_id), known, sizeof(known));
	return error_set(e, -EINVAL, "\"%.*s\" is no feature of this device; known: %s",
			 (int)minimum_u64(length, 40), name, known);
}

/* Reads names with `sign` before each, and a comma between. */
static int read_list(uint32_t device_id, const char *text, const char *sign, uint64_t *features,
		     struct error *e)
{
	*features = 0;
	for (bool more = true; more;) {
		size_t length = strcspn(text, ",");
		const struct feature *f;

		if (strncmp(text, sign, strlen(sign)) != 0)
			return error_set(e, -EINVAL, "\"%.*s\": write -NAME,... or only:NAME,...",
					 (int)minimum_u64(length, 40), text);
		f = find_name(device_id, text + strlen(sign), length - strlen(sign));
		if (!f)
			return unknown(device_id, text + strlen(sign), length - strlen(sign), e);
		*features |= BIT(f->bit);
		more = text[length] == ',';
		text += length + more;
	}
	return 0;
}

static int read_only_list(uint32_t device_id, const char *text, uint64_t *masked, struct error *e)
{
	uint64_t wanted, alone;
	int status = read_list(device_id, text, "", &wanted, e);
	char names[100];

	if (status)
		return status;
	alone = wanted & ~virtio_features_close(device_id, wanted);
	virtio_features_describe(device_id, alone, names, sizeof(names));
	if (alone)
		return error_set(e, -EINVAL, "only: %s: requires a feature that is not listed",
				 names);
	*masked = ~(wanted | BIT(VERSION_1));
	return 0;
}

int virtio_features_parse(uint32_t device_id, const char *text, uint64_t *masked, struct error *e)
{
	static const char only[] = "only:";
	int status;

	*masked = 0;
	if (!text || !*text)
		return 0;
	if (!strncmp(text, only, sizeof(only) - 1))
		return read_only_list(device_id, text + sizeof(only) - 1, masked, e);
	status = read_list(device_id, text, "-", masked, e);
	if (!status && *masked & BIT(VERSION_1))
		return error_set(e, -EINVAL, "version_1 cannot be left out: no driver could start");
	return status;
}
