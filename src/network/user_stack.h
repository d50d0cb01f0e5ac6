/* user_stack.h - libslirp and the thread that it lives in. */
#ifndef NETWORK_USER_STACK_H
#define NETWORK_USER_STACK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct error;
struct user_stack;

enum { USER_STACK_FORWARDS = 32 };

struct user_stack_forward {
	bool udp;
	struct in_addr address;		/* of the host */
	uint16_t port, guest_port;
};

struct user_stack_options {
	const char *name;		/* "net0": in messages; copied */
	struct in_addr net, mask;
	bool ipv6, restricted, loopback;
	const char *hostname;		/* NULL: none; borrowed */
	uint32_t mtu;			/* bytes */
	struct user_stack_forward forwards[USER_STACK_FORWARDS];
	unsigned forward_count;
	/* A frame for the guest: called in the stack's thread; must not block. */
	void (*come)(void *arg, const uint8_t *frame, size_t n);
	void *arg;
};

/* Control thread.  NULL with *e, a forward's port that is taken for one. */
struct user_stack *user_stack_start(const struct user_stack_options *o, struct error *e);
void user_stack_stop(struct user_stack *u);	/* waits for the thread */

/* Any thread: a frame of the guest's, complete with its checksums.  0, or -ENOBUFS. */
int user_stack_send(struct user_stack *u, const struct iovec *iov, unsigned n, size_t bytes);

#endif
