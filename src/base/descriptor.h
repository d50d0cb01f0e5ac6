/* descriptor.h - file descriptors have one owner each, and move. */
#ifndef BASE_DESCRIPTOR_H
#define BASE_DESCRIPTOR_H

/* Moves a descriptor out of its old place, which is left at -1. */
int fd_take(int *fd);

/* Closes and leaves -1; -1 is ignored. */
void fd_close(int *fd);

#endif
