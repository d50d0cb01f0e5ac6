/* file_probe.c - what an open file or block device can do. */
#include "storage/file_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"

enum { SECTOR = 512, CAREFUL_ALIGNMENT = 4096 }; /* bytes */

int file_size(int fd, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd, BLKGETSIZE64, size) ? -errno : 0;
	*size = st.st_size;
	return 0;
}

/* A number from the device's queue directory in sysfs, which a partition shares with its disk. */
static uint64_t queue_number(dev_t device, const char *name, uint64_t otherwise)
{
	static const char *const places[] = { "", "../" };
	unsigned long long value;

	for (unsigned i = 0; i < ARRAY_LENGTH(places); i++) {
		char path[128];
		FILE *f;
		int n;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(device),
			 minor(device), places[i], name);
		f = fopen(path, "re");
		if (!f)
			continue;
		n = fscanf(f, "%llu", &value);
		fclose(f);
		if (n == 1)
			return value;
	}
	return otherwise;
}

/* Whether O_DIRECT reads work with this alignment of offset and length. */
static bool direct_read_works(int fd, size_t length)
{
	void *buffer;
	ssize_t n;

	if (posix_memalign(&buffer, CAREFUL_ALIGNMENT, CAREFUL_ALIGNMENT))
		return false;
	n = pread(fd, buffer, length, 0);
	free(buffer);
	return n >= 0;
}

/* For kernels and file systems whose statx() does not tell: finds out by reading. */
static void probe_by_reading(int fd, struct file_abilities *a)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT))
		return;
	a->memory_alignment = CAREFUL_ALIGNMENT;
	if (direct_read_works(fd, SECTOR))
		a->offset_alignment = SECTOR;
	else if (direct_read_works(fd, CAREFUL_ALIGNMENT))
		a->offset_alignment = CAREFUL_ALIGNMENT;
	else
		a->memory_alignment = 0;
	fcntl(fd, F_SETFL, flags);
}

/* tmpfs takes O_DIRECT and copies all the same: nothing is gained, so it does not count. */
static bool is_memory_file_system(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* statx() tells from Linux 6.1 on, where the file system does; 0 there means no O_DIRECT. */
static bool ask_statx(int fd, struct file_abilities *a)
{
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) || !(sx.stx_mask & STATX_DIOALIGN))
		return false;
	if (!sx.stx_dio_mem_align || !sx.stx_dio_offset_align)
		return true;
	a->memory_alignment = sx.stx_dio_mem_align;
	a->offset_alignment = maximum_u64(sx.stx_dio_offset_align, SECTOR);
	return true;
#else
	return false;
#endif
}

static void probe_direct(int fd, struct file_abilities *a)
{
	int sector;

	a->in_memory = !a->is_device && is_memory_file_system(fd);
	if (a->in_memory)
		return;
	if (ask_statx(fd, a))
		return;
	if (a->is_device && !ioctl(fd, BLKSSZGET, &sector))
		a->memory_alignment = a->offset_alignment = sector;
	else
		probe_by_reading(fd, a);
}

/* A hole far behind the end of the file changes nothing. */
static bool punch_works(int fd, const struct stat *st)
{
	const off_t far = 1ll << 30;

	if (S_ISBLK(st->st_mode))
		return queue_number(st->st_rdev, "write_zeroes_max_bytes", 0) != 0;
	return !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  align_up(st->st_size, CAREFUL_ALIGNMENT) + far, CAREFUL_ALIGNMENT);
}

int file_probe(int fd, bool writable, struct file_abilities *a, struct error *e)
{
	struct stat st;
	uint64_t granule;

	if (fstat(fd, &st))
		return error_set(e, -errno, "%s", strerror(errno));
	a->is_device = S_ISBLK(st.st_mode);
	granule = a->is_device ? queue_number(st.st_rdev, "discard_granularity", 0)
			       : (uint64_t)st.st_blksize;
	a->granule = is_power_of_two(granule) && granule >= SECTOR && granule <= 1u << 30
			     ? granule
			     : CAREFUL_ALIGNMENT;
	probe_direct(fd, a);
	a->can_punch = writable && punch_works(fd, &st);
	return 0;
}
