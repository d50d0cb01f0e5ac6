/* vfio_user_connection.c - one client at our socket. */
#include "host/vfio_user/vfio_user_connection.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/error.h"
#include "host/host_journal.h"
#include "host/vfio_user/vfio_user_command.h"
#include "host/vfio_user/vfio_user_mask.h"
#include "link/guarded_mapping.h"
#include "link/memory_map.h"
#include "pci/pci_function.h"

enum { REPLIES_MAX = 1 << 18 }; /* bytes that may wait before the next command is handled */

/* ---- ending ---- */

static void end_is_reached(struct vfio_user_connection *c)
{
	free(c->releases);
	c->releases = NULL;
	vfio_user_dma_close(&c->dma);
	vfio_user_channel_close(&c->twin);
	vfio_user_channel_close(&c->main);
	c->state = VFIO_USER_CLOSED;
	counter_add(&c->numbers->disconnects, 1);
	host_journal_tell(c->journal, "client disconnected");
	c->ended(c->owner);
}

static void step_to_end(struct vfio_user_connection *c)
{
	if (c->resetting || c->after_change || c->migrating)
		return;
	if (!c->memory_taken) {
		c->memory_taken = true;
		memory_map_release(c->map);
		c->map = NULL;
		vfio_user_dma_set_map(&c->dma, NULL);
		pci_function_set_memory(c->function, NULL,
					vfio_user_connection_change(c, step_to_end));
		return;
	}
	if (!c->releasing)
		end_is_reached(c);
}

static void begin_end(struct vfio_user_connection *c)
{
	c->state = VFIO_USER_ENDING;
	vfio_user_channel_rest(&c->main);
	vfio_user_channel_rest(&c->twin);
	reactor_timer_cancel(&c->patience);
	c->dma.refusing = true;
	(void)vfio_user_dma_fail_all(&c->dma, -ECANCELED); /* nothing is sent any more */
	for (unsigned kind = 0; kind < PCI_IRQS; kind++) {
		vfio_user_mask_forget(c, kind);
		pci_irq_disconnect(c->function, kind);
	}
	if (c->resetting)
		return; /* it was asked for after the last command: it will do */
	c->resetting = true;
	pci_function_reset(c->function, &c->reset);
}

void vfio_user_connection_end(struct vfio_user_connection *c)
{
	if (c->state == VFIO_USER_OPEN)
		begin_end(c);
}

void vfio_user_connection_break(struct vfio_user_connection *c, const char *format, ...)
{
	char text[320];
	va_list arguments;

	if (c->state != VFIO_USER_OPEN)
		return;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	counter_add(&c->numbers->protocol_errors, 1);
	host_journal_warn(c->journal, "%s; connection dropped", text);
	begin_end(c);
}

/* ---- replies ---- */

void vfio_user_connection_reply(struct vfio_user_connection *c, const struct vfio_user_header *h,
				const struct iovec *parts, unsigned count, const int *fds,
				unsigned fd_count)
{
	const struct vfio_user_header reply = { .id = h->id,
						.command = h->command,
						.flags = VFIO_USER_FLAG_REPLY };

	counter_add(&c->numbers->commands, 1);
	if (h->flags & VFIO_USER_FLAG_NO_REPLY)
		return;
	if (vfio_user_output_put(&c->main.output, &reply, parts, count, fds, fd_count))
		vfio_user_connection_break(c, "no memory, or descriptors, for a reply");
}

static void refuse(struct vfio_user_connection *c, const struct vfio_user_header *h,
		   const struct error *e)
{
	const char *name = vfio_user_command_name(h->command);
	const struct vfio_user_header reply = {
		.id = h->id,
		.command = h->command,
		.flags = VFIO_USER_FLAG_REPLY | VFIO_USER_FLAG_ERROR,
		.error = e->code < 0 ? -e->code : EIO,
	};

	counter_add(&c->numbers->commands_refused, 1);
	host_journal_warn(c->journal, "%s: %s", name ? name : "command", e->text);
	if (h->flags & VFIO_USER_FLAG_NO_REPLY)
		return;
	if (vfio_user_output_put(&c->main.output, &reply, NULL, 0, NULL, 0))
		vfio_user_connection_break(c, "no memory for a reply");
}

/* ---- commands ---- */

/* Memory that the client shared and then cut off costs it the connection (link/ has seen to it that
 * it costs no more). */
static bool memory_is_lost(const struct vfio_user_connection *c)
{
	return guarded_mapping_losses() && c->map && memory_map_is_lost(c->map);
}

static int run(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	uint32_t transfer_max = c->negotiated ? c->terms.transfer_max : VFIO_USER_TRANSFER_MAX;
	int err = vfio_user_command_check(m, transfer_max, e);

	return err ? err : vfio_user_command_run(c, m, e);
}

