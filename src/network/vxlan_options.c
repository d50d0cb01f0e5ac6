/* vxlan_options.c - what a URI says of a VXLAN port. */
#include "network/vxlan_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uri.h"
#include "network/network_port.h"
#include "network/vxlan_header.h"

enum { AGEING_PRESET = 300, AGEING_MAX = 86400 * 365 /* seconds */ };

const char vxlan_options_help[] =
	"vni=NUMBER          the segment's, 0 to 16777215; must be given\n"
	"port=NUMBER         UDP port here, and at peers that name none; 4789 unless given\n"
	"local=ADDRESS       outer source address, the only one to listen at\n"
	"device=INTERFACE    the only one to send and listen at; a group needs this or local\n"
	"mtu=BYTES           of inner packets; what the way to the peers allows unless given\n"
	"ttl=NUMBER          of outer packets, 1 to 255; the host's preset unless given\n"
	"learning=on|off     learns who is behind which peer; on unless given\n"
	"ageing=DURATION     forgets what was not seen for so long; 300s unless given\n"
	"checksum=on|off     of outer UDP; on unless given; off ends segmentation by the kernel\n"
	"suppress=on|off     answers ARP and neighbour solicitations for what was heard; off "
	"unless given\n";

static int number_in(const struct uri *uri, const char *name, uint64_t low, uint64_t high,
		     uint64_t *to, struct error *e)
{
	int status = uri_number(uri, name, to, e);

	if (status || !uri_value(uri, name) || (*to >= low && *to <= high))
		return status;
	return error_set(e, -EINVAL, "option \"%s\": not from %llu to %llu", name,
			 (unsigned long long)low, (unsigned long long)high);
}

static int parse_numbers(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	uint64_t vni = 0, port = VXLAN_PORT, ttl = 0, mtu = 0;
	int status = number_in(uri, "vni", 0, VXLAN_VNI_MAX, &vni, e);

	status = status ? status : number_in(uri, "port", 1, UINT16_MAX, &port, e);
	status = status ? status : number_in(uri, "ttl", 1, UINT8_MAX, &ttl, e);
	status = status ? status : number_in(uri, "mtu", NETWORK_MTU_MIN, NETWORK_MTU_MAX, &mtu, e);
	if (!status && !uri_value(uri, "vni"))
		return error_set(e, -EINVAL, "option \"vni\" is missing");
	o->vni = vni;
	o->port = port;
	o->ttl = ttl;
	o->mtu = mtu;
	return status;
}

static int parse_ageing(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	uint64_t second = 1000 * 1000 * 1000, ns = AGEING_PRESET * second;
	int status = uri_duration(uri, "ageing", &ns, e);

	if (!status && (ns < second || ns > AGEING_MAX * second || ns % second))
		return error_set(e, -EINVAL, "option \"ageing\": not whole seconds from 1 to %d",
				 AGEING_MAX);
	o->ageing = ns / second;
	return status;
}

static int parse_switches(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	int status = uri_switch(uri, "learning", &o->learning, e);

	status = status ? status : uri_switch(uri, "checksum", &o->checksum, e);
	return status ? status : uri_switch(uri, "suppress", &o->suppress, e);
}

static int parse_device(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	const char *name = uri_value(uri, "device");

	if (!name)
		return 0;
	if (strlen(name) >= sizeof(o->device) || !(o->device_index = if_nametoindex(name)))
		return error_set(e, -ENODEV, "option \"device\": there is no interface \"%.40s\"",
				 name);
	memcpy(o->device, name, strlen(name) + 1);
	return 0;
}

/* ---- addresses ---- */

/* An address of one link is nothing without the link. */
static void set_scope(const struct vxlan_options *o, struct vxlan_address *a)
{
	struct sockaddr_in6 *v6 = &a->v6;

	if (a->any.sa_family == AF_INET6 && !v6->sin6_scope_id &&
	    (IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) || IN6_IS_ADDR_MC_LINKLOCAL(&v6->sin6_addr)))
		v6->sin6_scope_id = o->device_index;
}

