/* test_config.c - the option table, the command line and the configuration file.
 * If it failed, a user's setting would be misread, or refused without saying where it stands. */
#include "base/bytes.h"
#include "base/error.h"
#include "control/command_line.h"
#include "control/config_file.h"
#include "control/config_position.h"
#include "control/option.h"
#include "control/settings.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the table ---- */

/* If it failed, an option would be unreachable or print nonsense in --help. */
static void table_is_sound(void **state)
{
	for (unsigned i = 0; i < option_count; i++) {
		const struct program_option *o = &option_table[i];

		assert_true(o->places);
		assert_non_null(o->help);
		assert_ptr_equal(option_find(o->name, strlen(o->name), o->places), o);
		assert_true((o->kind == OPTION_CHOICE) == !!o->choices);
		assert_true((o->kind == OPTION_NUMBER) == (o->minimum < o->maximum));
		assert_true((o->value == NULL) ==
			    (o->kind == OPTION_SWITCH || o->kind == OPTION_ACTION));
	}
}

/* If it failed, help would promise other ranges than the parser takes. */
static void options_describe_themselves(void **state)
{
	static const struct {
		const char *name, *text;
	} cases[] = {
		{ "queues", "1..64, default 4; of a network device 1" },
		{ "queue-size", "power of two, 2..32768, default 1024" },
		{ "block-size", "power of two, 512..65536, default the disk's" },
		{ "log-level", "error, warning, info, debug, default info" },
		{ "fd", "0..1048576" },
		{ "read-only", "" },
	};
	char text[160];

	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		option_describe(option_find(cases[i].name, strlen(cases[i].name), OPTION_BLK), text,
				sizeof(text));
		assert_string_equal(text, cases[i].text);
	}
}

/* ---- the command line ---- */

static int parse_line(struct program_settings *s, const struct program_option **action,
		      struct error *e, const char *line)
{
	char *copy = strdup(line), *rest = copy, *arguments[16];
	int count = 0, err;

	while ((arguments[count] = strsep(&rest, " ")))
		count++;
	err = command_line_parse(count, arguments, OPTION_BLK, s, action, e);
	free(copy);
	return err;
}

/* If it failed, an option would be lost, or "=" would mean something else than a blank. */
static void command_line_is_read(void **state)
{
	const struct program_option *action;
	struct program_settings s;
	struct device_settings *d;
	const char *name;
	struct error e;

	assert_int_equal(settings_init(&s), 0);
	d = settings_add_device(&s);
	assert_int_equal(parse_line(&s, &action, &e,
				    "--disk null:?size=1G --socket-path=/x --queues 1 --queues=8 "
				    "--read-only --poll-us 0 --stats --serial=a=b"),
			 0);
	assert_null(action);
	assert_int_equal(settings_complete_device(d, "--", &name, &e), 0);
	assert_string_equal(d->disk, "null:?size=1G");
	assert_string_equal(d->socket_path, "/x");
	assert_string_equal(d->serial, "a=b");
	assert_string_equal(d->name, "vda");
	assert_int_equal(d->queues, 8);
	assert_int_equal(d->queue_size, 1024);
	assert_int_equal(d->fd, -1);
	assert_int_equal(s.poll_us, 0);
	assert_true(d->read_only && s.stats && !d->connect);
	settings_free(&s);
}

/* If it failed, a path with "?" in it would be cut there, and "%" misread. */
static void blk_file_becomes_uri(void **state)
{
	struct program_settings s;
	struct device_settings *d;
	const char *name;
	struct error e;

	assert_int_equal(settings_init(&s), 0);
	d = settings_add_device(&s);
	d->blk_file = strdup("/a b/100%?.img");
	d->socket_path = strdup("/x");
	assert_int_equal(settings_complete_device(d, "--", &name, &e), 0);
	assert_string_equal(d->disk, "file:/a%20b/100%25%3F.img");
	settings_free(&s);
}

