/* storage_list.h - which providers and filters there are. */
#ifndef STORAGE_STORAGE_LIST_H
#define STORAGE_STORAGE_LIST_H

#include "base/bytes.h"
#include "storage/storage_provider.h"

/* uri_scheme_resolve() with the disks' schemes. */
int storage_list_resolve(struct uri_stack *stack, const char *schemes, struct error *e);

static inline const struct storage_provider *storage_provider_of(const struct uri_scheme *about)
{
	return CONTAINER_OF(about, struct storage_provider, about);
}

extern const struct storage_provider storage_null, storage_memory, storage_file, storage_nbd;
extern const struct storage_provider storage_delay, storage_fault, storage_limit, storage_log;
extern const struct storage_provider storage_split;

#endif
