/* settings.c - defaults, ownership, and the rules between settings. */
#include "control/settings.h"

#include "base/error.h"
#include "control/option.h"

#include <ctype.h>
#include <errno.h>
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

static int check_socket(const struct device_settings *d, const char *dashes, const char **name,
			struct error *e)
{
	if (d->fd >= 0 && d->socket_path) {
		*name = "fd";
		return error_set(e, -EINVAL, "%sfd cannot go with %ssocket-path", dashes, dashes);
	}
	if (d->fd >= 0 && d->connect) {
		*name = "connect";
		return error_set(e, -EINVAL, "%sconnect needs %ssocket-path", dashes, dashes);
	}
	if (d->fd < 0 && !d->socket_path)
		return error_set(e, -EINVAL, "%ssocket-path or %sfd is missing", dashes, dashes);
	return 0;
}

int settings_complete_device(struct device_settings *d, const char *dashes, const char **name,
			     struct error *e)
{
	int err;

	*name = NULL;
	err = settle_disk(d, dashes, name, e);
	return err ? err : check_socket(d, dashes, name, e);
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
		if (d->fd >= 0 && d->fd == other->fd) {
			*name = "fd";
			return error_set(e, -EINVAL, "fd %lld is taken by devices[%u]",
					 (long long)d->fd, i);
		}
	}
	return 0;
}
