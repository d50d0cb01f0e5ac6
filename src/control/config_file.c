/* config_file.c - the program's settings as JSON, by the option table.
 *
 * A reader descends with a path of steps to the value it is at, so that whatever is wrong can be
 * said with the place where it stands. */
#include "control/config_file.h"

#include "base/descriptor.h"
#include "base/error.h"
#include "control/config_position.h"
#include "control/option.h"
#include "control/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	CONFIG_SIZE_MAXIMUM = 1 << 20, /* bytes; some thousand devices */
	CONFIG_DEPTH = 3,              /* devices, [0], key */
};

struct config_reader {
	const char *path, *text;                /* borrowed */
	struct program_settings *settings;      /* borrowed */
	struct config_step steps[CONFIG_DEPTH]; /* to the value that is being read */
	unsigned depth;
	struct error *error; /* borrowed */
};

/* ---- errors ---- */

/* Puts "FILE:LINE:COLUMN: devices[0]" in front of the complaint in *r->error.  key: a member of
 * the present value; NULL: the value itself. */
static int at_place(struct config_reader *r, const char *key, enum config_target target, int err)
{
	struct config_step steps[CONFIG_DEPTH + 1];
	struct config_position p;
	unsigned depth = r->depth;

	memcpy(steps, r->steps, sizeof(r->steps));
	if (key)
		steps[depth++] = (struct config_step){ .key = key };
	p = config_position_find(r->text, steps, depth, target);
	if (r->depth >= 2)
		error_wrap(r->error, "%s:%u:%u: devices[%u]", r->path, p.line, p.column,
			   r->steps[1].index);
	else
		error_wrap(r->error, "%s:%u:%u", r->path, p.line, p.column);
	return err;
}

static int wrong_key(struct config_reader *r, const char *key, const char *complaint)
{
	error_set(r->error, -EINVAL, "%s %s", key, complaint);
	return at_place(r, key, CONFIG_KEY, -EINVAL);
}

/* ---- one key ---- */

static const char *type_complaint(const struct program_option *o)
{
	if (o->kind == OPTION_NUMBER)
		return "must be a whole number";
	return o->kind == OPTION_SWITCH ? "must be true or false" : "must be a text";
}

static bool has_type(const struct program_option *o, const json_t *value)
{
	if (o->kind == OPTION_NUMBER)
		return json_is_integer(value);
	return o->kind == OPTION_SWITCH ? json_is_boolean(value) : json_is_string(value);
}

static int store(const struct program_option *o, void *settings, const json_t *value,
		 struct error *e)
{
	if (!has_type(o, value))
		return error_set(e, -EINVAL, "%s", type_complaint(o));
	if (o->kind == OPTION_NUMBER)
		return option_store_number(o, settings, json_integer_value(value), e);
	if (o->kind == OPTION_SWITCH)
		return option_store_switch(o, settings, json_is_true(value));
	return option_store_text(o, settings, json_string_value(value), e);
}

/* "queues 0": the value as the file has it, if it is short enough to help. */
static void wrap_with_value(struct config_reader *r, const char *key, const json_t *value)
{
	char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	if (text && strlen(text) <= 60)
		error_wrap(r->error, "%s %s", key, text);
	else
		error_wrap(r->error, "%s", key);
	free(text);
}

static int read_key(struct config_reader *r, const char *key, const json_t *value, unsigned place,
		    void *settings)
{
	const struct program_option *o = option_find(key, strlen(key), place);
	int err;

	if (!o)
		return wrong_key(r, key, "is not a known key");
	err = store(o, settings, value, r->error);
	if (!err)
		return 0;
	wrap_with_value(r, key, value);
	return at_place(r, key, CONFIG_VALUE, err);
}

/* ---- one device ---- */

static int check_required(struct config_reader *r, const json_t *entry)
{
	for (unsigned i = 0; i < option_count; i++) {
		const struct program_option *o = &option_table[i];

		if (!(o->places & OPTION_FILE_REQUIRED) || json_object_get(entry, o->name))
			continue;
		error_set(r->error, -EINVAL, "%s is missing", o->name);
		return at_place(r, NULL, CONFIG_VALUE, -EINVAL);
	}
	return 0;
}

