/* storage_options.c - the values in a URI's query, parsed. */
#include "storage/storage_options.h"

#include <errno.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uri.h"
#include "storage/storage_provider.h"

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
	return uri_value(o->uri, name);
}

int storage_options_size(const struct storage_options *o, const char *name, uint64_t *to,
			 struct error *e)
{
	return uri_size(o->uri, name, to, e);
}

int storage_options_number(const struct storage_options *o, const char *name, uint64_t *to,
			   struct error *e)
{
	return uri_number(o->uri, name, to, e);
}

int storage_options_duration(const struct storage_options *o, const char *name, uint64_t *to,
			     struct error *e)
{
	return uri_duration(o->uri, name, to, e);
}

int storage_options_percent(const struct storage_options *o, const char *name, uint32_t *to,
			    struct error *e)
{
	return uri_percent(o->uri, name, to, e);
}

int storage_options_switch(const struct storage_options *o, const char *name, bool *to,
			   struct error *e)
{
	return uri_switch(o->uri, name, to, e);
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
