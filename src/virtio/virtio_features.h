/* virtio_features.h - feature bits by name: to say which a device shall offer, and to say which one
 * a driver wants that it does not.
 *
 * Names are the specification's (virtio 1.3, 5 and 6) in lower case without the prefix: "mq" is
 * VIRTIO_BLK_F_MQ or VIRTIO_NET_F_MQ.  VIRTIO_F_RING_PACKED is "packed", as everybody calls it;
 * "ring_packed" is understood.  device_id: as in linux/virtio_ids.h.
 */
#ifndef VIRTIO_VIRTIO_FEATURES_H
#define VIRTIO_VIRTIO_FEATURES_H

#include <stdint.h>
#include <stdio.h>

struct error;

/* Reads "-packed,-event_idx" or "only:flush,mq": *masked gets the features that the device must not
 * offer even if it could.  "only:" keeps version_1, without which there is no device.
 * NULL or "": none.  Any thread.  -EINVAL: an unknown name (*e lists the known ones), one that
 * every device needs, or one in an "only:" list whose own requirement is not. */
int virtio_features_parse(uint32_t device_id, const char *text, uint64_t *masked, struct error *e);

/* Those of `features` that stand when what they require stands, too (virtio 1.3, 2.2.1 and
 * 5.1.3.1): without csum, no host_tso4. */
uint64_t virtio_features_close(uint32_t device_id, uint64_t features);

/* "packed, event_idx": all that are set; one without a name is "bit 63".  Ends with " ..." where
 * the room does. */
void virtio_features_describe(uint32_t device_id, uint64_t features, char *to, size_t room);

/* -EINVAL: a driver has negotiated features that the device does not offer (at least one). */
int virtio_features_refuse(uint32_t device_id, uint64_t features, struct error *e);

/* For --help: the names, for each kind of device. */
void virtio_features_print_help(FILE *to);

#endif
