/* log.h - what an operator should read, one line each, on standard error.
 *
 * Log where an error ends, not where it passes.  What a guest or a peer can cause at will is
 * logged through a struct log_limit, so that it cannot fill a disk.  Any thread.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Set once by main before any thread starts; LOG_LEVEL_INFO until then. */
void log_set_level(enum log_level level);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Allows the first `burst` lines of one kind.  Embedded in the object that logs, zeroed. */
struct log_limit {
	unsigned used;
};

/* True while the caller may still log; the last permitted line should say that it is the last:
 * log_limit_take() returns false from the line after `burst` on. */
bool log_limit_take(struct log_limit *limit, unsigned burst);

#endif
