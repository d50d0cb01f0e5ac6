/* migrate.c - the migration of a PCI function: states, arcs, and what each arc does. */
#include "virtio/migrate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "link/dirty_log.h"
#include "stream/stream.h"
#include "virtio/virtio_pci_state.h"

struct migrate {
	struct virtio_pci *pci; /* borrowed */
	enum migrate_state state, wanted;
	struct reactor_task *done; /* NULL: no change of state is under way */
	struct reactor_task step;  /* an arc has been carried out */
	struct error error;        /* of the last change; code 0: none */
	struct virtio_quiesce quiesce;
	int thaw_status;
	bool was_reset; /* while a change was under way */

	struct stream_writer state_out; /* the preview, or the state */
	size_t read;                    /* bytes of it */
	char *state_in;                 /* owned: what was written */
	size_t written, room;
	size_t checked; /* bytes of whole streams, previews that were found good */
};

enum { ROOM_FIRST = 16384 };

/* Bytes of a state, at most; a queue has two more for each request that is left behind. */
enum { PER_FUNCTION = 16384, PER_QUEUE = 160, PER_VECTOR = 17 };

/* ---- arcs ---- */

/* From a state towards another: the next one on the way (<linux/vfio.h>: an arc that begins to
 * move data is never passed through on the way to another).  ERROR: there is no way. */
static enum migrate_state next_of(enum migrate_state from, enum migrate_state to)
{
	enum {
		E = MIGRATE_ERROR,
		S = MIGRATE_STOP,
		R = MIGRATE_RUNNING,
		C = MIGRATE_STOP_COPY,
		L = MIGRATE_RESUMING,
		P = MIGRATE_RUNNING_P2P,
		W = MIGRATE_PRE_COPY,
		Q = MIGRATE_PRE_COPY_P2P
	};
	static const uint8_t next[MIGRATE_STATES][MIGRATE_STATES] = {
		/* to:                 E  S  R  C  L  P  W  Q */
		[MIGRATE_ERROR] = { E, E, E, E, E, E, E, E },
		[MIGRATE_STOP] = { E, S, P, C, L, P, P, P },
		[MIGRATE_RUNNING] = { E, P, R, P, P, P, W, P },
		[MIGRATE_STOP_COPY] = { E, S, S, C, S, S, E, E },
		[MIGRATE_RESUMING] = { E, S, S, S, L, S, S, S },
		[MIGRATE_RUNNING_P2P] = { E, S, R, S, S, P, R, Q },
		[MIGRATE_PRE_COPY] = { E, R, R, Q, R, R, W, Q },
		[MIGRATE_PRE_COPY_P2P] = { E, P, P, C, P, P, W, Q },
	};

	return next[from][to];
}

const char *migrate_state_name(enum migrate_state state)
{
	static const char *const names[MIGRATE_STATES] = {
		"ERROR",    "STOP",        "RUNNING",  "STOP_COPY",
		"RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P",
	};

	return state < MIGRATE_STATES ? names[state] : "unknown";
}

static bool is_stopped(enum migrate_state state)
{
	return state != MIGRATE_RUNNING && state != MIGRATE_PRE_COPY;
}

static bool has_state_out(enum migrate_state state)
{
	return state == MIGRATE_PRE_COPY || state == MIGRATE_PRE_COPY_P2P ||
	       state == MIGRATE_STOP_COPY;
}

/* ---- data ---- */

static void drop_data(struct migrate *m)
{
	stream_writer_free(&m->state_out);
	free(m->state_in);
	m->state_in = NULL;
	m->read = m->written = m->room = m->checked = 0;
}

static int write_out(struct migrate *m,
		     void (*save)(const struct virtio_pci *v, struct stream_writer *w))
{
	drop_data(m);
	stream_writer_begin(&m->state_out);
	save(m->pci, &m->state_out);
	return stream_writer_end(&m->state_out, &m->error);
}

ssize_t migrate_read(struct migrate *m, void *to, size_t n, struct error *e)
{
	if (!has_state_out(m->state) || m->done)
		return error_set(e, -EINVAL, "there is nothing to read in state %s",
				 migrate_state_name(m->state));
	n = minimum_u64(n, m->state_out.length - m->read);
	memcpy(to, m->state_out.bytes + m->read, n);
	m->read += n;
	return n;
}

