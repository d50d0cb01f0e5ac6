/* fuzz_storage_uri.c - a disk URI, taken apart and looked up, but not opened. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "storage/storage_list.h"
#include "storage/storage_uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	char *text = malloc(n + 1);
	struct storage_stack stack;
	struct storage_uri uri;
	struct error e = { 0 };

	if (!text)
		abort();
	memcpy(text, bytes, n);
	text[n] = 0;
	if (!storage_uri_parse(&uri, text, &e) && !storage_list_resolve(&stack, uri.schemes, &e))
		storage_list_check_options(&stack, &uri, &e);
	free(text);
	return 0;
}
