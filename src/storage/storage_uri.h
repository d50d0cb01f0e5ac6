/* storage_uri.h - takes a storage URI apart.
 *
 *	filter+filter+scheme:rest?name=value&name=value
 *
 * Text in, text out: nothing is looked up or opened, so this is what a fuzzer feeds.
 */
#ifndef STORAGE_STORAGE_URI_H
#define STORAGE_STORAGE_URI_H

struct error;

enum {
	STORAGE_URI_LENGTH = 4096, /* bytes, without the final zero */
	STORAGE_URI_OPTIONS = 64,
};

struct storage_uri_option {
	const char *name;  /* as written */
	const char *value; /* percent-decoded */
};

/* Holds pointers into itself: not to be copied or moved. */
struct storage_uri {
	const char *schemes; /* "limit+delay+nbd": what stands before the first ":" */
	const char *rest;    /* "//host/export": up to "?", as written */
	const char *path;    /* the same, percent-decoded */
	struct storage_uri_option options[STORAGE_URI_OPTIONS];
	unsigned option_count;
	char text[STORAGE_URI_LENGTH + 1];      /* private */
	char path_text[STORAGE_URI_LENGTH + 1]; /* private */
};

/* Fills in *u from text.  0, -ENAMETOOLONG, or -EINVAL with the reason in *e: no scheme, a
 * malformed or NUL percent sequence, an option without a name or a value, one that comes twice,
 * too many.  Any thread. */
int storage_uri_parse(struct storage_uri *u, const char *text, struct error *e);

/* The value of an option, or NULL. */
const char *storage_uri_value(const struct storage_uri *u, const char *name);

#endif
