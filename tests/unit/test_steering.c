/* If this fails, a guest's flows come to queues that it did not name, or with hashes that are not
 * those of other network cards, or get lost or out of order on their way between queues. */
#include "network_bed.h"

#include <arpa/inet.h>

#include "network/flow_hash.h"

enum { TCP = 6, UDP = 17 };
enum {
	HASH_IPV4 = 1,
	HASH_TCPV4,
	HASH_UDPV4,
	HASH_IPV6,
	HASH_TCPV6,
	HASH_UDPV6,
	HASH_IP_EX,
	HASH_TCP_EX
};

#define TYPE(report) (1u << ((report)-1))

/* The key that the hash's definition is published with, and its examples. */
static const uint8_t key[NETWORK_HASH_KEY] = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
	0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
	0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
};

/* ---- frames ---- */

struct writer {
	uint8_t bytes[256];
	size_t n;
};

static void write_bytes(struct writer *w, const void *bytes, size_t n)
{
	memcpy(w->bytes + w->n, bytes, n);
	w->n += n;
}

static void write_be16(struct writer *w, uint16_t value)
{
	store_be16(w->bytes + w->n, value);
	w->n += 2;
}

static void write_zeros(struct writer *w, size_t n)
{
	memset(w->bytes + w->n, 0, n);
	w->n += n;
}

static void write_ethernet(struct writer *w, unsigned tags, uint16_t type)
{
	w->n = 0;
	write_bytes(w, "\x02\0\0\0\0\x01\x02\0\0\0\0\0", 12);
	for (unsigned i = 0; i < tags; i++) {
		write_be16(w, 0x8100);
		write_be16(w, 7);
	}
	write_be16(w, type);
}

static void write_ports(struct writer *w, uint16_t from, uint16_t to)
{
	write_be16(w, from);
	write_be16(w, to);
	write_zeros(w, 16);
}

static void ipv4_frame(struct writer *w, unsigned tags, uint8_t protocol, uint16_t fragment,
		       const char *from, const char *to, uint16_t port)
{
	struct in_addr a;

	write_ethernet(w, tags, 0x0800);
	write_bytes(w, "\x45\0\0\x3c\0\0", 6);
	write_be16(w, fragment);
	write_bytes(w, (uint8_t[]){ 64, protocol, 0, 0 }, 4);
	inet_pton(AF_INET, from, &a);
	write_bytes(w, &a, 4);
	inet_pton(AF_INET, to, &a);
	write_bytes(w, &a, 4);
	write_ports(w, port, 1766);
}

static void write_ipv6(struct writer *w, uint8_t next, const char *from, const char *to)
{
	struct in6_addr a;

	write_ethernet(w, 0, 0x86dd);
	write_bytes(w, (uint8_t[]){ 0x60, 0, 0, 0, 0, 60, next, 64 }, 8);
	inet_pton(AF_INET6, from, &a);
	write_bytes(w, &a, 16);
	inet_pton(AF_INET6, to, &a);
	write_bytes(w, &a, 16);
}

/* ---- hashes ---- */

static unsigned hash_of(uint32_t types, const struct writer *w, uint32_t *hash)
{
	static struct flow_hasher h;

	flow_hasher_set(&h, types, key);
	*hash = 0;
	return flow_hash(&h, w->bytes, w->n, hash);
}

static void assert_hash(uint32_t types, const struct writer *w, unsigned report, uint32_t wanted)
{
	uint32_t hash;

	assert_int_equal(hash_of(types, w, &hash), report);
	assert_int_equal(hash, wanted);
}

static void published_examples(void **state)
{
	struct writer w = { 0 };

	for (unsigned tags = 0; tags <= 2; tags++) {
		ipv4_frame(&w, tags, TCP, 0, "66.9.149.187", "161.142.100.80", 2794);
		assert_hash(FLOW_HASH_TYPES, &w, HASH_TCPV4, 0x51ccc178);
		assert_hash(TYPE(HASH_IPV4) | TYPE(HASH_UDPV4), &w, HASH_IPV4, 0x323e8fc2);
		assert_hash(TYPE(HASH_UDPV4) | TYPE(HASH_TCPV6), &w, 0, 0);
	}
	ipv4_frame(&w, 0, UDP, 0, "66.9.149.187", "161.142.100.80", 2794);
	assert_hash(FLOW_HASH_TYPES, &w, HASH_UDPV4, 0x51ccc178);
	write_ipv6(&w, TCP, "3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1");
	write_ports(&w, 2794, 1766);
	assert_hash(FLOW_HASH_TYPES, &w, HASH_TCPV6, 0x40207d3d);
	assert_hash(TYPE(HASH_IPV6), &w, HASH_IPV6, 0x2cc18cd5);
}

