/* help.h - what the program says about itself on standard output. */
#ifndef CONTROL_HELP_H
#define CONTROL_HELP_H

#include <stdio.h>

void help_print_program(FILE *to);
void help_print_blk(FILE *to);
void help_print_net(FILE *to);
void help_print_serve(FILE *to);
void help_print_config(FILE *to); /* the configuration file's keys */
void help_print_version(FILE *to);

/* JSON of @VHostUserBackendCapabilities (QEMU, docs/interop/vhost-user.json). */
void help_print_blk_capabilities(FILE *to);
void help_print_net_capabilities(FILE *to);

#endif
