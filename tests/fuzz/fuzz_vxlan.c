/* fuzz_vxlan.c - a datagram that anybody may send to a VXLAN port. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "network/network_port.h"
#include "network/vxlan_header.h"
#include "network/vxlan_neighbours.h"

/* Whatever is heard first, then asked. */
static void suppress(const uint8_t *frame, size_t n)
{
	struct vxlan_neighbours *t = vxlan_neighbours_create(1, 1);
	uint8_t answer[VXLAN_ANSWER_BYTES];

	vxlan_neighbours_hear(t, frame, n, 0);
	assert(vxlan_neighbours_ask(t, frame, n, 0, answer) <= sizeof(answer));
	vxlan_neighbours_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct vxlan_packet p = { 0 };
	int status = vxlan_header_parse(bytes, n, &p);
	uint8_t header[VXLAN_HEADER];

	assert(status == 0 || status == -EPROTO);
	if (status)
		return 0;
	assert(p.vni <= VXLAN_VNI_MAX && p.length >= NETWORK_HEADER);
	assert(p.frame == bytes + VXLAN_HEADER && p.length == n - VXLAN_HEADER);
	vxlan_header_store(header, p.vni);
	assert(header[0] == 8 && !memcmp(header + 4, bytes + 4, 3) && !header[7]);
	assert(vxlan_flow_hash(p.frame, p.length) == vxlan_flow_hash(p.frame, p.length));
	suppress(p.frame, p.length);
	return 0;
}