static void fragments_have_no_ports(void **state)
{
	struct writer w = { 0 };

	ipv4_frame(&w, 0, TCP, 0x2000, "66.9.149.187", "161.142.100.80", 2794);
	assert_hash(FLOW_HASH_TYPES, &w, HASH_IPV4, 0x323e8fc2);
	ipv4_frame(&w, 0, TCP, 0x0010, "66.9.149.187", "161.142.100.80", 2794);
	assert_hash(FLOW_HASH_TYPES, &w, HASH_IPV4, 0x323e8fc2);
	write_ipv6(&w, 44, "3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1");
	write_bytes(&w, (uint8_t[]){ TCP, 0, 0, 1, 0, 0, 0, 9 }, 8);
	write_ports(&w, 2794, 1766);
	assert_hash(FLOW_HASH_TYPES, &w, HASH_IP_EX, 0x2cc18cd5);
	assert_hash(TYPE(HASH_IPV6) | TYPE(HASH_TCPV6), &w, HASH_IPV6, 0x2cc18cd5);
}

/* The addresses of mobile nodes stand in extension headers; the others are taken where EX is off.
 */
static void mobile_addresses(void **state)
{
	struct writer w = { 0 };
	struct in6_addr home, routed;

	inet_pton(AF_INET6, "3ffe:2501:200:1fff::7", &home);
	inet_pton(AF_INET6, "3ffe:2501:200:3::1", &routed);
	write_ipv6(&w, 0, "2001:db8::1", "2001:db8::2");
	write_bytes(&w, (uint8_t[]){ 60, 0, 0, 0, 1, 2, 0, 0 },
		    8); /* hop by hop: padding of both kinds */
	write_bytes(&w, (uint8_t[]){ 43, 2, 1, 2, 0, 0, 201, 16 }, 8);
	write_bytes(&w, &home, 16);
	write_bytes(&w, (uint8_t[]){ TCP, 2, 2, 1, 0, 0, 0, 0 }, 8);
	write_bytes(&w, &routed, 16);
	write_ports(&w, 2794, 1766);
	assert_hash(FLOW_HASH_TYPES, &w, HASH_TCP_EX, 0x40207d3d);
	assert_hash(TYPE(HASH_IP_EX) | TYPE(HASH_TCPV6), &w, HASH_IP_EX, 0x2cc18cd5);
	write_ipv6(&w, TCP, "2001:db8::1", "2001:db8::2");
	write_ports(&w, 2794, 1766);
	assert_hash(TYPE(HASH_IPV6) | TYPE(HASH_IP_EX), &w, HASH_IPV6, 0x829c6d35);
}

/* In a block of its own, so that a sanitizer sees a byte too many. */
static void nothing_is_believed(void **state)
{
	static struct flow_hasher h;
	struct writer w = { 0 };

	flow_hasher_set(&h, FLOW_HASH_TYPES, key);
	srand(1);
	for (unsigned round = 0; round < 20000; round++) {
		uint32_t hash;
		uint8_t *exact;

		write_ipv6(&w, (uint8_t[]){ 0, 43, 60, 44, TCP }[round % 5], "::1", "::2");
		while (w.n < 150)
			w.bytes[w.n++] = rand() % 4 ? rand() : (uint8_t[]){ 0, 43, 60 }[rand() % 3];
		if (round % 7 == 0)
			w.bytes[12 + rand() % 140] ^= rand();
		w.n = rand() % 151;
		exact = malloc(w.n + !w.n);
		memcpy(exact, w.bytes, w.n);
		assert_in_range(flow_hash(&h, exact, w.n, &hash), 0, 9);
		free(exact);
	}
}

/* ---- queues ---- */

enum { QUEUES = 4, FLOWS = 64, PER_FLOW = 20 };

struct receiver {
	struct network_queue *queue;
	unsigned index, count, of_flow[FLOWS], by_report[16];
	bool idle;
};

struct lan {
	struct bed bed;
	char name[16]; /* no other's, so that its counters begin at 0 */
	struct network_port *port;
	struct receiver receivers[QUEUES];
	struct network_steering steering;
	unsigned sent[FLOWS], come[FLOWS];
};

