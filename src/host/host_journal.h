/* host_journal.h - what a connection says to the operator: "NAME: TRANSPORT: text".
 *
 * A peer can cause these lines at will, so a bounded number a minute is written.  Control thread.
 */
#ifndef HOST_HOST_JOURNAL_H
#define HOST_HOST_JOURNAL_H

#include <stdarg.h>
#include <stdint.h>

#include "base/log.h"

struct reactor;

struct host_journal {		/* embedded; the first three are set by its owner */
	const char *device;	/* borrowed: "vda" */
	const char *transport;	/* static: "vhost-user" */
	struct reactor *control;	/* borrowed */
	struct log_limit limit;		/* private */
	uint64_t since_ns;		/* private */
};

void host_journal_warn(struct host_journal *j, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void host_journal_warn_arguments(struct host_journal *j, const char *format, va_list arguments)
	__attribute__((format(printf, 2, 0)));
void host_journal_tell(struct host_journal *j, const char *text);

#endif
