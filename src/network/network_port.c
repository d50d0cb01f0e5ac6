/* network_port.c - opens and closes ports. */
#include "network/network_port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "network/network_layer.h"
#include "network/network_list.h"

void *network_layer_state(struct network_layer *l)
{
	return l->state;
}

const char *network_layer_name(const struct network_layer *l)
{
	return l->port->name;
}

struct reactor *network_layer_control(const struct network_layer *l)
{
	return l->port->control;
}

/* ---- the carrier ---- */

static void tell_link(void *arg)
{
	struct network_link_notice *n = arg;
	struct network_port *p = n->port;

	n->pending = false;
	if (!p)
		free(n);
	else if (p->link_changed)
		p->link_changed(p->link_changed_arg);
}

void network_layer_set_link(struct network_layer *l, bool up)
{
	struct network_port *p = l->port;
	bool all = up; /* a layer that is being opened is not counted yet */

	l->down = !up;
	for (unsigned i = 0; i < p->layer_count; i++)
		all &= !p->layers[i].down;
	if (all == p->up)
		return;
	p->up = all;
	log_info("port %s: the link is %s", p->name, all ? "up" : "down");
	p->notice->pending = true;
	reactor_defer(p->control, &p->notice->task);
}

bool network_port_link(const struct network_port *p)
{
	return p->up;
}

void network_port_set_listener(struct network_port *p, void (*fn)(void *arg), void *arg)
{
	p->link_changed = fn;
	p->link_changed_arg = arg;
}

static int notice_create(struct network_port *p, struct error *e)
{
	struct network_link_notice *n = calloc(1, sizeof(*n));

	if (!n)
		return error_set(e, -ENOMEM, "out of memory");
	n->port = p;
	n->task = (struct reactor_task){ .fn = tell_link, .arg = n };
	p->notice = n;
	return 0;
}

static void notice_release(struct network_link_notice *n)
{
	if (n->pending)
		n->port = NULL;
	else
		free(n);
}

/* ---- settings ---- */

const struct network_limits *network_port_limits(const struct network_port *p)
{
	return &p->limits;
}

void network_port_set_offloads(struct network_port *p, unsigned offloads)
{
	__atomic_store_n(&p->offloads, offloads, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < p->layer_count; i++)
		if (p->layers[i].provider->set_offloads)
			p->layers[i].provider->set_offloads(&p->layers[i], offloads);
}

void network_port_set_active(struct network_port *p, unsigned active)
{
	for (unsigned i = 0; i < p->layer_count; i++)
		if (p->layers[i].provider->set_active)
			p->layers[i].provider->set_active(&p->layers[i], active);
}

static bool steering_is_possible(const struct network_port *p, const struct network_steering *s)
{
	unsigned queues = maximum_u64(p->steering.queues, 1);

	if (!is_power_of_two(s->mask + 1u) || s->mask >= NETWORK_TABLE_MAX ||
	    s->unclassified >= queues)
		return false;
	for (unsigned i = 0; i <= s->mask; i++)
		if (s->table[i] >= queues)
			return false;
	return true;
}

int network_port_set_steering(struct network_port *p, const struct network_steering *s)
{
	if (s->by_table && !steering_is_possible(p, s))
		return -EINVAL;
	steering_set(&p->steering, s);
	return 0;
}

void network_layer_count_lost(struct network_layer *l, uint64_t count)
{
	__atomic_add_fetch(&l->port->numbers.come_lost_stopped, count, __ATOMIC_RELAXED);
}

/* ---- open and close ---- */

static const struct counter_field fields[] = {
	{ "come_lost_stopped", offsetof(struct network_port_numbers, come_lost_stopped) },
};

static void add_counters(struct network_port *p)
{
	p->group = (struct counter_group){ .room = "network",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &p->numbers };
	snprintf(p->group.name, sizeof(p->group.name), "%s", p->name);
	counter_group_add(&p->group);
}

static int layer_open(struct network_port *p, const struct network_provider *provider,
		      const struct network_request *request, struct error *e)
{
	struct network_layer *l = &p->layers[p->layer_count];
	int status;

	l->provider = provider;
	l->port = p;
	l->queue_offset = p->queue_size;
	l->state = calloc(1, provider->state_size + 1);
	if (!l->state)
		return error_set(e, -ENOMEM, "out of memory");
	status = provider->open(l, request, &p->limits, e);
	if (status) {
		free(l->state);
		return status;
	}
	p->layer_count++;
	p->queue_size += align_up(provider->queue_size, NETWORK_STATE_ALIGNMENT);
	return 0;
}

static void layers_close(struct network_port *p)
{
	while (p->layer_count) {
		struct network_layer *l = &p->layers[--p->layer_count];

		l->provider->close(l);
		free(l->state);
	}
}

static int layers_open(struct network_port *p, const struct uri_stack *stack,
		       const struct network_request *request, struct error *e)
{
	int status = layer_open(p, network_provider_of(stack->provider), request, e);

	for (unsigned i = stack->filter_count; !status && i > 0; i--)
		status = layer_open(p, network_provider_of(stack->filters[i - 1]), request, e);
	if (status)
		layers_close(p);
	return status;
}

static struct network_port *port_allocate(const char *name, struct reactor *control,
					  struct error *e)
{
	size_t layers = URI_FILTERS_MAX + 1;
	struct network_port *p = calloc(1, sizeof(*p) + layers * sizeof(p->layers[0]));

	if (!p) {
		error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	strncpy(p->name, name, sizeof(p->name) - 1);
	p->control = control;
	p->up = true;
	p->limits.queues = 1;
	if (!notice_create(p, e))
		return p;
	free(p);
	return NULL;
}

static void port_free(struct network_port *p)
{
	notice_release(p->notice);
	free(p);
}

static int open_uri(struct network_port *p, const char *uri, unsigned queues, struct error *e)
{
	struct network_request request = { .uri = &p->uri, .queues = queues };
	struct uri_stack stack;
	int status = uri_parse(&p->uri, uri, e);

	status = status ? status : network_list_resolve(&stack, p->uri.schemes, e);
	status = status ? status : uri_scheme_check_options(&stack, &p->uri, e);
	if (status)
		return status;
	request.scheme = stack.scheme;
	status = layers_open(p, &stack, &request, e);
	if (status)
		return status;
	if (!steering_open(&p->steering, minimum_u64(queues, p->limits.queues)))
		return 0;
	layers_close(p);
	return error_set(e, -ENOMEM, "out of memory");
}

struct network_port *network_port_open(const char *name, const char *uri, unsigned queues,
				       struct reactor *control, struct error *e)
{
	struct network_port *p = port_allocate(name, control, e);

	if (!p) {
		error_wrap(e, "port %s", name);
		return NULL;
	}
	if (!open_uri(p, uri, queues, e)) {
		network_port_set_active(p, 1);
		add_counters(p);
		return p;
	}
	error_wrap(e, "port %s: \"%.80s\"", name, uri);
	port_free(p);
	return NULL;
}

void network_port_close(struct network_port *p)
{
	if (!p)
		return;
	layers_close(p);
	steering_close(&p->steering);
	counter_group_remove(&p->group);
	port_free(p);
}
