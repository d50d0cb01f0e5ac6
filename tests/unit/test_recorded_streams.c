/* Broken if this fails: a state that an earlier Outboard has written is not taken any more, so that
 * its guests cannot move here.  The recordings are never changed; a release that writes something
 * new adds some: test_recorded_streams DIRECTORY --record NAME. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "net_stream_bed.h"
#include "stream/stream.h"

#define PACKED (1ull << VIRTIO_F_RING_PACKED)

enum { STATE_MAX = 1 << 16 };

static const char *directory;

/* ---- recording ---- */

static void drive_disk(struct stream_bed *b)
{
	stream_bed_drive(b, 0);
}

static void drive_packed_disk(struct stream_bed *b)
{
	stream_bed_drive(b, PACKED);
}

static void drive_packed_card(struct stream_bed *b)
{
	stream_bed_drive(b, PACKED | NET_STREAM_FEATURES);
}

static void open_by_name(struct stream_bed *b, const char *name)
{
	(strstr(name, "net-") ? stream_bed_open_net : stream_bed_open)(b);
}

/* drive: NULL for one that no driver has touched. */
static void record_one(const char *name, const char *what, void (*drive)(struct stream_bed *b))
{
	uint8_t state[STATE_MAX];
	struct stream_bed b;
	struct error e = { 0 };
	char path[4096];
	FILE *file;
	ssize_t n;

	open_by_name(&b, what);
	if (drive)
		drive(&b);
	if (stream_bed_go(&b, MIGRATE_STOP_COPY, &e))
		abort();
	n = migrate_read(b.migrate, state, sizeof(state), &e);
	snprintf(path, sizeof(path), "%s/%s-%s", directory, name, what);
	file = fopen(path, "wbx");
	if (n <= 0 || !file || fwrite(state, 1, n, file) != (size_t)n || fclose(file)) {
		perror(path);
		exit(1);
	}
	stream_bed_close(&b);
}

static int record(const char *name)
{
	record_one(name, "blk-idle", NULL);
	record_one(name, "blk-split", drive_disk);
	record_one(name, "blk-packed", drive_packed_disk);
	record_one(name, "net-idle", NULL);
	record_one(name, "net-filters", net_stream_drive);
	record_one(name, "net-packed", drive_packed_card);
	return 0;
}

/* ---- loading ---- */

static size_t read_file(const char *name, uint8_t *to)
{
	char path[4096];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "rb");
	assert_non_null(file);
	n = fread(to, 1, STATE_MAX, file);
	fclose(file);
	assert_in_range(n, 1, STATE_MAX - 1);
	return n;
}

