/* reactor_mailbox.h - tasks on their way from any thread to one, in posting order, without a lock.
 *
 * Posters push onto a stack; the reader takes the whole stack at once and turns it round.  As no
 * single element is ever popped, an address that comes back (ABA) does no harm.
 */
#ifndef REACTOR_REACTOR_MAILBOX_H
#define REACTOR_REACTOR_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "reactor/reactor.h"

struct reactor_mailbox {
	struct reactor_task *newest;
};

/* Any thread or signal handler.  Sequentially consistent, see reactor_post(). */
static inline void reactor_mailbox_push(struct reactor_mailbox *m, struct reactor_task *t)
{
	t->next = __atomic_load_n(&m->newest, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&m->newest, &t->next, t, true, __ATOMIC_SEQ_CST,
					    __ATOMIC_RELAXED))
		;
}

/* The reader's thread, as is all below.  Sequentially consistent, see may_sleep(). */
static inline bool reactor_mailbox_is_empty(const struct reactor_mailbox *m)
{
	return !__atomic_load_n(&m->newest, __ATOMIC_SEQ_CST);
}

/* Everything posted so far, oldest first. */
static inline struct reactor_task *reactor_mailbox_take(struct reactor_mailbox *m)
{
	struct reactor_task *t = __atomic_exchange_n(&m->newest, NULL, __ATOMIC_ACQUIRE);
	struct reactor_task *oldest = NULL;

	while (t) {
		struct reactor_task *older = t->next;

		t->next = oldest;
		oldest = t;
		t = older;
	}
	return oldest;
}

#endif
