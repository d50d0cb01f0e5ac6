/* fuzz_vhost_user_message.c - bytes taken for one vhost-user message. */
#include <assert.h>

#include "base/error.h"
#include "fuzz.h"
#include "host/vhost_user/vhost_user_message.h"
#include "host/vhost_user/vhost_user_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct vhost_user_message m;
	struct error e = { 0 };

	if (!n)
		return 0;
	if (!vhost_user_message_decode(bytes + 1, n - 1, bytes[0] % (VHOST_USER_FDS_MAX + 1), &m,
				       &e))
		assert(m.header.size <= sizeof(m.payload));
	else
		assert(e.code < 0 && e.text[0]);
	return 0;
}
