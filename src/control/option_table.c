/* option_table.c - the one list of settings.  Whoever adds one here also adds it to the manual
 * page (a test compares the two) and gives it a field in settings.h. */
#include "control/option.h"

#include "base/bytes.h"
#include "control/settings.h"
#include "pci/pci_function.h"

#include <ctype.h>
#include <sys/un.h>

enum { NAME_MAXIMUM = 32, SERIAL_MAXIMUM = 20 };

/* Names stand in lines that scripts take apart at blanks, and before "/" and a queue's number. */
static const char *check_name(const char *text)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return "must be made of letters, digits, \".\", \"_\" and \"-\"";
	return n < 1 || n > NAME_MAXIMUM ? "must have 1 to 32 characters" : NULL;
}

static const char *check_not_empty(const char *text)
{
	return *text ? NULL : "must not be empty";
}

/* unix(7): a path and its final zero byte fit in sun_path. */
static const char *check_socket_path(const char *text)
{
	struct sockaddr_un address;

	if (strlen(text) >= sizeof(address.sun_path))
		return "must be shorter than 108 bytes, as every Unix socket's path";
	return check_not_empty(text);
}

/* virtio 1.3, 5.2.6: the device ID string has 20 bytes. */
static const char *check_serial(const char *text)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++)
		if (!isprint((unsigned char)text[i]))
			return "must be printable ASCII";
	return n < 1 || n > SERIAL_MAXIMUM ? "must have 1 to 20 characters" : NULL;
}

/* "52:54:00:12:34:56", and not a group's. */
static const char *check_mac(const char *text)
{
	uint8_t mac[6];

	if (settings_parse_mac(text, mac))
		return "must be six bytes in hex, such as 52:54:00:12:34:56";
	return mac[0] & 1 ? "must not be the address of a group" : NULL;
}

static const char *const device_types[] = { "blk", "net", NULL };
static const char *const on_off[] = { "on", "off", NULL };
static const char *const log_levels[] = { "error", "warning", "info", "debug", NULL };

#define OF_DEVICE(field) \
	.owner = OPTION_OF_DEVICE, .offset = offsetof(struct device_settings, field)
#define OF_PROGRAM(field) \
	.owner = OPTION_OF_PROGRAM, .offset = offsetof(struct program_settings, field)
#define BLK_AND_DEVICE (OPTION_BLK | OPTION_FILE_DEVICE)
#define NET_AND_DEVICE (OPTION_NET | OPTION_FILE_DEVICE)
#define EVERY_DEVICE   (OPTION_BLK | OPTION_NET | OPTION_FILE_DEVICE)
#define EVERY_PROGRAM  (OPTION_BLK | OPTION_NET | OPTION_SERVE | OPTION_FILE)

