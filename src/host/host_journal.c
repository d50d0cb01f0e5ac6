/* host_journal.c - what a connection says to the operator. */
#include "host/host_journal.h"

#include <stdio.h>

#include "reactor/reactor.h"

enum { LINES_PER_MINUTE = 60 };

#define PERIOD_NS (60 * UINT64_C(1000000000))

static bool may_log(struct host_journal *j)
{
	uint64_t now = reactor_now(j->control);

	if (now - j->since_ns >= PERIOD_NS) {
		j->since_ns = now;
		j->limit.used = 0;
	}
	return log_limit_take(&j->limit, LINES_PER_MINUTE);
}

static const char *last_words(const struct host_journal *j)
{
	return j->limit.used == LINES_PER_MINUTE ? " (no more of this for a minute)" : "";
}

void host_journal_warn_arguments(struct host_journal *j, const char *format, va_list arguments)
{
	char text[320];

	if (!may_log(j))
		return;
	vsnprintf(text, sizeof(text), format, arguments);
	log_warning("%s: %s: %s%s", j->device, j->transport, text, last_words(j));
}

void host_journal_warn(struct host_journal *j, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	host_journal_warn_arguments(j, format, arguments);
	va_end(arguments);
}

void host_journal_tell(struct host_journal *j, const char *text)
{
	if (may_log(j))
		log_info("%s: %s: %s%s", j->device, j->transport, text, last_words(j));
}
