/* vfio_client_dma.h - how a vfio-user client answers DMA_READ and DMA_WRITE.  For
 * vfio_client_channel.c; all with the channel's lock held. */
#ifndef DRIVER_VFIO_CLIENT_DMA_H
#define DRIVER_VFIO_CLIENT_DMA_H

#include <stdbool.h>

struct vfio_client_channel;
struct vfio_client_header;
struct vfio_client_inbox;

/* A command has come on b, with header.size - 16 bytes at payload. */
void vfio_client_dma_command(struct vfio_client_channel *c, struct vfio_client_inbox *b,
			   const struct vfio_client_header *h, const char *payload);
/* Answers what came while nobody listened. */
void vfio_client_dma_answer_deferred(struct vfio_client_channel *c);
/* Answers what is held, but for what is deferred; how many. */
unsigned vfio_client_dma_release(struct vfio_client_channel *c, bool backwards);

#endif