static int make_room(struct migrate *m, size_t n, struct error *e)
{
	size_t room = m->room ? m->room : ROOM_FIRST;
	char *bytes;

	if (n > STREAM_MAX || m->written + n > STREAM_MAX)
		return error_set(e, -EFBIG, "a state of more than %d bytes", STREAM_MAX);
	while (room < m->written + n)
		room *= 2;
	if (room == m->room)
		return 0;
	bytes = realloc(m->state_in, room);
	if (!bytes)
		return error_set(e, -ENOMEM, "state: out of memory");
	m->state_in = bytes;
	m->room = room;
	return 0;
}

/* The whole streams that have come, up to the last, are previews: one that does not fit ends the
 * matter before a guest's memory is copied. */
static int check_previews(struct migrate *m, struct error *e)
{
	ssize_t n;

	while ((n = stream_measure(m->state_in + m->checked, m->written - m->checked, e)) > 0) {
		if (virtio_pci_load(m->pci, m->state_in + m->checked, n, true, e))
			return e->code;
		if (m->checked + n == m->written)
			return 0;
		m->checked += n;
	}
	return n;
}

ssize_t migrate_write(struct migrate *m, const void *from, size_t n, struct error *e)
{
	int err;

	if (m->state != MIGRATE_RESUMING || m->done)
		return error_set(e, -EINVAL, "nothing can be written in state %s",
				 migrate_state_name(m->state));
	err = make_room(m, n, e);
	if (err)
		return err;
	memcpy(m->state_in + m->written, from, n);
	m->written += n;
	err = check_previews(m, e);
	if (err < 0)
		drop_data(m);
	return err < 0 ? err : (ssize_t)n;
}

/* The last stream is the state. */
static int load(struct migrate *m)
{
	int err = m->written ? check_previews(m, &m->error)
			     : error_set(&m->error, -EBADMSG, "state: nothing was written");

	if (!err)
		err = virtio_pci_load(m->pci, m->state_in + m->checked, m->written - m->checked,
				      false, &m->error);
	drop_data(m);
	return err;
}

void migrate_pre_copy_info(const struct migrate *m, uint64_t *initial, uint64_t *dirty)
{
	*initial = m->state_out.length - m->read;
	*dirty = 0;
}

uint64_t migrate_data_size(const struct migrate *m)
{
	const struct virtio_pci *v = m->pci;
	uint64_t queue = PER_QUEUE + 2 * virtio_device_queue_size_max(v->device);

	if (m->state == MIGRATE_STOP_COPY)
		return m->state_out.length;
	return PER_FUNCTION + v->queue_count * queue + PER_VECTOR * v->function.msix.count;
}

/* ---- what an arc does ---- */

static void step_done(struct migrate *m)
{
	reactor_defer(m->pci->function.control, &m->step);
}

static void freeze(struct migrate *m)
{
	m->quiesce = (struct virtio_quiesce){ .patience_ns = virtio_device_drain_ns(m->pci->device),
					      .park = true };
	virtio_pci_freeze(m->pci, &m->quiesce, &m->step);
}

/* Begins it; m->step runs when it is done, with m->error, m->quiesce or m->thaw_status. */
static void begin_arc(struct migrate *m, enum migrate_state next)
{
	m->quiesce.status = m->thaw_status = 0;
	if (is_stopped(next) && !is_stopped(m->state)) {
		freeze(m);
		return;
	}
	if (!is_stopped(next) && is_stopped(m->state)) {
		virtio_pci_thaw(m->pci, &m->thaw_status, &m->step);
		return;
	}
	if (next == MIGRATE_RESUMING) {
		drop_data(m);
		virtio_pci_freeze_empty(m->pci, &m->step);
		return;
	}
	if (next == MIGRATE_STOP_COPY)
		write_out(m, virtio_pci_save);
	else if (has_state_out(next) && !has_state_out(m->state))
		write_out(m, virtio_pci_save_preview);
	else if (m->state == MIGRATE_RESUMING)
		load(m);
	else if (!has_state_out(next))
		drop_data(m);
	step_done(m);
}

