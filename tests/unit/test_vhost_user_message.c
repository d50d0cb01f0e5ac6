/* If this failed, a message that breaks the protocol could reach a handler. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vhost_user/vhost_user_request.h"
#include "host/vhost_user/vhost_user_socket.h"

/* One message in a row of bytes. */
struct draft {
	struct vhost_user_header header;
	union vhost_user_payload payload;
} __attribute__((packed));

static struct draft draft(uint32_t request, uint32_t size)
{
	struct draft d = { .header = { request, VHOST_USER_VERSION, size } };

	return d;
}

static int decode(const struct draft *d, unsigned fds)
{
	struct vhost_user_message m;
	struct error e = { 0 };
	int err = vhost_user_message_decode(d, sizeof(d->header) + d->header.size, fds, &m, &e);

	assert_int_equal(err, e.code);
	assert_true(!err == !e.text[0]);
	return err;
}

static void headers_are_checked(void **state)
{
	struct draft d = draft(VHOST_USER_GET_FEATURES, 0);
	struct vhost_user_message m;

	assert_int_equal(decode(&d, 0), 0);
	d.header.flags |= VHOST_USER_FLAG_NEED_REPLY;
	assert_int_equal(decode(&d, 0), 0);
	d.header.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d.header.flags = 2;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d = draft(VHOST_USER_GET_FEATURES, VHOST_USER_PAYLOAD_MAX + 1);
	assert_int_equal(decode(&d, 0), -EPROTO);
	for (size_t n = 0; n < sizeof(d.header); n++)
		assert_int_equal(vhost_user_message_decode(&d, n, 0, &m, NULL), -EPROTO);
}

static void requests_that_were_not_offered_are_unknown(void **state)
{
	static const uint32_t numbers[] = { 0,  22, 23, 26, 27, 28, 29,
					    30, 33, 35, 41, 44, 45, UINT32_MAX };

	for (unsigned i = 0; i < ARRAY_LENGTH(numbers); i++)
		assert_null(vhost_user_request_find(numbers[i]));
	for (uint32_t i = 1; i <= VHOST_USER_GET_QUEUE_NUM; i++)
		assert_non_null(vhost_user_request_find(i)->handler);
}

/* Every request refuses every payload size but its own, and one descriptor too many. */
static void sizes_and_descriptors_are_checked(void **state)
{
	for (uint32_t request = 1; request < VHOST_USER_REQUEST_END; request++) {
		const struct vhost_user_request *r = vhost_user_request_find(request);

		for (uint32_t size = 0; r && size <= VHOST_USER_PAYLOAD_MAX; size++) {
			struct draft d = draft(request, size);

			if (size < r->shape.size_min || size > r->shape.size_max)
				assert_int_equal(decode(&d, r->shape.fds_min), -EPROTO);
			else
				assert_int_equal(decode(&d, r->shape.fds_max + 1), -EPROTO);
		}
	}
}

static struct draft table(uint32_t count)
{
	struct draft d = draft(VHOST_USER_SET_MEM_TABLE, 8 + count * 32);

	d.payload.table.count = count;
	for (unsigned i = 0; i < count && i < VHOST_USER_TABLE_MAX; i++)
		d.payload.table.regions[i] = (struct vhost_user_region){ .guest_address = i << 20,
									 .size = 1 << 20,
									 .user_address = i << 20 };
	return d;
}

static void memory_tables_are_checked(void **state)
{
	struct draft d = table(8);

	assert_int_equal(decode(&d, 8), 0);
	assert_int_equal(decode(&d, 7), -EPROTO);
	d.payload.table.count = 7;
	assert_int_equal(decode(&d, 7), -EPROTO);
	d = table(8);
	d.payload.table.count = 9;
	assert_int_equal(decode(&d, 8), -EPROTO);
	d.payload.table.count = 0x08000008; /* count * 32 would wrap in 32 bits */
	assert_int_equal(decode(&d, 8), -EPROTO);
}

