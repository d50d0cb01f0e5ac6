/* network_list.h - which providers and filters there are. */
#ifndef NETWORK_NETWORK_LIST_H
#define NETWORK_NETWORK_LIST_H

#include "base/bytes.h"
#include "network/network_provider.h"

/* uri_scheme_resolve() with the ports' schemes. */
int network_list_resolve(struct uri_stack *stack, const char *schemes, struct error *e);

static inline const struct network_provider *network_provider_of(const struct uri_scheme *about)
{
	return CONTAINER_OF(about, struct network_provider, about);
}

extern const struct network_provider network_packet;
extern const struct network_provider network_null, network_switch, network_tap, network_user;
extern const struct network_provider network_vxlan;
extern const struct network_provider network_loss, network_delay, network_limit, network_log;
extern const struct network_provider network_capture;

#endif
