/* notify.h - tells the service manager where the program's life stands, as sd_notify(3) does. */
#ifndef CONTROL_NOTIFY_H
#define CONTROL_NOTIFY_H

/* state: "READY=1", "STOPPING=1".  Does nothing where $NOTIFY_SOCKET is not set; a manager that
 * cannot be reached is not our failure.  Any thread. */
void notify_manager(const char *state);

#endif
