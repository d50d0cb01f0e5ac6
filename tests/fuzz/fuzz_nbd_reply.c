/* fuzz_nbd_reply.c - what an NBD server may send. */
#include <assert.h>
#include <errno.h>

#include "fuzz.h"
#include "storage/nbd_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct nbd_reply reply = { 0 };
	int answer = nbd_reply_parse(bytes, n, &reply);

	assert(answer == NBD_REPLY_SIZE || answer == 0 || answer == -EPROTO);
	if (answer == NBD_REPLY_SIZE && reply.error)
		assert(nbd_reply_errno(reply.error) < 0);
	return 0;
}
