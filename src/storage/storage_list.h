/* storage_list.h - which providers and filters there are. */
#ifndef STORAGE_STORAGE_LIST_H
#define STORAGE_STORAGE_LIST_H

#include "storage/storage_provider.h"

struct storage_uri;

enum { STORAGE_FILTERS_MAX = 16 };

/* What the schemes of a URI stand for. */
struct storage_stack {
	const struct storage_provider *filters[STORAGE_FILTERS_MAX]; /* outermost first */
	unsigned filter_count;
	const struct storage_provider *provider;
	const char *scheme; /* "nbd+unix": the provider's, points into the text resolved */
};

/* "limit+nbd+unix" -> filter limit, provider nbd: filters are taken from the front until a
 * provider names all that remains.  0, or -EINVAL with the unknown name and the known ones. */
int storage_list_resolve(struct storage_stack *stack, const char *schemes, struct error *e);

/* 0 when every name in options[] stands in the help of one of the stack's members, or -EINVAL
 * with the first that does not and those that do. */
int storage_list_check_options(const struct storage_stack *stack, const struct storage_uri *uri,
			       struct error *e);

extern const struct storage_provider storage_null, storage_memory, storage_file, storage_nbd;
extern const struct storage_provider storage_delay, storage_fault, storage_limit, storage_log;
extern const struct storage_provider storage_split;

#endif
