/* config_position.c - where in a JSON text something stands.
 *
 * The text has been parsed before, so this walk trusts its grammar (RFC 8259) and only has to keep
 * strings and brackets apart; it stops at the final zero byte whatever the text is. */
#include "control/config_position.h"

#include <jansson.h>
#include <stdbool.h>
#include <string.h>

static const char *skip_blank(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* at: the opening quote.  Returns what follows the closing one. */
static const char *skip_string(const char *at)
{
	for (at++; *at && *at != '"'; at++)
		if (*at == '\\' && at[1])
			at++;
	return *at ? at + 1 : at;
}

/* An object or a list ends with its own closing bracket; anything else before what separates. */
static const char *skip_value(const char *at)
{
	unsigned depth = 0;

	for (; *at; at++) {
		if (*at == '"') {
			at = skip_string(at) - 1;
		} else if (*at == '{' || *at == '[') {
			depth++;
		} else if (!depth && strchr(",}] \t\r\n", *at)) {
			break;
		} else if (*at == '}' || *at == ']') {
			depth--;
		}
		if (!depth && strchr("\"}]", *at))
			return at + 1;
	}
	return at;
}

/* Escapes may hide a key ("disk" is also "d\u0069sk"): the library decodes it. */
static bool is_key(const char *from, const char *to, const char *key)
{
	json_t *decoded = json_loadb(from, to - from, JSON_DECODE_ANY, NULL);
	const char *text = json_string_value(decoded);
	bool same = text && !strcmp(text, key);

	json_decref(decoded);
	return same;
}

static const char *after_comma(const char *at)
{
	at = skip_blank(at);
	return skip_blank(*at == ',' ? at + 1 : at);
}

/* at: the opening brace.  Returns the key, with its value in *value; NULL: there is none. */
static const char *find_member(const char *at, const char *key, const char **value)
{
	const char *end;

	for (at = skip_blank(at + 1); *at == '"'; at = after_comma(skip_value(*value))) {
		end = skip_string(at);
		*value = skip_blank(end);
		*value = skip_blank(*value + (**value == ':'));
		if (is_key(at, end, key))
			return at;
	}
	return NULL;
}

/* at: the opening bracket. */
static const char *find_element(const char *at, unsigned index)
{
	for (at = skip_blank(at + 1); *at && *at != ']'; at = after_comma(skip_value(at)))
		if (!index--)
			return at;
	return NULL;
}

/* Takes one step from *value; returns the key, or the element itself. */
static const char *take_step(const struct config_step *step, const char **value)
{
	const char *key;

	if (step->key)
		return **value == '{' ? find_member(*value, step->key, value) : NULL;
	key = **value == '[' ? find_element(*value, step->index) : NULL;
	*value = key ? key : *value;
	return key;
}

static struct config_position position_of(const char *text, const char *at)
{
	struct config_position p = { 1, 1 };

	for (; text < at; text++) {
		if (*text == '\n') {
			p.line++;
			p.column = 1;
		} else if ((*text & 0xc0) != 0x80) {
			p.column++; /* a byte of UTF-8 that begins a character */
		}
	}
	return p;
}

struct config_position config_position_find(const char *text, const struct config_step *steps,
					    unsigned count, enum config_target target)
{
	const char *value = skip_blank(text), *key = value, *next, *inner;

	for (unsigned i = 0; i < count; i++) {
		inner = value;
		next = take_step(&steps[i], &inner);
		if (!next)
			break;
		key = next;
		value = inner;
	}
	return position_of(text, target == CONFIG_KEY ? key : value);
}
