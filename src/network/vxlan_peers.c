/* vxlan_peers.c - the other ends of a VXLAN segment.
 *
 * Numbers below VXLAN_PEERS_STATIC are the configured ones, in their order, which never change.
 * The rest are places in sets of WAYS.  A place is written under the lock, and read without it: its
 * sequence number is odd while it is written, and another afterwards.
 */
#include "network/vxlan_peers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "network/mac_table.h"
#include "network/vxlan_options.h"

enum { WAYS = 4, SETS = 256, WORDS = 3 };

struct host { /* an address without its port */
	uint64_t words[WORDS];
};

struct place {
	_Atomic uint32_t sequence; /* 0: never written */
	_Atomic uint32_t seen;     /* seconds */
	_Atomic uint64_t words[WORDS];
};

struct vxlan_peers {
	const struct vxlan_options *options; /* borrowed */
	struct mac_table *macs;              /* borrowed */
	uint64_t key;
	pthread_mutex_t lock; /* for writing */
	struct place places[SETS * WAYS];
};

struct vxlan_peers *vxlan_peers_create(const struct vxlan_options *o, struct mac_table *macs,
				       uint64_t key)
{
	struct vxlan_peers *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->options = o;
	p->macs = macs;
	p->key = key | 1;
	pthread_mutex_init(&p->lock, NULL);
	return p;
}

void vxlan_peers_free(struct vxlan_peers *p)
{
	if (!p)
		return;
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---- places ---- */

static struct host host_of(const struct vxlan_address *a)
{
	struct host h = { 0 };

	if (a->any.sa_family == AF_INET) {
		h.words[0] = a->v4.sin_addr.s_addr;
		return h;
	}
	memcpy(h.words, &a->v6.sin6_addr, sizeof(a->v6.sin6_addr));
	h.words[2] = a->v6.sin6_scope_id;
	return h;
}

static void address_of(const struct vxlan_peers *p, const struct host *h, struct vxlan_address *a)
{
	vxlan_address_set_any(a, p->options->local.any.sa_family, p->options->port);
	if (a->any.sa_family == AF_INET) {
		a->v4.sin_addr.s_addr = h->words[0];
		return;
	}
	memcpy(&a->v6.sin6_addr, h->words, sizeof(a->v6.sin6_addr));
	a->v6.sin6_scope_id = h->words[2];
}

static struct place *set_of(struct vxlan_peers *p, const struct host *h)
{
	uint64_t mixed = p->key;

	for (unsigned i = 0; i < WORDS; i++) {
		mixed = (mixed ^ h->words[i]) * 0x9e3779b97f4a7c15ull;
		mixed = (mixed ^ mixed >> 29) * p->key;
	}
	return &p->places[(mixed >> 40) % SETS * WAYS];
}

/* False: it is being written just now, or nobody's. */
static bool place_read(struct place *at, struct host *h)
{
	uint32_t before = atomic_load_explicit(&at->sequence, memory_order_acquire);

	if (!before || before & 1)
		return false;
	for (unsigned i = 0; i < WORDS; i++)
		h->words[i] = atomic_load_explicit(&at->words[i], memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&at->sequence, memory_order_relaxed) == before;
}

/* The lock is held. */
static void place_write(struct place *at, const struct host *h, uint32_t now)
{
	uint32_t sequence = atomic_load_explicit(&at->sequence, memory_order_relaxed);

	atomic_store_explicit(&at->sequence, sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (unsigned i = 0; i < WORDS; i++)
		atomic_store_explicit(&at->words[i], h->words[i], memory_order_relaxed);
	atomic_store_explicit(&at->seen, now, memory_order_relaxed);
	/* 0 would be "never written" */
	sequence += sequence + 2 ? 2 : 4;
	atomic_store_explicit(&at->sequence, sequence, memory_order_release);
}

static struct place *find(struct place *set, const struct host *h)
{
	struct host there;

	for (unsigned i = 0; i < WAYS; i++)
		if (place_read(&set[i], &there) && !memcmp(&there, h, sizeof(there)))
			return &set[i];
	return NULL;
}

static uint16_t number_of(const struct vxlan_peers *p, const struct place *at)
{
	return VXLAN_PEERS_STATIC + (at - p->places);
}

/* The lock is held.  NULL: all are in use. */
static struct place *take(struct vxlan_peers *p, struct place *set, uint32_t now)
{
	for (unsigned i = 0; i < WAYS; i++) {
		uint32_t seen = atomic_load_explicit(&set[i].seen, memory_order_relaxed);

		if (!atomic_load_explicit(&set[i].sequence, memory_order_relaxed))
			return &set[i];
		if (now - seen < p->options->ageing)
			continue;
		mac_table_forget(p->macs, number_of(p, &set[i]));
		return &set[i];
	}
	return NULL;
}

static struct place *add(struct vxlan_peers *p, struct place *set, const struct host *h,
			 uint32_t now)
{
	struct place *at;

	pthread_mutex_lock(&p->lock);
	at = find(set, h); /* another thread may have been here */
	if (!at && (at = take(p, set, now)))
		place_write(at, h, now);
	pthread_mutex_unlock(&p->lock);
	return at;
}

/* ---- numbers ---- */

/* *several: which of them cannot be told. */
static uint16_t find_static(const struct vxlan_options *o, const struct vxlan_address *from,
			    bool *several)
{
	uint16_t found = VXLAN_PEER_NONE;

	for (unsigned i = 0; i < o->peer_count; i++) {
		if (!vxlan_address_same_host(&o->peers[i], from))
			continue;
		*several = found != VXLAN_PEER_NONE;
		found = i;
	}
	return found;
}

uint16_t vxlan_peers_learn(struct vxlan_peers *p, const struct vxlan_address *from, uint32_t now)
{
	struct host h = host_of(from);
	struct place *set = set_of(p, &h), *at;
	bool several = false;
	uint16_t number = find_static(p->options, from, &several);

	if (number != VXLAN_PEER_NONE)
		return several ? VXLAN_PEER_NONE : number;
	at = find(set, &h);
	if (!at)
		at = add(p, set, &h, now);
	if (!at)
		return VXLAN_PEER_NONE;
	if (atomic_load_explicit(&at->seen, memory_order_relaxed) != now)
		atomic_store_explicit(&at->seen, now, memory_order_relaxed);
	return number_of(p, at);
}

bool vxlan_peers_find(struct vxlan_peers *p, uint16_t number, struct vxlan_address *to)
{
	struct host h;

	if (number < p->options->peer_count) {
		*to = p->options->peers[number];
		return true;
	}
	if (number < VXLAN_PEERS_STATIC || number >= VXLAN_PEERS_STATIC + SETS * WAYS ||
	    !place_read(&p->places[number - VXLAN_PEERS_STATIC], &h))
		return false;
	address_of(p, &h, to);
	return true;
}