/* If it failed, --help behind an option would start the program. */
static void actions_end_parsing(void **state)
{
	const struct program_option *action;
	struct program_settings s;
	struct error e;

	assert_int_equal(settings_init(&s), 0);
	assert_non_null(settings_add_device(&s));
	assert_int_equal(parse_line(&s, &action, &e, "--queues 2 --help --nonsense"), 0);
	assert_string_equal(action->name, "help");
	settings_free(&s);
}

/* If it failed, a wrong option would be accepted, or its complaint would not name it. */
static void wrong_lines_are_refused(void **state)
{
	static const struct {
		const char *line, *text;
	} cases[] = {
		{ "--queues 0", "--queues 0: must be 1..64" },
		{ "--queues=65", "--queues 65: must be 1..64" },
		{ "--queues -1", "--queues -1: must be 1..64" },
		{ "--queues 4x", "--queues 4x: must be a whole number, 1..64" },
		{ "--queues=", "--queues : must be a whole number, 1..64" },
		{ "--queues 99999999999999999999", "--queues 99999999999999999999: must be 1..64" },
		{ "--queue-size 3", "--queue-size 3: must be a power of two, 2..32768" },
		{ "--queues", "--queues: needs a value" },
		{ "--read-only=yes", "--read-only: takes no value" },
		{ "--queue 1", "--queue: no such option" },
		{ "--quux=1", "--quux: no such option" },
		{ "--config /x", "--config: no such option" },
		{ "disk.img", "disk.img: not understood" },
		{ "-q", "-q: not understood" },
		{ "--", "--: not understood" },
		{ "--=1", "--=1: not understood" },
		{ "--disk=", "--disk : must not be empty" },
		{ "--log-level loud",
		  "--log-level loud: must be one of error, warning, info, debug" },
		{ "--name a/b",
		  "--name a/b: must be made of letters, digits, \".\", \"_\" and \"-\"" },
		{ "--serial 123456789012345678901",
		  "--serial 123456789012345678901: must have 1 to 20 characters" },
	};
	const struct program_option *action;
	struct program_settings s;
	struct error e;

	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		assert_int_equal(settings_init(&s), 0);
		assert_non_null(settings_add_device(&s));
		assert_int_equal(parse_line(&s, &action, &e, cases[i].line), -EINVAL);
		assert_string_equal(e.text, cases[i].text);
		settings_free(&s);
	}
}

/* If it failed, a path would be cut short without a word and the socket be elsewhere. */
static void long_socket_path_is_refused(void **state)
{
	const struct program_option *o = option_find("socket-path", 11, OPTION_BLK);
	struct device_settings d = { 0 };
	char path[109];
	struct error e;

	memset(path, 'x', sizeof(path));
	path[108] = '\0';
	assert_int_equal(option_store_text(o, &d, path, &e), -EINVAL);
	assert_null(d.socket_path);
	path[107] = '\0';
	assert_int_equal(option_store_text(o, &d, path, &e), 0);
	assert_string_equal(d.socket_path, path);
	option_clear(OPTION_OF_DEVICE, &d);
}

