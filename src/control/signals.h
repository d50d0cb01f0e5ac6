/* signals.h - signals as calls on the control reactor.
 *
 * SIGTERM and SIGINT: once asks for an orderly end, twice ends the process at once.  SIGUSR1 and
 * SIGHUP ask for statistics and for a new look at the disks.  SIGPIPE and SIGXFSZ are ignored: the
 * call at fault fails. */
#ifndef CONTROL_SIGNALS_H
#define CONTROL_SIGNALS_H

struct error;
struct reactor;
struct signals;

/* number: SIGTERM (also for SIGINT), SIGUSR1 or SIGHUP.  Runs on the control reactor. */
typedef void signals_fn(void *arg, int number);

/* Before any other thread is started, since they inherit what is blocked.  Until
 * signals_attach(), while the process may wait for a disk and holds nothing that it would have to
 * clean up, SIGTERM and SIGINT end it with status 0 at once.  Main thread.  NULL with *e. */
struct signals *signals_start(struct error *e);
void signals_stop(struct signals *s); /* detached; NULL is ignored */

/* From now on signals become calls of fn; until the control reactor has stopped.  Control thread.
 */
void signals_attach(struct signals *s, struct reactor *control, signals_fn *fn, void *arg);
void signals_detach(struct signals *s);

/* Ends the process with status 1 and a message unless signals_stop() comes first, whatever any
 * other thread is stuck in.  Once.  Any thread. */
void signals_set_deadline(struct signals *s, unsigned seconds);

#endif
