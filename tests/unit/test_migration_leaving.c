/* Broken if this fails: a client that leaves while a command about migration is under way leaves a
 * function that nobody else can use, or an end that never comes.
 *
 * OUTBOARD_SEED repeats a run's choices (not its timing). */
#include "function_bed.h"

#include <linux/virtio_ring.h>

#include "driver/vfio_client_migration.h"

enum { ROUNDS = 4, COMMAND_FEATURE = 16, SET = 1 << 17, STATE = 2, LOG_START = 6, LOG_STOP = 7 };

static const struct manner manners[] = {
	{ .name = "shared", .shared = true, .features = 1ull << VIRTIO_RING_F_EVENT_IDX },
	{ .name = "messages", .features = 1ull << VIRTIO_RING_F_EVENT_IDX },
};

/* Payloads of DEVICE_FEATURE, in words. */
static const struct command {
	uint32_t words[6];
	unsigned count;
} commands[] = {
	{ { 24, SET | LOG_START, 4096 }, 6 },         { { 8, SET | LOG_STOP }, 2 },
	{ { 16, SET | STATE, CLIENT_STOP_COPY }, 4 }, { { 16, SET | STATE, CLIENT_PRE_COPY }, 4 },
	{ { 16, SET | STATE, CLIENT_RESUMING }, 4 },  { { 16, SET | STATE, CLIENT_RUNNING }, 4 },
	{ { 16, SET | STATE, CLIENT_STOP }, 4 },
};

/* Some commands that nobody waits for, then the end; requests are out. */
static void leave(struct function *f)
{
	struct error e = { 0 };
	uint16_t id;

	for (unsigned i = 0; i < f->queues; i++)
		function_fill(f, i);
	for (unsigned i = next_random(f) % 4 + 1; i; i--) {
		const struct command *c = &commands[next_random(f) % ARRAY_LENGTH(commands)];

		must(vfio_user_client_post(&f->client, COMMAND_FEATURE, c->words, 4 * c->count, &id,
					   &e),
		     &e);
	}
	if (next_random(f) % 2)
		usleep(next_random(f) % 300);
	vfio_user_client_disconnect(&f->client);
	guest_pci_close(&f->pci);
	guest_pci_init(&f->pci, &f->client);
}

static void clients_leave_without_an_answer(void **state)
{
	static struct bed b;
	static struct function f;
	struct guest_memory memory;
	struct error e = { 0 };
	uint32_t now;

	for (unsigned i = 0; i < ARRAY_LENGTH(manners); i++) {
		print_message("%s\n", manners[i].name);
		bed_open(&b, 1, 2, "memory:?size=16M", false);
		guest_memory_open(&memory, 0x100000, function_memory_bytes(2));
		function_open(&f, b.functions[0].path, &manners[i], &memory, 2,
			      *(unsigned *)*state);
		for (unsigned round = 0; round < ROUNDS; round++) {
			function_start(&f);
			must(vfio_client_get_state(&f.client, &now, &e), &e);
			assert_int_equal(now, CLIENT_RUNNING);
			function_work_for(&f, 20);
			leave(&f);
		}
		function_close(&f);
		bed_close(&b);
		guest_memory_close(&memory);
	}
}

static unsigned choose_seed(void)
{
	const char *given = getenv("OUTBOARD_SEED");
	unsigned seed = given ? strtoul(given, NULL, 10) : (unsigned)now_ms();

	print_message("OUTBOARD_SEED=%u\n", seed);
	return seed;
}

int main(void)
{
	unsigned seed = choose_seed();
	void *state = &seed;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_prestate(clients_leave_without_an_answer, state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
