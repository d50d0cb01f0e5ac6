/* settings.h - what the user asked for, from the command line or the configuration file.
 * Plain data: option_table.c describes each field once, for everybody who reads or explains it. */
#ifndef CONTROL_SETTINGS_H
#define CONTROL_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

struct error;

/* Texts are owned; NULL: not given. */
struct device_settings {
	char *name, *type;
	char *disk;     /* URI */
	char *blk_file; /* path; settings_complete_device() makes a disk URI of it */
	char *socket_path;	/* vhost-user */
	char *vfio_user;	/* path of a socket */
	char *card;		/* name; NULL: the device's own */
	char *link_model;	/* as link_model_parse() takes it; NULL: no bus */
	char *serial;
	char *port;	/* URI */
	char *mac;	/* NULL: follows from the name */
	char *packed, *in_order;	/* "on" or "off" */
	char *features;			/* as virtio_features_parse() takes it; NULL: all */
	int64_t fd; /* -1: none */
	int64_t vectors; /* -1: queues + 1 */
	int64_t queues, queue_size;	/* queues: of a network device, pairs; 0 until completed */
	int64_t mtu;	/* bytes; 0: the port's */
	int64_t block_size; /* bytes; 0: the disk's */
	int64_t drain_ms;
	bool connect, read_only, doorbell_page, rss;
};

struct program_settings {
	char *config_file; /* owned */
	char *log_level;   /* owned; one of the names in the option table */
	int64_t workers;   /* threads */
	int64_t poll_us;
	bool stats;
	struct device_settings *devices; /* owned */
	unsigned device_count;
};

/* Everything at its default, no device.  0 or -ENOMEM. */
int settings_init(struct program_settings *s);
void settings_free(struct program_settings *s);

/* Appends a device with every setting at its default; NULL when out of memory.  Pointers to
 * earlier devices end their life. */
struct device_settings *settings_add_device(struct program_settings *s);

/* Checks the rules that bind several settings of one device, and settles the disk's URI.
 * dashes: "--" or "", what the user writes before a setting's name.  On failure *name is the
 * setting at fault, or NULL if one is missing, and -EINVAL or -ENOMEM is returned. */
int settings_complete_device(struct device_settings *d, const char *dashes, const char **name,
			     struct error *e);

/* Checks that device `index` shares nothing with an earlier one that two cannot share; likewise. */
int settings_check_unique(const struct program_settings *s, unsigned index, const char **name,
			  struct error *e);

/* The features that the device must not offer.  0, or -EINVAL, which settings_complete_device() has
 * found before. */
int settings_masked_features(const struct device_settings *d, uint64_t *masked, struct error *e);

/* Whether a device is of this type: "blk" where none is given. */
bool settings_is_type(const struct device_settings *d, const char *type);

/* Six bytes in hex with ":" or "-" between.  0 or -EINVAL. */
int settings_parse_mac(const char *text, uint8_t *mac);
/* The device's address: as given, or a local one that is the same at every start. */
void settings_mac(const struct device_settings *d, uint8_t *mac);

struct pci_identity;

/* Which function of which card device `index` is.  Cards are told apart by name; the serial number
 * depends on nothing else, so it is the same at every start. */
void settings_identify(const struct program_settings *s, unsigned index,
		       struct pci_identity *identity);

#endif
