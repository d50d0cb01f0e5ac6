/* file_claim.c - opens a file or block device that nobody else is writing to.
 *
 * A process that was killed keeps its claim until the kernel has carried out the requests it left
 * in io_uring, some moments longer than the process itself is to be seen.  That is as it should be:
 * until then they could still overwrite what its successor writes.  So the successor waits.
 */
#include "storage/file_claim.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/descriptor.h"
#include "base/error.h"

enum { PAUSE_NS = 10 * 1000 * 1000 }; /* between two attempts */

static int in_use(bool read_only, struct error *e)
{
	return error_set(e, -EBUSY,
			 "in use by another process, disk or mount%s; lock=off ignores it",
			 read_only ? " that writes" : "");
}

/* O_EXCL on a block device: refused while the kernel itself uses it, for a mount or a volume. */
static int open_flags(bool read_only, bool exclusive, mode_t type)
{
	int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;

	return exclusive && !read_only && S_ISBLK(type) ? flags | O_EXCL : flags;
}

/* Looks before it opens: opening a pipe would wait, opening a tape would wind. */
static int open_path(const char *path, bool read_only, bool exclusive, int *fd, struct error *e)
{
	struct stat st;

	if (stat(path, &st))
		return error_set(e, -errno, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(e, -EINVAL, "neither a regular file nor a block device");
	*fd = open(path, open_flags(read_only, exclusive, st.st_mode));
	if (*fd >= 0)
		return 0;
	if (errno == EBUSY)
		return in_use(read_only, e);
	return error_set(e, -errno, "%s%s", strerror(errno),
			 read_only ? "" : " (opening to write)");
}

/* An open file description lock, between processes and between disks of one process. */
static int lock(int fd, bool read_only, struct error *e)
{
	struct flock how = {
		.l_type = read_only ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (!fcntl(fd, F_OFD_SETLK, &how))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return in_use(read_only, e);
	return error_set(e, -errno, "cannot be locked: %s; lock=off does without", strerror(errno));
}

static int claim_once(const char *path, bool read_only, bool exclusive, int *fd, struct error *e)
{
	int status = open_path(path, read_only, exclusive, fd, e);

	if (!status && exclusive)
		status = lock(*fd, read_only, e);
	if (status)
		fd_close(fd);
	return status;
}

int file_claim(const char *path, bool read_only, bool exclusive, uint64_t wait_ns, int *fd,
	       struct error *e)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	uint64_t turns = wait_ns / PAUSE_NS;
	int status = claim_once(path, read_only, exclusive, fd, e);

	for (; status == -EBUSY && turns; turns--) {
		nanosleep(&pause, NULL);
		status = claim_once(path, read_only, exclusive, fd, e);
	}
	return status;
}
