/* command_line.h - "--queues 4", "--queues=4" and "--read-only", by the option table. */
#ifndef CONTROL_COMMAND_LINE_H
#define CONTROL_COMMAND_LINE_H

struct error;
struct program_option;
struct program_settings;

/* Stores the options of one command (place: OPTION_BLK or OPTION_SERVE) in s; those of a device go
 * to s->devices[0], which exists for OPTION_BLK.  A later option overrides an earlier one.
 * *action: the first option that is an action, or NULL; what follows it is not read.
 * 0, -ENOMEM, or -EINVAL with "--queues 0: must be 1..64" in *e. */
int command_line_parse(int count, char *const *arguments, unsigned place,
		       struct program_settings *s, const struct program_option **action,
		       struct error *e);

#endif
