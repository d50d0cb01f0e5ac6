/* guarded_mapping.c - shared memory of somebody who may take it away.
 *
 * Theory of operation.  SIGBUS is delivered to the thread that touched a missing page, so the
 * handler runs in the middle of any load or store, also of a library's memcpy().  It may use
 * async-signal-safe means only: it looks the address up in a table of atomic words and calls
 * mmap(MAP_FIXED), which the kernel carries out as a whole.  System calls that meet a missing
 * page (readv into guest memory) get EFAULT instead of a signal, and their callers an error.
 *
 * The table is file-scope because a signal handler has no argument.  It holds all that the handler
 * needs: mappings of other threads come and go while it runs, so it follows no pointer.  A place
 * counts while its length is not 0: open() stores the length last, close() clears it first.
 */
#include "link/guarded_mapping.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"

enum { PLACES_MAX = 16384 };

struct place {
	atomic_uintptr_t start;
	atomic_size_t length; /* bytes; 0: nothing here */
	atomic_bool lost;
	bool taken; /* under places_lock */
};

static struct place places[PLACES_MAX];
static atomic_uint places_used; /* no place at or above has ever been taken */
static atomic_uint losses;
static pthread_mutex_t places_lock = PTHREAD_MUTEX_INITIALIZER;

/* The length is read on both sides of the start, so that the two belong together. */
static bool place_holds(struct place *p, uintptr_t address)
{
	size_t length = atomic_load(&p->length);
	uintptr_t start = atomic_load(&p->start);

	return length && address - start < length && atomic_load(&p->length) == length;
}

static struct place *find(uintptr_t address)
{
	unsigned used = atomic_load(&places_used);

	for (unsigned i = 0; i < used; i++)
		if (place_holds(&places[i], address))
			return &places[i];
	return NULL;
}

/* Not ours: the second time the signal kills, as it would have without a handler. */
static void give_up(void)
{
	signal(SIGBUS, SIG_DFL);
}

static bool replace_by_zeroes(struct place *p)
{
	return mmap((void *)atomic_load(&p->start), atomic_load(&p->length), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	struct place *p = find((uintptr_t)info->si_addr);
	int saved = errno;

	if (!p || info->si_code == BUS_ADRALN || !replace_by_zeroes(p)) {
		give_up();
	} else {
		atomic_store(&p->lost, true);
		atomic_fetch_add(&losses, 1);
	}
	errno = saved;
}

/* With each mapping: a library may have put its own in place since. */
static void install_handler(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus,
				    .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, NULL);
}

static void place_fill(struct place *p, const struct guarded_mapping *m)
{
	p->taken = true;
	atomic_store(&p->lost, false);
	atomic_store(&p->start, (uintptr_t)m->address);
	atomic_store(&p->length, m->length);
}

static int place_take(struct guarded_mapping *m)
{
	unsigned i = 0;

	pthread_mutex_lock(&places_lock);
	while (i < PLACES_MAX && places[i].taken)
		i++;
	if (i < PLACES_MAX) {
		m->place = i;
		if (i >= atomic_load(&places_used))
			atomic_store(&places_used, i + 1);
		place_fill(&places[i], m);
	}
	pthread_mutex_unlock(&places_lock);
	return i < PLACES_MAX ? 0 : -ENOMEM;
}

static void place_return(unsigned i)
{
	pthread_mutex_lock(&places_lock);
	places[i].taken = false;
	pthread_mutex_unlock(&places_lock);
}

/* A regular file (memfd, tmpfs, hugetlbfs) must be long enough now; what it does later, the guard
 * answers.  Other kinds (a device's memory) do not tell. */
static int check_length(int fd, uint64_t offset, uint64_t length, struct error *e)
{
	struct stat st;

	if (!length || offset + length < offset || offset + length > INT64_MAX)
		return error_set(e, -EINVAL, "range of %llu bytes at %llu is empty or wraps",
				 (unsigned long long)length, (unsigned long long)offset);
	if (fstat(fd, &st))
		return error_set(e, -errno, "fstat: %s", strerror(errno));
	if (S_ISREG(st.st_mode) && !range_fits(offset, length, st.st_size))
		return error_set(e, -EINVAL,
				 "file of %llu bytes is shorter than %llu bytes at %llu",
				 (unsigned long long)st.st_size, (unsigned long long)length,
				 (unsigned long long)offset);
	return 0;
}

/* Huge pages are mapped and unmapped as a whole. */
static uint64_t page_size(int fd)
{
	struct statfs fs;

	if (!fstatfs(fd, &fs) && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0)
		return fs.f_bsize;
	return sysconf(_SC_PAGESIZE);
}

int guarded_mapping_open(struct guarded_mapping *m, int fd, uint64_t offset, uint64_t length,
			 int prot, struct error *e)
{
	uint64_t page = page_size(fd);
	uint64_t start = align_down(offset, page);
	int err = check_length(fd, offset, length, e);

	*m = (struct guarded_mapping){ .skew = offset - start };
	if (err)
		return err;
	install_handler();
	m->length = align_up(offset + length - start, page);
	m->address = mmap(NULL, m->length, prot, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
	if (m->address == MAP_FAILED) {
		err = errno;
		*m = (struct guarded_mapping){ 0 };
		return error_set(e, -err, "mmap of %llu bytes: %s", (unsigned long long)length,
				 strerror(err));
	}
	if (place_take(m)) {
		munmap(m->address, m->length);
		*m = (struct guarded_mapping){ 0 };
		return error_set(e, -ENOMEM, "more than %d shared mappings", PLACES_MAX);
	}
	return 0;
}

void guarded_mapping_close(struct guarded_mapping *m)
{
	if (!m->address)
		return;
	atomic_store(&places[m->place].length, 0);
	munmap(m->address, m->length);
	place_return(m->place);
	*m = (struct guarded_mapping){ 0 };
}

void *guarded_mapping_start(const struct guarded_mapping *m)
{
	return (char *)m->address + m->skew;
}

bool guarded_mapping_is_lost(const struct guarded_mapping *m)
{
	return m->address && atomic_load(&places[m->place].lost);
}

unsigned guarded_mapping_losses(void)
{
	return atomic_load_explicit(&losses, memory_order_relaxed);
}
