/* packet_xdp.c - the port packet: by AF_XDP, all of an interface's channels.
 *
 * The card decides to which channel a frame comes, so each of them is served, however few queues
 * there are: channel c by queue c % active, if that is started.  When the number of active queues
 * changes the channels change hands.  A channel has an owner, or none: who should not have it any
 * more lets go of it, on its own thread, when no frame of it is with the user, and wakes who
 * should; who should have it takes it if nobody has.  An owner's number is one atomic word, so
 * neither side ever waits.
 *
 * No wake is missed: who lets go looks at `active` afterwards, and who changes `active` wakes all
 * afterwards.
 */
#include "network/packet_xdp.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "reactor/reactor.h"

enum {
	CHANNELS_MAX = 128,
	NOBODY = -1,
	/* Until frames that the kernel did not take are shown to it again: at first, at most. */
	RETRY_NS = 50000,
	RETRY_NS_MAX = 10000000,
};

/* One channel, and its owner's way to watch it. */
struct post {
	struct packet_channel *channel; /* owned by the port */
	_Atomic int owner;              /* a queue, or NOBODY */
	struct packet_xdp_queue *queue; /* the owner's, like all below */
	struct reactor_watch watch;
	bool told;     /* the queue knows that a frame may be here */
	bool watching; /* for more */
};

struct packet_xdp {
	unsigned channels, queues;
	_Atomic unsigned active;
	_Atomic bool up;
	int wakes[NETWORK_QUEUES_MAX]; /* owned: eventfds, one per queue */
	struct post posts[CHANNELS_MAX];
};

struct xdp_numbers {
	uint64_t come_refused, retries;
};

static const struct counter_field fields[] = {
	{ "come_refused", offsetof(struct xdp_numbers, come_refused) },
	{ "retries", offsetof(struct xdp_numbers, retries) },
};

struct packet_xdp_queue {
	struct packet_xdp *port;
	struct network_layer_queue *queue;
	int index;
	struct reactor_watch wake;
	struct reactor_timer retry;
	uint64_t retry_ns;
	bool readable;              /* perhaps */
	struct post *holds;         /* whose frame is with our user */
	struct network_frame frame; /* that one */
	bool overdue;               /* it should change hands */
	unsigned cursor;            /* the next to look at, in mine */
	unsigned mine_count;
	struct post *mine[CHANNELS_MAX];
	struct xdp_numbers numbers;
	struct counter_group group;
};

/* ---- who has which channel ---- */

static void wake(struct packet_xdp *p, unsigned queue)
{
	const uint64_t one = 1;

	/* Full: it will wake. */
	if (write(p->wakes[queue], &one, sizeof(one)) < 0)
		return;
}

static unsigned rightful_owner(const struct packet_xdp *p, const struct post *post)
{
	return (post - p->posts) % atomic_load(&p->active);
}

static void post_readable(void *arg)
{
	struct post *post = arg;
	struct packet_xdp_queue *q = post->queue;

	/* Found ready again while it is known already: nobody takes the frames. */
	if (post->told) {
		if (!reactor_watch_change(&post->watch, 0))
			post->watching = false;
		return;
	}
	post->told = true;
	if (q->readable)
		return;
	q->readable = true;
	network_queue_ready(q->queue);
}

static void post_take(struct packet_xdp_queue *q, struct post *post)
{
	int nobody = NOBODY;

	if (!atomic_compare_exchange_strong(&post->owner, &nobody, q->index))
		return;
	post->queue = q;
	post->told = false;
	post->watching = true;
	post->watch = (struct reactor_watch){ .fd = packet_channel_fd(post->channel),
					      .events = POLLIN,
					      .fn = post_readable,
					      .arg = post };
	if (reactor_watch_add(network_queue_reactor(q->queue), &post->watch)) {
		atomic_store(&post->owner, NOBODY);
		return;
	}
	q->mine[q->mine_count++] = post;
}

static void post_leave(struct packet_xdp_queue *q, struct post *post)
{
	packet_channel_flush(post->channel);
	reactor_watch_remove(&post->watch);
	atomic_store(&post->owner, NOBODY);
}

static void wake_owner(const struct packet_xdp_queue *q, const struct post *post)
{
	unsigned owner = rightful_owner(q->port, post);

	if ((int)owner != q->index && owner < q->port->queues)
		wake(q->port, owner);
}

