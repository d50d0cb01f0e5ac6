#include "reactor/reactor_loop.h"
#include "base/error.h"
#include <errno.h>
struct reactor *reactor_epoll_create(const struct reactor_options *options, struct error *e)
{
	error_set(e, -ENOSYS, "epoll");
	return NULL;
}
