/* Broken if this fails: where a vfio-user client cuts its stream, what descriptors it sends, on
 * which socket, or that it does not read, changes what its messages mean, or stops the server. */
#include "vfio_user_peer.h"

#include <fcntl.h>

enum { TURNS = 20000, PIECE = 1 << 16 };

struct received {
	uint8_t bytes[1 << 21];
	size_t n;
	int fds[VFIO_USER_FDS_MAX];
	unsigned fd_count;
};

static struct received received;

/* ---- raw bytes ---- */

static void take_descriptors(struct received *r, struct msghdr *h)
{
	struct cmsghdr *part = CMSG_FIRSTHDR(h);

	assert_false(h->msg_flags & MSG_CTRUNC);
	if (!part)
		return;
	r->fd_count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(r->fds, CMSG_DATA(part), r->fd_count * sizeof(int));
}

/* What is there at this moment.  False: the connection has ended. */
static bool take_some(struct stage *s, struct received *r)
{
	char control[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))] = { 0 };
	struct iovec iov = { r->bytes + r->n, minimum_u64(sizeof(r->bytes) - r->n, PIECE) };
	struct msghdr h = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(s->client, &h, MSG_DONTWAIT);

	if (n <= 0)
		return n < 0 && errno == EAGAIN;
	r->n += n;
	take_descriptors(r, &h);
	return true;
}

/* Time passes when nobody can do anything, so all that is there is taken before each step. */
static void take_all(struct stage *s, struct received *r)
{
	size_t before;

	do {
		before = r->n;
		assert_true(take_some(s, r));
	} while (r->n != before);
}

static void receive(struct stage *s, struct received *r, size_t n)
{
	r->n = r->fd_count = 0;
	take_all(s, r);
	for (unsigned i = 0; i < TURNS && r->n < n; i++) {
		reactor_world_step(s->world);
		take_all(s, r);
	}
	assert_int_equal(r->n, n);
}

static size_t append(uint8_t *to, uint16_t command, uint32_t flags, const void *payload, size_t n)
{
	const struct vfio_user_header h = { ID, command, sizeof(h) + n, flags, 0 };

	memcpy(to, &h, sizeof(h));
	memcpy(to + sizeof(h), payload, n);
	return sizeof(h) + n;
}

static void negotiate_text(struct stage *s, const char *text)
{
	assert_int_equal(negotiate_with(s, text, strlen(text) + 1), 0);
}

/* ---- clients that do not read ---- */

enum { READS = 100, READ_BYTES = 0x3000, READ_REPLY = 32 + READ_BYTES };

static void ask_for_much(struct stage *s)
{
	const struct vfio_user_region_access whole = { 0, PCI_REGION_BAR4, READ_BYTES };
	static uint8_t bytes[READS * (16 + sizeof(whole))];
	size_t n = 0;

	for (unsigned i = 0; i < READS; i++)
		n += append(bytes + n, VFIO_USER_REGION_READ, 0, &whole, sizeof(whole));
	assert_true(put_bytes(s, bytes, n, NULL, 0));
	reactor_world_step(s->world); /* answers wait, and commands behind them */
}

/* More answers than a socket holds, to a client that reads only when it has asked for all. */
static void answers_wait_for_their_reader(void **state)
{
	struct stage s;
	struct vfio_user_header h;

	stage_open(&s);
	negotiate(&s);
	for (unsigned round = 0; round < 3; round++) {
		ask_for_much(&s);
		receive(&s, &received, READS * (size_t)READ_REPLY);
		for (unsigned i = 0; i < READS; i++) {
			memcpy(&h, received.bytes + i * READ_REPLY, sizeof(h));
			assert_int_equal(h.size, READ_REPLY);
			assert_int_equal(h.flags, VFIO_USER_FLAG_REPLY);
		}
		works(&s);
	}
	stage_close(&s);
}

static void a_client_that_never_reads_is_dropped(void **state)
{
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	ask_for_much(&s);
	steps(&s); /* time passes */
	received.n = 0;
	while (take_some(&s, &received) && received.n < READS * (size_t)READ_REPLY)
		;
	assert_true(received.n < READS * (size_t)READ_REPLY);
	is_gone_and_comes_back(&s);
	stage_close(&s);
}

/* ---- streams cut anywhere ---- */

