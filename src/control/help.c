/* help.c - what the program says about itself; options come from their table. */
#include "control/help.h"

#include "control/option.h"
#include "control/version.h"

#include <string.h>

enum { HELP_INDENT = 24, HELP_WIDTH = 80 };

/* Prints text from column HELP_INDENT on, broken at blanks. */
static void print_wrapped(FILE *to, const char *text)
{
	size_t room = HELP_WIDTH - HELP_INDENT, length = strlen(text), n;

	while (length > room) {
		for (n = room; n > 1 && text[n] != ' '; n--)
			;
		fprintf(to, "%.*s\n%*s", (int)n, text, HELP_INDENT, "");
		text += n + 1;
		length -= n + 1;
	}
	fprintf(to, "%s\n", text);
}

static void print_entry(FILE *to, const char *name, const char *text)
{
	if (fprintf(to, "  %s", name) >= HELP_INDENT - 1)
		fprintf(to, "\n%*s", HELP_INDENT, "");
	else
		fprintf(to, "%*s", HELP_INDENT - 2 - (int)strlen(name), "");
	print_wrapped(to, text);
}

static void print_options(FILE *to, unsigned place)
{
	const struct program_option *o;
	char name[40], values[160], text[400];

	fprintf(to, "\nOptions:\n");
	for (unsigned i = 0; i < option_count; i++) {
		o = &option_table[i];
		if (!(o->places & place))
			continue;
		snprintf(name, sizeof(name), "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		option_describe(o, values, sizeof(values));
		snprintf(text, sizeof(text), *values ? "%s (%s)" : "%s", o->help, values);
		print_entry(to, name, text);
	}
}

static const char *type_in_file(const struct program_option *o)
{
	if (o->kind == OPTION_NUMBER)
		return "number";
	return o->kind == OPTION_SWITCH ? "true or false" : "text";
}

static void print_keys(FILE *to, unsigned place)
{
	const struct program_option *o;
	char values[160], text[400];
	const char *required;

	for (unsigned i = 0; i < option_count; i++) {
		o = &option_table[i];
		if (!(o->places & place))
			continue;
		required = o->places & OPTION_FILE_REQUIRED ? "; required" : "";
		option_describe(o, values, sizeof(values));
		snprintf(text, sizeof(text), *values && !*required ? "%s (%s%s; %s)" : "%s (%s%s)",
			 o->help, type_in_file(o), required, values);
		print_entry(to, o->name, text);
	}
}

void help_print_program(FILE *to)
{
	fprintf(to, "Usage: outboard COMMAND [OPTION]...\n"
		    "Shows virtual machines virtio devices and serves them from elsewhere.\n"
		    "\nCommands:\n");
	print_entry(to, "blk", "serve one disk to one socket; so does outboard-blk");
	print_entry(to, "net", "serve one network device to one socket; so does outboard-net");
	print_entry(to, "serve", "serve the devices that a configuration file describes");
	print_entry(to, "help [TOPIC]",
		    "explain blk, net, serve, disks, ports, features or config");
	fprintf(to, "\nOptions:\n");
	print_entry(to, "--help", "print this text and exit");
	print_entry(to, "--version", "print the version and exit");
	fprintf(to, "\nThe manual page outboard(1) tells more.\n");
}

void help_print_blk(FILE *to)
{
	fprintf(to,
		"Usage: outboard blk --disk URI --socket-path PATH [OPTION]...\n"
		"       outboard-blk --disk URI --socket-path PATH [OPTION]...\n"
		"       outboard blk --disk URI --vfio-user PATH [OPTION]...\n"
		"Serves a disk as a virtio block device to the VMM at a vhost-user or vfio-user\n"
		"socket.\n");
	print_options(to, OPTION_BLK);
}

void help_print_net(FILE *to)
{
	fprintf(to,
		"Usage: outboard net --port URI --socket-path PATH [OPTION]...\n"
		"       outboard-net --port URI --socket-path PATH [OPTION]...\n"
		"       outboard net --port URI --vfio-user PATH [OPTION]...\n"
		"Serves a virtio network device to the VMM at a vhost-user or vfio-user socket.\n");
	print_options(to, OPTION_NET);
}

void help_print_serve(FILE *to)
{
	fprintf(to, "Usage: outboard serve --config FILE [OPTION]...\n"
		    "Serves the devices that a configuration file describes, each on its socket.\n"
		    "Options given here override those in the file.\n");
	print_options(to, OPTION_SERVE);
}

void help_print_config(FILE *to)
{
	fprintf(to,
		"The file for \"outboard serve --config FILE\" is one JSON object, for example\n"
		"\n"
		"  {\n"
		"    \"workers\": 2,\n"
		"    \"devices\": [\n"
		"      { \"type\": \"blk\", \"name\": \"vda\", \"disk\": \"nbd://store/export\",\n"
		"        \"socket-path\": \"/run/outboard/vda.sock\" }\n"
		"    ]\n"
		"  }\n"
		"\nKeys of the object:\n");
	print_entry(to, "devices", "the devices to serve (list of objects; required)");
	print_keys(to, OPTION_FILE);
	fprintf(to, "\nKeys of a device:\n");
	print_keys(to, OPTION_FILE_DEVICE);
}

void help_print_version(FILE *to)
{
	fprintf(to, "outboard %s\n", OUTBOARD_VERSION);
}

/* A feature is the name of an option of ours that the schema knows. */
void help_print_blk_capabilities(FILE *to)
{
	static const char *const known[] = { "read-only", "blk-file" };
	const char *separator = "";

	fprintf(to, "{\n  \"type\": \"block\",\n  \"features\": [");
	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (!option_find(known[i], strlen(known[i]), OPTION_BLK))
			continue;
		fprintf(to, "%s\n    \"%s\"", separator, known[i]);
		separator = ",";
	}
	fprintf(to, "\n  ]\n}\n");
}

/* The schema knows of no feature of network back-ends that is an option of ours. */
void help_print_net_capabilities(FILE *to)
{
	fprintf(to, "{\n  \"type\": \"net\",\n  \"features\": []\n}\n");
}
