/* fuzz_vxlan.c - a datagram that anybody may send to a VXLAN port. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "fuzz.h"
#include "network/network_port.h"
#include "network/vxlan_header.h"

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
	return 0;
}
