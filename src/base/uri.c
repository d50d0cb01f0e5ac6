/* uri.c - takes a URI apart (RFC 3986 as far as disks and ports need it). */
#include "base/uri.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The byte that "%xy" stands for; -1 when it is malformed, or NUL, which no C string can hold. */
static int percent_byte(const char *at)
{
	int high = hex_digit(at[1]);
	int low = high < 0 ? -1 : hex_digit(at[2]);

	if (low < 0 || high * 16 + low == 0)
		return -1;
	return high * 16 + low;
}

/* Decodes in place: the result is never longer. */
static int percent_decode(char *text, struct error *e)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		int byte = *from == '%' ? percent_byte(from) : *from;

		if (*from == '%' && byte < 0)
			return error_set(e, -EINVAL,
					 "\"%.3s\" is no byte: \"%%\" needs two hex digits, and a "
					 "plain \"%%\" is written \"%%25\"",
					 from);
		from += *from == '%' ? 3 : 1;
		*to = (char)byte;
	}
	*to = 0;
	return 0;
}

/* RFC 3986, 3.1, plus "_": what a chain of filters and a scheme may consist of. */
static bool is_scheme_text(const char *text)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789+-._";

	return *text && text[strspn(text, allowed)] == 0;
}

/* Cuts "schemes:rest" at the first ":". */
static int parse_schemes(struct uri *u, struct error *e)
{
	char *colon = strchr(u->text, ':');

	if (!colon)
		return error_set(e, -EINVAL, "no \"scheme:\" in front%s",
				 strchr(u->text, '/') ? "; is it a \"file:/path\"?" : "");
	*colon = 0;
	u->schemes = u->text;
	u->rest = colon + 1;
	if (!is_scheme_text(u->schemes))
		return error_set(e, -EINVAL, "\"%.40s:\" is not a scheme", u->schemes);
	return 0;
}

static int parse_option(struct uri *u, char *text, struct error *e)
{
	char *equals = strchr(text, '=');
	int status;

	if (!equals)
		return error_set(e, -EINVAL, "option \"%.40s\" has no value", text);
	*equals = 0;
	if (!*text)
		return error_set(e, -EINVAL, "option without a name before \"=%.40s\"", equals + 1);
	if (uri_value(u, text))
		return error_set(e, -EINVAL, "option \"%.40s\" is given twice", text);
	if (u->option_count == URI_OPTIONS)
		return error_set(e, -EINVAL, "more than %d options", URI_OPTIONS);
	status = percent_decode(equals + 1, e);
	if (status)
		return error_wrap(e, "option \"%.40s\"", text);
	u->options[u->option_count++] = (struct uri_option){ text, equals + 1 };
	return 0;
}

/* "a=b&c=d"; empty parts, as in "a=b&", are let pass. */
static int parse_query(struct uri *u, char *query, struct error *e)
{
	char *part;

	while ((part = strsep(&query, "&"))) {
		int status = *part ? parse_option(u, part, e) : 0;

		if (status)
			return status;
	}
	return 0;
}

int uri_parse(struct uri *u, const char *text, struct error *e)
{
	size_t length = strnlen(text, URI_LENGTH + 1);
	char *query;
	int status;

	if (length > URI_LENGTH)
		return error_set(e, -ENAMETOOLONG, "longer than %d bytes", URI_LENGTH);
	memcpy(u->text, text, length + 1);
	u->option_count = 0;
	query = strchr(u->text, '?');
	if (query)
		*query++ = 0;
	status = parse_schemes(u, e);
	if (status)
		return status;
	strcpy(u->path_text, u->rest);
	u->path = u->path_text;
	status = percent_decode(u->path_text, e);
	return status ? status : parse_query(u, query, e);
}

const char *uri_value(const struct uri *u, const char *name)
{
	for (unsigned i = 0; i < u->option_count; i++)
		if (!strcmp(u->options[i].name, name))
			return u->options[i].value;
	return NULL;
}
