/* storage_options.h - what a layer's open() may ask about its URI (see storage_provider.h). */
#ifndef STORAGE_STORAGE_OPTIONS_H
#define STORAGE_STORAGE_OPTIONS_H

#include <stdbool.h>

struct uri;

struct storage_options {
	const struct uri *uri; /* borrowed, like the rest */
	const char *original;
	const char *scheme;
	bool read_only;
};

#endif