/* If it failed, two options that exclude each other would be taken, one of them in vain. */
static void conflicts_are_refused(void **state)
{
	static const struct {
		const char *line, *text, *name;
	} cases[] = {
		{ "--socket-path /x", "--disk is missing", NULL },
		{ "--disk null:", "--socket-path, --vfio-user or --fd is missing", NULL },
		{ "--disk null: --socket-path /x --fd 4", "--fd cannot go with --socket-path",
		  "fd" },
		{ "--disk null: --vfio-user /x --fd 4", "--vfio-user cannot go with --fd",
		  "vfio-user" },
		{ "--disk null: --socket-path /x --card c", "--card needs --vfio-user", "card" },
		{ "--disk null: --fd 4 --vectors 0", "--vectors needs --vfio-user", "vectors" },
		{ "--disk null: --fd 4 --doorbell-page", "--doorbell-page needs --vfio-user",
		  "doorbell-page" },
		{ "--disk null: --fd 4 --connect", "--connect needs --socket-path", "connect" },
		{ "--disk null: --fd 4 --link-model latency=1us,latency=2us",
		  "--link-model: \"latency\" is given twice", "link-model" },
		{ "--disk null: --fd 4 --link-model read=63",
		  "--link-model: read must be 64 to 4096 bytes, not \"63\"", "link-model" },
		{ "--disk null: --blk-file /x --fd 4", "--blk-file cannot go with --disk",
		  "blk-file" },
	};
	const struct program_option *action;
	struct program_settings s;
	const char *name;
	struct error e;

	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		assert_int_equal(settings_init(&s), 0);
		assert_non_null(settings_add_device(&s));
		assert_int_equal(parse_line(&s, &action, &e, cases[i].line), 0);
		assert_int_equal(settings_complete_device(&s.devices[0], "--", &name, &e), -EINVAL);
		assert_string_equal(e.text, cases[i].text);
		if (cases[i].name)
			assert_string_equal(name, cases[i].name);
		else
			assert_null(name);
		settings_free(&s);
	}
}

/* ---- the configuration file ---- */

/* If it failed, a key of the file would be lost or end in another device. */
static void file_is_read(void **state)
{
	static const char text[] =
		"{ \"workers\": 2, \"poll-us\": 7, \"stats\": true, \"log-level\": \"debug\",\n"
		"  \"devices\": [\n"
		"  { \"type\": \"blk\", \"name\": \"vda\", \"d\\u0069sk\": \"null:\", \"fd\": 5 "
		"},\n"
		"  { \"type\": \"blk\", \"name\": \"vdb\", \"disk\": \"file:/b\", \"queues\": 2,\n"
		"    \"socket-path\": \"/b\", \"connect\": true, \"read-only\": true,\n"
		"    \"queue-size\": 64, \"serial\": \"S\", \"block-size\": 4096 } ] }\n";
	struct program_settings s;
	struct error e;

	assert_int_equal(settings_init(&s), 0);
	assert_int_equal(config_file_parse("f", text, &s, &e), 0);
	assert_int_equal(s.workers, 2);
	assert_int_equal(s.poll_us, 7);
	assert_true(s.stats);
	assert_string_equal(s.log_level, "debug");
	assert_int_equal(s.device_count, 2);
	assert_string_equal(s.devices[0].disk, "null:");
	assert_int_equal(s.devices[0].fd, 5);
	assert_int_equal(s.devices[0].queues, 4);
	assert_false(s.devices[0].read_only);
	assert_string_equal(s.devices[1].name, "vdb");
	assert_string_equal(s.devices[1].socket_path, "/b");
	assert_string_equal(s.devices[1].serial, "S");
	assert_int_equal(s.devices[1].queues, 2);
	assert_int_equal(s.devices[1].queue_size, 64);
	assert_int_equal(s.devices[1].block_size, 4096);
	assert_true(s.devices[1].connect && s.devices[1].read_only);
	settings_free(&s);
}

#define DEVICE "{\"type\":\"blk\",\"name\":\"a\",\"disk\":\"null:\",\"fd\":5"
#define SECOND "{\"type\":\"blk\",\"disk\":\"null:\","

