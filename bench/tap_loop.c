/* tap_loop.c - outboard-tap-loop: writes frames into a TAP interface, one write() each, or reads
 * what comes; it bounds what any program with one queue of the interface can do. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { CLOCK_FRAMES = 256, FRAME_MAX = 65535 };

static double clock_seconds(clockid_t clock)
{
	struct timespec t = { 0 };

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int open_tap(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC), inet = socket(AF_INET, SOCK_DGRAM, 0);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || inet < 0 || ioctl(fd, TUNSETIFF, &request) ||
	    ioctl(inet, SIOCGIFFLAGS, &request))
		return -1;
	request.ifr_flags |= IFF_UP;
	return ioctl(inet, SIOCSIFFLAGS, &request) ? -1 : fd;
}

static long loop(int fd, int reads, size_t length, double seconds)
{
	static unsigned char frame[FRAME_MAX] = { 0x52, 0x54, 0, 0, 1, 2,    0x52,
						  0x54, 0,    0, 1, 1, 0x88, 0xb5 };
	double end = clock_seconds(CLOCK_MONOTONIC) + seconds;
	long count = 0;

	while (count % CLOCK_FRAMES || clock_seconds(CLOCK_MONOTONIC) < end) {
		ssize_t n = reads ? read(fd, frame, sizeof(frame)) : write(fd, frame, length);

		if (n < 0)
			return -1;
		count++;
	}
	return count;
}

int main(int argc, char **argv)
{
	double began, cpu;
	long count;
	int fd;

	if (argc != 5 || (strcmp(argv[2], "read") && strcmp(argv[2], "write")) ||
	    atoi(argv[3]) < 60 || atoi(argv[3]) > FRAME_MAX) {
		fprintf(stderr, "Usage: outboard-tap-loop NAME read|write BYTES SECONDS\n");
		return 2;
	}
	fd = open_tap(argv[1]);
	began = clock_seconds(CLOCK_MONOTONIC);
	cpu = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
	count = fd < 0 ? -1 : loop(fd, !strcmp(argv[2], "read"), atoi(argv[3]), atof(argv[4]));
	if (count < 0) {
		fprintf(stderr, "outboard-tap-loop: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	printf("{\"pps\": %.0f, \"cpu_ns\": %.2f}\n",
	       count / (clock_seconds(CLOCK_MONOTONIC) - began),
	       (clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / count * 1e9);
	return 0;
}