/* Of four commands two want no answer. */
static size_t make_stream(uint8_t *to)
{
	const struct vfio_user_device_info info = { .argsz = sizeof(info) };
	const struct vfio_user_region_access read = { 0, PCI_REGION_CONFIG, 64 };
	const uint32_t good[] = { 0x3c, 0, PCI_REGION_CONFIG, 4, 0 };
	const uint32_t bad[] = { 0x3c, 0, PCI_REGIONS, 4, 0 };
	const uint32_t quiet = VFIO_USER_FLAG_NO_REPLY;
	size_t n = append(to, VFIO_USER_DEVICE_GET_INFO, 0, &info, sizeof(info));

	n += append(to + n, VFIO_USER_REGION_WRITE, quiet, good, sizeof(good));
	n += append(to + n, VFIO_USER_REGION_WRITE, quiet, bad, sizeof(bad));
	return n + append(to + n, VFIO_USER_REGION_READ, 0, &read, sizeof(read));
}

static void take_answers(struct stage *s)
{
	struct vfio_user_header h;

	receive(s, &received, 32 + 32 + 64);
	memcpy(&h, received.bytes, sizeof(h));
	assert_int_equal(h.command, VFIO_USER_DEVICE_GET_INFO);
	memcpy(&h, received.bytes + 32, sizeof(h));
	assert_int_equal(h.command, VFIO_USER_REGION_READ);
	assert_int_equal(h.size, 32 + 64);
}

static void streams_are_cut_anywhere(void **state)
{
	uint8_t bytes[256];
	struct stage s;
	size_t n = make_stream(bytes);

	stage_open(&s);
	negotiate(&s);
	for (size_t cut = 0; cut < n; cut++) {
		assert_true(put_bytes(&s, bytes, cut, NULL, 0) || !cut);
		reactor_world_step(s.world);
		assert_true(put_bytes(&s, bytes + cut, n - cut, NULL, 0));
		take_answers(&s);
	}
	stage_close(&s);
}

static void half_a_message_costs_the_connection_in_time(void **state)
{
	uint8_t bytes[256];
	struct stage s;

	make_stream(bytes);
	stage_open(&s);
	negotiate(&s);
	for (size_t cut = 1; cut < 32; cut += 3) {
		send_bytes(&s, bytes, cut, &s.file, 1); /* and time passes */
		is_gone_and_comes_back(&s);
	}
	stage_close(&s);
}

/* ---- interrupts ---- */

static int set_irqs(struct stage *s, uint32_t flags, uint32_t count, uint32_t data, const int *fds,
		    unsigned fd_count)
{
	const size_t bools = flags & VFIO_IRQ_SET_DATA_BOOL ? count : 0;
	const uint32_t set[] = { 20 + bools, flags, PCI_IRQ_MSIX, 0, count, data };
	const struct vfio_user_header h = { ID, VFIO_USER_DEVICE_SET_IRQS, 16 + 20 + bools, 0, 0 };
	uint8_t reply[REPLY_MAX];

	assert_true(bools <= sizeof(data));
	send_message(s, &h, set, 20 + bools, fds, fd_count);
	return answer(s, h.command, reply);
}

/* Only eventfds, as VFIO has it, and none in whose write() a queue's thread could wait: one that is
 * full would stop all other queues there. */
static void interrupts_to_odd_descriptors(void **state)
{
	const uint32_t trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
	const uint64_t full = UINT64_MAX - 1;
	int ends[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int blocking = eventfd(0, EFD_CLOEXEC);
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	for (unsigned i = 0; i < 5; i++) {
		const int odd[] = { ends[0], ends[1], null, s.file, s.client };
		const int fds[] = { blocking, odd[i] };

		assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_EVENTFD | trigger, 2, 0, fds, 2),
				 -EINVAL);
	}
	assert_int_equal(write(blocking, &full, sizeof(full)), sizeof(full));
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_EVENTFD | trigger, 1, 0, &blocking, 1), 0);
	assert_true(fcntl(blocking, F_GETFL) & O_NONBLOCK);
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_NONE | trigger, 1, 0, NULL, 0), 0);
	works(&s);
	stage_close(&s);
	close(ends[0]);
	close(ends[1]);
	close(blocking);
	close(null);
}

static bool was_raised(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count);
}