static void handle(struct vfio_user_connection *c, struct vfio_user_message *m)
{
	struct error e = { 0 };
	int status;

	c->working = true;
	c->work = m->header;
	status = run(c, m, &e);
	if (status == VFIO_USER_LATER)
		return;
	c->working = false;
	if (status == -EPROTONOSUPPORT)
		vfio_user_connection_break(c, "%s", e.text);
	else if (status < 0)
		refuse(c, &m->header, &e);
	else if (status != VFIO_USER_REPLIED)
		vfio_user_connection_reply(c, &m->header, NULL, 0, NULL, 0);
}

void vfio_user_connection_finish(struct vfio_user_connection *c, void *payload, size_t n)
{
	c->working = false;
	if (c->state != VFIO_USER_OPEN)
		return;
	vfio_user_connection_reply(c, &c->work, &(struct iovec){ payload, n }, 1, NULL, 0);
	vfio_user_channel_flush(&c->main);
	vfio_user_channel_go_on(&c->main);
}

void vfio_user_connection_fail(struct vfio_user_connection *c, const struct error *e)
{
	c->working = false;
	if (c->state != VFIO_USER_OPEN)
		return;
	refuse(c, &c->work, e);
	vfio_user_channel_flush(&c->main);
	vfio_user_channel_go_on(&c->main);
}

struct reactor_task *vfio_user_connection_change(struct vfio_user_connection *c,
						 vfio_user_step *after)
{
	assert(!c->after_change); /* one at a time */
	c->after_change = after;
	return &c->change;
}

void vfio_user_connection_go_on(struct vfio_user_connection *c)
{
	if (c->state == VFIO_USER_ENDING)
		step_to_end(c);
}

static void change_is_done(void *arg)
{
	struct vfio_user_connection *c = arg;
	vfio_user_step *after = c->after_change;

	c->after_change = NULL;
	if (c->state == VFIO_USER_ENDING)
		step_to_end(c);
	else
		after(c);
}

static void reset_is_done(void *arg)
{
	struct vfio_user_connection *c = arg;

	c->resetting = false;
	if (c->state == VFIO_USER_ENDING) {
		step_to_end(c);
		return;
	}
	c->dma.refusing = false;
	vfio_user_connection_finish(c, NULL, 0);
}

/* ---- what the channels say ---- */

static bool command_came(void *owner, struct vfio_user_channel *ch)
{
	struct vfio_user_connection *c = owner;
	struct vfio_user_message m = vfio_user_input_message(&ch->input);

	if (ch == &c->twin)
		vfio_user_connection_break(c, "a command on the socket for ours");
	else if (memory_is_lost(c))
		vfio_user_connection_break(c, "shared memory is shorter than it was");
	else if (c->working || ch->output.bytes > REPLIES_MAX)
		return false;
	else
		handle(c, &m);
	if (c->state == VFIO_USER_OPEN)
		vfio_user_channel_flush(ch);
	return true;
}

static void client_is_gone(void *owner)
{
	vfio_user_connection_end(owner);
}

static void stream_is_broken(void *owner, const char *text)
{
	vfio_user_connection_break(owner, "%s", text);
}

static void patience_is_over(void *owner, const char *text)
{
	struct vfio_user_connection *c = owner;

	counter_add(&c->numbers->timeouts, 1);
	vfio_user_connection_break(c, "%s", text);
}

static const struct vfio_user_channel_users users = {
	.command = command_came,
	.gone = client_is_gone,
	.broken = stream_is_broken,
	.timed_out = patience_is_over,
};

static void dma_is_ready(void *owner)
{
	struct vfio_user_connection *c = owner;

	if (c->state == VFIO_USER_OPEN)
		vfio_user_channel_flush(c->twin.fd >= 0 ? &c->twin : &c->main);
}

/* ---- life ---- */

static void prepare_channel(struct vfio_user_connection *c, struct vfio_user_channel *ch)
{
	*ch = (struct vfio_user_channel){
		.fd = -1,
		.control = c->control,
		.users = &users,
		.owner = c,
		.input.dma = &c->dma,
		.resting = true,
	};
}

void vfio_user_connection_prepare(struct vfio_user_connection *c)
{
	c->change = (struct reactor_task){ .fn = change_is_done, .arg = c };
	c->reset = (struct reactor_task){ .fn = reset_is_done, .arg = c };
	vfio_user_migration_prepare(c);
	c->dma.control = c->control;
	c->dma.numbers = &c->numbers->dma;
	c->dma.ready = dma_is_ready;
	c->dma.owner = c;
	vfio_user_dma_prepare(&c->dma);
	prepare_channel(c, &c->main);
	prepare_channel(c, &c->twin);
}

int vfio_user_connection_open(struct vfio_user_connection *c, int fd)
{
	int err;

	assert(c->state == VFIO_USER_CLOSED);
	prepare_channel(c, &c->main);
	prepare_channel(c, &c->twin);
	c->main.output.dma = &c->dma;
	c->negotiated = c->working = c->memory_taken = false;
	c->terms = (struct vfio_user_terms){ 0 };
	c->dma.refusing = false;
	err = vfio_user_channel_open(&c->main, fd);
	if (err)
		return err;
	c->state = VFIO_USER_OPEN;
	counter_add(&c->numbers->connections, 1);
	host_journal_tell(c->journal, "client connected");
	return 0;
}