/* The others close up. */
static void leave_what_is_not_ours(struct packet_xdp_queue *q)
{
	unsigned kept = 0;

	q->overdue = false;
	for (unsigned i = 0; i < q->mine_count; i++) {
		struct post *post = q->mine[i];
		bool ours = (int)rightful_owner(q->port, post) == q->index;

		if (ours || post == q->holds) {
			q->overdue |= !ours;
			q->mine[kept++] = post;
		} else {
			post_leave(q, post);
			wake_owner(q, post);
		}
	}
	q->mine_count = kept;
	q->cursor = 0;
}

static void take_what_is_ours(struct packet_xdp_queue *q)
{
	struct packet_xdp *p = q->port;

	for (unsigned i = 0; i < p->channels; i++)
		if ((int)rightful_owner(p, &p->posts[i]) == q->index)
			post_take(q, &p->posts[i]);
}

static void woken(void *arg)
{
	struct packet_xdp_queue *q = arg;
	uint64_t count;

	if (read(q->wake.fd, &count, sizeof(count)) < 0)
		return;
	leave_what_is_not_ours(q);
	take_what_is_ours(q);
	if (q->readable || !q->mine_count)
		return;
	q->readable = true;
	network_queue_ready(q->queue);
}

/* ---- frames ---- */

static void flush(struct packet_xdp_queue *q, uint64_t retry_ns)
{
	struct reactor *r = network_queue_reactor(q->queue);

	if (!q->mine_count || packet_channel_flush(q->mine[0]->channel))
		return;
	q->retry_ns = retry_ns;
	reactor_timer_set(r, &q->retry, reactor_now(r) + retry_ns);
}

static void retry(void *arg)
{
	struct packet_xdp_queue *q = arg;

	counter_add(&q->numbers.retries, 1);
	flush(q, minimum_u64(2 * q->retry_ns, RETRY_NS_MAX));
}

void packet_xdp_flush(struct packet_xdp_queue *q)
{
	flush(q, RETRY_NS);
}

int packet_xdp_send(struct packet_xdp_queue *q, const struct iovec *iov, unsigned n, size_t bytes)
{
	struct packet_channel *c;
	int status;

	if (unlikely(!atomic_load_explicit(&q->port->up, memory_order_relaxed)))
		return -ENETDOWN;
	/* Those who were active have not let go yet. */
	if (unlikely(!q->mine_count))
		return -ENOBUFS;
	c = q->mine[0]->channel;
	status = packet_channel_send(c, iov, n, bytes);
	if (likely(status != -ENOBUFS))
		return status;
	packet_xdp_flush(q);
	return packet_channel_send(c, iov, n, bytes);
}

static bool peek_all(struct packet_xdp_queue *q)
{
	for (unsigned i = 0; i < q->mine_count; i++) {
		struct post *post = q->mine[q->cursor];

		q->cursor = q->cursor + 1 < q->mine_count ? q->cursor + 1 : 0;
		if (packet_channel_peek(post->channel, &q->frame, &q->numbers.come_refused)) {
			q->holds = post;
			return true;
		}
	}
	return false;
}

/* Found empty: from now on each says when it is not. */
static void rest(struct packet_xdp_queue *q)
{
	q->readable = false;
	for (unsigned i = 0; i < q->mine_count; i++) {
		struct post *post = q->mine[i];

		post->told = false;
		if (!post->watching && !reactor_watch_change(&post->watch, POLLIN))
			post->watching = true;
	}
}

int packet_xdp_peek(struct packet_xdp_queue *q, struct network_frame *f)
{
	if (!q->holds && (!q->readable || !peek_all(q))) {
		rest(q);
		return 0;
	}
	*f = q->frame;
	return 1;
}

void packet_xdp_consume(struct packet_xdp_queue *q)
{
	packet_channel_consume(q->holds->channel);
	q->holds = NULL;
	if (unlikely(q->overdue))
		leave_what_is_not_ours(q);
}

/* ---- start and stop of a queue ---- */

static void count(struct packet_xdp_queue *q)
{
	q->group = (struct counter_group){ .room = "packet",
					   .fields = fields,
					   .count = ARRAY_LENGTH(fields),
					   .values = &q->numbers };
	snprintf(q->group.name, sizeof(q->group.name), "%s/%d",
		 network_layer_name(network_queue_layer(q->queue)), q->index);
	counter_group_add(&q->group);
}

