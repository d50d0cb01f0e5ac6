/* vfio_user_dma.h - how a vfio-user client answers DMA_READ and DMA_WRITE.  For
 * vfio_user_channel.c; all with the channel's lock held. */
#ifndef DRIVER_VFIO_USER_DMA_H
#define DRIVER_VFIO_USER_DMA_H

#include <stdbool.h>

struct vfio_user_channel;
struct vfio_user_header;
struct vfio_user_inbox;

/* A command has come on b, with header.size - 16 bytes at payload. */
void vfio_user_dma_command(struct vfio_user_channel *c, struct vfio_user_inbox *b,
			   const struct vfio_user_header *h, const char *payload);
/* Answers what came while nobody listened. */
void vfio_user_dma_answer_deferred(struct vfio_user_channel *c);
/* Answers what is held, but for what is deferred; how many. */
unsigned vfio_user_dma_release(struct vfio_user_channel *c, bool backwards);

#endif