/* The flow is the source port, its next number stands behind the ports. */
static void take_one(struct receiver *r, const struct network_frame *f, struct lan *l)
{
	unsigned flow = load_be16(f->bytes + 34), number = load_be16(f->bytes + 42);

	assert_int_equal(number, l->come[flow]);
	l->come[flow]++;
	r->of_flow[flow]++;
	r->by_report[f->hash_report]++;
	r->count++;
}

static struct lan *the_lan;

static void take_all(void *arg)
{
	struct receiver *r = arg;
	struct network_frame f, again;

	while (!r->idle && network_peek(r->queue, &f)) {
		assert_int_equal(network_peek(r->queue, &again), 1);
		assert_ptr_equal(again.bytes, f.bytes);
		take_one(r, &f, the_lan);
		network_consume(r->queue);
	}
}

static void receiver_open(struct lan *l, unsigned i)
{
	struct receiver *r = &l->receivers[i];
	struct error e;

	r->index = i;
	r->queue = network_queue_open(l->port, i, l->bed.reactor, take_all, r, &e);
	assert_non_null(r->queue);
}

static void receiver_close(struct receiver *r)
{
	if (r->queue)
		network_queue_close(r->queue);
	r->queue = NULL;
}

/* A sender, and a port of four queues, over which the switch spreads by addresses: one queue. */
static int lan_create(void **state)
{
	struct lan *l = calloc(1, sizeof(*l));
	static unsigned lans;
	struct error e;

	bed_create_seeded(&l->bed, 1);
	user_open(&l->bed, 0, "switch:lan");
	snprintf(l->name, sizeof(l->name), "many%u", lans++);
	l->port = network_port_open(l->name, "switch:lan", QUEUES, l->bed.reactor, &e);
	assert_non_null(l->port);
	for (unsigned i = 0; i < QUEUES; i++)
		receiver_open(l, i);
	network_port_set_active(l->port, QUEUES);
	l->steering = (struct network_steering){ .hash_types = FLOW_HASH_TYPES,
						 .by_table = true,
						 .mask = 7,
						 .unclassified = 3,
						 .table = { 0, 1, 2, 3, 3, 2, 1, 0 } };
	memcpy(l->steering.key, key, sizeof(key));
	*state = the_lan = l;
	return 0;
}

static int lan_free(void **state)
{
	struct lan *l = *state;

	for (unsigned i = 0; i < QUEUES; i++)
		receiver_close(&l->receivers[i]);
	network_port_close(l->port);
	bed_destroy(&l->bed);
	free(l);
	return 0;
}

static void send_flow(struct lan *l, unsigned flow, uint8_t protocol)
{
	static const struct virtio_net_hdr nothing;
	struct writer w = { 0 };

	ipv4_frame(&w, 0, protocol, 0, "10.0.0.1", "10.0.0.2", flow);
	store_be16(w.bytes + 42, l->sent[flow]++);
	assert_int_equal(user_send_raw(&l->bed.users[0], &nothing, w.bytes, 60), 0);
}

static void send_all(struct lan *l, uint8_t protocol)
{
	for (unsigned i = 0; i < PER_FLOW; i++)
		for (unsigned flow = 0; flow < FLOWS; flow++)
			send_flow(l, flow, protocol);
	bed_run(&l->bed, ms);
}

static unsigned wanted_queue(const struct lan *l, unsigned flow)
{
	struct writer w = { 0 };
	uint32_t hash;

	ipv4_frame(&w, 0, UDP, 0, "10.0.0.1", "10.0.0.2", flow);
	hash_of(FLOW_HASH_TYPES, &w, &hash);
	return l->steering.table[hash & l->steering.mask];
}

static void flows_come_to_the_queue_named(void **state)
{
	struct lan *l = *state;

	assert_int_equal(network_port_set_steering(l->port, &l->steering), 0);
	send_all(l, UDP);
	for (unsigned flow = 0; flow < FLOWS; flow++) {
		assert_int_equal(l->come[flow], PER_FLOW);
		assert_int_equal(l->receivers[wanted_queue(l, flow)].of_flow[flow], PER_FLOW);
	}
	for (unsigned i = 0; i < QUEUES; i++) {
		assert_true(l->receivers[i].count > PER_FLOW);
		assert_int_equal(l->receivers[i].by_report[HASH_UDPV4], l->receivers[i].count);
	}
	assert_true(counter_sum("network", l->name, "come_handed_over") > FLOWS);
}

