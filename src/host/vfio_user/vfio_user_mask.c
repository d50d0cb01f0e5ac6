/* vfio_user_mask.c - interrupts that a client masks and unmasks by eventfds of its own. */
#include "host/vfio_user/vfio_user_mask.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "reactor/reactor.h"

struct vfio_user_mask {
	struct vfio_user_mask *next;
	struct pci_function *function; /* borrowed */
	enum pci_irq kind;
	unsigned vector;
	bool masks;
	int fd; /* owned */
	struct reactor_watch watch;
};

/* One that cannot be read any more has been closed on the other side, or is no eventfd: it is never
 * looked at again. */
static void signalled(void *arg)
{
	struct vfio_user_mask *m = arg;
	uint64_t count;
	ssize_t n = read(m->fd, &count, sizeof(count));

	if (n == sizeof(count))
		pci_irq_mask(m->function, m->kind, m->vector, m->masks);
	else if (n >= 0 || errno != EAGAIN)
		reactor_watch_remove(&m->watch);
}

static void drop(struct vfio_user_mask **at)
{
	struct vfio_user_mask *m = *at;

	*at = m->next;
	reactor_watch_remove(&m->watch);
	fd_close(&m->fd);
	free(m);
}

void vfio_user_mask_forget(struct vfio_user_connection *c, enum pci_irq kind)
{
	struct vfio_user_mask **at = &c->masks;

	while (*at) {
		if ((*at)->kind == kind)
			drop(at);
		else
			at = &(*at)->next;
	}
}

static struct vfio_user_mask **find(struct vfio_user_connection *c, enum pci_irq kind,
				    unsigned vector, bool masks)
{
	struct vfio_user_mask **at = &c->masks;

	while (*at && ((*at)->kind != kind || (*at)->vector != vector || (*at)->masks != masks))
		at = &(*at)->next;
	return at;
}

/* A file that is always ready would keep us busy, and one that blocks would stop us: or, as a
 * vector's, every queue of a worker. */
int vfio_user_check_eventfd(int fd, struct error *e)
{
	struct stat st;

	if (fstat(fd, &st))
		return error_set(e, -errno, "descriptor: %s", strerror(errno));
	if (st.st_mode & S_IFMT)
		return error_set(e, -EINVAL, "the descriptor is no eventfd");
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
		return error_set(e, -errno, "descriptor: %s", strerror(errno));
	return 0;
}

static int add(struct vfio_user_connection *c, struct vfio_user_mask *m, struct error *e)
{
	int err;

	m->watch =
		(struct reactor_watch){ .fd = m->fd, .events = POLLIN, .fn = signalled, .arg = m };
	err = reactor_watch_add(c->control, &m->watch);
	if (err)
		return error_set(e, err, "the descriptor cannot be watched: %s", strerror(-err));
	m->next = c->masks;
	c->masks = m;
	return 0;
}

int vfio_user_mask_set(struct vfio_user_connection *c, enum pci_irq kind, unsigned vector,
		       bool masks, int *fd, struct error *e)
{
	struct vfio_user_mask **old = find(c, kind, vector, masks), *m;
	int err = *fd < 0 ? 0 : vfio_user_check_eventfd(*fd, e);

	if (err)
		return err;
	if (*old)
		drop(old);
	if (*fd < 0)
		return 0;
	m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(e, -ENOMEM, "out of memory");
	m->function = c->function;
	m->kind = kind;
	m->vector = vector;
	m->masks = masks;
	m->fd = *fd;
	err = add(c, m, e);
	if (err)
		free(m);
	else
		*fd = -1;
	return err;
}