int packet_xdp_start(struct packet_xdp_queue **to, struct packet_xdp *p,
		     struct network_layer_queue *queue, struct error *e)
{
	struct packet_xdp_queue *q = calloc(1, sizeof(*q));
	int status;

	if (!q)
		return error_set(e, -ENOMEM, "out of memory");
	q->port = p;
	q->queue = queue;
	q->index = network_queue_index(queue);
	q->readable = true;
	q->retry = (struct reactor_timer){ .fn = retry, .arg = q };
	q->wake = (struct reactor_watch){
		.fd = p->wakes[q->index], .events = POLLIN, .fn = woken, .arg = q
	};
	status = reactor_watch_add(network_queue_reactor(queue), &q->wake);
	if (status) {
		free(q);
		return error_set(e, status, "cannot be watched: %s", strerror(-status));
	}
	take_what_is_ours(q);
	for (unsigned i = 0; i < q->mine_count; i++)
		network_layer_count_lost(network_queue_layer(queue),
					 packet_channel_drain(q->mine[i]->channel));
	count(q);
	*to = q;
	return 0;
}

void packet_xdp_stop(struct packet_xdp_queue *q)
{
	if (q->holds)
		packet_channel_consume(q->holds->channel);
	network_queue_count_lost(q->queue, q->holds ? 1 : 0);
	for (unsigned i = 0; i < q->mine_count; i++)
		network_queue_count_lost(q->queue, packet_channel_drain(q->mine[i]->channel));
	for (unsigned i = 0; i < q->mine_count; i++) {
		post_leave(q, q->mine[i]);
		wake_owner(q, q->mine[i]);
	}
	reactor_timer_cancel(&q->retry);
	reactor_watch_remove(&q->wake);
	counter_group_remove(&q->group);
	free(q);
}

/* ---- all of a port ---- */

static int wakes_open(struct packet_xdp *p, struct error *e)
{
	for (unsigned i = 0; i < p->queues; i++) {
		p->wakes[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (p->wakes[i] < 0)
			return error_set(e, -errno, "eventfd: %s", strerror(errno));
	}
	return 0;
}

static int channels_open(struct packet_xdp *p, const struct packet_interface *i,
			 const struct packet_channel_options *o, struct error *e)
{
	int status = 0;

	if (i->channels > CHANNELS_MAX)
		return error_set(e, -E2BIG,
				 "AF_XDP: %u channels, but at most %d can be served (ethtool -L)",
				 i->channels, CHANNELS_MAX);
	for (; p->channels < i->channels && !status; p->channels++) {
		atomic_init(&p->posts[p->channels].owner, NOBODY);
		status = packet_channel_open(&p->posts[p->channels].channel, i, p->channels, o, e);
	}
	return status;
}

int packet_xdp_open(struct packet_xdp **to, const struct packet_interface *i, unsigned queues,
		    const struct packet_channel_options *o, struct network_limits *limits,
		    struct error *e)
{
	struct packet_xdp *p = calloc(1, sizeof(*p));
	int status;

	if (!p)
		return error_set(e, -ENOMEM, "out of memory");
	memset(p->wakes, -1, sizeof(p->wakes));
	atomic_init(&p->active, 1);
	atomic_init(&p->up, true);
	p->queues = minimum_u64(queues, i->channels);
	status = wakes_open(p, e);
	status = status ? status : channels_open(p, i, o, e);
	if (status) {
		packet_xdp_close(p);
		return status;
	}
	limits->queues = p->queues;
	limits->mtu = i->mtu;
	*to = p;
	return 0;
}

void packet_xdp_close(struct packet_xdp *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < p->channels; i++)
		packet_channel_close(p->posts[i].channel);
	for (unsigned i = 0; i < p->queues; i++)
		fd_close(&p->wakes[i]);
	free(p);
}

bool packet_xdp_copies(const struct packet_xdp *p)
{
	return packet_channel_copies(p->posts[0].channel);
}

void packet_xdp_set_active(struct packet_xdp *p, unsigned active)
{
	atomic_store(&p->active, active);
	for (unsigned i = 0; i < p->queues; i++)
		wake(p, i);
}

void packet_xdp_set_link(struct packet_xdp *p, bool up)
{
	atomic_store(&p->up, up);
}
