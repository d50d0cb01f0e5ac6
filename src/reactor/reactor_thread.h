/* reactor_thread.h - a thread that runs one reactor. */
#ifndef REACTOR_REACTOR_THREAD_H
#define REACTOR_REACTOR_THREAD_H

struct error;
struct reactor;
struct reactor_options;
struct reactor_thread;

/* Creates the reactor and its thread, which runs until reactor_thread_stop().  NULL with *e. */
struct reactor_thread *reactor_thread_start(const struct reactor_options *options, struct error *e);
struct reactor *reactor_thread_reactor(struct reactor_thread *t);

/* Stops the loop, joins the thread, frees the reactor.  NULL is ignored. */
void reactor_thread_stop(struct reactor_thread *t);

/* CPU time the thread has used so far, nanoseconds. */
unsigned long long reactor_thread_cpu_ns(const struct reactor_thread *t);

#endif
