/* reactor_signals.c - which signals the room's threads leave to the thread that started them. */
#include <signal.h>

#include "reactor/reactor_loop.h"

/* All but those that a thread's own instructions cause: blocked, they would kill the process,
 * and a SIGBUS from a shrunken memory file must reach its handler. */
void reactor_block_signals(sigset_t *before)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGBUS);
	sigdelset(&set, SIGSEGV);
	sigdelset(&set, SIGFPE);
	sigdelset(&set, SIGILL);
	sigdelset(&set, SIGTRAP);
	sigdelset(&set, SIGABRT);
	pthread_sigmask(SIG_BLOCK, &set, before);
}
