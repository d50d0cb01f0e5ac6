/* replay.c - runs a fuzz target on the files of a directory, once each: what was found before stays
 * found, with any compiler. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "fuzz.h"

enum { INPUT_MAX = 1 << 20 }; /* bytes */

static void replay(const char *path)
{
	static uint8_t buffer[INPUT_MAX];
	FILE *file = fopen(path, "rb");
	uint8_t *exact;
	size_t n;

	if (!file) {
		perror(path);
		exit(1);
	}
	n = fread(buffer, 1, sizeof(buffer), file);
	fclose(file);
	exact = malloc(n ? n : 1); /* so that a sanitizer sees its end */
	if (!exact)
		abort();
	for (size_t i = 0; i < n; i++)
		exact[i] = buffer[i];
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
}

int main(int argc, char **argv)
{
	struct dirent *entry;
	char path[4096];
	unsigned count = 0;
	DIR *directory = argc == 2 ? opendir(argv[1]) : NULL;

	if (!directory) {
		fprintf(stderr, "Usage: replay_TARGET DIRECTORY\n");
		return 2;
	}
	log_set_level(LOG_LEVEL_ERROR);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
		replay(path);
		count++;
	}
	closedir(directory);
	printf("%u inputs\n", count);
	return !count;
}