static void others_come_to_the_unclassified(void **state)
{
	struct lan *l = *state;

	l->steering.hash_types = TYPE(HASH_TCPV4);
	assert_int_equal(network_port_set_steering(l->port, &l->steering), 0);
	send_all(l, UDP);
	assert_int_equal(l->receivers[3].count, FLOWS * PER_FLOW);
	assert_int_equal(l->receivers[3].by_report[0], FLOWS * PER_FLOW);
}

static void hashes_alone_move_nothing(void **state)
{
	struct lan *l = *state;
	unsigned used = 0;

	l->steering.by_table = false;
	assert_int_equal(network_port_set_steering(l->port, &l->steering), 0);
	send_all(l, TCP);
	for (unsigned i = 0; i < QUEUES; i++) {
		used += l->receivers[i].count > 0;
		assert_int_equal(l->receivers[i].by_report[HASH_TCPV4], l->receivers[i].count);
	}
	assert_int_equal(used, 1);
	assert_int_equal(counter_sum("network", l->name, "come_handed_over"), 0);
}

/* Frames that wait when the table changes, or is given up, still come, each once. */
static void nothing_is_lost_in_a_change(void **state)
{
	struct lan *l = *state;
	unsigned count = 0;

	assert_int_equal(network_port_set_steering(l->port, &l->steering), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		l->receivers[i].idle = true;
	send_all(l, UDP);
	for (unsigned i = 0; i < QUEUES; i++) {
		struct network_frame f;

		network_peek(l->receivers[i].queue, &f); /* hands over what is not its own */
	}
	l->steering.by_table = false;
	assert_int_equal(network_port_set_steering(l->port, &l->steering), 0);
	for (unsigned i = 0; i < QUEUES; i++) {
		l->receivers[i].idle = false;
		take_all(&l->receivers[i]);
		count += l->receivers[i].count;
	}
	assert_int_equal(count, FLOWS * PER_FLOW);
}

/* All frames have the same addresses: the switch puts them into one queue. */
static unsigned find_own_queue(struct lan *l)
{
	unsigned own = QUEUES;

	send_flow(l, 0, UDP);
	bed_run(&l->bed, ms);
	for (unsigned i = 0; i < QUEUES; i++)
		own = l->receivers[i].count ? i : own;
	assert_in_range(own, 0, QUEUES - 1);
	return own;
}

static void a_closed_queue_loses_its_frames(void **state)
{
	struct lan *l = *state;
	unsigned closed = (find_own_queue(l) + 1) % QUEUES, lost = 0;

	assert_int_equal(network_port_set_steering(l->port, &l->steering), 0);
	receiver_close(&l->receivers[closed]);
	send_all(l, UDP);
	for (unsigned flow = 0; flow < FLOWS; flow++)
		if (wanted_queue(l, flow) == closed)
			lost += l->sent[flow] - l->come[flow];
		else
			assert_int_equal(l->come[flow], l->sent[flow]);
	assert_true(lost >= PER_FLOW);
	assert_int_equal(counter_sum("network", l->name, "come_dropped"), lost);
	receiver_open(l, closed);
	memcpy(l->come, l->sent, sizeof(l->sent));
	send_all(l, UDP);
	assert_true(l->receivers[closed].count >= PER_FLOW);
}

static void tables_are_checked(void **state)
{
	struct lan *l = *state;
	struct network_steering s = l->steering;

	s.mask = 6;
	assert_int_equal(network_port_set_steering(l->port, &s), -EINVAL);
	s.mask = 255;
	assert_int_equal(network_port_set_steering(l->port, &s), -EINVAL);
	s = l->steering;
	s.table[7] = QUEUES;
	assert_int_equal(network_port_set_steering(l->port, &s), -EINVAL);
	s.mask = 3; /* so that it is not looked at */
	assert_int_equal(network_port_set_steering(l->port, &s), 0);
	s.unclassified = QUEUES;
	assert_int_equal(network_port_set_steering(l->port, &s), -EINVAL);
	assert_int_equal(network_port_set_steering(l->bed.users[0].port, &l->steering), -EINVAL);
}

#define LAN(test) cmocka_unit_test_setup_teardown(test, lan_create, lan_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(published_examples), cmocka_unit_test(fragments_have_no_ports),
		cmocka_unit_test(mobile_addresses),   cmocka_unit_test(nothing_is_believed),
		LAN(flows_come_to_the_queue_named),   LAN(others_come_to_the_unclassified),
		LAN(hashes_alone_move_nothing),       LAN(nothing_is_lost_in_a_change),
		LAN(a_closed_queue_loses_its_frames), LAN(tables_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
