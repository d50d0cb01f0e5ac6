/* host_listener.c - Unix sockets by path: to be found at one, and to find one. */
#include "host/host_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"

enum { BACKLOG = 16 }; /* clients that wait for the one before them to leave */

static int make_address(struct sockaddr_un *a, const char *path, struct error *e)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!*path || strlen(path) >= sizeof(a->sun_path))
		return error_set(e, -ENAMETOOLONG,
				 "socket path \"%s\" is empty or longer than %zu bytes", path,
				 sizeof(a->sun_path) - 1);
	strcpy(a->sun_path, path);
	return 0;
}

static int make_socket(struct error *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? error_set(e, -errno, "socket: %s", strerror(errno)) : fd;
}

/* The kernel takes a killed process's io_uring down after the process has gone, and the listening
 * socket that it watched until then: for some milliseconds nobody's socket takes connections.
 * fd is connected to it; who called listen() is remembered.  0: in another pid namespace. */
static bool listener_is_dead(int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) && peer.pid > 0 &&
	       kill(peer.pid, 0) && errno == ESRCH;
}

/* Only asking tells a living socket's file from one that a killed process left behind.  Somebody
 * whose backlog is full (EAGAIN) listens. */
static bool is_stale(const struct sockaddr_un *a)
{
	struct stat st;
	bool stale;
	int fd;

	if (lstat(a->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = make_socket(NULL);
	if (fd < 0)
		return false;
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)))
		stale = errno == ECONNREFUSED;
	else
		stale = listener_is_dead(fd);
	close(fd);
	return stale;
}

static int bind_path(int fd, const struct sockaddr_un *a, struct error *e)
{
	if (!bind(fd, (const struct sockaddr *)a, sizeof(*a)))
		return 0;
	if (errno != EADDRINUSE)
		return error_set(e, -errno, "socket %s: %s", a->sun_path, strerror(errno));
	if (!is_stale(a))
		return error_set(e, -EADDRINUSE, "socket %s is in use", a->sun_path);
	unlink(a->sun_path);
	if (bind(fd, (const struct sockaddr *)a, sizeof(*a)))
		return error_set(e, -errno, "socket %s: %s", a->sun_path, strerror(errno));
	return 0;
}

/* Remembers which file is ours. */
static int note_path(struct host_listener *l, const char *path, struct error *e)
{
	struct stat st;

	l->path = strdup(path);
	if (!l->path)
		return error_set(e, -ENOMEM, "socket %s: out of memory", path);
	if (lstat(path, &st))
		return error_set(e, -errno, "socket %s: %s", path, strerror(errno));
	l->device = st.st_dev;
	l->inode = st.st_ino;
	return 0;
}

int host_listener_open(struct host_listener *l, const char *path, struct error *e)
{
	struct sockaddr_un a;
	int err;

	*l = (struct host_listener){ .fd = -1 };
	err = make_address(&a, path, e);
	if (err)
		return err;
	l->fd = make_socket(e);
	if (l->fd < 0)
		return l->fd;
	err = bind_path(l->fd, &a, e);
	if (!err)
		err = note_path(l, path, e);
	if (!err && listen(l->fd, BACKLOG))
		err = error_set(e, -errno, "socket %s: listen: %s", path, strerror(errno));
	if (err)
		host_listener_close(l);
	return err;
}

static int get_option(int fd, int option, int *value)
{
	socklen_t n = sizeof(*value);

	return getsockopt(fd, SOL_SOCKET, option, value, &n) ? -errno : 0;
}

static bool is_connected(int fd)
{
	struct sockaddr_un peer;
	socklen_t n = sizeof(peer);

	return !getpeername(fd, (struct sockaddr *)&peer, &n);
}

int host_listener_adopt(struct host_listener *l, int fd, struct error *e)
{
	int domain, type, listens;
	int err = get_option(fd, SO_DOMAIN, &domain);

	*l = (struct host_listener){ .fd = -1 };
	if (!err)
		err = get_option(fd, SO_TYPE, &type);
	if (!err)
		err = get_option(fd, SO_ACCEPTCONN, &listens);
	if (err)
		return error_set(e, err, "inherited descriptor %d: %s", fd, strerror(-err));
	if (domain != AF_UNIX || type != SOCK_STREAM || (!listens && !is_connected(fd)))
		return error_set(e, -EINVAL,
				 "inherited descriptor %d is not a Unix stream socket that listens "
				 "or is connected",
				 fd);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (!listens)
		return 1;
	l->fd = fd;
	return 0;
}

static void remove_path(const struct host_listener *l)
{
	struct stat st;

	if (!lstat(l->path, &st) && st.st_dev == l->device && st.st_ino == l->inode)
		unlink(l->path);
}

void host_listener_close(struct host_listener *l)
{
	if (l->path)
		remove_path(l);
	free(l->path);
	l->path = NULL;
	fd_close(&l->fd);
}

int host_listener_accept(struct host_listener *l)
{
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int host_connect(const char *path, struct error *e)
{
	struct sockaddr_un a;
	int err = make_address(&a, path, e);
	int fd = err ? err : make_socket(e);

	if (fd < 0 || !connect(fd, (const struct sockaddr *)&a, sizeof(a)))
		return fd;
	err = error_set(e, -errno, "connect to %s: %s", path, strerror(errno));
	close(fd);
	return err;
}
