/* vmm_shim.c - the part of a VMM that migrates a guest with a vfio-user device. */
#include "driver/vmm_shim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/error.h"
#include "driver/vfio_client_migration.h"
#include "driver/vfio_user_client.h"

enum {
	PASSES = 5,       /* over what is dirty, at most, while the guest works */
	FEW = 8,          /* pages: that little may be left for the stop */
	ALL_STRIDE = 16,  /* pages between two moments of the guest, the first time */
	DIRTY_STRIDE = 4, /* ... and then */
	CHUNK = 1000,     /* bytes of the state in a message */
	STATE_MAX = 1 << 20,
	POISON = 0xdd, /* what the other side has before a page has come */
};

void vmm_shim_open(struct vmm_shim *s, struct vmm_memory *memory)
{
	*s = (struct vmm_shim){ .memory = memory, .report_page = VMM_PAGE };
	s->dirty = calloc(vmm_memory_words(memory), sizeof(*s->dirty));
	s->state = malloc(STATE_MAX);
	s->left = malloc(memory->view.size);
	if (!s->dirty || !s->state || !s->left)
		abort();
}

void vmm_shim_close(struct vmm_shim *s)
{
	free(s->dirty);
	free(s->state);
	free(s->left);
	*s = (struct vmm_shim){ 0 };
}

/* ---- the clock ---- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

static void clock_start(struct vmm_shim *s)
{
	s->clock_ns = now_ns();
}

static void clock_stop(struct vmm_shim *s)
{
	s->downtime_ns += now_ns() - s->clock_ns;
}

/* ---- pages ---- */

static unsigned count_bits(const uint64_t *words, uint64_t n)
{
	unsigned sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum += __builtin_popcountll(words[i]);
	return sum;
}

static bool take_bit(uint64_t *words, uint64_t n)
{
	uint64_t bit = UINT64_C(1) << n % 64, had = words[n / 64] & bit;

	words[n / 64] &= ~bit;
	return had;
}

static void copy_page(struct vmm_shim *s, uint64_t page)
{
	memcpy(vmm_memory_there(s->memory)->bytes + page * VMM_PAGE,
	       vmm_memory_here(s->memory)->bytes + page * VMM_PAGE, VMM_PAGE);
	s->copied++;
}

/* stride 0: the guest stands still. */
static void copy_dirty(struct vmm_shim *s, unsigned stride)
{
	unsigned count = 0;

	for (uint64_t i = 0; i < s->memory->pages; i++) {
		if (!take_bit(s->dirty, i))
			continue;
		copy_page(s, i);
		if (stride && ++count % stride == 0)
			s->guest(s->arg);
	}
	s->passes++;
}

/* ---- the device's report ---- */

/* Nothing that the driver ever gave away lies behind what it has allocated. */
static int mark_reported(struct vmm_shim *s, uint64_t bit, struct error *e)
{
	uint64_t at = bit * s->report_page;

	if (at >= s->memory->view.used)
		return error_set(e, -EPROTO, "page %llu was reported, which nobody uses",
				 (unsigned long long)bit);
	for (uint64_t i = at / VMM_PAGE; i < (at + s->report_page) / VMM_PAGE; i++)
		if (i < s->memory->pages)
			s->dirty[i / 64] |= UINT64_C(1) << i % 64;
	return 0;
}

/* How many pages (of the report) there were; or -errno. */
static int take_report(struct vmm_shim *s, struct error *e)
{
	const struct guest_memory *m = &s->memory->view;
	uint64_t words = vmm_memory_words(s->memory);
	uint64_t *bitmap = calloc(words, sizeof(*bitmap));
	int count = 0, err;

	if (!bitmap)
		abort();
	err = vfio_client_log_report(s->here, m->iova, m->size, s->report_page, bitmap,
				     words * sizeof(*bitmap), e);
	for (uint64_t i = 0; !err && i < words * 64; i++)
		if (take_bit(bitmap, i)) {
			err = mark_reported(s, i, e);
			count++;
		}
	free(bitmap);
	return err ? err : count;
}

/* First what is dirty is asked for, then it is copied: what is written in between is asked for
 * again. */
static int pass(struct vmm_shim *s, unsigned stride, struct error *e)
{
	uint64_t words = vmm_memory_words(s->memory);
	int count;

	vmm_memory_take_written(s->memory, s->dirty);
	s->written += count_bits(s->dirty, words);
	count = take_report(s, e);
	if (count < 0)
		return count;
	s->reported += count;
	copy_dirty(s, stride);
	return 0;
}

/* ---- the device's state ---- */

static int expect_state(struct vfio_user_client *c, uint32_t state, struct error *e)
{
	uint32_t is = CLIENT_STATES;
	int err = vfio_client_get_state(c, &is, e);

	if (!err && is != state)
		err = error_set(e, -EPROTO, "state %u instead of %u", is, state);
	return err;
}

static int set_state(struct vfio_user_client *c, uint32_t state, struct error *e)
{
	int err = vfio_client_set_state(c, state, e);

	return err ? err : expect_state(c, state, e);
}

