/* switch.c - a learning switch between the functions of this process.
 *
 * A switch is found by its name and lives as long as ports of it are open.  Frames go from the
 * sender's thread straight into the receiving queue's ring, from the sender's memory: what they
 * hold was not looked at, but for the two addresses.
 *
 * Who is on a switch is a list that never changes: a port that comes or goes makes a new one, and
 * waits until no queue uses the old one any more (a queue says so while it sends, which takes no
 * lock and never blocks).
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/iov.h"
#include "network/frame_inbox.h"
#include "network/mac_table.h"
#include "network/network_list.h"
#include "reactor/reactor.h"

enum { PORTS_MAX = 4096, AGE = 300 /* seconds: IEEE 802.1Q, 8.8.3 */ };

struct switch_port {
	struct frame_switch *place;
	uint16_t number;
	unsigned queues;
	_Atomic unsigned active;
	struct frame_inbox *inboxes[NETWORK_QUEUES_MAX]; /* owned: one per queue */
};

struct switch_queue {
	struct switch_port *port;
	struct frame_inbox *inbox;
	_Atomic bool sending;
	struct switch_queue *next;
};

/* By number; NULL: nobody. */
struct port_list {
	unsigned count;
	struct switch_port *ports[];
};

struct frame_switch {
	char *name; /* owned */
	unsigned users;
	struct mac_table *table;        /* owned */
	struct port_list *_Atomic list; /* owned */
	struct switch_queue *queues;    /* all that may send */
	struct frame_switch *next;
};

/* For opening and closing only. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct frame_switch *switches;

/* ---- frames ---- */

static struct port_list *list_enter(struct switch_queue *sq)
{
	atomic_store(&sq->sending, true);
	return atomic_load(&sq->port->place->list);
}

static void list_leave(struct switch_queue *sq)
{
	atomic_store_explicit(&sq->sending, false, memory_order_release);
}

/* Frames of one conversation stay in order: one queue for a pair of addresses. */
static struct frame_inbox *inbox_of(struct switch_port *to, const uint8_t *addresses)
{
	unsigned active = atomic_load_explicit(&to->active, memory_order_relaxed);
	uint32_t mix = load_be32(addresses + 2) ^ load_be32(addresses + 8);

	return to->inboxes[active > 1 ? (mix * 0x9e3779b1u >> 16) % active : 0];
}

static int flood(struct switch_queue *sq, const struct port_list *list, const uint8_t *addresses,
		 const struct virtio_net_hdr *header, const struct iovec *iov, unsigned n,
		 size_t bytes)
{
	for (unsigned i = 0; i < list->count; i++)
		if (list->ports[i] && list->ports[i] != sq->port)
			frame_inbox_put(inbox_of(list->ports[i], addresses), header, iov, n, bytes);
	return 0;
}

/* 0, or -ENOBUFS where the only receiver has no room. */
static int pass(struct switch_queue *sq, const struct port_list *list, const uint8_t *addresses,
		const struct virtio_net_hdr *header, const struct iovec *iov, unsigned n,
		size_t bytes, uint32_t now)
{
	uint16_t to = mac_table_find(sq->port->place->table, addresses, now);

	mac_table_learn(sq->port->place->table, addresses + 6, sq->port->number, now);
	if (to == MAC_TABLE_NONE || to >= list->count || !list->ports[to])
		return flood(sq, list, addresses, header, iov, n, bytes);
	if (list->ports[to] == sq->port)
		return 0;
	return frame_inbox_put(inbox_of(list->ports[to], addresses), header, iov, n, bytes);
}

static int switch_send(struct network_layer_queue *q, const struct virtio_net_hdr *header,
		       const struct iovec *iov, unsigned n, size_t bytes)
{
	uint32_t now = reactor_now(network_queue_reactor(q)) / 1000000000;
	struct switch_queue *sq = network_queue_state(q);
	uint8_t addresses[12];
	int status;

	iov_copy_from(iov, n, 0, addresses, sizeof(addresses));
	status = pass(sq, list_enter(sq), addresses, header, iov, n, bytes, now);
	list_leave(sq);
	return status;
}

static int switch_peek(struct network_layer_queue *q, struct network_frame *f)
{
	struct switch_queue *sq = network_queue_state(q);

	return frame_inbox_peek(sq->inbox, f);
}

static void switch_consume(struct network_layer_queue *q)
{
	struct switch_queue *sq = network_queue_state(q);

	frame_inbox_consume(sq->inbox);
}

/* ---- queues ---- */

static int switch_queue_open(struct network_layer_queue *q, struct error *e)
{
	struct switch_port *port = network_queue_layer_state(q);
	struct switch_queue *sq = network_queue_state(q);

	sq->port = port;
	sq->inbox = port->inboxes[network_queue_index(q)];
	pthread_mutex_lock(&lock);
	sq->next = port->place->queues;
	port->place->queues = sq;
	pthread_mutex_unlock(&lock);
	frame_inbox_open(sq->inbox, q);
	return 0;
}

/* Nobody uses a list, or what is in it, that was replaced before this began.  The lock is held. */
static void wait_for_senders(const struct frame_switch *s)
{
	for (const struct switch_queue *sq = s->queues; sq; sq = sq->next)
		while (atomic_load(&sq->sending))
			sched_yield();
}

static void switch_queue_close(struct network_layer_queue *q)
{
	struct switch_queue *sq = network_queue_state(q), **link;

	frame_inbox_close(sq->inbox);
	pthread_mutex_lock(&lock);
	link = &sq->port->place->queues;
	while (*link != sq)
		link = &(*link)->next;
	*link = sq->next;
	pthread_mutex_unlock(&lock);
}

