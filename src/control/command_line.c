/* command_line.c - "--queues 4", "--queues=4" and "--read-only", by the option table. */
#include "control/command_line.h"

#include "base/error.h"
#include "control/option.h"
#include "control/settings.h"

#include <errno.h>
#include <string.h>

/* One argument taken apart. */
struct argument {
	const struct program_option *option;
	const char *value; /* behind "=", or the next argument; NULL: none */
	int used;          /* arguments */
};

/* An option is known by its full name only: a shorthand would break when another option comes. */
static int find_option(const char *text, unsigned place, struct argument *a, struct error *e)
{
	size_t length = strcspn(text, "=");

	if (strncmp(text, "--", 2) || length == 2)
		return error_set(e, -EINVAL, "%s: not understood", text);
	a->option = option_find(text + 2, length - 2, place);
	if (!a->option)
		return error_set(e, -EINVAL, "%.*s: no such option", (int)length, text);
	a->value = text[length] ? text + length + 1 : NULL;
	a->used = 1;
	return 0;
}

static int take_argument(int count, char *const *arguments, unsigned place, struct argument *a,
			 struct error *e)
{
	int err = find_option(arguments[0], place, a, e);

	if (err)
		return err;
	if (!a->option->value)
		return !a->value ? 0
				 : error_set(e, -EINVAL, "--%s: takes no value", a->option->name);
	if (a->value)
		return 0;
	if (count < 2)
		return error_set(e, -EINVAL, "--%s: needs a value", a->option->name);
	a->value = arguments[1];
	a->used = 2;
	return 0;
}

static int store_argument(const struct argument *a, struct program_settings *s, struct error *e)
{
	void *settings = a->option->owner == OPTION_OF_DEVICE ? (void *)s->devices : s;

	if (a->option->kind == OPTION_SWITCH)
		return option_store_switch(a->option, settings, true);
	if (option_parse(a->option, settings, a->value, e))
		return error_wrap(e, "--%s %s", a->option->name, a->value);
	return 0;
}

int command_line_parse(int count, char *const *arguments, unsigned place,
		       struct program_settings *s, const struct program_option **action,
		       struct error *e)
{
	struct argument a = { .used = 1 };
	int err;

	*action = NULL;
	for (int i = 0; i < count; i += a.used) {
		err = take_argument(count - i, arguments + i, place, &a, e);
		if (err)
			return err;
		if (a.option->kind == OPTION_ACTION) {
			*action = a.option;
			return 0;
		}
		err = store_argument(&a, s, e);
		if (err)
			return err;
	}
	return 0;
}
