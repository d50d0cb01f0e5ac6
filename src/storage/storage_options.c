/* storage_options.c - the values in a URI's query, parsed. */
#include "storage/storage_options.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "storage/storage_provider.h"
#include "storage/storage_uri.h"

const char *storage_options_scheme(const struct storage_options *o)
{
	return o->scheme;
}

const char *storage_options_rest(const struct storage_options *o)
{
	return o->uri->rest;
}

const char *storage_options_path(const struct storage_options *o)
{
	return o->uri->path;
}

const char *storage_options_uri(const struct storage_options *o)
{
	return o->original;
}

bool storage_options_read_only(const struct storage_options *o)
{
	return o->read_only;
}

const char *storage_options_text(const struct storage_options *o, const char *name)
{
	return storage_uri_value(o->uri, name);
}

/* Decimal digits; *end is left at the first other character.  -EINVAL for none, -ERANGE for a
 * number that does not fit. */
static int parse_digits(const char *text, uint64_t *to, const char **end)
{
	uint64_t value = 0;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	for (; *text >= '0' && *text <= '9'; text++)
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return -ERANGE;
	*to = value;
	*end = text;
	return 0;
}

/* A unit and what it multiplies a number by. */
struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit no_units[] = { { "", 1 }, { 0 } };

static const struct unit size_units[] = {
	{ "", 1 },           { "K", 1ull << 10 }, { "M", 1ull << 20 },
	{ "G", 1ull << 30 }, { "T", 1ull << 40 }, { 0 },
};

static const struct unit duration_units[] = {
	{ "ns", 1 }, { "us", 1000 }, { "ms", 1000 * 1000 }, { "s", 1000 * 1000 * 1000 }, { 0 },
};

static int parse_value(const char *text, const struct unit *units, uint64_t *to)
{
	const char *end = text;
	uint64_t value = 0;
	int status = parse_digits(text, &value, &end);

	if (status)
		return status;
	for (const struct unit *u = units; u->name; u++) {
		if (strcmp(end, u->name))
			continue;
		if (__builtin_mul_overflow(value, u->factor, &value))
			return -ERANGE;
		*to = value;
		return 0;
	}
	return -EINVAL;
}

static int option_value(const struct storage_options *o, const char *name, const struct unit *units,
			const char *wanted, uint64_t *to, struct error *e)
{
	const char *text = storage_options_text(o, name);
	int status = text ? parse_value(text, units, to) : 0;

	if (status == -ERANGE)
		return error_set(e, -EINVAL, "option \"%s\": \"%.40s\" is too large", name, text);
	if (status)
		return error_set(e, -EINVAL, "option \"%s\": \"%.40s\" is not %s", name, text,
				 wanted);
	return 0;
}

int storage_options_size(const struct storage_options *o, const char *name, uint64_t *to,
			 struct error *e)
{
	return option_value(o, name, size_units, "a size (such as 4096, 64K, 10G)", to, e);
}

int storage_options_number(const struct storage_options *o, const char *name, uint64_t *to,
			   struct error *e)
{
	return option_value(o, name, no_units, "a whole number", to, e);
}

int storage_options_duration(const struct storage_options *o, const char *name, uint64_t *to_ns,
			     struct error *e)
{
	return option_value(o, name, duration_units, "a duration (such as 500us, 5ms, 2s)", to_ns,
			    e);
}

int storage_options_switch(const struct storage_options *o, const char *name, bool *to,
			   struct error *e)
{
	const char *text = storage_options_text(o, name);

	if (!text)
		return 0;
	if (strcmp(text, "on") && strcmp(text, "off"))
		return error_set(e, -EINVAL, "option \"%s\": \"%.40s\" is neither on nor off", name,
				 text);
	*to = !strcmp(text, "on");
	return 0;
}

int storage_options_block_size(const struct storage_options *o, uint32_t *to, struct error *e)
{
	uint64_t value = 512;
	int status = storage_options_size(o, "block-size", &value, e);

	if (status)
		return status;
	if (!is_power_of_two(value) || value < 512 || value > 65536)
		return error_set(
			e, -EINVAL,
			"option \"block-size\": %llu is not a power of two from 512 to 65536",
			(unsigned long long)value);
	*to = value;
	return 0;
}
