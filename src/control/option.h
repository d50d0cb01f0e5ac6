/* option.h - every setting of the program, described once.
 *
 * The table serves the command line, --help, the configuration file and its help; a test compares
 * it with the manual page.  An option's name is the same everywhere: "--queue-size 256" on the
 * command line is "queue-size": 256 in the file. */
#ifndef CONTROL_OPTION_H
#define CONTROL_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum option_kind {
	OPTION_TEXT,   /* char *, owned by the settings */
	OPTION_CHOICE, /* the same, one of a list */
	OPTION_NUMBER, /* int64_t */
	OPTION_SWITCH, /* bool: no value on the command line, true or false in the file */
	OPTION_ACTION, /* nothing is stored: the command does this and ends */
};

/* The struct that holds the value. */
enum option_owner { OPTION_OF_PROGRAM, OPTION_OF_DEVICE };

/* Where an option may stand: a set. */
enum option_place {
	OPTION_BLK = 1,            /* outboard blk --NAME */
	OPTION_SERVE = 2,          /* outboard serve --NAME */
	OPTION_FILE = 4,           /* a key of the configuration file's outermost object */
	OPTION_FILE_DEVICE = 8,    /* a key of one of its devices */
	OPTION_FILE_REQUIRED = 16, /* ... which every device must have */
	OPTION_NET = 32,           /* outboard net --NAME */
};

struct program_option {
	const char *name; /* "queue-size" */
	enum option_kind kind;
	enum option_owner owner;
	unsigned places;            /* enum option_place */
	size_t offset;              /* in struct program_settings or struct device_settings */
	const char *value;          /* "PATH": what help calls the value; NULL: takes none */
	int64_t minimum, maximum;   /* NUMBER */
	bool power_of_two;          /* NUMBER */
	int64_t preset;             /* NUMBER: the default */
	const char *preset_text;    /* TEXT, CHOICE: the default; NULL: none */
	const char *preset_help;    /* what help says is the default; NULL: the value itself */
	const char *const *choices; /* CHOICE: ends with NULL */
	/* TEXT, CHOICE: returns a complaint, or NULL.  May be NULL: any text will do. */
	const char *(*check)(const char *text);
	const char *help; /* one sentence, no full stop */
};

extern const struct program_option option_table[];
extern const unsigned option_count;

/* NULL: no such option in any of these places. */
const struct program_option *option_find(const char *name, size_t length, unsigned places);

/* Set all options of one owner to their defaults in settings that are zeroed (0 or -ENOMEM); free
 * their texts. */
int option_preset(enum option_owner owner, void *settings);
void option_clear(enum option_owner owner, void *settings);

/* Store a value after checking it; settings: the struct that o->owner names.  0, -ENOMEM, or
 * -EINVAL with a complaint like "must be 1..64" in *e.  parse: a text from the command line. */
int option_store_text(const struct program_option *o, void *settings, const char *text,
		      struct error *e);
int option_store_number(const struct program_option *o, void *settings, int64_t number,
			struct error *e);
int option_store_switch(const struct program_option *o, void *settings, bool on);
int option_parse(const struct program_option *o, void *settings, const char *text, struct error *e);

/* "1..64, default 4": what may stand there, in words; "" when there is nothing to say. */
void option_describe(const struct program_option *o, char *to, size_t size);

#endif