/* If it failed, a user with a hundred devices would have to find the wrong one by trial. */
static void wrong_files_are_refused_with_position(void **state)
{
	static const struct {
		const char *text, *complaint;
	} cases[] = {
		/* the JSON library's own, in its words: only the place is ours */
		{ "", "f:1:1: " },
		{ "{\n \"workers\": 1,\n \"workers\": 2 }", "f:3:10: " },
		{ "{ \"devices\": [ }", "f:1:16: " },
		/* the outermost value */
		{ " []", "f:1:2: must be an object" },
		{ "\n\n {}", "f:3:2: devices must be a list of at least one object" },
		{ "{ \"devices\": {} }", "f:1:14: devices must be a list of at least one object" },
		{ "{ \"devices\": [] }", "f:1:14: devices must be a list of at least one object" },
		{ "{ \"devices\": [ 1 ] }", "f:1:16: devices[0]: must be an object" },
		{ "{\n\t\"wörker\": 1 }", "f:2:2: wörker is not a known key" },
		{ "{ \"queues\": 1 }", "f:1:3: queues is not a known key" },
		{ "{ \"ö\": {}, \"workers\": 1 }", "f:1:3: ö is not a known key" },
		{ "{ \"stats\": true, \"workers\" :\n 0 }", "f:2:2: workers 0: must be 1..64" },
		{ "{ \"workers\": \"2\" }", "f:1:14: workers \"2\": must be a whole number" },
		{ "{ \"workers\": 1.5 }", "f:1:14: workers 1.5: must be a whole number" },
		{ "{ \"workers\": [1,{\"a\":\"]\"}] }",
		  "f:1:14: workers [1,{\"a\":\"]\"}]: must be a whole number" },
		{ "{ \"stats\": 1 }", "f:1:12: stats 1: must be true or false" },
		{ "{ \"log-level\": \"loud\" }",
		  "f:1:16: log-level \"loud\": must be one of error, warning, info, debug" },
		{ "{ \"log-level\": null }", "f:1:16: log-level null: must be a text" },
		/* behind other values, which the walk must step over */
		{ "{ \"devices\": \"ä\", \"quux\": 1 }", "f:1:19: quux is not a known key" },
		{ "{\"devices\":[{\"x\":\"}\\\"]\"}],\"poll-us\":-1}",
		  "f:1:37: poll-us -1: must be 0..1000000" },
		/* a device */
		{ "{\"devices\":[\n" DEVICE ",\"queues\":65}]}",
		  "f:2:57: devices[0]: queues 65: must be 1..64" },
		{ "{\"devices\":[\n" DEVICE ",\"queue-size\":100}]}",
		  "f:2:61: devices[0]: queue-size 100: must be a power of two, 2..32768" },
		{ "{\"devices\":[\n" DEVICE ",\n  \"quues\":65}]}",
		  "f:3:3: devices[0]: quues is not a known key" },
		{ "{\"devices\":[\n" DEVICE ",\n  \"stats\":true}]}",
		  "f:3:3: devices[0]: stats is not a known key" },
		{ "{\"devices\":[\n" DEVICE ",\n  \"socket-path\":\"/x\"}]}",
		  "f:2:41: devices[0]: fd cannot go with socket-path" },
		{ "{\"devices\":[\n" DEVICE ",\n  \"connect\":true}]}",
		  "f:3:3: devices[0]: connect needs socket-path" },
		{ "{\"devices\":[\n {\"name\":\"a\"}]}", "f:2:2: devices[0]: type is missing" },
		{ "{\"devices\":[\n {\"type\":\"blk\"}]}", "f:2:2: devices[0]: name is missing" },
		{ "{\"devices\":[\n {\"type\":\"fs\"}]}",
		  "f:2:10: devices[0]: type \"fs\": must be one of blk, net" },
		{ "{\"devices\":[\n {\"type\":\"blk\",\"name\":\"a\"}]}",
		  "f:2:2: devices[0]: disk is missing" },
		{ "{\"devices\":[\n" SECOND "\"name\":\"a\"}]}",
		  "f:2:1: devices[0]: socket-path, vfio-user or fd is missing" },
		{ "{\"devices\":[\n" DEVICE ",\n  \"link-model\":\"speed=9\"}]}",
		  "f:3:3: devices[0]: link-model: \"speed\" is not one of latency, bandwidth, read "
		  "and write" },
		/* two devices */
		{ "{\"devices\":[\n" DEVICE "},\n" SECOND "\"fd\":6,\"name\":\"a\"}]}",
		  "f:3:37: devices[1]: name \"a\" is taken by devices[0]" },
		{ "{\"devices\":[\n" DEVICE "},\n" SECOND "\"name\":\"b\",\"fd\":5}]}",
		  "f:3:41: devices[1]: fd 5 is taken by devices[0]" },
		{ "{\"devices\":[\n" SECOND "\"name\":\"a\",\"socket-path\":\"/s\"},\n" SECOND
		  "\"name\":\"b\",\"socket-path\":\"/s\"}]}",
		  "f:3:41: devices[1]: socket-path \"/s\" is taken by devices[0]" },
	};
	struct program_settings s;
	struct error e;

	for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
		assert_int_equal(settings_init(&s), 0);
		assert_int_equal(config_file_parse("f", cases[i].text, &s, &e), -EINVAL);
		if (cases[i].complaint[strlen(cases[i].complaint) - 1] == ' ')
			e.text[strlen(cases[i].complaint)] = '\0';
		assert_string_equal(e.text, cases[i].complaint);
		settings_free(&s);
	}
}

