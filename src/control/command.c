/* command.c - what stands on the command line, carried out. */
#include "control/command.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "control/command_line.h"
#include "control/config_file.h"
#include "control/help.h"
#include "control/option.h"
#include "control/program.h"
#include "control/settings.h"
#include "network/network_port.h"
#include "storage/storage.h"
#include "virtio/virtio_features.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATUS_FAILED = 1, STATUS_USAGE = 2 };

static int usage_error(const struct error *e, const char *hint)
{
	log_error("%s (see \"outboard %s\")", e->text, hint);
	return STATUS_USAGE;
}

/* Help that nobody could read is a failure: "outboard help disks >/dev/full". */
static int flushed(void)
{
	if (!fflush(stdout))
		return 0;
	log_error("standard output: %s", strerror(errno));
	return STATUS_FAILED;
}

static int out_of_memory(void)
{
	log_error("out of memory");
	return STATUS_FAILED;
}

/* ---- help ---- */

struct topic {
	const char *name;
	void (*print)(FILE *to);
};

static const struct topic topics[] = {
	{ "blk", help_print_blk },
	{ "net", help_print_net },
	{ "serve", help_print_serve },
	{ "disks", storage_print_help },
	{ "ports", network_print_help },
	{ "config", help_print_config },
	{ "features", virtio_features_print_help },
};

static int run_help(int count, char *const *arguments)
{
	struct error e;

	if (!count) {
		help_print_program(stdout);
		return flushed();
	}
	for (size_t i = 0; i < ARRAY_LENGTH(topics); i++) {
		if (strcmp(topics[i].name, arguments[0]))
			continue;
		topics[i].print(stdout);
		return flushed();
	}
	error_set(&e, -EINVAL, "help %s: no such topic", arguments[0]);
	return usage_error(&e, "help");
}

static int run_version(int count, char *const *arguments)
{
	help_print_version(stdout);
	return flushed();
}

/* ---- serving ---- */

/* The commands that serve one device. */
struct device_command {
	unsigned place; /* enum option_place */
	const char *type, *name, *hint;
	void (*help)(FILE *to);
	void (*capabilities)(FILE *to);
};

static const struct device_command blk_command = {
	.place = OPTION_BLK,
	.type = "blk",
	.name = "vda",
	.hint = "blk --help",
	.help = help_print_blk,
	.capabilities = help_print_blk_capabilities,
};

static const struct device_command net_command = {
	.place = OPTION_NET,
	.type = "net",
	.name = "net0",
	.hint = "net --help",
	.help = help_print_net,
	.capabilities = help_print_net_capabilities,
};

static int run_action(const struct program_option *action, void (*help)(FILE *to))
{
	if (!strcmp(action->name, "help"))
		help(stdout);
	else
		help_print_version(stdout);
	return flushed();
}

static enum log_level log_level_of(const char *name)
{
	static const char *const names[] = {
		[LOG_LEVEL_ERROR] = "error",
		[LOG_LEVEL_WARNING] = "warning",
		[LOG_LEVEL_INFO] = "info",
		[LOG_LEVEL_DEBUG] = "debug",
	};
	unsigned level = 0;

	while (level < LOG_LEVEL_DEBUG && strcmp(names[level], name))
		level++;
	return level;
}

static int run_program(const struct program_settings *s)
{
	log_set_level(log_level_of(s->log_level));
	return program_run(s);
}

/* vhost-user.rst, back-end program conventions: other options are ignored, be they wrong. */
static bool wants_capabilities(int count, char *const *arguments)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(arguments[i], "--print-capabilities"))
			return true;
	return false;
}

/* A device of the command's type, under the name that it has unless it is given one. */
static struct device_settings *add_device(const struct device_command *c,
					  struct program_settings *s)
{
	struct device_settings *d = settings_add_device(s);

	if (!d)
		return NULL;
	free(d->name);
	d->name = strdup(c->name);
	d->type = strdup(c->type);
	return d->name && d->type ? d : NULL;
}

static int serve_device(const struct device_command *c, int count, char *const *arguments,
			struct program_settings *s)
{
	const struct program_option *action;
	const char *name;
	struct error e;
	int err;

	if (!add_device(c, s))
		return out_of_memory();
	err = command_line_parse(count, arguments, c->place, s, &action, &e);
	if (!err && action)
		return run_action(action, c->help);
	if (!err)
		err = settings_complete_device(&s->devices[0], "--", &name, &e);
	return err ? usage_error(&e, c->hint) : run_program(s);
}

static int run_device(const struct device_command *c, int count, char *const *arguments)
{
	struct program_settings s;
	int status;

	if (wants_capabilities(count, arguments)) {
		c->capabilities(stdout);
		return flushed();
	}
	status = settings_init(&s) ? out_of_memory() : serve_device(c, count, arguments, &s);
	settings_free(&s);
	return status;
}

static int run_blk(int count, char *const *arguments)
{
	return run_device(&blk_command, count, arguments);
}

static int run_net(int count, char *const *arguments)
{
	return run_device(&net_command, count, arguments);
}

/* The command line is read twice: for the file's name, and over what the file says. */
static int serve_config(int count, char *const *arguments, struct program_settings *s)
{
	const struct program_option *action;
	struct error e;
	int err;

	err = command_line_parse(count, arguments, OPTION_SERVE, s, &action, &e);
	if (!err && action)
		return run_action(action, help_print_serve);
	if (!err && !s->config_file)
		err = error_set(&e, -EINVAL, "--config is missing");
	if (err)
		return usage_error(&e, "serve --help");
	err = config_file_read(s->config_file, s, &e);
	if (!err)
		err = command_line_parse(count, arguments, OPTION_SERVE, s, &action, &e);
	if (!err)
		return run_program(s);
	log_error("%s", e.text);
	return STATUS_FAILED;
}

static int run_serve(int count, char *const *arguments)
{
	struct program_settings s;
	int status;

	status = settings_init(&s) ? out_of_memory() : serve_config(count, arguments, &s);
	settings_free(&s);
	return status;
}

/* ---- commands ---- */

struct command {
	const char *name;
	int (*run)(int count, char *const *arguments);
};

static const struct command commands[] = {
	{ "blk", run_blk },           { "net", run_net },     { "serve", run_serve },
	{ "help", run_help },         { "--help", run_help }, { "-h", run_help },
	{ "--version", run_version },
};

static int run_named(const char *name, int count, char *const *arguments)
{
	struct error e;

	for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
		if (!strcmp(commands[i].name, name))
			return commands[i].run(count, arguments);
	error_set(&e, -EINVAL, "%s: no such command", name);
	return usage_error(&e, "--help");
}

static bool is_called(const char *path, const char *name)
{
	const char *slash = strrchr(path, '/');

	return !strcmp(slash ? slash + 1 : path, name);
}

int command_run(int count, char *const *arguments)
{
	struct error e;

	if (count && is_called(arguments[0], "outboard-blk"))
		return run_blk(count - 1, arguments + 1);
	if (count && is_called(arguments[0], "outboard-net"))
		return run_net(count - 1, arguments + 1);
	if (count > 1)
		return run_named(arguments[1], count - 2, arguments + 2);
	error_set(&e, -EINVAL, "a command is missing");
	return usage_error(&e, "--help");
}
