/* If this fails, a mistyped disk URI is taken for something else, or a right one is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uri.h"
#include "storage/storage_list.h"
#include "storage/storage_options.h"

static void takes_a_uri_apart(void **state)
{
	struct uri u;
	struct error e = { 0 };

	assert_int_equal(uri_parse(&u, "limit+delay+nbd://h:10809/a%20b?ms=5&x=%2fp%3D1&", &e), 0);
	assert_string_equal(u.schemes, "limit+delay+nbd");
	assert_string_equal(u.rest, "//h:10809/a%20b");
	assert_string_equal(u.path, "//h:10809/a b");
	assert_int_equal(u.option_count, 2);
	assert_string_equal(uri_value(&u, "ms"), "5");
	assert_string_equal(uri_value(&u, "x"), "/p=1");
	assert_null(uri_value(&u, "m"));
	assert_int_equal(uri_parse(&u, "null:", &e), 0);
	assert_string_equal(u.rest, "");
	assert_int_equal(u.option_count, 0);
	assert_int_equal(uri_parse(&u, "null:?a=", &e), 0);
	assert_string_equal(uri_value(&u, "a"), "");
}

static void refuses_what_is_no_uri(void **state)
{
	static const struct {
		const char *text, *reason;
	} bad[] = {
		{ "", "no \"scheme:\"" },
		{ "disk.img", "no \"scheme:\"" },
		{ "/srv/disk.img", "file:/path" },
		{ ":", "not a scheme" },
		{ ":/path", "not a scheme" },
		{ "?size=1G", "no \"scheme:\"" },
		{ "null?size=1:0", "no \"scheme:\"" },
		{ "NULL:", "not a scheme" },
		{ "nu ll:", "not a scheme" },
		{ "n\377ll:", "not a scheme" },
		{ "file:/a%", "\"%\" is no byte" },
		{ "file:/a%4", "\"%4\" is no byte" },
		{ "file:/a%4g", "\"%4g\" is no byte" },
		{ "file:/a%g4", "\"%g4\" is no byte" },
		{ "file:/a%00b", "\"%00\" is no byte" },
		{ "null:?size", "has no value" },
		{ "null:?=5", "without a name" },
		{ "null:?size=1&size=1", "given twice" },
		{ "null:?size=1%zz", "option \"size\"" },
	};

	for (unsigned i = 0; i < ARRAY_LENGTH(bad); i++) {
		struct uri u;
		struct error e = { 0 };

		assert_int_equal(uri_parse(&u, bad[i].text, &e), -EINVAL);
		if (!strstr(e.text, bad[i].reason))
			fail_msg("\"%s\": \"%s\" lacks \"%s\"", bad[i].text, e.text, bad[i].reason);
	}
}

static void bounds_length_and_options(void **state)
{
	struct uri u;
	struct error e = { 0 };
	char text[URI_LENGTH + 2] = "file:/";
	char many[2048] = "null:?";

	memset(text + 6, 'a', URI_LENGTH - 6);
	assert_int_equal(uri_parse(&u, text, &e), 0);
	assert_int_equal(strlen(u.path), URI_LENGTH - 5);
	text[URI_LENGTH] = 'a';
	assert_int_equal(uri_parse(&u, text, &e), -ENAMETOOLONG);

	for (unsigned i = 0; i < URI_OPTIONS; i++)
		sprintf(many + strlen(many), "o%u=%u&", i, i);
	assert_int_equal(uri_parse(&u, many, &e), 0);
	assert_int_equal(u.option_count, URI_OPTIONS);
	strcat(many, "one=more");
	assert_int_equal(uri_parse(&u, many, &e), -EINVAL);
}

/* Any bytes at all: no crash, and every result lies inside the struct. */
static void survives_random_bytes(void **state)
{
	static const char alphabet[] = "nul+:?&=%40aZ/\377";
	struct uri u;
	unsigned seed = 1;

	for (unsigned round = 0; round < 20000; round++) {
		char text[40];
		unsigned n = rand_r(&seed) % (sizeof(text) - 1);

		for (unsigned i = 0; i < n; i++)
			text[i] = alphabet[rand_r(&seed) % (sizeof(alphabet) - 1)];
		text[n] = 0;
		if (uri_parse(&u, text, NULL))
			continue;
		assert_true(strlen(u.schemes) + strlen(u.rest) + 1 <= n);
		for (unsigned i = 0; i < u.option_count; i++)
			assert_ptr_equal(uri_value(&u, u.options[i].name), u.options[i].value);
	}
}

static void finds_filters_and_provider(void **state)
{
	struct uri_stack stack;
	struct error e = { 0 };

	assert_int_equal(storage_list_resolve(&stack, "limit+delay+null", &e), 0);
	assert_int_equal(stack.filter_count, 2);
	assert_ptr_equal(stack.filters[0], &storage_limit.about);
	assert_ptr_equal(stack.filters[1], &storage_delay.about);
	assert_ptr_equal(stack.provider, &storage_null.about);
	assert_string_equal(stack.scheme, "null");
	assert_int_equal(storage_list_resolve(&stack, "file", &e), 0);
	assert_int_equal(stack.filter_count, 0);
}

