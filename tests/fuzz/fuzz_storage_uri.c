/* fuzz_uri.c - a disk URI, taken apart and looked up, but not opened. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/uri.h"
#include "fuzz.h"
#include "storage/storage_list.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	char *text = malloc(n + 1);
	struct uri_stack stack;
	struct uri uri;
	struct error e = { 0 };

	if (!text)
		abort();
	memcpy(text, bytes, n);
	text[n] = 0;
	if (!uri_parse(&uri, text, &e) && !storage_list_resolve(&stack, uri.schemes, &e))
		uri_scheme_check_options(&stack, &uri, &e);
	free(text);
	return 0;
}
