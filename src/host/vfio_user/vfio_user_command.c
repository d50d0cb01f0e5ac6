/* vfio_user_command.c - the table of commands, and those about the connection and the device as a
 * whole. */
#include "host/vfio_user/vfio_user_command.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/counter.h"
#include "base/descriptor.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_connection.h"
#include "pci/pci_function.h"

/* ---- VERSION ---- */

/* Our end of a second socket for our own commands. */
static int open_twin(struct vfio_user_connection *c, int *theirs, struct error *e)
{
	int ends[2], err;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends))
		return error_set(e, -errno, "no second socket");
	err = vfio_user_channel_open(&c->twin, ends[0]);
	if (err) {
		close(ends[1]);
		return error_set(e, err, "second socket cannot be watched");
	}
	c->main.output.dma = NULL;
	c->twin.output.dma = &c->dma;
	*theirs = ends[1];
	return 0;
}

/* A piece of a split transfer begins where a word does, so that no index of a ring is torn. */
static uint32_t piece_size(const struct vfio_user_terms *terms)
{
	return align_down(terms->transfer_max, sizeof(uint64_t));
}

int vfio_user_negotiate(struct vfio_user_connection *c, struct vfio_user_message *m,
			struct error *e)
{
	struct iovec part;
	int theirs = -1;

	if (vfio_user_version_read(m, &c->terms, e))
		return e->code;
	part.iov_base = vfio_user_version_reply(&c->terms, &part.iov_len);
	if (!part.iov_base)
		return error_set(e, -ENOMEM, "out of memory");
	if (c->terms.twin_socket && open_twin(c, &theirs, e)) {
		free(part.iov_base);
		return e->code;
	}
	c->dma.transfer_max = piece_size(&c->terms);
	c->negotiated = true;
	vfio_user_connection_reply(c, &m->header, &part, 1, &theirs, theirs >= 0);
	fd_close(&theirs);
	free(part.iov_base);
	return VFIO_USER_REPLIED;
}

/* ---- DEVICE_RESET ---- */

static int reset(struct vfio_user_connection *c, struct vfio_user_message *m, struct error *e)
{
	counter_add(&c->numbers->resets, 1);
	c->dma.refusing = true;
	if (vfio_user_dma_fail_all(&c->dma, -ECANCELED)) {
		vfio_user_connection_break(c, "out of memory");
		return VFIO_USER_LATER;
	}
	c->resetting = true;
	pci_function_reset(c->function, &c->reset);
	return VFIO_USER_LATER;
}

/* ---- the table ---- */

static vfio_user_handler *const handlers[VFIO_USER_COMMAND_END] = {
	[VFIO_USER_VERSION] = vfio_user_negotiate,
	[VFIO_USER_DMA_MAP] = vfio_user_map,
	[VFIO_USER_DMA_UNMAP] = vfio_user_unmap,
	[VFIO_USER_DEVICE_GET_INFO] = vfio_user_get_info,
	[VFIO_USER_DEVICE_GET_REGION_INFO] = vfio_user_get_region_info,
	[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = vfio_user_get_region_io_fds,
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = vfio_user_get_irq_info,
	[VFIO_USER_DEVICE_SET_IRQS] = vfio_user_set_irqs,
	[VFIO_USER_REGION_READ] = vfio_user_region_read,
	[VFIO_USER_REGION_WRITE] = vfio_user_region_write,
	[VFIO_USER_DEVICE_RESET] = reset,
	[VFIO_USER_REGION_WRITE_MULTI] = vfio_user_region_write_multi,
	[VFIO_USER_DEVICE_FEATURE] = vfio_user_device_feature,
	[VFIO_USER_MIG_DATA_READ] = vfio_user_mig_data_read,
	[VFIO_USER_MIG_DATA_WRITE] = vfio_user_mig_data_write,
};

int vfio_user_command_run(struct vfio_user_connection *c, struct vfio_user_message *m,
			  struct error *e)
{
	bool is_first = m->header.command == VFIO_USER_VERSION;

	if (is_first == c->negotiated)
		return error_set(e, -EINVAL, is_first ? "a second time" : "before VERSION");
	return handlers[m->header.command](c, m, e);
}
