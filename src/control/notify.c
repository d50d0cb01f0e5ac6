/* notify.c - tells the service manager where the program's life stands. */
#include "control/notify.h"

#include "base/descriptor.h"
#include "base/log.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* "@" in front stands for the abstract namespace, whose names begin with a zero byte. */
static socklen_t fill_address(struct sockaddr_un *address, const char *path)
{
	size_t length = strlen(path);

	if (length >= sizeof(address->sun_path) || !strchr("/@", *path))
		return 0;
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(address->sun_path, path, length);
	if (*path == '@')
		address->sun_path[0] = '\0';
	return offsetof(struct sockaddr_un, sun_path) + length;
}

void notify_manager(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address;
	socklen_t length = path && *path ? fill_address(&address, path) : 0;
	int fd;

	if (!length)
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
	    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, length) < 0)
		log_warning("NOTIFY_SOCKET %s: %s", path, strerror(errno));
	fd_close(&fd);
}
