/* settings.c - defaults, ownership, and the rules between settings. */
#include "control/settings.h"

#include "base/bytes.h"
#include "base/error.h"
#include "control/option.h"
#include "device/net.h"
#include "link/link_model.h"
#include "pci/pci_function.h"
#include "virtio/virtio_features.h"

#include <ctype.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

int settings_init(struct program_settings *s)
{
	memset(s, 0, sizeof(*s));
	return option_preset(OPTION_OF_PROGRAM, s);
}

void settings_free(struct program_settings *s)
{
	for (unsigned i = 0; i < s->device_count; i++)
		option_clear(OPTION_OF_DEVICE, &s->devices[i]);
	free(s->devices);
	option_clear(OPTION_OF_PROGRAM, s);
	memset(s, 0, sizeof(*s));
}

struct device_settings *settings_add_device(struct program_settings *s)
{
	struct device_settings *grown, *d;

	grown = realloc(s->devices, (s->device_count + 1) * sizeof(*grown));
	if (!grown)
		return NULL;
	s->devices = grown;
	d = &grown[s->device_count++];
	memset(d, 0, sizeof(*d));
	return option_preset(OPTION_OF_DEVICE, d) ? NULL : d;
}

/* What a URI cannot carry as it is; "/" stays. */
static bool is_plain(unsigned char c)
{
	return isalnum(c) || strchr("/-._~+:@,=", c);
}

/* "file:" and the path, percent-encoded (RFC 3986, 2.1).  NULL: out of memory. */
static char *uri_of_file(const char *path)
{
	static const char digits[] = "0123456789ABCDEF";
	char *uri = malloc(sizeof("file:") + 3 * strlen(path)), *to;

	if (!uri)
		return NULL;
	to = stpcpy(uri, "file:");
	for (const unsigned char *at = (const unsigned char *)path; *at; at++) {
		if (is_plain(*at)) {
			*to++ = *at;
			continue;
		}
		*to++ = '%';
		*to++ = digits[*at >> 4];
		*to++ = digits[*at & 15];
	}
	*to = '\0';
	return uri;
}

bool settings_is_type(const struct device_settings *d, const char *type)
{
	return !strcmp(d->type ? d->type : "blk", type);
}

/* What belongs to devices of another type. */
static int check_type(const struct device_settings *d, const char *dashes, const char **name,
		      struct error *e)
{
	const struct {
		const char *name, *type;
		bool given;
	} rules[] = {
		{ "disk", "blk", d->disk },
		{ "serial", "blk", d->serial },
		{ "block-size", "blk", d->block_size },
		{ "read-only", "blk", d->read_only },
		{ "port", "net", d->port },
		{ "mac", "net", d->mac },
		{ "mtu", "net", d->mtu },
		{ "rss", "net", d->rss },
	};

	for (unsigned i = 0; i < ARRAY_LENGTH(rules); i++) {
		if (!rules[i].given || settings_is_type(d, rules[i].type))
			continue;
		*name = rules[i].name;
		return error_set(e, -EINVAL, "%s%s is for devices of type \"%s\"", dashes, *name,
				 rules[i].type);
	}
	return 0;
}

static int settle_queues(struct device_settings *d, const char *dashes, const char **name,
			 struct error *e)
{
	bool net = settings_is_type(d, "net");

	if (!d->queues)
		d->queues = net ? 1 : 4;
	if (!net || d->queues <= NET_PAIRS_MAX)
		return 0;
	*name = "queues";
	return error_set(e, -EINVAL, "%squeues %lld: a network device has at most %d pairs", dashes,
			 (long long)d->queues, NET_PAIRS_MAX);
}

static int check_port(const struct device_settings *d, const char *dashes, struct error *e)
{
	return d->port ? 0 : error_set(e, -EINVAL, "%sport is missing", dashes);
}

static int settle_disk(struct device_settings *d, const char *dashes, const char **name,
		       struct error *e)
{
	if (d->disk && d->blk_file) {
		*name = "blk-file";
		return error_set(e, -EINVAL, "%sblk-file cannot go with %sdisk", dashes, dashes);
	}
	if (d->blk_file)
		d->disk = uri_of_file(d->blk_file);
	if (d->disk)
		return 0;
	if (d->blk_file)
		return error_set(e, -ENOMEM, "out of memory");
	return error_set(e, -EINVAL, "%sdisk is missing", dashes);
}

static int check_vfio_user(const struct device_settings *d, const char *dashes, const char **name,
			   struct error *e)
{
	if (!d->vfio_user && (d->card || d->doorbell_page || d->vectors >= 0)) {
		*name = d->card ? "card" : d->doorbell_page ? "doorbell-page" : "vectors";
		return error_set(e, -EINVAL, "%s%s needs %svfio-user", dashes, *name, dashes);
	}
	if (d->vfio_user && (d->socket_path || d->fd >= 0 || d->connect)) {
		*name = "vfio-user";
		return error_set(e, -EINVAL, "%svfio-user cannot go with %s%s", dashes, dashes,
				 d->socket_path ? "socket-path"
				 : d->fd >= 0   ? "fd"
						: "connect");
	}
	return 0;
}

static int check_socket(const struct device_settings *d, const char *dashes, const char **name,
			struct error *e)
{
	int err = check_vfio_user(d, dashes, name, e);

