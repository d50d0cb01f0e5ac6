/* If this fails, NBD over TLS with a pre-shared key does not work, or a plain connection is made
 * where TLS was asked for. */
#include "nbd_bed.h"

static char key_path[96], server_arguments[400];

static int set_up(void **state)
{
	char command[256];

	bed_create();
	file_create();
	snprintf(key_path, sizeof(key_path), "%s/keys", directory);
	snprintf(command, sizeof(command), "psktool -u alice -p %s >/dev/null 2>&1", key_path);
	assert_int_equal(system(command), 0);
	snprintf(server_arguments, sizeof(server_arguments), "--tls=require --tls-psk=%s %s",
		 key_path, file_server);
	return 0;
}

static int tear_down(void **state)
{
	unlink(key_path);
	bed_remove();
	return 0;
}

static void tls_uri(char *to, size_t size, const char *user)
{
	snprintf(to, size, "nbds+unix:///?socket=%s&tls-psk-file=%s&tls-username=%s", socket_path,
		 key_path, user);
}

static void check_refused(const char *where, const char *words)
{
	struct reactor_options options = { .name = "test" };
	struct error e = { 0 };
	struct reactor *r = reactor_create(&options, &e);

	assert_null(storage_open("vda", where, false, r, &e));
	if (!strstr(e.text, words))
		fail_msg("%s: %d %s", where, e.code, e.text);
	reactor_free(r);
}

/* libnbd would take the system's authorities, and accept anyone. */
static void test_no_authority(void **state)
{
	char where[300];

	snprintf(where, sizeof(where), "nbds+unix:///?socket=%s", socket_path);
	check_refused(where, "TLS: whom to trust?");
	snprintf(where, sizeof(where), "nbds+unix:///?socket=%s&tls-certificates=%s", socket_path,
		 directory);
	check_refused(where, "ca-cert.pem: No such file");
}

static void test_refusals(void **state)
{
	pid_t server = nbdkit_start(server_arguments);
	char where[300];

	check_refused(uri, "the server may want TLS");
	tls_uri(where, sizeof(where), "mallory");
	check_refused(where, "mallory was not found");
	process_end(server, SIGTERM);
	server = nbdkit_start(file_server);
	tls_uri(where, sizeof(where), "alice");
	check_refused(where, "handshake: ");
	process_end(server, SIGTERM);
}

struct progress {
	struct load *load;
	uint64_t wanted;
};

static bool has_progressed(void *arg)
{
	const struct progress *p = arg;

	return p->load->completed >= p->wanted;
}

/* Scattered buffers, flushes of the send queue, and a server killed twice. */
static void test_verified_load(void **state)
{
	uint64_t reconnects = nbd_counter("reconnects");
	pid_t server = nbdkit_start(server_arguments);
	struct progress p;
	char where[300];
	struct bed b;

	tls_uri(where, sizeof(where), "alice");
	bed_open(&b, where);
	p.load = load_create(b.storage, 0, BLOCKS);
	load_start(p.load, b.channel, b.reactor, 6000);
	for (int i = 0; i < 2; i++) {
		p.wanted = p.load->completed + 1000;
		run_until(b.reactor, has_progressed, &p, 10000);
		process_end(server, SIGKILL);
		run_for(b.reactor, 10);
		server = nbdkit_start(server_arguments);
	}
	run_until(b.reactor, load_is_over, p.load, 20000);
	assert_int_equal(p.load->errors, 0);
	assert_int_equal(p.load->mismatches, 0);
	assert_true(nbd_counter("reconnects") - reconnects >= 2);
	file_check(p.load);
	load_free(p.load);
	bed_close(&b);
	process_end(server, SIGTERM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_authority),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_verified_load),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