static void names_what_is_known(void **state)
{
	static const struct {
		const char *schemes, *reason;
	} bad[] = {
		{ "nul", "unknown scheme \"nul\"; known: file, memory, nbd" },
		{ "", "unknown scheme \"\"" },
		{ "delay", "\"delay\" is a filter, where a scheme belongs" },
		{ "null+null", "\"null\" is a scheme, where a filter belongs" },
		{ "slow+null", "unknown filter \"slow\"; known: delay, fault" },
		{ "+null", "unknown filter \"\"" },
		{ "delay+", "unknown scheme \"\"" },
		{ "delay++null", "unknown filter \"\"" },
	};
	struct uri_stack stack;
	char deep[16 * 6 + 16] = "";

	for (unsigned i = 0; i < ARRAY_LENGTH(bad); i++) {
		struct error e = { 0 };

		assert_int_equal(storage_list_resolve(&stack, bad[i].schemes, &e), -EINVAL);
		if (!strstr(e.text, bad[i].reason))
			fail_msg("\"%s\": \"%s\" lacks \"%s\"", bad[i].schemes, e.text,
				 bad[i].reason);
	}
	for (unsigned i = 0; i < URI_FILTERS_MAX; i++)
		strcat(deep, "delay+");
	strcat(deep, "null");
	assert_int_equal(storage_list_resolve(&stack, deep, NULL), 0);
	memmove(deep + 6, deep, strlen(deep) + 1);
	assert_int_equal(storage_list_resolve(&stack, deep, NULL), -EINVAL);
}

static void refuses_unknown_options(void **state)
{
	struct uri_stack stack;
	struct uri u;
	struct error e = { 0 };

	assert_int_equal(uri_parse(&u, "delay+null:?size=1M&ms=5", &e), 0);
	assert_int_equal(storage_list_resolve(&stack, u.schemes, &e), 0);
	assert_int_equal(uri_scheme_check_options(&stack, &u, &e), 0);
	assert_int_equal(uri_parse(&u, "delay+null:?siz=1M", &e), 0);
	assert_int_equal(uri_scheme_check_options(&stack, &u, &e), -EINVAL);
	assert_non_null(strstr(e.text, "unknown option \"siz\"; known: ms, time"));
	assert_non_null(strstr(e.text, "block-size"));
	assert_int_equal(uri_parse(&u, "null:?unless=1", &e), 0);
	assert_int_equal(storage_list_resolve(&stack, u.schemes, &e), 0);
	assert_int_equal(uri_scheme_check_options(&stack, &u, &e), -EINVAL);
}

typedef int option_reader(const struct storage_options *o, const char *name, uint64_t *to,
			  struct error *e);

static void check_value(option_reader *read, const char *text, int status, uint64_t wanted)
{
	struct uri u;
	struct storage_options o = { .uri = &u };
	struct error e = { 0 };
	uint64_t value = 77;
	char uri[64];

	snprintf(uri, sizeof(uri), "null:?x=%s", text);
	assert_int_equal(uri_parse(&u, uri, &e), 0);
	assert_int_equal(read(&o, "y", &value, &e), 0);
	assert_int_equal(value, 77);
	if (read(&o, "x", &value, &e) != status || value != wanted)
		fail_msg("\"%s\" gives %llu", text, (unsigned long long)value);
	if (status)
		assert_non_null(strstr(e.text, "\"x\""));
}

static void reads_sizes_numbers_and_durations(void **state)
{
	check_value(storage_options_size, "0", 0, 0);
	check_value(storage_options_size, "4096", 0, 4096);
	check_value(storage_options_size, "3K", 0, 3072);
	check_value(storage_options_size, "2M", 0, 2 << 20);
	check_value(storage_options_size, "10G", 0, 10ull << 30);
	check_value(storage_options_size, "16777215T", 0, 16777215ull << 40);
	check_value(storage_options_size, "16777216T", -EINVAL, 77);
	check_value(storage_options_size, "18446744073709551615", 0, UINT64_MAX);
	check_value(storage_options_size, "18446744073709551616", -EINVAL, 77);
	check_value(storage_options_size, "", -EINVAL, 77);
	check_value(storage_options_size, "G", -EINVAL, 77);
	check_value(storage_options_size, "-1", -EINVAL, 77);
	check_value(storage_options_size, "+1", -EINVAL, 77);
	check_value(storage_options_size, "1GB", -EINVAL, 77);
	check_value(storage_options_size, "1.5G", -EINVAL, 77);
	check_value(storage_options_size, "%201", -EINVAL, 77);
	check_value(storage_options_number, "12", 0, 12);
	check_value(storage_options_number, "12K", -EINVAL, 77);
	check_value(storage_options_duration, "5ms", 0, 5000000);
	check_value(storage_options_duration, "5us", 0, 5000);
	check_value(storage_options_duration, "5ns", 0, 5);
	check_value(storage_options_duration, "5s", 0, 5000000000ull);
	check_value(storage_options_duration, "5", -EINVAL, 77);
	check_value(storage_options_duration, "99999999999s", -EINVAL, 77);
}

static void prints_help_for_all(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *to = open_memstream(&text, &size);

	storage_print_help(to);
	fclose(to);
	assert_non_null(strstr(text, "null:  "));
	assert_non_null(strstr(text, "delay+  "));
	assert_non_null(strstr(text, "\n    size=BYTES "));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_a_uri_apart),
		cmocka_unit_test(refuses_what_is_no_uri),
		cmocka_unit_test(bounds_length_and_options),
		cmocka_unit_test(survives_random_bytes),
		cmocka_unit_test(finds_filters_and_provider),
		cmocka_unit_test(names_what_is_known),
		cmocka_unit_test(refuses_unknown_options),
		cmocka_unit_test(reads_sizes_numbers_and_durations),
		cmocka_unit_test(prints_help_for_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
