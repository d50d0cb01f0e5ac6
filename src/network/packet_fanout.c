/* packet_fanout.c - several AF_PACKET sockets share an interface's frames (packet(7)).
 *
 * The kernel asks a program of ours, in classic BPF, for the socket of each frame.  Its own hash
 * (PACKET_FANOUT_HASH) always spreads over all sockets, and some of them may belong to queues that
 * the driver in the guest does not use now.
 */
#include "network/packet_fanout.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/bytes.h"

#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000 /* Linux 6.7 */
#endif

static int join(int fd, unsigned id, unsigned flags)
{
	uint32_t value = id | (PACKET_FANOUT_CBPF | flags) << 16;

	return setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &value, sizeof(value)) ? -errno : 0;
}

int packet_fanout_join(int fd, int *group)
{
	unsigned first = *group < 0 ? PACKET_FANOUT_FLAG_UNIQUEID : 0;
	unsigned id = *group < 0 ? 0 : *group;
	int status = join(fd, id, first | PACKET_FANOUT_FLAG_IGNORE_OUTGOING);
	uint32_t value;
	socklen_t size = sizeof(value);

	if (status == -EINVAL)
		status = join(fd, id, first);
	if (status || *group >= 0)
		return status;
	if (getsockopt(fd, SOL_PACKET, PACKET_FANOUT, &value, &size))
		return -errno;
	*group = value & 0xffff;
	return 0;
}

/* Loads a word, and adds it (exclusive or) to what is in A. */
#define ADD(offset)                                                                  \
	BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset), \
		BPF_STMT(BPF_ALU | BPF_XOR | BPF_X, 0)
#define IF(test, value, yes, no, here) \
	BPF_JUMP(BPF_JMP | (test) | BPF_K, value, (yes) - (here)-1, (no) - (here)-1)

/* The frame begins at its network header (RFC 791, RFC 8200), its tag is not in it.  A load beyond
 * its end answers 0: the first member. */
int packet_fanout_spread(int fd, unsigned active)
{
	enum { V4 = 3, V6 = 15, PORTS = 42, MIX = 50, NONE = 55 }; /* places in the program */
	enum { FRAGMENT = 0x3fff, MULTIPLIER = 0x9e3779b1 };
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL),
		IF(BPF_JEQ, ETH_P_IP, V4, 2, 1),
		IF(BPF_JEQ, ETH_P_IPV6, V6, NONE, 2),
		/* V4: the addresses, and ports where they are in every fragment */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 12),
		ADD(16),
		BPF_STMT(BPF_ST, 0),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 6),
		IF(BPF_JSET, FRAGMENT, MIX, 10, 9),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
		IF(BPF_JEQ, IPPROTO_TCP, 13, 12, 11),
		IF(BPF_JEQ, IPPROTO_UDP, 13, MIX, 12),
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
		BPF_STMT(BPF_JMP | BPF_JA, PORTS - 14 - 1),
		/* V6: likewise; what has extension headers goes by its addresses */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8),
		ADD(12),
		ADD(16),
		ADD(20),
		ADD(24),
		ADD(28),
		ADD(32),
		ADD(36),
		BPF_STMT(BPF_ST, 0),
		BPF_STMT(BPF_LDX | BPF_IMM, 40),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
		IF(BPF_JEQ, IPPROTO_TCP, PORTS, 41, 40),
		IF(BPF_JEQ, IPPROTO_UDP, PORTS, MIX, 41),
		/* PORTS: at X */
		BPF_STMT(BPF_LD | BPF_H | BPF_IND, 0),
		BPF_STMT(BPF_ST, 1),
		BPF_STMT(BPF_LD | BPF_H | BPF_IND, 2),
		BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 1),
		BPF_STMT(BPF_ALU | BPF_XOR | BPF_X, 0),
		BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 0),
		BPF_STMT(BPF_ALU | BPF_XOR | BPF_X, 0),
		BPF_STMT(BPF_ST, 0),
		/* MIX */
		BPF_STMT(BPF_LD | BPF_MEM, 0),
		BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, MULTIPLIER),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 16),
		BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, active),
		BPF_STMT(BPF_RET | BPF_A, 0),
		/* NONE */
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { .len = ARRAY_LENGTH(code), .filter = code };

	_Static_assert(ARRAY_LENGTH(code) == NONE + 1, "the places are right");
	if (setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof(program)))
		return -errno;
	return 0;
}
