/* uri_scheme.h - what the schemes of a URI stand for: filters, then one provider.
 *
 * A room that opens URIs (storage/, network/) has a table of what it offers.  What it can do with
 * an entry is its own affair: the entry's struct uri_scheme is part of a struct of the room's.
 */
#ifndef BASE_URI_SCHEME_H
#define BASE_URI_SCHEME_H

#include <stdbool.h>
#include <stdio.h>

struct error;
struct uri;

enum { URI_FILTERS_MAX = 16 };

struct uri_scheme {
	/* What stands before ":" (or "+" for a filter).  A provider may have several names, with
	 * spaces between, and a "+" in them: "nbd nbds nbd+unix". */
	const char *scheme;
	const char *summary;	/* one line */
	/* "option=VALUE   what it does\n...", may be "".  An option that does not stand here is
	 * unknown: a URI that has it is refused before anything is opened. */
	const char *help;
	bool is_filter;
};

struct uri_scheme_table {
	const struct uri_scheme *const *entries;
	unsigned count;
};

struct uri_stack {
	const struct uri_scheme *filters[URI_FILTERS_MAX];	/* outermost first */
	unsigned filter_count;
	const struct uri_scheme *provider;
	const char *scheme;	/* "nbd+unix": the provider's, points into the text resolved */
};

/* "limit+nbd+unix" -> filter limit, provider nbd: filters are taken from the front until a
 * provider names all that remains.  0, or -EINVAL with the unknown name and the known ones. */
int uri_scheme_resolve(const struct uri_scheme_table *table, struct uri_stack *stack,
		       const char *schemes, struct error *e);

/* 0 when every name in uri's options stands in the help of one of the stack's members, or -EINVAL
 * with the first that does not and those that do. */
int uri_scheme_check_options(const struct uri_stack *stack, const struct uri *uri, struct error *e);

/* "scheme:  what it is\n    option=...  help\n" for each entry. */
void uri_scheme_print_help(const struct uri_scheme_table *table, FILE *to);

#endif