	if (err || d->vfio_user)
		return err;
	if (d->fd >= 0 && d->socket_path) {
		*name = "fd";
		return error_set(e, -EINVAL, "%sfd cannot go with %ssocket-path", dashes, dashes);
	}
	if (d->fd >= 0 && d->connect) {
		*name = "connect";
		return error_set(e, -EINVAL, "%sconnect needs %ssocket-path", dashes, dashes);
	}
	if (d->fd < 0 && !d->socket_path)
		return error_set(e, -EINVAL, "%ssocket-path, %svfio-user or %sfd is missing",
				 dashes, dashes, dashes);
	return 0;
}

static int check_link_model(const struct device_settings *d, const char *dashes, const char **name,
			    struct error *e)
{
	struct link_model_settings model;

	if (!d->link_model || !link_model_parse(d->link_model, &model, e))
		return 0;
	*name = "link-model";
	return error_wrap(e, "%slink-model", dashes);
}

static int check_features(const struct device_settings *d, const char *dashes, const char **name,
			  struct error *e)
{
	uint64_t masked;

	if (!settings_masked_features(d, &masked, e))
		return 0;
	*name = "features";
	return error_wrap(e, "%sfeatures", dashes);
}

int settings_complete_device(struct device_settings *d, const char *dashes, const char **name,
			     struct error *e)
{
	int err;

	*name = NULL;
	err = check_type(d, dashes, name, e);
	err = err ? err : settle_queues(d, dashes, name, e);
	if (!err)
		err = settings_is_type(d, "net") ? check_port(d, dashes, e)
						 : settle_disk(d, dashes, name, e);
	err = err ? err : check_socket(d, dashes, name, e);
	err = err ? err : check_link_model(d, dashes, name, e);
	return err ? err : check_features(d, dashes, name, e);
}

static bool same_text(const char *a, const char *b)
{
	return a && b && !strcmp(a, b);
}

int settings_check_unique(const struct program_settings *s, unsigned index, const char **name,
			  struct error *e)
{
	const struct device_settings *d = &s->devices[index], *other;

	for (unsigned i = 0; i < index; i++) {
		other = &s->devices[i];
		if (same_text(d->name, other->name)) {
			*name = "name";
			return error_set(e, -EINVAL, "name \"%s\" is taken by devices[%u]", d->name,
					 i);
		}
		if (same_text(d->socket_path, other->socket_path)) {
			*name = "socket-path";
			return error_set(e, -EINVAL, "socket-path \"%s\" is taken by devices[%u]",
					 d->socket_path, i);
		}
		if (same_text(d->vfio_user, other->vfio_user) ||
		    same_text(d->vfio_user, other->socket_path)) {
			*name = "vfio-user";
			return error_set(e, -EINVAL, "vfio-user \"%s\" is taken by devices[%u]",
					 d->vfio_user, i);
		}
		if (d->fd >= 0 && d->fd == other->fd) {
			*name = "fd";
			return error_set(e, -EINVAL, "fd %lld is taken by devices[%u]",
					 (long long)d->fd, i);
		}
	}
	return 0;
}

int settings_masked_features(const struct device_settings *d, uint64_t *masked, struct error *e)
{
	uint32_t device_id = settings_is_type(d, "net") ? VIRTIO_ID_NET : VIRTIO_ID_BLOCK;

	return virtio_features_parse(device_id, d->features, masked, e);
}

static const char *card_of(const struct device_settings *d)
{
	return d->card ? d->card : d->name;
}

int settings_parse_mac(const char *text, uint8_t *mac)
{
	for (unsigned i = 0; i < 6; i++, text += 3) {
		char byte[3] = { text[0], text[0] ? text[1] : 0, 0 };
		char *end;

		if (!isxdigit((unsigned char)byte[0]) || !isxdigit((unsigned char)byte[1]))
			return -EINVAL;
		mac[i] = strtoul(byte, &end, 16);
		if (i < 5 ? text[2] != ':' && text[2] != '-' : text[2] != 0)
			return -EINVAL;
	}
	return 0;
}

/* FNV-1a; the two low bits of the first byte make it a local address of a single station, so that
 * it is nobody else's EUI-64. */
static uint64_t serial_of(const char *card)
{
	uint64_t serial = 0xcbf29ce484222325;

	for (; *card; card++)
		serial = (serial ^ (unsigned char)*card) * 0x100000001b3;
	return (serial & ~(3ull << 56)) | 2ull << 56;
}

/* The same kind of number: its highest byte is that of a local address already. */
void settings_mac(const struct device_settings *d, uint8_t *mac)
{
	uint64_t serial = serial_of(d->name);

	if (d->mac && !settings_parse_mac(d->mac, mac))
		return;
	for (unsigned i = 0; i < 6; i++)
		mac[i] = serial >> (56 - 8 * i);
}

void settings_identify(const struct program_settings *s, unsigned index,
		       struct pci_identity *identity)
{
	const char *card = card_of(&s->devices[index]);

	*identity = (struct pci_identity){ .card_serial = serial_of(card) };
	for (unsigned i = 0; i < s->device_count; i++) {
		if (!s->devices[i].vfio_user || strcmp(card_of(&s->devices[i]), card))
			continue;
		identity->count++;
		identity->index += i < index;
	}
}
