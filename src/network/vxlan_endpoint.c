/* vxlan_endpoint.c - a UDP port of this process, and the VXLAN ports behind it.
 *
 * Who is there is a list that does not change while it is used: a port that joins or leaves writes
 * a new one, and waits until no listener uses the old one any more (a listener says so while it
 * delivers, which takes no lock and never blocks).
 */
#include "network/vxlan_endpoint.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/descriptor.h"
#include "base/error.h"
#include "base/pages.h"
#include "network/vxlan_port.h"
#include "network/vxlan_socket.h"

enum { PORTS_MAX = 4096 };

/* By VNI, ascending. */
struct vxlan_port_list {
	unsigned count;
	struct vxlan_port *ports[PORTS_MAX];
};

struct vxlan_endpoint {
	struct vxlan_address local;
	char device[IFNAMSIZ];
	struct vxlan_port_list
		*lists[2]; /* owned: what is and what was, so that leaving cannot fail */
	struct vxlan_port_list *_Atomic list; /* one of them */
	struct vxlan_listener *listeners;
	bool listened; /* somebody has, before */
	struct vxlan_endpoint *next;
};

/* For opening and closing only. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct vxlan_endpoint *endpoints;

/* ---- listening ---- */

/* A socket of ours that was closed may still be there until the end of its reactor's turn. */
static int listen_at(const struct vxlan_endpoint *p, const struct vxlan_options *o, struct error *e)
{
	int fd = vxlan_socket_listen(o, !p->listeners, e);

	if (fd == -EADDRINUSE && p->listened)
		fd = vxlan_socket_listen(o, false, e);
	return fd;
}

int vxlan_listener_begin(struct vxlan_listener *l, const struct vxlan_port *port, struct error *e)
{
	struct vxlan_endpoint *p = port->endpoint;
	int fd;

	pthread_mutex_lock(&lock);
	fd = listen_at(p, &port->options, e);
	if (fd >= 0) {
		p->listened = true;
		l->endpoint = p;
		l->next = p->listeners;
		p->listeners = l;
	}
	pthread_mutex_unlock(&lock);
	return fd;
}

void vxlan_listener_end(struct vxlan_listener *l)
{
	struct vxlan_listener **link;

	pthread_mutex_lock(&lock);
	link = &l->endpoint->listeners;
	while (*link != l)
		link = &(*link)->next;
	*link = l->next;
	pthread_mutex_unlock(&lock);
}

const struct vxlan_port_list *vxlan_listener_enter(struct vxlan_listener *l)
{
	atomic_store(&l->reading, true);
	return atomic_load(&l->endpoint->list);
}

void vxlan_listener_leave(struct vxlan_listener *l)
{
	atomic_store_explicit(&l->reading, false, memory_order_release);
}

/* Nobody uses a list, or what is in it, that was replaced before this began.  The lock is held. */
static void wait_for_listeners(const struct vxlan_endpoint *p)
{
	for (const struct vxlan_listener *l = p->listeners; l; l = l->next)
		while (atomic_load(&l->reading))
			sched_yield();
}

/* ---- lists ---- */