/* "A client may trigger a device IRQ itself": all of a range, or those whose boolean is true. */
static void clients_trigger_interrupts(void **state)
{
	const uint32_t trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
	int fds[QUEUES + 1];
	struct stage s;

	stage_open(&s);
	negotiate(&s);
	for (unsigned i = 0; i < ARRAY_LENGTH(fds); i++)
		fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(
		set_irqs(&s, VFIO_IRQ_SET_DATA_EVENTFD | trigger, QUEUES + 1, 0, fds, QUEUES + 1),
		0);
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_BOOL | trigger, 3, 0x010001, NULL, 0), 0);
	assert_true(was_raised(fds[0]) && !was_raised(fds[1]) && was_raised(fds[2]));
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_NONE | trigger, 3, 0, NULL, 0), 0);
	assert_true(was_raised(fds[0]) && was_raised(fds[1]) && was_raised(fds[2]));
	/* Without descriptors they go nowhere; count and start 0 is so for all. */
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_EVENTFD | trigger, 1, 0, NULL, 0), 0);
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_NONE | trigger, 3, 0, NULL, 0), 0);
	assert_true(!was_raised(fds[0]) && was_raised(fds[1]) && was_raised(fds[2]));
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_NONE | trigger, 0, 0, NULL, 0), 0);
	assert_int_equal(set_irqs(&s, VFIO_IRQ_SET_DATA_NONE | trigger, 3, 0, NULL, 0), 0);
	assert_false(was_raised(fds[1]) || was_raised(fds[2]));
	stage_close(&s);
	for (unsigned i = 0; i < ARRAY_LENGTH(fds); i++)
		close(fds[i]);
}

/* ---- what was agreed on ---- */

static void accesses_of_any_size(void **state)
{
	static uint8_t big[16 + 16 + 65];
	const struct vfio_user_region_access reads[] = { { 0, PCI_REGION_CONFIG, 64 },
							 { 0, PCI_REGION_CONFIG, 65 } };
	struct stage s;

	stage_open(&s);
	negotiate_text(&s, "{\"capabilities\":{\"max_data_xfer_size\":64}}");
	for (unsigned i = 0; i < 2; i++) {
		const struct vfio_user_region_access write = { 0x200, PCI_REGION_CONFIG, 64 + i };

		assert_int_equal(ask(&s, VFIO_USER_REGION_READ, &reads[i], sizeof(reads[i]), 0),
				 i ? -EINVAL : 0);
		memcpy(big, &write, sizeof(write));
		assert_int_equal(ask(&s, VFIO_USER_REGION_WRITE, big, 16 + 64 + i, 0),
				 i ? -EINVAL : 0);
	}
	stage_close(&s);
}

/* The doorbells' descriptors: never more than the client takes. */
static void doorbells_for_clients_of_few_descriptors(void **state)
{
	static const char *const texts[] = { "{\"capabilities\":{\"max_msg_fds\":0}}", "{}",
					     "{\"capabilities\":{\"max_msg_fds\":64}}" };
	const struct vfio_user_indexed asked = { 4096, 0, PCI_REGION_BAR4, 0 };
	struct vfio_user_indexed info;
	uint8_t bytes[64];
	struct stage s;

	for (unsigned i = 0; i < 3; i++) {
		const size_t n = append(bytes, VFIO_USER_DEVICE_GET_REGION_IO_FDS, 0, &asked,
					sizeof(asked));

		stage_open(&s);
		negotiate_text(&s, texts[i]);
		assert_true(put_bytes(&s, bytes, n, NULL, 0));
		receive(&s, &received, 32 + i * sizeof(struct vfio_user_io_fd));
		memcpy(&info, received.bytes + 16, sizeof(info));
		assert_int_equal(info.count, i);
		assert_int_equal(info.argsz, 16 + i * sizeof(struct vfio_user_io_fd));
		assert_int_equal(received.fd_count, i);
		for (unsigned j = 0; j < i; j++)
			close(received.fds[j]);
		stage_close(&s);
	}
}

/* The description of the region with the doorbells, in an answer of `size` bytes. */
static struct vfio_user_region_info region_info(struct stage *s, uint32_t argsz, size_t size)
{
	struct vfio_user_region_info info = { .argsz = argsz, .index = PCI_REGION_BAR4 };
	uint8_t bytes[64];
	size_t n = append(bytes, VFIO_USER_DEVICE_GET_REGION_INFO, 0, &info, sizeof(info));

	assert_true(put_bytes(s, bytes, n, NULL, 0));
	receive(s, &received, 16 + size);
	memcpy(&info, received.bytes + 16, sizeof(info));
	for (unsigned i = 0; i < received.fd_count; i++)
		close(received.fds[i]);
	return info;
}