static int read_state(struct vmm_shim *s, struct error *e)
{
	ssize_t n = CHUNK;

	for (s->state_bytes = 0; n == CHUNK; s->state_bytes += n) {
		if (s->state_bytes > STATE_MAX - CHUNK)
			return error_set(e, -EPROTO, "a state without an end");
		n = vfio_client_mig_read(s->here, s->state + s->state_bytes, CHUNK, e);
		if (n < 0)
			return (int)n;
	}
	return 0;
}

/* What can be read here, a preview or the state, is written there. */
static int pass_state_on(struct vmm_shim *s, struct error *e)
{
	int err = read_state(s, e);

	for (uint64_t at = 0; !err && at < s->state_bytes; at += CHUNK)
		err = vfio_client_mig_write(s->there, s->state + at,
					    minimum_u64(CHUNK, s->state_bytes - at), e);
	return err;
}

/* ---- comparing ---- */

static int compare(const struct vmm_shim *s, const char *is, const char *should, const char *what,
		   struct error *e)
{
	uint64_t i = 0, size = s->memory->view.size;

	if (!memcmp(is, should, size))
		return 0;
	while (is[i] == should[i])
		i++;
	return error_set(e, -EPROTO, "%s: byte 0x%llx is 0x%02x instead of 0x%02x", what,
			 (unsigned long long)(s->memory->view.iova + i), (uint8_t)is[i],
			 (uint8_t)should[i]);
}

/* The guest has gone, and nothing of it is the function's business any more. */
static int check_left(const struct vmm_shim *s, struct error *e)
{
	if (!s->has_left)
		return 0;
	return compare(s, vmm_memory_there(s->memory)->bytes, s->left, "what the guest left", e);
}

/* After the last pass: the copy is exact, and stays so. */
static int check_copy(struct vmm_shim *s, struct error *e)
{
	const char *bytes = vmm_memory_here(s->memory)->bytes;
	int err = compare(s, vmm_memory_there(s->memory)->bytes, bytes, "the copy", e), count;

	if (err)
		return err;
	count = take_report(s, e);
	if (count > 0)
		return error_set(e, -EPROTO, "%d pages were marked after the stop", count);
	memcpy(s->left, bytes, s->memory->view.size);
	return count;
}

/* ---- a migration ---- */

static int start_log(struct vmm_shim *s, struct error *e)
{
	const struct vfio_client_range all = { s->memory->view.iova, s->memory->view.size };
	uint64_t page = s->log_page ? s->log_page : VMM_PAGE;

	return vfio_client_log_start(s->here, &all, !!s->log_page, &page, e);
}

static void forget(struct vmm_shim *s)
{
	s->passes = 0;
	s->copied = s->written = s->reported = s->downtime_ns = 0;
	s->has_left = false;
	memset(vmm_memory_there(s->memory)->bytes, POISON, s->memory->view.size);
	for (uint64_t i = 0; i < s->memory->pages; i++)
		s->dirty[i / 64] |= UINT64_C(1) << i % 64;
}

int vmm_shim_begin(struct vmm_shim *s, struct error *e)
{
	int err = check_left(s, e);

	if (err)
		return err;
	forget(s);
	err = start_log(s, e);
	vmm_memory_watch(s->memory);
	if (!err)
		err = set_state(s->there, CLIENT_RESUMING, e);
	if (!err)
		err = set_state(s->here, CLIENT_PRE_COPY, e);
	return err ? err : pass_state_on(s, e);
}

int vmm_shim_copy(struct vmm_shim *s, struct error *e)
{
	uint64_t copied;
	int err = 0;

	copy_dirty(s, ALL_STRIDE);
	for (unsigned i = 0; !err && i < PASSES; i++) {
		copied = s->copied;
		err = pass(s, DIRTY_STRIDE, e);
		if (s->copied - copied <= FEW)
			break;
	}
	return err;
}

/* A pass between the processors' stop and the device's: what the device stores after that, in
 * pages that are clean already, only its report can tell. */
int vmm_shim_stop(struct vmm_shim *s, struct error *e)
{
	int err;

	clock_start(s);
	err = pass(s, 0, e);
	if (!err)
		err = set_state(s->here, CLIENT_STOP_COPY, e);
	if (!err)
		err = pass(s, 0, e);
	clock_stop(s);
	return err ? err : check_copy(s, e);
}

int vmm_shim_hand_over(struct vmm_shim *s, struct error *e)
{
	int err;

	clock_start(s);
	err = pass_state_on(s, e);
	if (!err)
		err = set_state(s->there, CLIENT_RUNNING, e);
	clock_stop(s);
	if (err)
		return err;
	vmm_memory_unwatch(s->memory);
	vmm_memory_move(s->memory);
	s->has_left = true;
	err = vfio_client_log_stop(s->here, e);
	return err ? err : set_state(s->here, CLIENT_STOP, e);
}

int vmm_shim_cancel(struct vmm_shim *s, struct error *e)
{
	int err = set_state(s->here, CLIENT_RUNNING, e);

	vmm_memory_unwatch(s->memory);
	if (!err)
		err = vfio_client_log_stop(s->here, e);
	return err ? err : vfio_user_client_reset(s->there, e);
}
