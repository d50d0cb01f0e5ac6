/* log.c - what an operator should read, one line each, on standard error. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* File-scope: the level is set once in main, before threads start. */
static enum log_level threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	threshold = level;
}

static void log_line(enum log_level level, const char *format, va_list args)
	__attribute__((format(printf, 2, 0)));

/* One write per line, so that lines of several threads never mix. */
static void log_line(enum log_level level, const char *format, va_list args)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char line[1024];
	int head, body;
	size_t n;

	if (level > threshold)
		return;
	head = snprintf(line, sizeof(line), "outboard: %s: ", names[level]);
	body = vsnprintf(line + head, sizeof(line) - head - 1, format, args);
	n = head + (body > 0 ? body : 0);
	if (n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		return; /* nowhere left to say so */
}

void log_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line(LOG_LEVEL_ERROR, format, args);
	va_end(args);
}

void log_warning(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line(LOG_LEVEL_WARNING, format, args);
	va_end(args);
}

void log_info(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line(LOG_LEVEL_INFO, format, args);
	va_end(args);
}

void log_debug(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line(LOG_LEVEL_DEBUG, format, args);
	va_end(args);
}

bool log_limit_take(struct log_limit *limit, unsigned burst)
{
	if (limit->used >= burst)
		return false;
	limit->used++;
	return true;
}
