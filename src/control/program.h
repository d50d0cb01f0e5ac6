/* program.h - the life of the process: threads, devices, signals, an orderly end. */
#ifndef CONTROL_PROGRAM_H
#define CONTROL_PROGRAM_H

struct program_settings;

/* Serves the devices until SIGTERM or SIGINT.  settings: complete, borrowed.  Returns the exit
 * status; errors have been logged. */
int program_run(const struct program_settings *settings);

#endif