/* 0, or what has gone wrong. */
static int outcome(struct migrate *m)
{
	if (m->was_reset)
		return error_set(&m->error, -ECANCELED, "the function was reset meanwhile");
	if (m->quiesce.status)
		return error_set(&m->error, m->quiesce.status, "%s", m->quiesce.reason);
	if (m->thaw_status)
		return error_set(&m->error, m->thaw_status, "a queue does not start: %s",
				 strerror(-m->thaw_status));
	return m->error.code;
}

static void end_change(struct migrate *m)
{
	struct reactor_task *done = m->done;

	m->done = NULL;
	if (m->was_reset) { /* what was under way may have frozen it after that */
		m->was_reset = m->pci->frozen = false;
		virtio_pci_follow(m->pci);
	}
	if (m->error.code)
		error_wrap(&m->error, "from %s to %s", migrate_state_name(m->state),
			   migrate_state_name(m->wanted));
	reactor_defer(m->pci->function.control, done);
}

static void step_run(void *arg)
{
	struct migrate *m = arg;
	enum migrate_state next = next_of(m->state, m->wanted);

	if (outcome(m)) {
		if (m->thaw_status)
			m->state = MIGRATE_ERROR;
		end_change(m);
		return;
	}
	m->state = next;
	if (next == m->wanted)
		end_change(m);
	else
		begin_arc(m, next_of(next, m->wanted));
}

/* ---- for transports ---- */

enum migrate_state migrate_state(const struct migrate *m)
{
	return m->state;
}

int migrate_set_state(struct migrate *m, enum migrate_state next, struct reactor_task *done,
		      struct error *e)
{
	if (m->done)
		return error_set(e, -EBUSY, "a change of state is under way");
	if (next >= MIGRATE_STATES || next == MIGRATE_ERROR ||
	    next_of(m->state, next) == MIGRATE_ERROR)
		return error_set(e, -EINVAL, "no way leads from state %s to %s",
				 migrate_state_name(m->state), migrate_state_name(next));
	m->done = done;
	m->wanted = next;
	m->error = (struct error){ 0 };
	if (next == m->state)
		end_change(m);
	else
		begin_arc(m, next_of(m->state, next));
	return 0;
}

int migrate_result(const struct migrate *m, struct error *e)
{
	return m->error.code ? error_set(e, m->error.code, "%s", m->error.text) : 0;
}

/* A change under way finds out when its step is done. */
void migrate_was_reset(struct migrate *m)
{
	m->state = MIGRATE_RUNNING;
	m->was_reset = m->done;
	m->pci->frozen = false;
	drop_data(m);
	if (m->pci->log_wanted)
		virtio_pci_set_log(m->pci, NULL, NULL);
}

/* ---- the dirty log ---- */

int migrate_log_start(struct migrate *m, const struct dirty_log_range *ranges, unsigned count,
		      uint64_t page_size, struct reactor_task *done, struct error *e)
{
	struct dirty_log *log;

	if (m->pci->log_wanted)
		return error_set(e, -EBUSY, "pages are logged already");
	log = dirty_log_create(ranges, count, page_size, e);
	if (!log)
		return e->code;
	virtio_pci_set_log(m->pci, log, done);
	return 0;
}

int migrate_log_stop(struct migrate *m, struct reactor_task *done, struct error *e)
{
	if (!m->pci->log_wanted)
		return error_set(e, -EINVAL, "no pages are logged");
	virtio_pci_set_log(m->pci, NULL, done);
	return 0;
}

int migrate_log_report(struct migrate *m, uint64_t iova, uint64_t length, uint64_t page_size,
		       uint64_t *bitmap, size_t bytes, struct error *e)
{
	uint64_t began_ns = reactor_clock(m->pci->function.control);
	int err;

	if (!m->pci->log_wanted)
		return error_set(e, -EINVAL, "no pages are logged");
	err = dirty_log_report(m->pci->log_wanted, iova, length, page_size, bitmap, bytes, e);
	virtio_device_count_report(m->pci->device, began_ns);
	return err;
}

/* ---- life ---- */

struct migrate *migrate_create(struct virtio_pci *v)
{
	struct migrate *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->pci = v;
	m->state = MIGRATE_RUNNING;
	m->step = (struct reactor_task){ .fn = step_run, .arg = m };
	return m;
}

void migrate_free(struct migrate *m)
{
	if (!m)
		return;
	drop_data(m);
	free(m);
}

struct migrate *virtio_pci_migrate(struct virtio_pci *v)
{
	return v->migrate;
}