static bool is_any(const struct vxlan_address *a)
{
	struct vxlan_address any;

	vxlan_address_set_any(&any, a->any.sa_family, 0);
	return vxlan_address_same_host(a, &any);
}

static int add_peer(struct vxlan_options *o, const char *text, struct error *e)
{
	struct vxlan_address *a = &o->peers[o->peer_count];

	if (o->peer_count == VXLAN_PEERS_STATIC)
		return error_set(e, -EINVAL, "more than %d peers", VXLAN_PEERS_STATIC);
	if (vxlan_address_parse(a, text, o->port) || is_any(a))
		return error_set(e, -EINVAL,
				 "peer \"%.60s\": not as 10.0.0.1, 10.0.0.1:4789, [fd00::1] or "
				 "[fd00::1]:4789",
				 text);
	if (a->any.sa_family != o->peers[0].any.sa_family)
		return error_set(e, -EINVAL, "peers of IPv4 and IPv6 at one port");
	set_scope(o, a);
	if (vxlan_address_is_group(a)) {
		if (o->group >= 0)
			return error_set(e, -EINVAL, "more than one group among the peers");
		o->group = o->peer_count;
	}
	o->peer_count++;
	return 0;
}

static int parse_peers(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	const char *text = uri->path;
	char one[96];
	int status = 0;

	if (strncmp(text, "//", 2) || !text[2])
		return error_set(e, -EINVAL, "without a peer: \"vxlan://PEER?vni=NUMBER\"");
	text += 2;
	while (!status) {
		size_t n = strcspn(text, ",");

		snprintf(one, sizeof(one), "%.*s", (int)minimum_u64(n, sizeof(one) - 1), text);
		status = add_peer(o, one, e);
		if (!text[n])
			break;
		text += n + 1;
	}
	return status;
}

static int parse_local(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	sa_family_t family = o->peers[0].any.sa_family;
	const char *text = uri_value(uri, "local");

	if (!text) {
		vxlan_address_set_any(&o->local, family, o->port);
		return 0;
	}
	if (vxlan_address_parse_host(&o->local, text, o->port) ||
	    vxlan_address_is_group(&o->local) || is_any(&o->local))
		return error_set(e, -EINVAL, "option \"local\": \"%.60s\" is no address of a host",
				 text);
	if (o->local.any.sa_family != family)
		return error_set(e, -EINVAL,
				 "option \"local\": \"%.60s\" is not of the peers' "
				 "kind, IPv%d",
				 text, family == AF_INET ? 4 : 6);
	set_scope(o, &o->local);
	return 0;
}

/* The kernel would take any interface for a group, and hardly the right one. */
static int check_group(const struct vxlan_options *o, struct error *e)
{
	const struct vxlan_address *group = &o->peers[o->group >= 0 ? o->group : 0];

	if (o->group < 0)
		return 0;
	if (vxlan_address_port(group) != o->port)
		return error_set(e, -EINVAL, "a group is heard at option \"port\", %u, not at %u",
				 o->port, vxlan_address_port(group));
	if (!o->device_index && group->any.sa_family == AF_INET6)
		return error_set(e, -EINVAL, "a group of IPv6 needs option \"device\"");
	if (!o->device_index && is_any(&o->local))
		return error_set(e, -EINVAL, "a group needs option \"device\" or \"local\"");
	return 0;
}

int vxlan_options_parse(struct vxlan_options *o, const struct uri *uri, struct error *e)
{
	int status;

	*o = (struct vxlan_options){ .group = -1, .learning = true, .checksum = true };
	status = parse_numbers(o, uri, e);
	status = status ? status : parse_ageing(o, uri, e);
	status = status ? status : parse_switches(o, uri, e);
	status = status ? status : parse_device(o, uri, e);
	status = status ? status : parse_peers(o, uri, e);
	status = status ? status : parse_local(o, uri, e);
	return status ? status : check_group(o, e);
}
