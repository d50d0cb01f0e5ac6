/* uri_values.c - the values in a URI's query, parsed. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uri.h"

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
	for (const struct unit *unit = units; unit->name; unit++) {
		if (strcmp(end, unit->name))
			continue;
		if (__builtin_mul_overflow(value, unit->factor, &value))
			return -ERANGE;
		*to = value;
		return 0;
	}
	return -EINVAL;
}

static int option_value(const struct uri *u, const char *name, const struct unit *units,
			const char *wanted, uint64_t *to, struct error *e)
{
	const char *text = uri_value(u, name);
	int status = text ? parse_value(text, units, to) : 0;

	if (status == -ERANGE)
		return error_set(e, -EINVAL, "option \"%s\": \"%.40s\" is too large", name, text);
	if (status)
		return error_set(e, -EINVAL, "option \"%s\": \"%.40s\" is not %s", name, text,
				 wanted);
	return 0;
}

int uri_size(const struct uri *u, const char *name, uint64_t *to, struct error *e)
{
	return option_value(u, name, size_units, "a size (such as 4096, 64K, 10G)", to, e);
}

int uri_number(const struct uri *u, const char *name, uint64_t *to, struct error *e)
{
	return option_value(u, name, no_units, "a whole number", to, e);
}

int uri_duration(const struct uri *u, const char *name, uint64_t *to_ns, struct error *e)
{
	return option_value(u, name, duration_units, "a duration (such as 500us, 5ms, 2s)", to_ns,
			    e);
}

int uri_switch(const struct uri *u, const char *name, bool *to, struct error *e)
{
	const char *text = uri_value(u, name);

	if (!text)
		return 0;
	if (strcmp(text, "on") && strcmp(text, "off"))
		return error_set(e, -EINVAL, "option \"%s\": \"%.40s\" is neither on nor off", name,
				 text);
	*to = !strcmp(text, "on");
	return 0;
}

/* In parts of URI_CERTAIN; -1: malformed. */
static int64_t parse_percent(const char *text)
{
	int64_t value = 0;
	unsigned digits = 0, fraction = 0;
	bool point = false;

	for (; (*text >= '0' && *text <= '9') || (*text == '.' && !point); text++) {
		if (*text == '.') {
			point = true;
			continue;
		}
		if (++digits > 9)
			return -1;
		fraction += point;
		value = value * 10 + (*text - '0');
	}
	if (!digits || fraction > 6 || strcmp(text + (*text == '%'), ""))
		return -1;
	for (; fraction < 6; fraction++)
		value *= 10;
	return value <= URI_CERTAIN ? value : -1;
}

int uri_percent(const struct uri *u, const char *name, uint32_t *to, struct error *e)
{
	const char *text = uri_value(u, name);
	int64_t value = text ? parse_percent(text) : *to;

	if (value < 0)
		return error_set(e, -EINVAL,
				 "option \"%s\": \"%.40s\" is not a percentage (such as 0.5)", name,
				 text);
	*to = value;
	return 0;
}
