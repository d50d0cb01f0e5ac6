/* host_transport.h - a protocol by which a VMM reaches our devices.
 * Implementers: vhost_user/, vfio_user/.  They call virtio/, pci/ and link/; nothing calls back
 * into them: kicks and interrupts are descriptors that the transport gives to the queue once and is
 * then out of the data path, but where memory is not shared (link_provider.h). */
#ifndef HOST_HOST_TRANSPORT_H
#define HOST_HOST_TRANSPORT_H

#include <stdbool.h>

struct error;
struct pci_identity;
struct host_endpoint;		/* one socket, one device, one client at a time */
struct reactor_task;
struct virtio_device;

struct host_address {
	const char *path; /* Unix socket to listen on, or to connect to; NULL when fd is given */
	int fd; /* a socket that listens or is connected; moves to the endpoint; else -1 */
	bool connect;		/* client mode: connect to path, and again whenever it is lost */
	const struct pci_identity *pci;	/* vfio-user: which function of which card; copied */
	bool doorbell_page;	/* vfio-user: as the next, see virtio_pci.h */
	unsigned vectors;
};

struct host_transport {
	const char *name;	/* "vhost-user" */
	const char *help;

	/* Control thread.  Returns at once; NULL with *e (socket in use, path too long, ...). */
	struct host_endpoint *(*open)(const struct host_address *address, struct virtio_device *d,
				      struct error *e);

	/* Ends the connection, stops the device's queues (drained), removes the socket's path and
	 * frees the endpoint; then runs done on the control reactor. */
	void (*close)(struct host_endpoint *ep, struct reactor_task *done);
};

extern const struct host_transport vhost_user_transport, vfio_user_transport;

#endif
