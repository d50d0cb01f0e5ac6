/* fuzz_vfio_user_message.c - bytes taken for one vfio-user command, and for a client's version. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "fuzz.h"
#include "host/vfio_user/vfio_user_message.h"
#include "host/vfio_user/vfio_user_version.h"

static void agree(const struct vfio_user_message *m)
{
	struct vfio_user_terms terms;
	struct error e = { 0 };
	size_t size;

	if (vfio_user_version_read(m, &terms, &e)) {
		assert(e.code < 0 && e.text[0]);
		return;
	}
	assert(terms.transfer_max >= VFIO_USER_TRANSFER_MIN && terms.maps_max && terms.page_sizes);
	free(vfio_user_version_reply(&terms, &size));
}

/* The first byte is the command, the second how many descriptors came with it. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct vfio_user_message m = { 0 };
	struct error e = { 0 };
	void *payload;

	if (n < 2)
		return 0;
	payload = malloc(n - 2 ? n - 2 : 1);
	memcpy(payload, bytes + 2, n - 2);
	m.header.command = bytes[0];
	m.header.size = VFIO_USER_HEADER_SIZE + n - 2;
	m.payload = payload;
	m.fd_count = bytes[1] % (VFIO_USER_FDS_MAX + 1);
	if (vfio_user_command_check(&m, VFIO_USER_TRANSFER_MAX, &e))
		assert(e.code < 0 && e.text[0]);
	else if (m.header.command == VFIO_USER_VERSION)
		agree(&m);
	free(payload);
	return 0;
}