/* ---- switches and ports ---- */

static struct port_list *list_create(unsigned count)
{
	struct port_list *list = calloc(1, sizeof(*list) + count * sizeof(struct switch_port *));

	if (list)
		list->count = count;
	return list;
}

/* Puts port (NULL: nobody) at a number. */
static int list_change(struct frame_switch *s, unsigned number, struct switch_port *port)
{
	struct port_list *old = atomic_load(&s->list);
	struct port_list *new = list_create(maximum_u64(old->count, number + 1));

	if (!new)
		return -ENOMEM;
	memcpy(new->ports, old->ports, old->count * sizeof(struct switch_port *));
	new->ports[number] = port;
	atomic_store(&s->list, new);
	wait_for_senders(s);
	free(old);
	return 0;
}

static void switch_free(struct frame_switch *s)
{
	mac_table_free(s->table);
	free(atomic_load(&s->list));
	free(s->name);
	free(s);
}

static struct frame_switch *switch_create(const char *name)
{
	struct frame_switch *s = calloc(1, sizeof(*s));
	uint64_t key = 0;

	if (!s || getrandom(&key, sizeof(key), 0) < 0) {
		free(s);
		return NULL;
	}
	s->name = strdup(name);
	s->table = mac_table_create(AGE, key);
	atomic_init(&s->list, list_create(0));
	if (s->name && s->table && atomic_load(&s->list))
		return s;
	switch_free(s);
	return NULL;
}

static struct frame_switch *switch_find(const char *name)
{
	struct frame_switch *s = switches;

	while (s && strcmp(s->name, name))
		s = s->next;
	if (s)
		return s;
	s = switch_create(name);
	if (s) {
		s->next = switches;
		switches = s;
	}
	return s;
}

static void switch_put(struct frame_switch *s)
{
	struct frame_switch **link = &switches;

	if (s->users)
		return;
	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	switch_free(s);
}

static unsigned free_number(const struct frame_switch *s)
{
	const struct port_list *list = atomic_load(&s->list);
	unsigned number = 0;

	while (number < list->count && list->ports[number])
		number++;
	return number;
}

/* The lock is held. */
static int join(struct switch_port *port, const char *name, struct error *e)
{
	struct frame_switch *s = switch_find(name);

	if (!s)
		return error_set(e, -ENOMEM, "out of memory");
	port->place = s;
	port->number = free_number(s);
	if (port->number >= PORTS_MAX)
		return error_set(e, -ENOSPC, "the switch has %d ports already", PORTS_MAX);
	if (list_change(s, port->number, port)) {
		switch_put(s);
		return error_set(e, -ENOMEM, "out of memory");
	}
	s->users++;
	return 0;
}

static void inboxes_release(struct switch_port *port)
{
	for (unsigned i = 0; i < port->queues; i++)
		frame_inbox_release(port->inboxes[i]);
}

static int inboxes_create(struct network_layer *l, unsigned queues, struct error *e)
{
	struct switch_port *port = network_layer_state(l);

	for (; port->queues < queues; port->queues++) {
		port->inboxes[port->queues] = frame_inbox_create(l);
		if (!port->inboxes[port->queues]) {
			inboxes_release(port);
			return error_set(e, -ENOMEM, "out of memory");
		}
	}
	return 0;
}

static int switch_open(struct network_layer *l, const struct network_request *request,
		       struct network_limits *limits, struct error *e)
{
	struct switch_port *port = network_layer_state(l);
	int status;

	if (!*request->uri->path)
		return error_set(e, -EINVAL, "a switch needs a name: \"switch:NAME\"");
	status = inboxes_create(l, request->queues, e);
	if (status)
		return status;
	atomic_init(&port->active, 1);
	pthread_mutex_lock(&lock);
	status = join(port, request->uri->path, e);
	pthread_mutex_unlock(&lock);
	if (status)
		inboxes_release(port);
	limits->queues = request->queues;
	limits->offloads = NETWORK_ALL;
	return status;
}

/* Out of memory for a shorter list: the port's place is emptied in the old one.  Who may still see
 * it there has let go of it when wait_for_senders() returns. */
static void leave(struct switch_port *port)
{
	struct frame_switch *s = port->place;

	if (list_change(s, port->number, NULL)) {
		__atomic_store_n(&atomic_load(&s->list)->ports[port->number], NULL,
				 __ATOMIC_SEQ_CST);
		wait_for_senders(s);
	}
	mac_table_forget(s->table, port->number);
	s->users--;
	switch_put(s);
}

static void switch_close(struct network_layer *l)
{
	struct switch_port *port = network_layer_state(l);

	pthread_mutex_lock(&lock);
	leave(port);
	pthread_mutex_unlock(&lock);
	inboxes_release(port);
}

static void switch_set_active(struct network_layer *l, unsigned active)
{
	struct switch_port *port = network_layer_state(l);

	atomic_store(&port->active, minimum_u64(maximum_u64(active, 1), port->queues));
}

const struct network_provider network_switch = {
	.about.scheme = "switch",
	.about.summary = "a learning switch between the functions of this process: switch:NAME",
	.about.help = "",
	.state_size = sizeof(struct switch_port),
	.queue_size = sizeof(struct switch_queue),
	.open = switch_open,
	.close = switch_close,
	.queue_open = switch_queue_open,
	.queue_close = switch_queue_close,
	.send = switch_send,
	.peek = switch_peek,
	.consume = switch_consume,
	.set_active = switch_set_active,
};
