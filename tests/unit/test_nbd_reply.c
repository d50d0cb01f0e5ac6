/* If this fails, a hostile NBD server's bytes are misread, or requests leave malformed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "storage/nbd_reply.h"
#include "storage/storage.h"

static const unsigned char good[] = { 0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 1, 2, 3, 4, 5, 6, 7, 8 };

static void test_reply(void **state)
{
	struct nbd_reply reply;

	assert_int_equal(nbd_reply_parse(good, sizeof(good), &reply), NBD_REPLY_SIZE);
	assert_int_equal(reply.error, 28);
	assert_true(reply.cookie == 0x0102030405060708);
}

/* On the heap, so that the sanitizers see a read beyond the end. */
static void test_incomplete_reply(void **state)
{
	struct nbd_reply reply;

	for (size_t n = 0; n < sizeof(good); n++) {
		unsigned char *copy = malloc(n + 1);

		memcpy(copy, good, n);
		assert_int_equal(nbd_reply_parse(copy, n, &reply), 0);
		free(copy);
	}
}

static void test_wrong_magic(void **state)
{
	struct nbd_reply reply;

	for (int bit = 0; bit < 32; bit++) {
		unsigned char bad[sizeof(good)];

		memcpy(bad, good, sizeof(good));
		bad[bit / 8] ^= 1 << bit % 8;
		assert_int_equal(nbd_reply_parse(bad, sizeof(bad), &reply), -EPROTO);
		assert_int_equal(nbd_reply_parse(bad, 4, &reply), -EPROTO);
	}
}

static void test_errors(void **state)
{
	assert_int_equal(nbd_reply_errno(1), -EPERM);
	assert_int_equal(nbd_reply_errno(5), -EIO);
	assert_int_equal(nbd_reply_errno(12), -ENOMEM);
	assert_int_equal(nbd_reply_errno(22), -EINVAL);
	assert_int_equal(nbd_reply_errno(28), -ENOSPC);
	assert_int_equal(nbd_reply_errno(75), -EOVERFLOW);
	assert_int_equal(nbd_reply_errno(95), -EOPNOTSUPP);
	assert_int_equal(nbd_reply_errno(108), -ESHUTDOWN);
	assert_int_equal(nbd_reply_errno(0xffffffff), -EINVAL);
}

static void check_request(enum storage_operation operation, unsigned flags, uint16_t type,
			  uint16_t wire_flags)
{
	struct storage_io io = {
		.operation = operation, .flags = flags, .offset = 0x1122334455667788, .length = 4096
	};
	unsigned char to[NBD_REQUEST_SIZE];
	bool ranged = operation != STORAGE_FLUSH;

	nbd_request_encode(to, &io, 0xa1a2a3a4a5a6a7a8);
	assert_int_equal(load_be32(to), 0x25609513);
	assert_int_equal(load_be16(to + 4), wire_flags);
	assert_int_equal(load_be16(to + 6), type);
	assert_true(load_be64(to + 8) == 0xa1a2a3a4a5a6a7a8);
	assert_true(load_be64(to + 16) == (ranged ? 0x1122334455667788 : 0));
	assert_int_equal(load_be32(to + 24), ranged ? 4096 : 0);
}

/* NBD protocol, "Request types" and "Command flags" */
static void test_requests(void **state)
{
	check_request(STORAGE_READ, 0, 0, 0);
	check_request(STORAGE_WRITE, 0, 1, 0);
	check_request(STORAGE_FLUSH, 0, 3, 0);
	check_request(STORAGE_DISCARD, 0, 4, 0);
	check_request(STORAGE_WRITE_ZEROES, 0, 6, 2);
	check_request(STORAGE_WRITE_ZEROES, STORAGE_UNMAP, 6, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reply),       cmocka_unit_test(test_incomplete_reply),
		cmocka_unit_test(test_wrong_magic), cmocka_unit_test(test_errors),
		cmocka_unit_test(test_requests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
