/* command.h - what stands on the command line, carried out. */
#ifndef CONTROL_COMMAND_H
#define CONTROL_COMMAND_H

/* Returns the exit status: 0, 1 if the work failed, 2 if the command line is wrong. */
int command_run(int count, char *const *arguments);

#endif
