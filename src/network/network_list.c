/* network_list.c - which providers and filters there are. */
#include "network/network_list.h"

#include "base/error.h"

/* One line each. */
/* clang-format off */
static const struct uri_scheme *const entries[] = {
	&network_user.about,
	&network_tap.about,
	&network_switch.about,
	&network_vxlan.about,
	&network_packet.about,
	&network_null.about,
	&network_capture.about,
	&network_delay.about,
	&network_limit.about,
	&network_log.about,
	&network_loss.about,
};
/* clang-format on */

static const struct uri_scheme_table table = { entries, ARRAY_LENGTH(entries) };

int network_list_resolve(struct uri_stack *stack, const char *schemes, struct error *e)
{
	return uri_scheme_resolve(&table, stack, schemes, e);
}

void network_print_help(FILE *to)
{
	fputs("A port is named by a URI, with filters in front and options behind:\n"
	      "    [FILTER+]...SCHEME:[PLACE][?OPTION=VALUE[&OPTION=VALUE]...]\n"
	      "BYTES takes K, M, G or T behind it, DURATION needs ns, us, ms or s.  A special\n"
	      "character is written as \"%\" and its two hex digits.\n\n",
	      to);
	uri_scheme_print_help(&table, to);
}
