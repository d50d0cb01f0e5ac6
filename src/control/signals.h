/* signals.h - signals as calls on the control reactor.
 *
 * SIGTERM and SIGINT: once asks for an orderly end, twice ends the process at once.  SIGUSR1 and
 * SIGHUP ask for statistics and for a new look at the disks.  SIGPIPE is ignored. */
#ifndef CONTROL_SIGNALS_H
#define CONTROL_SIGNALS_H

struct error;
struct reactor;

/* number: SIGTERM (also for SIGINT), SIGUSR1 or SIGHUP.  Runs on the control reactor. */
typedef void signals_fn(void *arg, int number);

/* Installs the handlers.  Until signals_attach(), while the process may wait for a disk and holds
 * nothing that it would have to clean up, SIGTERM and SIGINT end it with status 0 at once.
 * Main thread, once.  0 or -errno. */
int signals_install(struct error *e);

/* From now on signals become calls of fn.  Control thread. */
int signals_attach(struct reactor *control, signals_fn *fn, void *arg, struct error *e);
void signals_detach(void);

/* Ends the process with status 1 and a message unless it has ended by itself in time; for
 * whatever may hang.  seconds: 0 calls it off. */
void signals_set_deadline(unsigned seconds);

#endif
