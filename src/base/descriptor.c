/* descriptor.c - file descriptors have one owner each, and move. */
#include "base/descriptor.h"

#include <unistd.h>

int fd_take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
