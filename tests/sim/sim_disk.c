/* sim_disk.c - what the disk must hold. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "reactor/reactor_random.h"
#include "sim.h"

void sim_disk_open(struct sim_disk *d, uint64_t sectors, uint64_t room, bool file)
{
	*d = (struct sim_disk){ .count = sectors, .room = room, .fd = -1 };
	d->sectors = calloc(room, sizeof(*d->sectors));
	if (!d->sectors)
		abort();
	for (uint64_t i = 0; i < room; i++)
		d->sectors[i].count = 1; /* zeroes */
	if (!file)
		return;
	d->fd = memfd_create("disk", MFD_CLOEXEC);
	if (d->fd < 0 || ftruncate(d->fd, (off_t)(sectors * SECTOR)))
		abort();
}

void sim_disk_close(struct sim_disk *d)
{
	free(d->sectors);
	fd_close(&d->fd);
}

void sim_disk_fill(void *to, uint64_t stamp, uint64_t sector)
{
	uint64_t state = stamp * 0x100000001b3 + sector;
	uint64_t words[SECTOR / 8];

	for (unsigned i = 0; i < SECTOR / 8; i++)
		words[i] = stamp ? (i % 8 ? words[i - i % 8] + i : random_next(&state)) : 0;
	memcpy(to, words, SECTOR);
}

bool sim_disk_take(struct sim_disk *d, uint64_t first, uint64_t count, bool write)
{
	struct sim_sector *s = &d->sectors[first];

	for (uint64_t i = 0; i < count; i++)
		if (s[i].writer || (write && (s[i].readers || s[i].count == STAMPS_MAX)))
			return false;
	for (uint64_t i = 0; i < count; i++) {
		s[i].writer = write;
		s[i].readers += !write;
	}
	return true;
}

void sim_disk_return(struct sim_disk *d, uint64_t first, uint64_t count, bool write)
{
	for (uint64_t i = first; i < first + count; i++) {
		d->sectors[i].writer = false;
		d->sectors[i].readers -= !write;
	}
}

void sim_disk_written(struct sim_disk *d, uint64_t first, uint64_t count, uint64_t stamp)
{
	for (uint64_t i = first; i < first + count; i++) {
		d->sectors[i].count = 1;
		d->sectors[i].stamps[0] = stamp;
	}
}

void sim_disk_maybe_written(struct sim_disk *d, uint64_t first, uint64_t count, uint64_t stamp)
{
	for (uint64_t i = first; i < first + count; i++)
		d->sectors[i].stamps[d->sectors[i].count++] = stamp;
}

bool sim_disk_matches(struct sim_disk *d, uint64_t sector, const void *bytes)
{
	struct sim_sector *s = &d->sectors[sector];
	char wanted[SECTOR];

	for (unsigned i = 0; i < s->count; i++) {
		sim_disk_fill(wanted, s->stamps[i], sector);
		if (memcmp(wanted, bytes, SECTOR))
			continue;
		s->stamps[0] = s->stamps[i];
		/* two readers may see it at once, but both see the same */
		s->count = 1;
		return true;
	}
	return false;
}