/* "The full payload is not included in the reply, but argsz indicates the needed size." */
static void areas_for_clients_of_little_room(void **state)
{
	const uint32_t mappable = VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
	struct vfio_region_info_cap_sparse_mmap cap;
	struct vfio_user_region_info info;
	const uint32_t needed = sizeof(info) + sizeof(cap) + sizeof(cap.areas[0]);
	struct stage s;

	stage_open_with(&s, true);
	negotiate(&s);
	for (uint32_t argsz = sizeof(info); argsz <= needed + 1; argsz++) {
		info = region_info(&s, argsz, argsz < needed ? sizeof(info) : needed);
		assert_int_equal(info.argsz, needed);
		assert_int_equal(info.flags & mappable, mappable);
		assert_int_equal(info.cap_offset, sizeof(info));
		assert_int_equal(received.fd_count, 1);
	}
	memcpy(&cap, received.bytes + 16 + info.cap_offset, sizeof(cap));
	assert_int_equal(cap.header.id, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
	assert_int_equal(cap.header.next, 0);
	assert_int_equal(cap.nr_areas, 1);
	close(s.client);
	peer_connect(&s);
	negotiate_text(&s, "{\"capabilities\":{\"max_msg_fds\":0}}");
	info = region_info(&s, 4096, sizeof(info)); /* without a descriptor nothing is mapped */
	assert_int_equal(info.flags & mappable, 0);
	assert_int_equal(received.fd_count, 0);
	stage_close(&s);
}

/* ---- the second socket ---- */

static int open_twin(struct stage *s)
{
	static const char text[] = "{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}";
	int twin = negotiate_twin(s, text, sizeof(text));

	works(s);
	return twin;
}

/* Only answers to the server's commands may come there, and nobody asked for one. */
static void the_second_socket_is_for_answers(void **state)
{
	static const struct vfio_user_header messages[] = {
		{ ID, VFIO_USER_DEVICE_RESET, 16, 0, 0 },
		{ ID, VFIO_USER_DEVICE_RESET, 16, VFIO_USER_FLAG_NO_REPLY, 0 },
		{ ID, VFIO_USER_VERSION, 16, 0, 0 },
		{ 0, VFIO_USER_DMA_READ, 16, VFIO_USER_FLAG_REPLY, 0 },
		{ 0, VFIO_USER_DMA_WRITE, 16, VFIO_USER_FLAG_REPLY | VFIO_USER_FLAG_ERROR, 5 },
		{ 0, VFIO_USER_DMA_READ, 15, VFIO_USER_FLAG_REPLY, 0 },
		{ 0, VFIO_USER_DMA_READ, UINT32_MAX, VFIO_USER_FLAG_REPLY, 0 },
	};
	struct stage s;

	stage_open(&s);
	for (unsigned i = 0; i < ARRAY_LENGTH(messages); i++) {
		int twin = open_twin(&s);

		assert_int_equal(send(twin, &messages[i], 16, MSG_NOSIGNAL), 16);
		is_gone_and_comes_back(&s);
		close(twin);
		close(s.client);
		peer_connect(&s);
	}
	stage_close(&s);
}

/* Half a message there, or none and the end. */
static void the_second_socket_is_lost(void **state)
{
	static const char half[8];
	struct stage s;

	stage_open(&s);
	for (unsigned i = 0; i < 3; i++) {
		int twin = open_twin(&s);

		if (i)
			assert_int_equal(send(twin, half, 8, MSG_NOSIGNAL), 8);
		if (i < 2)
			close(twin);
		is_gone_and_comes_back(&s);
		if (i == 2)
			close(twin);
		close(s.client);
		peer_connect(&s);
	}
	stage_close(&s);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_wait_for_their_reader),
		cmocka_unit_test(a_client_that_never_reads_is_dropped),
		cmocka_unit_test(streams_are_cut_anywhere),
		cmocka_unit_test(half_a_message_costs_the_connection_in_time),
		cmocka_unit_test(interrupts_to_odd_descriptors),
		cmocka_unit_test(clients_trigger_interrupts),
		cmocka_unit_test(accesses_of_any_size),
		cmocka_unit_test(doorbells_for_clients_of_few_descriptors),
		cmocka_unit_test(areas_for_clients_of_little_room),
		cmocka_unit_test(the_second_socket_is_for_answers),
		cmocka_unit_test(the_second_socket_is_lost),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
