/* uri.h - takes a URI apart.
 *
 *	filter+filter+scheme:rest?name=value&name=value
 *
 * Text in, text out: nothing is looked up or opened, so this is what a fuzzer feeds.
 */
#ifndef BASE_URI_H
#define BASE_URI_H

#include <stdbool.h>
#include <stdint.h>

struct error;

enum {
	URI_LENGTH = 4096, /* bytes, without the final zero */
	URI_OPTIONS = 64,
};

struct uri_option {
	const char *name;  /* as written */
	const char *value; /* percent-decoded */
};

/* Holds pointers into itself: not to be copied or moved. */
struct uri {
	const char *schemes; /* "limit+delay+nbd": what stands before the first ":" */
	const char *rest;    /* "//host/export": up to "?", as written */
	const char *path;    /* the same, percent-decoded */
	struct uri_option options[URI_OPTIONS];
	unsigned option_count;
	char text[URI_LENGTH + 1];      /* private */
	char path_text[URI_LENGTH + 1]; /* private */
};

/* Fills in *u from text.  0, -ENAMETOOLONG, or -EINVAL with the reason in *e: no scheme, a
 * malformed or NUL percent sequence, an option without a name or a value, one that comes twice,
 * too many.  Any thread. */
int uri_parse(struct uri *u, const char *text, struct error *e);

/* The value of an option, or NULL. */
const char *uri_value(const struct uri *u, const char *name);

/* Store a parsed value, or leave *to alone when the option is absent.  Size takes K, M, G, T
 * (powers of 1024), duration takes ns, us, ms, s; a switch is "on" or "off".  0, or -EINVAL with
 * the option's name in *e. */
int uri_size(const struct uri *u, const char *name, uint64_t *to, struct error *e);
int uri_number(const struct uri *u, const char *name, uint64_t *to, struct error *e);
int uri_duration(const struct uri *u, const char *name, uint64_t *to_ns, struct error *e);
int uri_switch(const struct uri *u, const char *name, bool *to, struct error *e);

/* Percent, as in "0.5", with at most six digits after the point, to a part of URI_CERTAIN; as for
 * the rest.  A "%" behind it, which a URI has to write "%25", is let pass. */
enum { URI_CERTAIN = 100 * 1000 * 1000 };
int uri_percent(const struct uri *u, const char *name, uint32_t *to, struct error *e);

#endif
