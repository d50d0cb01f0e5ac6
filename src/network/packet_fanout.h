/* packet_fanout.h - several AF_PACKET sockets share an interface's frames (packet(7)). */
#ifndef NETWORK_PACKET_FANOUT_H
#define NETWORK_PACKET_FANOUT_H

#include <stdint.h>

/* Control thread.  fd is bound, and joins as the next member: the first of a group has *group < 0,
 * and stores its number there.  0 or -errno. */
int packet_fanout_join(int fd, int *group);

/* Any thread.  fd: a member.  From now on frames go to the first `active` members; those of one
 * conversation, either way, to the same.  0 or -errno. */
int packet_fanout_spread(int fd, unsigned active);

#endif
