/* vhost_user_connection.c - one front-end at our socket. */
#include "host/vhost_user/vhost_user_connection.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "host/host_journal.h"
#include "host/vhost_user/vhost_user_request.h"
#include "link/memory_map.h"
#include "virtio/virtio_device.h"

#define PATIENCE_NS (5 * UINT64_C(1000000000))

/* ---- logging ---- */

void vhost_user_connection_warn(struct vhost_user_connection *c, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	host_journal_warn_arguments(c->journal, format, arguments);
	va_end(arguments);
}

/* ---- the socket's watch ---- */

static void unwatch(struct vhost_user_connection *c)
{
	if (c->watching)
		reactor_watch_remove(&c->watch);
	c->watching = false;
}

static int watch(struct vhost_user_connection *c, short events)
{
	int err;

	if (c->watching)
		return c->watch.events == events ? 0 : reactor_watch_change(&c->watch, events);
	c->watch.fd = c->socket.fd;
	c->watch.events = events;
	err = reactor_watch_add(c->control, &c->watch);
	c->watching = !err;
	return err;
}

/* ---- changes of the device ---- */

static void change_is_done(void *arg)
{
	struct vhost_user_connection *c = arg;
	vhost_user_step *after = c->after;

	c->after = NULL;
	after(c);
}

struct reactor_task *vhost_user_connection_change(struct vhost_user_connection *c,
						  vhost_user_step *after)
{
	assert(!c->after); /* one at a time */
	c->after = after;
	c->change_status = 0;
	return &c->change;
}

/* ---- patience ---- */

static int begin_patience(struct vhost_user_connection *c)
{
	c->is_patient = true;
	return reactor_timer_set(c->control, &c->patience, reactor_now(c->control) + PATIENCE_NS);
}

static void end_patience(struct vhost_user_connection *c)
{
	reactor_timer_cancel(&c->patience);
	c->is_patient = false;
}

/* ---- ending ---- */

static void end_is_reached(struct vhost_user_connection *c)
{
	vhost_user_memory_clear(&c->memory);
	vhost_user_log_clear(&c->log);
	vhost_user_state_close(c);
	vhost_user_inflight_close(&c->inflight);
	fd_close(&c->backend_fd);
	vhost_user_socket_close(&c->socket);
	c->state = VHOST_USER_CLOSED;
	counter_add(&c->numbers->disconnects, 1);
	host_journal_tell(c->journal, "front-end disconnected");
	c->ended(c->owner);
}

static void end_memory(struct vhost_user_connection *c)
{
	virtio_device_set_memory(c->device, NULL, vhost_user_connection_change(c, end_is_reached));
}

static void end_log(struct vhost_user_connection *c)
{
	for (unsigned i = 0; i < c->ring_count; i++)
		virtio_queue_set_inflight(c->device, i, NULL, 0);
	if (!c->log.used) {
		end_memory(c);
		return;
	}
	c->log.used = NULL;
	virtio_device_set_dirty_log(c->device, NULL, vhost_user_connection_change(c, end_memory));
}

/* One ring after the other, then the device as a whole. */
static void end_rings(struct vhost_user_connection *c)
{
	while (c->cursor < c->ring_count && !virtio_queue_is_started(c->device, c->cursor))
		c->cursor++;
	if (c->cursor < c->ring_count)
		virtio_queue_stop(c->device, c->cursor, vhost_user_connection_change(c, end_rings));
	else
		virtio_device_reset(c->device, vhost_user_connection_change(c, end_log));
}

static void begin_end(struct vhost_user_connection *c)
{
	c->state = VHOST_USER_ENDING;
	unwatch(c);
	end_patience(c);
	vhost_user_ring_enable_all(c, false); /* while one drains, the others take nothing new */
	c->cursor = 0;
	end_rings(c);
}

void vhost_user_connection_end(struct vhost_user_connection *c)
{
	if (c->state == VHOST_USER_WORKING)
		c->ending = true;
	else if (c->state != VHOST_USER_ENDING)
		begin_end(c);
}