/* The first place whose VNI is not below. */
static unsigned place_of(const struct vxlan_port_list *list, uint32_t vni)
{
	unsigned low = 0, high = list->count;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (list->ports[middle]->options.vni < vni)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct vxlan_port *vxlan_port_list_find(const struct vxlan_port_list *list, uint32_t vni)
{
	unsigned at = place_of(list, vni);

	return at < list->count && list->ports[at]->options.vni == vni ? list->ports[at] : NULL;
}

bool vxlan_port_list_has_several(const struct vxlan_port_list *list)
{
	return list->count > 1;
}

/* The one that nobody uses. */
static struct vxlan_port_list *other_list(struct vxlan_endpoint *p)
{
	return p->lists[atomic_load(&p->list) == p->lists[0]];
}

static void list_replace(struct vxlan_endpoint *p, struct vxlan_port_list *new)
{
	atomic_store(&p->list, new);
	wait_for_listeners(p);
}

static void list_add(struct vxlan_endpoint *p, struct vxlan_port *port)
{
	const struct vxlan_port_list *old = atomic_load(&p->list);
	unsigned at = place_of(old, port->options.vni);
	struct vxlan_port_list *new = other_list(p);

	memcpy(new->ports, old->ports, at * sizeof(old->ports[0]));
	new->ports[at] = port;
	memcpy(new->ports + at + 1, old->ports + at, (old->count - at) * sizeof(old->ports[0]));
	new->count = old->count + 1;
	list_replace(p, new);
}

static void list_remove(struct vxlan_endpoint *p, struct vxlan_port *port)
{
	const struct vxlan_port_list *old = atomic_load(&p->list);
	unsigned at = place_of(old, port->options.vni);
	struct vxlan_port_list *new = other_list(p);

	new->count = old->count - 1;
	memcpy(new->ports, old->ports, at * sizeof(old->ports[0]));
	memcpy(new->ports + at, old->ports + at + 1, (new->count - at) * sizeof(old->ports[0]));
	list_replace(p, new);
}

/* ---- endpoints ---- */

static struct vxlan_endpoint *endpoint_find(const struct vxlan_options *o)
{
	struct vxlan_endpoint *p = endpoints;

	while (p && (!vxlan_address_same_host(&p->local, &o->local) ||
		     vxlan_address_port(&p->local) != o->port || strcmp(p->device, o->device)))
		p = p->next;
	return p;
}

static void endpoint_free(struct vxlan_endpoint *p)
{
	pages_free(p->lists[0], sizeof(*p->lists[0]));
	pages_free(p->lists[1], sizeof(*p->lists[1]));
	free(p);
}

/* Whether the UDP port can be had is asked now, when somebody reads the answer, and not only by the
 * first queue that opens. */
static int endpoint_create(const struct vxlan_options *o, struct vxlan_endpoint **to,
			   struct error *e)
{
	int fd = vxlan_socket_listen(o, true, e);
	struct vxlan_endpoint *p;

	if (fd < 0)
		return fd;
	fd_close(&fd);
	p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(e, -ENOMEM, "out of memory");
	p->local = o->local;
	memcpy(p->device, o->device, sizeof(p->device));
	p->lists[0] = pages_allocate(sizeof(*p->lists[0]));
	p->lists[1] = pages_allocate(sizeof(*p->lists[1]));
	atomic_init(&p->list, p->lists[0]);
	if (!p->lists[0] || !p->lists[1]) {
		endpoint_free(p);
		return error_set(e, -ENOMEM, "out of memory");
	}
	p->next = endpoints;
	endpoints = p;
	*to = p;
	return 0;
}

/* Nobody is left: gone. */
static void endpoint_put(struct vxlan_endpoint *p)
{
	struct vxlan_endpoint **link = &endpoints;

	if (atomic_load(&p->list)->count)
		return;
	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	endpoint_free(p);
}

/* The lock is held. */
static int join(struct vxlan_port *port, struct error *e)
{
	struct vxlan_endpoint *p = endpoint_find(&port->options);
	const struct vxlan_port *other;
	int status = p ? 0 : endpoint_create(&port->options, &p, e);

	if (status)
		return status;
	other = vxlan_port_list_find(atomic_load(&p->list), port->options.vni);
	if (other)
		return error_set(e, -EEXIST, "vni %u is port %s's here", port->options.vni,
				 other->name);
	if (atomic_load(&p->list)->count == PORTS_MAX)
		return error_set(e, -ENOSPC, "%d ports are here already", PORTS_MAX);
	list_add(p, port);
	port->endpoint = p;
	return 0;
}

int vxlan_endpoint_join(struct vxlan_port *port, struct error *e)
{
	int status;

	pthread_mutex_lock(&lock);
	status = join(port, e);
	pthread_mutex_unlock(&lock);
	return status;
}

void vxlan_endpoint_leave(struct vxlan_port *port)
{
	pthread_mutex_lock(&lock);
	list_remove(port->endpoint, port);
	endpoint_put(port->endpoint);
	pthread_mutex_unlock(&lock);
}
