/* option.c - values checked against the table and stored where it says. */
#include "control/option.h"

#include "base/bytes.h"
#include "base/error.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static void *field_of(const struct program_option *o, void *settings)
{
	return (char *)settings + o->offset;
}

static bool is_text(const struct program_option *o)
{
	return o->kind == OPTION_TEXT || o->kind == OPTION_CHOICE;
}

const struct program_option *option_find(const char *name, size_t length, unsigned places)
{
	const struct program_option *o;

	for (unsigned i = 0; i < option_count; i++) {
		o = &option_table[i];
		if ((o->places & places) && strlen(o->name) == length &&
		    !memcmp(o->name, name, length))
			return o;
	}
	return NULL;
}

static int preset_one(const struct program_option *o, void *settings)
{
	char **text = field_of(o, settings);

	if (o->kind == OPTION_NUMBER)
		*(int64_t *)field_of(o, settings) = o->preset;
	if (!is_text(o) || !o->preset_text)
		return 0;
	*text = strdup(o->preset_text);
	return *text ? 0 : -ENOMEM;
}

int option_preset(enum option_owner owner, void *settings)
{
	int err = 0;

	for (unsigned i = 0; i < option_count && !err; i++)
		if (option_table[i].owner == owner)
			err = preset_one(&option_table[i], settings);
	return err;
}

void option_clear(enum option_owner owner, void *settings)
{
	const struct program_option *o;

	for (unsigned i = 0; i < option_count; i++) {
		o = &option_table[i];
		if (o->owner == owner && is_text(o))
			free(*(char **)field_of(o, settings));
	}
}

static bool has_choice(const struct program_option *o, const char *text)
{
	for (unsigned i = 0; o->choices[i]; i++)
		if (!strcmp(o->choices[i], text))
			return true;
	return false;
}

/* "error, warning, info" */
static void list_choices(const struct program_option *o, char *to, size_t size)
{
	size_t used = 0;

	*to = '\0';
	for (unsigned i = 0; o->choices[i] && used < size; i++)
		used += snprintf(to + used, size - used, "%s%s", i ? ", " : "", o->choices[i]);
}

static int check_text(const struct program_option *o, const char *text, struct error *e)
{
	const char *complaint = o->check ? o->check(text) : NULL;
	char choices[100];

	if (complaint)
		return error_set(e, -EINVAL, "%s", complaint);
	if (o->kind != OPTION_CHOICE || has_choice(o, text))
		return 0;
	list_choices(o, choices, sizeof(choices));
	return error_set(e, -EINVAL, "must be %s%s", o->choices[1] ? "one of " : "", choices);
}

int option_store_text(const struct program_option *o, void *settings, const char *text,
		      struct error *e)
{
	char **field = field_of(o, settings), *copy;
	int err = check_text(o, text, e);

	if (err)
		return err;
	copy = strdup(text);
	if (!copy)
		return error_set(e, -ENOMEM, "out of memory");
	free(*field);
	*field = copy;
	return 0;
}

static int out_of_range(const struct program_option *o, struct error *e)
{
	const char *which = o->power_of_two ? "a power of two, " : "";

	return error_set(e, -EINVAL, "must be %s%lld..%lld", which, (long long)o->minimum,
			 (long long)o->maximum);
}

int option_store_number(const struct program_option *o, void *settings, int64_t number,
			struct error *e)
{
	if (number < o->minimum || number > o->maximum)
		return out_of_range(o, e);
	if (o->power_of_two && !is_power_of_two(number))
		return out_of_range(o, e);
	*(int64_t *)field_of(o, settings) = number;
	return 0;
}

int option_store_switch(const struct program_option *o, void *settings, bool on)
{
	*(bool *)field_of(o, settings) = on;
	return 0;
}

/* Digits only, behind a sign at most: strtoll() would also take blanks, and nothing at all. */
static bool is_whole_number(const char *text)
{
	text += *text == '-';
	return *text && !text[strspn(text, "0123456789")];
}

static int parse_number(const struct program_option *o, void *settings, const char *text,
			struct error *e)
{
	if (!is_whole_number(text))
		return error_set(e, -EINVAL, "must be a whole number, %lld..%lld",
				 (long long)o->minimum, (long long)o->maximum);
	/* What does not fit becomes the largest number, which is out of every range. */
	return option_store_number(o, settings, strtoll(text, NULL, 10), e);
}

int option_parse(const struct program_option *o, void *settings, const char *text, struct error *e)
{
	if (o->kind == OPTION_NUMBER)
		return parse_number(o, settings, text, e);
	return option_store_text(o, settings, text, e);
}

/* What may stand there: "1..64". */
static void describe_values(const struct program_option *o, char *to, size_t size)
{
	*to = '\0';
	if (o->kind == OPTION_NUMBER)
		snprintf(to, size, "%s%lld..%lld", o->power_of_two ? "power of two, " : "",
			 (long long)o->minimum, (long long)o->maximum);
	else if (o->kind == OPTION_CHOICE)
		list_choices(o, to, size);
}

static void describe_preset(const struct program_option *o, char *to, size_t size)
{
	const char *text = o->preset_help ? o->preset_help : o->preset_text;

	if (o->kind == OPTION_NUMBER && !text)
		snprintf(to, size, "%lld", (long long)o->preset);
	else
		snprintf(to, size, "%s", text ? text : "");
}

void option_describe(const struct program_option *o, char *to, size_t size)
{
	char values[100], preset[60];

	describe_values(o, values, sizeof(values));
	describe_preset(o, preset, sizeof(preset));
	snprintf(to, size, "%s%s%s%s", values, *values && *preset ? ", " : "",
		 *preset ? "default " : "", preset);
}
