/* reactor_virtual.h - several reactors in one thread, under a seeded, simulated schedule.
 *
 * A world holds virtual reactors that stand for threads.  Each step picks one that has something
 * to do, by the world's seed, and runs one turn of it; when none has, simulated time jumps to the
 * next timer.  Posted tasks arrive in order, but when they arrive is the seed's choice.  The same
 * seed gives the same run.  File operations are carried out at once and complete after a
 * simulated, random delay.  Watches look at their real descriptors with poll(2), at random and
 * always before time jumps.  A poller's window is the seed's choice at each turn: it may come to
 * rest at its first vain poll.  A turn takes up to a simulated microsecond.
 *
 * From the first step on only the reactor that runs, or was entered, is at home.
 */
#ifndef REACTOR_REACTOR_VIRTUAL_H
#define REACTOR_REACTOR_VIRTUAL_H

#include <stdbool.h>
#include <stdint.h>

struct reactor;
struct reactor_world;

struct reactor_world *reactor_world_create(uint64_t seed);
void reactor_world_free(struct reactor_world *w);	/* after its reactors */

/* As reactor_create(); aborts when out of memory (it serves tests only). */
struct reactor *reactor_virtual_create(struct reactor_world *w, const char *name);

/* One turn of one reactor, after a jump in time if none has anything to do now.  False: nothing
 * can ever happen any more, but for what others do to watched descriptors.  reactor_run() of a
 * virtual reactor takes steps until it is stopped or this returns false. */
bool reactor_world_step(struct reactor_world *w);
uint64_t reactor_world_now(const struct reactor_world *w);	/* nanoseconds */
uint64_t reactor_world_random(struct reactor_world *w);

/* Makes r the home reactor, as if its thread had called what follows (to start something, or to
 * take down what was registered); NULL: none. */
void reactor_world_enter(struct reactor_world *w, struct reactor *r);

#endif
