/* config_file.h - "outboard serve --config FILE": the program's settings as JSON. */
#ifndef CONTROL_CONFIG_FILE_H
#define CONTROL_CONFIG_FILE_H

struct error;
struct program_settings;

/* Reads the file into settings that are at their defaults.  0, or -errno with
 * "FILE:LINE:COLUMN: devices[1]: queues 0: must be 1..64" in *e. */
int config_file_read(const char *path, struct program_settings *s, struct error *e);

/* The same from a text in memory; path: what errors call it. */
int config_file_parse(const char *path, const char *text, struct program_settings *s,
		      struct error *e);

#endif
