/* nbd_connector.c - one detached thread per attempt; attempts are rare and bounded in time.
 *
 * Two hold a job: the thread until its end, and the home side until the posted task ran or, when
 * nothing was posted, until it abandons the job.
 */
#include "storage/nbd_connector.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "reactor/reactor.h"
#include "storage/nbd_disk.h"

struct nbd_connect_job {
	struct nbd_disk *disk; /* held */
	enum nbd_purpose purpose;
	struct reactor *home;
	nbd_connected_fn *fn;
	void *arg;
	int cancel_fd;       /* owned: an eventfd */
	unsigned references; /* atomic */
	struct reactor_task task;
	int status;
	struct nbd_session session; /* owned until fn has taken it */
	struct error error;
	pthread_mutex_t lock;
	bool posted, abandoned; /* under lock */
};

static void job_release(struct nbd_connect_job *job)
{
	if (__atomic_sub_fetch(&job->references, 1, __ATOMIC_ACQ_REL))
		return;
	nbd_session_close(&job->session);
	nbd_disk_release(job->disk);
	pthread_mutex_destroy(&job->lock);
	fd_close(&job->cancel_fd);
	free(job);
}

static void deliver(void *arg)
{
	struct nbd_connect_job *job = arg;

	if (!job->abandoned) {
		job->fn(job->arg, job->status, &job->session, &job->error);
		job->session = (struct nbd_session){ .fd = -1 };
	}
	job_release(job);
}

/* Posting under the lock: an abandoned job's home may be gone. */
static void *run(void *arg)
{
	struct nbd_connect_job *job = arg;

	job->status = nbd_handshake(&job->disk->target, job->purpose, job->cancel_fd, &job->session,
				    &job->error);
	pthread_mutex_lock(&job->lock);
	job->posted = !job->abandoned;
	if (job->posted)
		reactor_post(job->home, &job->task);
	pthread_mutex_unlock(&job->lock);
	job_release(job);
	return NULL;
}

/* Signals belong to the threads that know them. */
static int start_thread(struct nbd_connect_job *job)
{
	sigset_t all, old;
	pthread_attr_t attributes;
	pthread_t thread;
	int status;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	status = pthread_create(&thread, &attributes, run, job);
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -status;
}

struct nbd_connect_job *nbd_connector_start(struct nbd_disk *d, enum nbd_purpose purpose,
					    struct reactor *home, nbd_connected_fn *fn, void *arg,
					    struct error *e)
{
	struct nbd_connect_job *job = calloc(1, sizeof(*job));
	int status;

	if (!job) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	*job = (struct nbd_connect_job){
		.disk = d,
		.purpose = purpose,
		.home = home,
		.fn = fn,
		.arg = arg,
		.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		.references = 2,
		.task = { .fn = deliver, .arg = job },
		.session = { .fd = -1 },
	};
	nbd_disk_hold(d);
	pthread_mutex_init(&job->lock, NULL);
	status = job->cancel_fd < 0 ? -errno : start_thread(job);
	if (!status)
		return job;
	error_set(e, status, "connect: no helper thread: %s", strerror(-status));
	job->references = 1;
	job_release(job);
	return NULL;
}

void nbd_connector_abandon(struct nbd_connect_job *job)
{
	uint64_t one = 1;
	bool posted;

	if (!job)
		return;
	pthread_mutex_lock(&job->lock);
	job->abandoned = true;
	posted = job->posted;
	pthread_mutex_unlock(&job->lock);
	(void)!write(job->cancel_fd, &one, sizeof(one));
	if (!posted)
		job_release(job);
}