const struct program_option option_table[] = {
	{ "config", OPTION_TEXT, OF_PROGRAM(config_file), .places = OPTION_SERVE, .value = "FILE",
	  .check = check_not_empty,
	  .help = "the JSON file that describes the devices (see \"outboard help config\")" },
	{ "type", OPTION_CHOICE, OF_DEVICE(type),
	  .places = OPTION_FILE_DEVICE | OPTION_FILE_REQUIRED, .value = "TYPE",
	  .choices = device_types, .help = "what kind of device it is" },
	{ "name", OPTION_TEXT, OF_DEVICE(name), .places = EVERY_DEVICE | OPTION_FILE_REQUIRED,
	  .value = "TEXT", .preset_text = "vda", .preset_help = "vda; of a network device net0",
	  .check = check_name, .help = "what messages and statistics call the device" },
	{ "disk", OPTION_TEXT, OF_DEVICE(disk), .places = BLK_AND_DEVICE, .value = "URI",
	  .check = check_not_empty, .help = "the disk to serve (see \"outboard help disks\")" },
	{ "blk-file", OPTION_TEXT, OF_DEVICE(blk_file), .places = OPTION_BLK, .value = "PATH",
	  .check = check_not_empty,
	  .help = "the same as --disk file:PATH, for programs that know no URIs" },
	{ "port", OPTION_TEXT, OF_DEVICE(port), .places = NET_AND_DEVICE, .value = "URI",
	  .check = check_not_empty,
	  .help = "the network to put the device on (see \"outboard help ports\")" },
	{ "mac", OPTION_TEXT, OF_DEVICE(mac), .places = NET_AND_DEVICE, .value = "ADDRESS",
	  .check = check_mac, .preset_help = "one that follows from the name",
	  .help = "the Ethernet address that the guest is told" },
	{ "mtu", OPTION_NUMBER, OF_DEVICE(mtu), .places = NET_AND_DEVICE, .value = "BYTES",
	  .minimum = 68, .maximum = 65535, .preset = 0, .preset_help = "the port's, if it knows",
	  .help = "the largest packet that the guest is told to send" },
	{ "rss", OPTION_SWITCH, OF_DEVICE(rss), .places = NET_AND_DEVICE,
	  .help = "offer receive-side scaling and hash reports: the driver says which queue each "
		  "flow comes to, and is told the frames' hashes" },
	{ "socket-path", OPTION_TEXT, OF_DEVICE(socket_path), .places = EVERY_DEVICE,
	  .value = "PATH", .check = check_socket_path,
	  .help = "the vhost-user socket to listen on; removed at the end" },
	{ "vfio-user", OPTION_TEXT, OF_DEVICE(vfio_user), .places = EVERY_DEVICE, .value = "PATH",
	  .check = check_socket_path,
	  .help = "the vfio-user socket to listen on, where the device is a PCI function; removed "
		  "at the end" },
	{ "card", OPTION_TEXT, OF_DEVICE(card), .places = EVERY_DEVICE, .value = "TEXT",
	  .check = check_name, .preset_help = "the name",
	  .help = "the card that a PCI function is on: those of the same name are one card's "
		  "functions, in the order in which they are named" },
	{ "doorbell-page", OPTION_SWITCH, OF_DEVICE(doorbell_page), .places = EVERY_DEVICE,
	  .help = "let the VMM map the page that a PCI function's driver writes notifications to, "
		  "and poll it: no exit of the guest, but a thread that never sleeps" },
	{ "vectors", OPTION_NUMBER, OF_DEVICE(vectors), .places = EVERY_DEVICE, .value = "N",
	  .minimum = 0, .maximum = PCI_VECTORS_MAX, .preset = -1, .preset_help = "queues plus 1",
	  .help = "MSI-X interrupt vectors of a PCI function; with fewer, queues share them; 0: "
		  "none, "
		  "the interrupt line instead" },
	{ "fd", OPTION_NUMBER, OF_DEVICE(fd), .places = EVERY_DEVICE, .value = "N", .minimum = 0,
	  .maximum = 1048576, .preset = -1, .preset_help = "",
	  .help = "an inherited descriptor that is the vhost-user socket, instead of a path" },
	{ "connect", OPTION_SWITCH, OF_DEVICE(connect), .places = EVERY_DEVICE,
	  .help = "connect to the socket's path instead of listening there, again whenever the "
		  "connection is lost" },
	{ "read-only", OPTION_SWITCH, OF_DEVICE(read_only), .places = BLK_AND_DEVICE,
	  .help = "open the disk read-only and offer it as such" },
	{ "queues", OPTION_NUMBER, OF_DEVICE(queues), .places = EVERY_DEVICE, .value = "N",
	  .minimum = 1, .maximum = 64, .preset = 0, .preset_help = "4; of a network device 1",
	  .help = "how many queues the driver may use; of a network device how many pairs, at most "
		  "16" },
	{ "queue-size", OPTION_NUMBER, OF_DEVICE(queue_size), .places = EVERY_DEVICE, .value = "N",
	  .minimum = 2, .maximum = 32768, .power_of_two = true, .preset = 1024,
	  .help = "the most descriptors a queue may have" },
	{ "packed", OPTION_CHOICE, OF_DEVICE(packed), .places = EVERY_DEVICE, .value = "CHOICE",
	  .choices = on_off, .preset_text = "on", .help = "offer packed rings beside split ones" },
	{ "in-order", OPTION_CHOICE, OF_DEVICE(in_order), .places = EVERY_DEVICE, .value = "CHOICE",
	  .choices = on_off, .preset_text = "off",
	  .help = "offer to use requests in the order in which the driver makes them available" },
	{ "features", OPTION_TEXT, OF_DEVICE(features), .places = EVERY_DEVICE, .value = "LIST",
	  .check = check_not_empty, .preset_help = "all that the device can do",
	  .help = "offer less, so that a driver's choice fits another device that the VM comes "
		  "from or goes to: -packed,-event_idx or only:flush,mq (see \"outboard help "
		  "features\")" },
	{ "drain-ms", OPTION_NUMBER, OF_DEVICE(drain_ms), .places = EVERY_DEVICE, .value = "N",
	  .minimum = 1, .maximum = 3600000, .preset = 5000,
	  .help = "how long a migration's stop waits for requests that the storage may still "
		  "execute, in milliseconds; what has not been sent to it is not waited for" },
	{ "link-model", OPTION_TEXT, OF_DEVICE(link_model), .places = EVERY_DEVICE, .value = "TEXT",
	  .check = check_not_empty,
	  .help = "put a modelled bus before the guest's memory, for experiments: "
		  "latency=1us,bandwidth=32GB/s,read=256,write=256, or some of these" },
	{ "serial", OPTION_TEXT, OF_DEVICE(serial), .places = BLK_AND_DEVICE, .value = "TEXT",
	  .check = check_serial, .preset_help = "the name",
	  .help = "the serial number that the guest sees, at most 20 characters" },
	{ "block-size", OPTION_NUMBER, OF_DEVICE(block_size), .places = BLK_AND_DEVICE,
	  .value = "N", .minimum = 512, .maximum = 65536, .power_of_two = true, .preset = 0,
	  .preset_help = "the disk's", .help = "the logical block size in bytes" },
	{ "workers", OPTION_NUMBER, OF_PROGRAM(workers), .places = EVERY_PROGRAM, .value = "N",
	  .minimum = 1, .maximum = 64, .preset = 1,
	  .help = "threads that serve queues; queue i of a device lives on thread i modulo N" },
	{ "poll-us", OPTION_NUMBER, OF_PROGRAM(poll_us), .places = EVERY_PROGRAM, .value = "N",
	  .minimum = 0, .maximum = 1000000, .preset = 50,
	  .help = "the longest time in microseconds that a thread without work looks for more "
		  "before it sleeps; 0: never" },
	{ "stats", OPTION_SWITCH, OF_PROGRAM(stats), .places = EVERY_PROGRAM,
	  .help = "print all statistics to standard output at exit" },
	{ "log-level", OPTION_CHOICE, OF_PROGRAM(log_level), .places = EVERY_PROGRAM,
	  .value = "LEVEL", .choices = log_levels, .preset_text = "info",
	  .help = "the least important messages to print" },
	{ "print-capabilities", OPTION_ACTION, .places = OPTION_BLK | OPTION_NET,
	  .help = "print what this vhost-user back-end can do, as JSON, and exit" },
	{ "help", OPTION_ACTION, .places = OPTION_BLK | OPTION_NET | OPTION_SERVE,
	  .help = "print this text and exit" },
	{ "version", OPTION_ACTION, .places = OPTION_BLK | OPTION_NET | OPTION_SERVE,
	  .help = "print the version and exit" },
};

const unsigned option_count = ARRAY_LENGTH(option_table);