/* ---- answers ---- */

static void go_on_reading(struct vhost_user_connection *c)
{
	c->state = VHOST_USER_READING;
	if (watch(c, POLLIN)) {
		vhost_user_connection_warn(c, "the socket cannot be watched; connection dropped");
		begin_end(c);
	}
}

static void wait_to_send(struct vhost_user_connection *c)
{
	c->state = VHOST_USER_REPLYING;
	if ((!c->is_patient && begin_patience(c)) || watch(c, POLLOUT))
		begin_end(c);
}

static void send_answer(struct vhost_user_connection *c)
{
	int err = vhost_user_socket_send(&c->socket);

	if (err == -EAGAIN) {
		wait_to_send(c);
		return;
	}
	end_patience(c);
	if (!err)
		go_on_reading(c);
	else
		begin_end(c); /* it left without waiting for its answer */
}

static void patience_is_over(void *arg)
{
	struct vhost_user_connection *c = arg;

	counter_add(&c->numbers->timeouts, 1);
	vhost_user_connection_warn(c, "the front-end does not %s; connection dropped",
				   c->state == VHOST_USER_REPLYING ? "read its answers"
								   : "complete its message");
	begin_end(c);
}

/* vhost-user.rst, "REPLY_ACK" */
static bool wants_number(const struct vhost_user_connection *c, const struct vhost_user_request *r)
{
	if (r && r->reply == VHOST_USER_REPLY_LOG &&
	    vhost_user_connection_has(c, VHOST_USER_PROTOCOL_F_LOG_SHMFD))
		return true;
	return (!r || r->reply != VHOST_USER_REPLY_PAYLOAD) &&
	       vhost_user_connection_has(c, VHOST_USER_PROTOCOL_F_REPLY_ACK) &&
	       c->socket.message.header.flags & VHOST_USER_FLAG_NEED_REPLY;
}

static void answer(struct vhost_user_connection *c)
{
	c->socket.message.header.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
	vhost_user_socket_answer(&c->socket);
	send_answer(c);
}

static void answer_number(struct vhost_user_connection *c, uint64_t number)
{
	struct vhost_user_message *m = &c->socket.message;

	vhost_user_message_close(m);
	memset(&m->payload, 0, sizeof(m->payload));
	vhost_user_message_put_number(m, number);
	answer(c);
}

static void refuse(struct vhost_user_connection *c, const struct vhost_user_request *r,
		   const struct error *e)
{
	bool number = wants_number(c, r);

	counter_add(&c->numbers->requests_refused, 1);
	vhost_user_connection_warn(c, "%s: %s%s", r ? r->name : "request", e->text,
				   number ? "" : "; connection dropped");
	if (number)
		answer_number(c, e->code < 0 ? -e->code : EIO);
	else
		begin_end(c);
}

void vhost_user_connection_finish(struct vhost_user_connection *c, int status, struct error *e)
{
	const struct vhost_user_request *r =
		vhost_user_request_find(c->socket.message.header.request);

	if (!status)
		counter_add(&c->numbers->requests, 1);
	if (c->ending) {
		begin_end(c);
	} else if (status) {
		refuse(c, r, e);
	} else if (r->reply == VHOST_USER_REPLY_PAYLOAD) {
		answer(c);
	} else if (wants_number(c, r)) {
		answer_number(c, 0);
	} else {
		vhost_user_socket_next(&c->socket);
		go_on_reading(c);
	}
}

/* ---- requests ---- */

static int check_request(const struct vhost_user_connection *c, const struct vhost_user_request *r,
			 struct error *e)
{
	uint32_t number = c->socket.message.header.request;

	if (!r)
		return error_set(e, -EOPNOTSUPP, "%" PRIu32 " is unknown or was not offered",
				 number);
	if (r->needs & ~c->protocol_features)
		return error_set(e, -EOPNOTSUPP, "its protocol feature was not negotiated");
	return 0;
}