static bool runs_queue(struct stream_bed *b, unsigned index)
{
	uint16_t enabled = 0;

	stream_bed_set(b, VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
	assert_int_equal(pci_region_read(b->function, PCI_REGION_BAR0 + STREAM_BED_BAR,
					 VIRTIO_PCI_COMMON_Q_ENABLE, &enabled, 2),
			 0);
	return le16toh(enabled);
}

/* Whether the state has a record of this name and with these bytes. */
static bool has_record(const uint8_t *state, size_t n, const char *wanted, const uint8_t *bytes,
		       size_t length)
{
	struct stream_reader r;
	struct error e = { 0 };
	const char *name;
	unsigned flags;

	if (stream_reader_open(&r, state, n, &e))
		fail_msg("%s", e.text);
	while (stream_next(&r, &name, &flags))
		if (!strcmp(name, wanted) && stream_left(&r) == length &&
		    !memcmp(r.bytes + r.at, bytes, length))
			return true;
	return false;
}

/* What the control queue, or nobody, has set is saved again as it was: a record that came later may
 * be there too. */
static void assert_settings(struct stream_bed *b, const uint8_t *state, size_t n)
{
	uint8_t again[STATE_MAX];
	struct stream_reader r;
	struct error e = { 0 };
	unsigned count = 0, flags;
	const char *name;
	ssize_t length;

	assert_int_equal(stream_bed_go(b, MIGRATE_STOP_COPY, &e), 0);
	length = migrate_read(b->migrate, again, sizeof(again), &e);
	assert_in_range(length, 1, sizeof(again) - 1);
	assert_int_equal(stream_reader_open(&r, state, n, &e), 0);
	while (stream_next(&r, &name, &flags)) {
		if (strncmp(name, "net", 3))
			continue;
		count++;
		if (!has_record(again, length, name, r.bytes + r.at, stream_left(&r)))
			fail_msg("%s is not what it was", name);
	}
	assert_in_range(count, 4, 100);
}

static void assert_card(struct stream_bed *b, const char *name, const uint8_t *state, size_t n)
{
	const bool filters = strstr(name, "-filters");
	const uint8_t own[6] = { 2, 0, 0, 0, 0, filters ? NET_STREAM_OWN : 1 };
	uint8_t config[6];

	assert_int_equal(virtio_device_config_read(net_device(b->net), 0, config, sizeof(config)),
			 0);
	assert_memory_equal(config, own, sizeof(own));
	assert_settings(b, state, n);
}

static void load_one(const char *name)
{
	uint8_t state[STATE_MAX];
	size_t n = read_file(name, state);
	struct error e = { 0 };
	struct stream_bed b;

	open_by_name(&b, name);
	if (stream_bed_load(&b, state, n, 1000, &e) || stream_bed_go(&b, MIGRATE_RUNNING, &e))
		fail_msg("%s: %s", name, e.text);
	if (!strstr(name, "-idle"))
		for (unsigned i = 0; i < b.queues; i++)
			assert_true(runs_queue(&b, i));
	if (b.net)
		assert_card(&b, name, state, n);
	stream_bed_close(&b);
}

static void all_are_taken(void **state)
{
	DIR *d = opendir(directory);
	struct dirent *entry;
	unsigned count = 0;

	assert_non_null(d);
	while ((entry = readdir(d))) {
		if (entry->d_name[0] == '.')
			continue;
		load_one(entry->d_name);
		count++;
	}
	closedir(d);
	assert_in_range(count, 6, UINT32_MAX);
}

/* Cut anywhere, or with any byte changed, it is refused, and the whole one is taken after that. */
static void none_that_is_damaged_is_taken(void **unused)
{
	uint8_t state[STATE_MAX];
	struct error e = { 0 };
	struct stream_bed b;
	ssize_t n;

	stream_bed_open(&b);
	stream_bed_drive(&b, PACKED);
	assert_int_equal(stream_bed_go(&b, MIGRATE_STOP_COPY, &e), 0);
	n = migrate_read(b.migrate, state, sizeof(state), &e);
	assert_in_range(n, 100, sizeof(state) - 1);
	for (ssize_t cut = 0; cut < n; cut++) {
		assert_int_not_equal(stream_bed_load(&b, state, cut, n, &e), 0);
		assert_int_equal(migrate_state(b.migrate), MIGRATE_RESUMING);
	}
	for (ssize_t at = 0; at < n; at++) {
		state[at] ^= 0x10;
		assert_int_not_equal(stream_bed_load(&b, state, n, n, &e), 0);
		assert_int_equal(migrate_state(b.migrate), MIGRATE_RESUMING);
		state[at] ^= 0x10;
	}
	assert_int_equal(stream_bed_load(&b, state, n, n, &e), 0);
	assert_true(runs_queue(&b, 1));
	stream_bed_close(&b);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_are_taken),
		cmocka_unit_test(none_that_is_damaged_is_taken),
	};

	if (argc != 2 && !(argc == 4 && !strcmp(argv[2], "--record"))) {
		fprintf(stderr, "Usage: test_recorded_streams DIRECTORY [--record NAME]\n");
		return 2;
	}
	directory = argv[1];
	return argc == 4 ? record(argv[3]) : cmocka_run_group_tests(tests, NULL, NULL);
}
