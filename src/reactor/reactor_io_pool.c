/* reactor_io_pool.c - a few threads that carry out file operations and post them home. */
#include "reactor/reactor_io_pool.h"

#include <pthread.h>
#include <stdlib.h>

#include "reactor/reactor_loop.h"

#define THREADS_MAX 4

struct io_queue {
	struct reactor_io *first, **end;
};

struct reactor_io_pool {
	struct reactor *reactor;     /* borrowed */
	struct reactor_task collect; /* posted when `done` ceases to be empty */
	pthread_t threads[THREADS_MAX];
	unsigned count; /* of them; home thread only */

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t submitted;
	struct io_queue waiting, done;
	unsigned idle;    /* threads that wait for work */
	unsigned backlog; /* operations in `waiting` */
	bool stopping;
};

static void queue_init(struct io_queue *q)
{
	q->first = NULL;
	q->end = &q->first;
}

static void queue_put(struct io_queue *q, struct reactor_io *io)
{
	io->next = NULL;
	*q->end = io;
	q->end = &io->next;
}

static struct reactor_io *queue_take(struct io_queue *q)
{
	struct reactor_io *io = q->first;

	q->first = io->next;
	if (!q->first)
		q->end = &q->first;
	return io;
}

/* NULL: the pool is stopping. */
static struct reactor_io *wait_for_work(struct reactor_io_pool *p)
{
	struct reactor_io *io = NULL;

	pthread_mutex_lock(&p->lock);
	p->idle++;
	while (!p->waiting.first && !p->stopping)
		pthread_cond_wait(&p->submitted, &p->lock);
	p->idle--;
	if (p->waiting.first) {
		io = queue_take(&p->waiting);
		p->backlog--;
	}
	pthread_mutex_unlock(&p->lock);
	return io;
}

/* The task is never posted twice: it takes the whole list, and only then may the list be found
 * empty again. */
static void finish(struct reactor_io_pool *p, struct reactor_io *io)
{
	bool first;

	pthread_mutex_lock(&p->lock);
	first = !p->done.first;
	queue_put(&p->done, io);
	pthread_mutex_unlock(&p->lock);
	if (first)
		reactor_post(p->reactor, &p->collect);
}

static void collect(void *arg)
{
	struct reactor_io_pool *p = arg;
	struct reactor_io *io;

	pthread_mutex_lock(&p->lock);
	io = p->done.first;
	queue_init(&p->done);
	pthread_mutex_unlock(&p->lock);
	while (io) {
		struct reactor_io *next = io->next;

		reactor_io_complete(p->reactor, io, io->result);
		io = next;
	}
}

static void *thread_main(void *arg)
{
	struct reactor_io_pool *p = arg;
	struct reactor_io *io;

	while ((io = wait_for_work(p))) {
		io->result = reactor_io_perform(io);
		finish(p, io);
	}
	return NULL;
}

/* If no thread can be had, those there are do, or in the worst case this one. */
static void start_thread(struct reactor_io_pool *p)
{
	sigset_t before;

	reactor_block_signals(&before);
	if (!pthread_create(&p->threads[p->count], NULL, thread_main, p))
		p->count++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

struct reactor_io_pool *reactor_io_pool_create(struct reactor *r)
{
	struct reactor_io_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->reactor = r;
	p->collect = (struct reactor_task){ .fn = collect, .arg = p };
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->submitted, NULL);
	queue_init(&p->waiting);
	queue_init(&p->done);
	return p;
}

void reactor_io_pool_free(struct reactor_io_pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_broadcast(&p->submitted);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->count; i++)
		pthread_join(p->threads[i], NULL);
	pthread_cond_destroy(&p->submitted);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void reactor_io_pool_submit(struct reactor_io_pool *p, struct reactor_io *io)
{
	bool busy;

	pthread_mutex_lock(&p->lock);
	busy = p->backlog >= p->idle;
	pthread_mutex_unlock(&p->lock);
	if (busy && p->count < THREADS_MAX)
		start_thread(p);
	if (!p->count) {
		io->result = reactor_io_perform(io);
		finish(p, io);
		return;
	}
	pthread_mutex_lock(&p->lock);
	queue_put(&p->waiting, io);
	p->backlog++;
	pthread_cond_signal(&p->submitted);
	pthread_mutex_unlock(&p->lock);
}