/* Memory that the front-end shared and then cut off costs it the connection (link/ has seen to it
 * that it costs no more). */
static bool memory_is_lost(const struct vhost_user_connection *c)
{
	return guarded_mapping_losses() && ((c->memory.map && memory_map_is_lost(c->memory.map)) ||
					    guarded_mapping_is_lost(&c->inflight.mapping));
}

static void break_off(struct vhost_user_connection *c, const char *what, const struct error *e)
{
	counter_add(&c->numbers->protocol_errors, 1);
	vhost_user_connection_warn(c, "%s%s; connection dropped", what, e->text);
	begin_end(c);
}

static void handle(struct vhost_user_connection *c)
{
	struct vhost_user_message *m = &c->socket.message;
	const struct vhost_user_request *r = vhost_user_request_find(m->header.request);
	struct error e = { 0 };
	int status = check_request(c, r, &e);

	if (r && vhost_user_shape_check(&r->shape, m, &e)) {
		error_wrap(&e, "%s", r->name);
		break_off(c, "malformed ", &e);
		return;
	}
	if (memory_is_lost(c)) {
		error_set(&e, -EFAULT, "shared memory is shorter than it was");
		break_off(c, "", &e);
		return;
	}
	c->state = VHOST_USER_WORKING;
	if (!status)
		status = r->handler(c, m, &e);
	if (status == VHOST_USER_LATER)
		unwatch(c);
	else
		vhost_user_connection_finish(c, status, &e);
}

/* From the first byte of a message to the last. */
static void wait_for_more(struct vhost_user_connection *c)
{
	if (c->socket.moved && !c->is_patient && begin_patience(c))
		begin_end(c);
}

static void receive(struct vhost_user_connection *c)
{
	struct error e = { 0 };
	int got = vhost_user_socket_receive(&c->socket, &e);

	if (got == VHOST_USER_MORE) {
		wait_for_more(c);
		return;
	}
	end_patience(c);
	if (got == VHOST_USER_WHOLE)
		handle(c);
	else if (got == VHOST_USER_GONE)
		begin_end(c);
	else
		break_off(c, "", &e);
}

static void socket_is_ready(void *arg)
{
	struct vhost_user_connection *c = arg;

	if (c->state == VHOST_USER_REPLYING)
		send_answer(c);
	else
		receive(c);
}

bool vhost_user_connection_has(const struct vhost_user_connection *c, unsigned protocol_feature)
{
	return c->protocol_features >> protocol_feature & 1;
}

/* ---- life ---- */

int vhost_user_connection_prepare(struct vhost_user_connection *c)
{
	c->socket.fd = -1;
	c->backend_fd = -1;
	c->watch = (struct reactor_watch){ .fd = -1, .fn = socket_is_ready, .arg = c };
	c->patience = (struct reactor_timer){ .fn = patience_is_over, .arg = c };
	c->change = (struct reactor_task){ .fn = change_is_done, .arg = c };
	vhost_user_state_prepare(c);
	c->ring_count = virtio_device_queue_count(c->device);
	c->rings = calloc(c->ring_count, sizeof(c->rings[0]));
	return c->rings ? 0 : -ENOMEM;
}

void vhost_user_connection_destroy(struct vhost_user_connection *c)
{
	assert(c->state == VHOST_USER_CLOSED);
	free(c->rings);
	c->rings = NULL;
}

int vhost_user_connection_open(struct vhost_user_connection *c, int fd)
{
	int err;

	assert(c->state == VHOST_USER_CLOSED);
	c->socket.fd = fd;
	vhost_user_socket_next(&c->socket);
	c->ending = false;
	c->features = 0;
	c->protocol_features = 0;
	vhost_user_ring_forget_all(c);
	err = watch(c, POLLIN);
	if (err) {
		vhost_user_socket_close(&c->socket);
		return err;
	}
	c->state = VHOST_USER_READING;
	counter_add(&c->numbers->connections, 1);
	host_journal_tell(c->journal, "front-end connected");
	return 0;
}