static int read_bytes(const void *bytes, size_t size, struct error *e)
{
	char path[] = "/tmp/test_config.XXXXXX";
	struct program_settings s;
	int fd = mkstemp(path), err;

	assert_int_equal(write(fd, bytes, size), size);
	close(fd);
	assert_int_equal(settings_init(&s), 0);
	err = config_file_read(path, &s, e);
	settings_free(&s);
	unlink(path);
	return err;
}

/* If it failed, a file that is missing, huge or binary would end the program without a reason. */
static void unreadable_files_are_refused(void **state)
{
	static const char good[] = "{\"devices\":[" DEVICE "}]}";
	struct program_settings s;
	size_t size = (1 << 20) + 1;
	char *blank = malloc(size);
	struct error e;

	memset(blank, ' ', size);
	memcpy(blank, good, sizeof(good) - 1);
	assert_int_equal(read_bytes(blank, size - 1, &e), 0);
	assert_int_equal(read_bytes(blank, size, &e), -EFBIG);
	assert_int_equal(read_bytes("{}\0", 3, &e), -EINVAL);
	assert_non_null(strstr(e.text, "zero byte"));
	free(blank);
	assert_int_equal(settings_init(&s), 0);
	assert_int_equal(config_file_read("/nonexistent/f", &s, &e), -ENOENT);
	assert_string_equal(e.text, "/nonexistent/f: No such file or directory");
	assert_int_equal(config_file_read("/", &s, &e), -EISDIR);
	settings_free(&s);
}

/* If it failed, a walk over a text that is not what was parsed would leave the text. */
static void position_stops_at_the_end(void **state)
{
	static const char *const texts[] = { "",        "{",        "{\"a",     "{\"a\\",
					     "{\"a\":", "{\"a\":[", "{\"a\":[[" };
	const struct config_step steps[] = { { .key = "a" }, { .index = 1 }, { .key = "b" } };
	struct config_position p;

	for (unsigned i = 0; i < ARRAY_LENGTH(texts); i++) {
		p = config_position_find(texts[i], steps, 3, CONFIG_VALUE);
		assert_int_equal(p.line, 1);
		assert_true(p.column <= strlen(texts[i]) + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_sound),
		cmocka_unit_test(options_describe_themselves),
		cmocka_unit_test(command_line_is_read),
		cmocka_unit_test(blk_file_becomes_uri),
		cmocka_unit_test(actions_end_parsing),
		cmocka_unit_test(wrong_lines_are_refused),
		cmocka_unit_test(long_socket_path_is_refused),
		cmocka_unit_test(conflicts_are_refused),
		cmocka_unit_test(file_is_read),
		cmocka_unit_test(wrong_files_are_refused_with_position),
		cmocka_unit_test(unreadable_files_are_refused),
		cmocka_unit_test(position_stops_at_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