/* What binds several keys, and several devices. */
static int check_device(struct config_reader *r, unsigned index)
{
	const char *name;
	int err;

	err = settings_complete_device(&r->settings->devices[index], "", &name, r->error);
	if (!err)
		err = settings_check_unique(r->settings, index, &name, r->error);
	return err ? at_place(r, name, name ? CONFIG_KEY : CONFIG_VALUE, err) : 0;
}

static int read_members(struct config_reader *r, json_t *entry, unsigned index)
{
	const char *key;
	json_t *value;
	int err;

	json_object_foreach (entry, key, value) {
		err = read_key(r, key, value, OPTION_FILE_DEVICE, &r->settings->devices[index]);
		if (err)
			return err;
	}
	err = check_required(r, entry);
	return err ? err : check_device(r, index);
}

static int read_device(struct config_reader *r, json_t *entry, unsigned index)
{
	int err;

	r->steps[1] = (struct config_step){ .index = index };
	r->depth = 2;
	if (!json_is_object(entry)) {
		error_set(r->error, -EINVAL, "must be an object");
		return at_place(r, NULL, CONFIG_VALUE, -EINVAL);
	}
	if (!settings_add_device(r->settings))
		return error_set(r->error, -ENOMEM, "out of memory");
	err = read_members(r, entry, index);
	r->depth = 0;
	return err;
}

/* ---- the whole ---- */

static int read_devices(struct config_reader *r, const json_t *list)
{
	int err = 0;

	if (!json_is_array(list) || !json_array_size(list)) {
		error_set(r->error, -EINVAL, "devices must be a list of at least one object");
		return at_place(r, list ? "devices" : NULL, CONFIG_VALUE, -EINVAL);
	}
	r->steps[0] = (struct config_step){ .key = "devices" };
	for (unsigned i = 0; i < json_array_size(list) && !err; i++)
		err = read_device(r, json_array_get(list, i), i);
	return err;
}

static int read_root(struct config_reader *r, json_t *root)
{
	const char *key;
	json_t *value;
	int err;

	if (!json_is_object(root)) {
		error_set(r->error, -EINVAL, "must be an object");
		return at_place(r, NULL, CONFIG_VALUE, -EINVAL);
	}
	json_object_foreach (root, key, value) {
		if (!strcmp(key, "devices"))
			continue;
		err = read_key(r, key, value, OPTION_FILE, r->settings);
		if (err)
			return err;
	}
	return read_devices(r, json_object_get(root, "devices"));
}

int config_file_parse(const char *path, const char *text, struct program_settings *s,
		      struct error *e)
{
	struct config_reader r = { .path = path, .text = text, .settings = s, .error = e };
	json_error_t wrong;
	json_t *root;
	int err;

	root = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &wrong);
	if (!root)
		return error_set(e, -EINVAL, "%s:%d:%d: %s", path, wrong.line,
				 wrong.column < 1 ? 1 : wrong.column, wrong.text);
	err = read_root(&r, root);
	json_decref(root);
	return err;
}

/* Reads to the end, or to a byte more than a file may have.  Returns bytes or -errno. */
static ssize_t read_all(int fd, char *to, size_t size)
{
	size_t used = 0;
	ssize_t n = 1;

	while (used < size && n > 0) {
		n = read(fd, to + used, size - used);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n < 0)
			return -errno;
		else
			used += n;
	}
	return used;
}

static int load(int fd, char *text, const char *path, struct error *e)
{
	ssize_t n = read_all(fd, text, CONFIG_SIZE_MAXIMUM + 1);

	if (n < 0)
		return error_set(e, n, "%s: %s", path, strerror(-n));
	if (n > CONFIG_SIZE_MAXIMUM)
		return error_set(e, -EFBIG, "%s: larger than 1 MiB", path);
	if (memchr(text, 0, n))
		return error_set(e, -EINVAL, "%s: has a zero byte", path);
	text[n] = '\0';
	return 0;
}

int config_file_read(const char *path, struct program_settings *s, struct error *e)
{
	char *text;
	int fd, err;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_set(e, -errno, "%s: %s", path, strerror(errno));
	text = malloc(CONFIG_SIZE_MAXIMUM + 2);
	err = text ? load(fd, text, path, e) : error_set(e, -ENOMEM, "out of memory");
	fd_close(&fd);
	if (!err)
		err = config_file_parse(path, text, s, e);
	free(text);
	return err;
}