static void regions_are_checked(void **state)
{
	static const struct vhost_user_region wrong[] = {
		{ .size = 0 },
		{ .size = 4096, .guest_address = UINT64_MAX - 4094 },
		{ .size = 4096, .user_address = UINT64_MAX - 4094 },
		{ .size = 4096, .mmap_offset = INT64_MAX - 4094 },
		{ .size = UINT64_MAX, .mmap_offset = 1 },
	};

	for (unsigned i = 0; i < ARRAY_LENGTH(wrong); i++) {
		struct draft d = table(1);

		d.payload.table.regions[0] = wrong[i];
		assert_int_equal(decode(&d, 1), -EPROTO);
		d = draft(VHOST_USER_ADD_MEM_REG, 40);
		d.payload.single.region = wrong[i];
		assert_int_equal(decode(&d, 1), -EPROTO);
	}
}

static void ring_files_say_whether_a_descriptor_came(void **state)
{
	struct draft d = draft(VHOST_USER_SET_VRING_KICK, 8);

	d.payload.u64 = 3;
	assert_int_equal(decode(&d, 1), 0);
	assert_int_equal(decode(&d, 0), -EPROTO);
	d.payload.u64 = 0x103;
	assert_int_equal(decode(&d, 0), 0);
	assert_int_equal(decode(&d, 1), -EPROTO);
	d.payload.u64 = 0x203;
	assert_int_equal(decode(&d, 1), -EPROTO);
}

static void configuration_ranges_are_checked(void **state)
{
	struct draft d = draft(VHOST_USER_GET_CONFIG, 12 + 60);

	d.payload.config.size = 60;
	assert_int_equal(decode(&d, 0), 0);
	d.payload.config.size = 61;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d.payload.config.size = 60;
	d.payload.config.offset = 197;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d.payload.config.offset = UINT32_MAX - 30;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d.header.size = 11;
	assert_int_equal(decode(&d, 0), -EPROTO);
}

static void odd_values_are_refused(void **state)
{
	struct draft d = draft(VHOST_USER_SET_VRING_ENABLE, 8);

	d.payload.state.num = 2;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d = draft(VHOST_USER_SET_STATUS, 8);
	d.payload.u64 = 0x100;
	assert_int_equal(decode(&d, 0), -EPROTO);
	d = draft(VHOST_USER_SET_VRING_ADDR, 40);
	d.payload.address.flags = 1;
	assert_int_equal(decode(&d, 0), 0);
	d.payload.address.flags = 2;
	assert_int_equal(decode(&d, 0), -EPROTO);
}

/* ---- the socket ---- */

struct pair {
	struct vhost_user_socket ours;
	int theirs;
};

static void pair_open(struct pair *p)
{
	int fds[2];

	memset(p, 0, sizeof(*p));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	p->ours.fd = fds[0];
	p->theirs = fds[1];
}

static void pair_close(struct pair *p)
{
	vhost_user_socket_close(&p->ours);
	close(p->theirs);
}

static void send_with_fds(int to, const void *bytes, size_t n, unsigned count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(16 * sizeof(int))];
	} control = { { 0 } };
	struct iovec iov = { (void *)bytes, n };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	int fds[16] = { 0 };

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(&control.header), fds,
	       count * sizeof(int)); /* descriptor 0, again and again */
	assert_int_equal(sendmsg(to, &h, 0), n);
}

static unsigned open_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* If it failed, a message cut in two by the kernel would be lost, or a descriptor would go with the
 * wrong message. */
static void messages_are_put_together(void **state)
{
	struct draft d[2] = { draft(VHOST_USER_SET_FEATURES, 8), draft(VHOST_USER_SET_LOG_FD, 0) };
	struct pair p;
	struct error e = { 0 };

	pair_open(&p);
	d[0].payload.u64 = 42;
	for (unsigned i = 0; i < 19; i++) {
		assert_int_equal(send(p.theirs, (char *)&d[0] + i, 1, 0), 1);
		assert_int_equal(vhost_user_socket_receive(&p.ours, &e), VHOST_USER_MORE);
	}
	assert_int_equal(send(p.theirs, (char *)&d[0] + 19, 1, 0), 1);
	send_with_fds(p.theirs, &d[1], 12, 1);
	assert_int_equal(vhost_user_socket_receive(&p.ours, &e), VHOST_USER_WHOLE);
	assert_int_equal(p.ours.message.payload.u64, 42);
	assert_int_equal(p.ours.message.fd_count, 0);
	vhost_user_socket_next(&p.ours);
	assert_int_equal(vhost_user_socket_receive(&p.ours, &e), VHOST_USER_WHOLE);
	assert_int_equal(p.ours.message.fd_count, 1);
	pair_close(&p);
}

