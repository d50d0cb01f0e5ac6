/* virtio_pci_interrupt.c - from queues to vectors and to the interrupt line.
 *
 * A queue's worker writes an eventfd and knows nothing else.  As long as its vector is not masked,
 * that is the host's own, and the interrupt does not pass through us.  Else it is a catcher of
 * ours, watched here, from which the interrupt becomes a pending bit or the level of the line.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/descriptor.h"
#include "base/log.h"
#include "virtio/virtio_pci_state.h"

enum { ISR_QUEUE = 1, ISR_CONFIG = VIRTIO_PCI_ISR_CONFIG };

/* virtio 1.3, 4.1.4.5: the line is there only without MSI-X. */
static void assert_line(struct virtio_pci *v, uint8_t bit)
{
	v->isr |= bit;
	pci_function_assert(&v->function, true);
}

uint8_t virtio_pci_take_isr(struct virtio_pci *v)
{
	uint8_t isr = v->isr;

	v->isr = 0;
	pci_function_assert(&v->function, false);
	return isr;
}

void virtio_pci_config_interrupt(struct virtio_pci *v)
{
	v->generation++;
	if (!(v->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return; /* virtio 1.3, 2.1.2: not before */
	if (!pci_function_has_msix(&v->function))
		assert_line(v, ISR_CONFIG);
	else if (v->config_vector != VIRTIO_MSI_NO_VECTOR)
		pci_function_interrupt(&v->function, v->config_vector);
}

static void caught(void *arg)
{
	struct virtio_pci_queue *q = arg;
	uint64_t count;

	if (read(q->catcher, &count, sizeof(count)) < 0)
		return;
	if (!pci_function_has_msix(&q->pci->function))
		assert_line(q->pci, ISR_QUEUE);
	else if (q->vector != VIRTIO_MSI_NO_VECTOR)
		pci_function_interrupt(&q->pci->function, q->vector);
}

static int catcher(struct virtio_pci_queue *q)
{
	if (q->catcher >= 0)
		return q->catcher;
	q->catcher = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->catcher < 0)
		return -1;
	q->watch = (struct reactor_watch){
		.fd = q->catcher, .events = POLLIN, .fn = caught, .arg = q
	};
	if (reactor_watch_add(q->pci->function.control, &q->watch))
		fd_close(&q->catcher);
	return q->catcher;
}

void virtio_pci_catch_all(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->queue_count; i++)
		if (v->queues[i].catcher >= 0)
			caught(&v->queues[i]);
}

void virtio_pci_interrupt_close(struct virtio_pci_queue *q)
{
	if (q->catcher >= 0)
		reactor_watch_remove(&q->watch);
	fd_close(&q->catcher);
}

static enum interrupt_way way_of(const struct virtio_pci_queue *q, int *fd, uint32_t *connection)
{
	*connection = 0;
	*fd = -1;
	if (!pci_function_has_msix(&q->pci->function))
		return WAY_CAUGHT;
	if (q->vector == VIRTIO_MSI_NO_VECTOR)
		return WAY_NONE;
	*fd = pci_function_vector(&q->pci->function, q->vector, connection);
	return *fd < 0 ? WAY_CAUGHT : WAY_DIRECT;
}

/* What the worker writes to the old descriptor meanwhile still arrives, by the old way. */
static void route(struct virtio_pci *v, struct virtio_pci_queue *q, unsigned index)
{
	uint32_t connection;
	int fd;
	enum interrupt_way way = way_of(q, &fd, &connection);

	if (way == q->way &&
	    (way != WAY_DIRECT || (q->vector == q->way_vector && connection == q->way_connection)))
		return;
	if (way == WAY_CAUGHT)
		fd = catcher(q);
	if (fd >= 0)
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0 && way != WAY_NONE) {
		log_error("%s: queue %u: no descriptor is left for its interrupts",
			  virtio_device_name(v->device), index);
		return;
	}
	virtio_queue_move_interrupt(v->device, index, fd);
	q->way = way;
	q->way_vector = q->vector;
	q->way_connection = connection;
}

void virtio_pci_route(struct virtio_pci *v)
{
	for (unsigned i = 0; i < v->queue_count; i++)
		if (virtio_queue_is_started(v->device, i))
			route(v, &v->queues[i], i);
}
