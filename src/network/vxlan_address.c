/* vxlan_address.c - an outer address: IPv4 or IPv6, with a UDP port. */
#include "network/vxlan_address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { HOST_TEXT = INET6_ADDRSTRLEN + 1 + IFNAMSIZ };

static int parse_port(const char *text, uint16_t *port)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || !number || number > UINT16_MAX)
		return -EINVAL;
	*port = number;
	return 0;
}

static int parse_scope(const char *text, uint32_t *scope)
{
	*scope = if_nametoindex(text);
	return *scope ? 0 : -EINVAL;
}

/* In place: the text is cut at "%". */
static int parse_ipv6(struct vxlan_address *a, char *text)
{
	char *percent = strchr(text, '%');
	int status = 0;

	a->v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6 };
	if (percent) {
		*percent = '\0';
		status = parse_scope(percent + 1, &a->v6.sin6_scope_id);
	}
	return !status && inet_pton(AF_INET6, text, &a->v6.sin6_addr) == 1 ? 0 : -EINVAL;
}

static int parse_ipv4(struct vxlan_address *a, const char *text)
{
	a->v4 = (struct sockaddr_in){ .sin_family = AF_INET };
	return inet_pton(AF_INET, text, &a->v4.sin_addr) == 1 ? 0 : -EINVAL;
}

/* The `length` characters of text are an address and nothing else. */
static int parse_host(struct vxlan_address *a, const char *text, size_t length, bool v6)
{
	char host[HOST_TEXT];

	if (length >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, length);
	host[length] = '\0';
	return v6 ? parse_ipv6(a, host) : parse_ipv4(a, host);
}

int vxlan_address_parse(struct vxlan_address *a, const char *text, uint16_t port)
{
	bool v6 = *text == '[';
	const char *host = text + v6, *end = host + strcspn(host, v6 ? "]" : ":");
	int status = parse_host(a, host, end - host, v6);

	if (v6 && *end++ != ']')
		return -EINVAL;
	if (!status && *end)
		status = *end == ':' ? parse_port(end + 1, &port) : -EINVAL;
	vxlan_address_set_port(a, port);
	return status;
}

int vxlan_address_parse_host(struct vxlan_address *a, const char *text, uint16_t port)
{
	size_t n = strlen(text);
	int status;

	if (*text == '[' && text[n - 1] == ']')
		status = parse_host(a, text + 1, n - 2, true);
	else
		status = parse_host(a, text, n, strchr(text, ':') != NULL);
	vxlan_address_set_port(a, port);
	return status;
}

void vxlan_address_set_any(struct vxlan_address *a, sa_family_t family, uint16_t port)
{
	*a = (struct vxlan_address){ .any.sa_family = family };
	vxlan_address_set_port(a, port);
}

socklen_t vxlan_address_length(const struct vxlan_address *a)
{
	return a->any.sa_family == AF_INET ? sizeof(a->v4) : sizeof(a->v6);
}

/* Both families have it in the same place, which the compiler knows. */
uint16_t vxlan_address_port(const struct vxlan_address *a)
{
	return ntohs(a->any.sa_family == AF_INET ? a->v4.sin_port : a->v6.sin6_port);
}

void vxlan_address_set_port(struct vxlan_address *a, uint16_t port)
{
	if (a->any.sa_family == AF_INET)
		a->v4.sin_port = htons(port);
	else
		a->v6.sin6_port = htons(port);
}

bool vxlan_address_is_group(const struct vxlan_address *a)
{
	if (a->any.sa_family == AF_INET)
		return IN_MULTICAST(ntohl(a->v4.sin_addr.s_addr));
	return IN6_IS_ADDR_MULTICAST(&a->v6.sin6_addr);
}

bool vxlan_address_same_host(const struct vxlan_address *a, const struct vxlan_address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	if (a->any.sa_family == AF_INET)
		return a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
	return !memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof(a->v6.sin6_addr)) &&
	       a->v6.sin6_scope_id == b->v6.sin6_scope_id;
}

const char *vxlan_address_print(const struct vxlan_address *a, char *text)
{
	char host[INET6_ADDRSTRLEN] = "", name[IF_NAMESIZE] = "";
	uint16_t port = vxlan_address_port(a);

	if (a->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(text, VXLAN_ADDRESS_TEXT, "%s:%u", host, port);
		return text;
	}
	inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
	if (a->v6.sin6_scope_id)
		if_indextoname(a->v6.sin6_scope_id, name);
	snprintf(text, VXLAN_ADDRESS_TEXT, "[%s%s%s]:%u", host, *name ? "%" : "", name, port);
	return text;
}