static void too_many_descriptors_are_closed(void **state)
{
	struct draft d = draft(VHOST_USER_SET_LOG_FD, 0);
	unsigned before = open_descriptors();
	struct error e = { 0 };
	struct pair p;

	pair_open(&p);
	send_with_fds(p.theirs, &d, 12, 16);
	assert_int_equal(vhost_user_socket_receive(&p.ours, &e), -EPROTO);
	pair_close(&p);
	assert_int_equal(open_descriptors(), before);

	/* eight with the first byte and one with the next */
	pair_open(&p);
	send_with_fds(p.theirs, &d, 1, 8);
	assert_int_equal(vhost_user_socket_receive(&p.ours, &e), VHOST_USER_MORE);
	send_with_fds(p.theirs, (char *)&d + 1, 11, 1);
	assert_int_equal(vhost_user_socket_receive(&p.ours, &e), -EPROTO);
	pair_close(&p);
	assert_int_equal(open_descriptors(), before);
}

static void ends_are_told_from_breaks(void **state)
{
	struct draft d = draft(VHOST_USER_SET_FEATURES, 8);
	struct error e = { 0 };
	struct pair p;

	pair_open(&p);
	shutdown(p.theirs, SHUT_WR);
	assert_int_equal(vhost_user_socket_receive(&p.ours, &e), VHOST_USER_GONE);
	pair_close(&p);
	for (unsigned n = 1; n < 20; n++) {
		pair_open(&p);
		assert_int_equal(send(p.theirs, &d, n, 0), n);
		shutdown(p.theirs, SHUT_WR);
		assert_int_equal(vhost_user_socket_receive(&p.ours, &e), -EPROTO);
		pair_close(&p);
	}
}

/* An answer that does not fit in the socket waits, and goes on where it was. */
static void answers_wait_for_their_reader(void **state)
{
	static char waste[1 << 20];
	struct pair p;
	int fill = 0;
	ssize_t n;

	pair_open(&p);
	while (send(p.ours.fd, waste, 1000, MSG_DONTWAIT) > 0)
		fill++;
	p.ours.message.header = (struct vhost_user_header){ VHOST_USER_GET_FEATURES, 5, 8 };
	p.ours.message.payload.u64 = 77;
	vhost_user_socket_answer(&p.ours);
	assert_int_equal(vhost_user_socket_send(&p.ours), -EAGAIN);
	while ((n = recv(p.theirs, waste, sizeof(waste), 0)) > 0)
		;
	assert_true(fill > 0 && n < 0);
	assert_int_equal(vhost_user_socket_send(&p.ours), 0);
	assert_int_equal(recv(p.theirs, waste, sizeof(waste), 0), 20);
	assert_int_equal(load_le64(waste + 12), 77);
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_are_checked),
		cmocka_unit_test(requests_that_were_not_offered_are_unknown),
		cmocka_unit_test(sizes_and_descriptors_are_checked),
		cmocka_unit_test(memory_tables_are_checked),
		cmocka_unit_test(regions_are_checked),
		cmocka_unit_test(ring_files_say_whether_a_descriptor_came),
		cmocka_unit_test(configuration_ranges_are_checked),
		cmocka_unit_test(odd_values_are_refused),
		cmocka_unit_test(messages_are_put_together),
		cmocka_unit_test(too_many_descriptors_are_closed),
		cmocka_unit_test(ends_are_told_from_breaks),
		cmocka_unit_test(answers_wait_for_their_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
