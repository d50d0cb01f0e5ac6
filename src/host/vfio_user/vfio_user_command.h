/* vfio_user_command.h - what each command does.  Control thread. */
#ifndef HOST_VFIO_USER_VFIO_USER_COMMAND_H
#define HOST_VFIO_USER_VFIO_USER_COMMAND_H

struct error;
struct vfio_user_connection;
struct vfio_user_message;

/* A handler's answer besides 0 (an empty reply is due) and -errno with *e (an error reply is). */
enum {
	VFIO_USER_REPLIED = 1,	/* by the handler */
	VFIO_USER_LATER = 2,	/* vfio_user_connection_finish() follows */
};

/* Runs the command, which has passed vfio_user_command_check(). */
int vfio_user_command_run(struct vfio_user_connection *c, struct vfio_user_message *m,
			  struct error *e);

/* The handlers, by file.  All as vfio_user_command_run(). */
typedef int vfio_user_handler(struct vfio_user_connection *c, struct vfio_user_message *m,
			      struct error *e);

/* vfio_user_command.c */
vfio_user_handler vfio_user_negotiate;

/* vfio_user_device.c: what there is, and access to it */
vfio_user_handler vfio_user_get_info, vfio_user_get_region_info, vfio_user_get_region_io_fds;
vfio_user_handler vfio_user_region_read, vfio_user_region_write, vfio_user_region_write_multi;

/* vfio_user_irq.c */
vfio_user_handler vfio_user_get_irq_info, vfio_user_set_irqs;

/* vfio_user_migration.c */
vfio_user_handler vfio_user_device_feature, vfio_user_mig_data_read, vfio_user_mig_data_write;

/* vfio_user_memory.c */
vfio_user_handler vfio_user_map, vfio_user_unmap;

#endif
