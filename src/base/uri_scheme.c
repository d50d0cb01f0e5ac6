/* uri_scheme.c - what the schemes of a URI stand for. */
#include "base/uri_scheme.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uri.h"

/* Words of a list that is printed in an error message. */
struct word_list {
	char text[160];
	size_t used;
};

static void word_list_add(struct word_list *w, const char *word, size_t length)
{
	size_t separator = w->used ? 2 : 0;

	if (w->used + separator + length + 1 > sizeof(w->text))
		return;
	memcpy(w->text + w->used, ", ", separator);
	memcpy(w->text + w->used + separator, word, length);
	w->used += separator + length;
	w->text[w->used] = 0;
}

/* Whether one of the names in "nbd nbds nbd+unix" is exactly name. */
static bool names_contain(const char *names, const char *name, size_t length)
{
	while (*names) {
		size_t n = strcspn(names, " ");

		if (n == length && !memcmp(names, name, n))
			return true;
		names += n;
		names += strspn(names, " ");
	}
	return false;
}

static const struct uri_scheme *find(const struct uri_scheme_table *table, const char *name,
				     size_t length, bool is_filter)
{
	for (unsigned i = 0; i < table->count; i++)
		if (table->entries[i]->is_filter == is_filter &&
		    names_contain(table->entries[i]->scheme, name, length))
			return table->entries[i];
	return NULL;
}

static int unknown(const struct uri_scheme_table *table, const char *name, size_t length,
		   bool is_filter, struct error *e)
{
	const char *kind = is_filter ? "filter" : "scheme";
	struct word_list known = { 0 };

	for (unsigned i = 0; i < table->count; i++)
		if (table->entries[i]->is_filter == is_filter)
			word_list_add(&known, table->entries[i]->scheme,
				      strlen(table->entries[i]->scheme));
	if (find(table, name, length, !is_filter))
		return error_set(e, -EINVAL, "\"%.*s\" is a %s, where a %s belongs; known: %s",
				 (int)minimum_u64(length, 40), name,
				 is_filter ? "scheme" : "filter", kind, known.text);
	return error_set(e, -EINVAL, "unknown %s \"%.*s\"; known: %s", kind,
			 (int)minimum_u64(length, 40), name, known.text);
}

int uri_scheme_resolve(const struct uri_scheme_table *table, struct uri_stack *stack,
		       const char *schemes, struct error *e)
{
	stack->filter_count = 0;
	for (;;) {
		size_t length = strcspn(schemes, "+");
		const struct uri_scheme *filter;

		stack->provider = find(table, schemes, strlen(schemes), false);
		stack->scheme = schemes;
		if (stack->provider)
			return 0;
		if (!schemes[length])
			return unknown(table, schemes, length, false, e);
		filter = find(table, schemes, length, true);
		if (!filter)
			return unknown(table, schemes, length, true, e);
		if (stack->filter_count == URI_FILTERS_MAX)
			return error_set(e, -EINVAL, "more than %d filters", URI_FILTERS_MAX);
		stack->filters[stack->filter_count++] = filter;
		schemes += length + 1;
	}
}

/* Calls add for the option name at the start of each line of a help text. */
static void add_help_names(struct word_list *w, const char *help)
{
	for (; help; help = strchr(help, '\n')) {
		help += *help == '\n';
		if (help[strcspn(help, "= \n")] == '=')
			word_list_add(w, help, strcspn(help, "="));
	}
}

static bool help_names(const char *help, const char *name)
{
	size_t length = strlen(name);

	for (; help; help = strchr(help, '\n')) {
		help += *help == '\n';
		if (!strncmp(help, name, length) && help[length] == '=')
			return true;
	}
	return false;
}

static bool stack_names(const struct uri_stack *stack, const char *name)
{
	for (unsigned i = 0; i < stack->filter_count; i++)
		if (help_names(stack->filters[i]->help, name))
			return true;
	return help_names(stack->provider->help, name);
}

static int unknown_option(const struct uri_stack *stack, const char *name, struct error *e)
{
	struct word_list known = { 0 };

	for (unsigned i = 0; i < stack->filter_count; i++)
		add_help_names(&known, stack->filters[i]->help);
	add_help_names(&known, stack->provider->help);
	return error_set(e, -EINVAL, "unknown option \"%.40s\"; known: %s", name,
			 known.used ? known.text : "none");
}

int uri_scheme_check_options(const struct uri_stack *stack, const struct uri *uri, struct error *e)
{
	for (unsigned i = 0; i < uri->option_count; i++)
		if (!stack_names(stack, uri->options[i].name))
			return unknown_option(stack, uri->options[i].name, e);
	return 0;
}

static void print_entry(FILE *to, const struct uri_scheme *p)
{
	fprintf(to, "%s%s  %s\n", p->scheme, p->is_filter ? "+" : ":", p->summary);
	for (const char *line = p->help; *line; line += strspn(line, "\n")) {
		size_t length = strcspn(line, "\n");

		fprintf(to, "    %.*s\n", (int)length, line);
		line += length;
	}
}

void uri_scheme_print_help(const struct uri_scheme_table *table, FILE *to)
{
	for (unsigned i = 0; i < table->count; i++)
		print_entry(to, table->entries[i]);
}
