/* fuzz_config.c - the configuration file: every error has a place. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "control/config_file.h"
#include "control/settings.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	char *text = malloc(n + 1);
	struct program_settings s;
	struct error e = { 0 };

	if (!text || settings_init(&s))
		abort();
	memcpy(text, bytes, n);
	text[n] = 0;
	if (config_file_parse("f", text, &s, &e))
		assert(e.code < 0 && !strncmp(e.text, "f:", 2));
	settings_free(&s);
	free(text);
	return 0;
}
