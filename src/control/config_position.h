/* config_position.h - where in a JSON text something stands.
 *
 * The JSON library forgets positions once a text is parsed.  An error in the meaning of a file must
 * name its line all the same, so the text is walked again, to the one place in question. */
#ifndef CONTROL_CONFIG_POSITION_H
#define CONTROL_CONFIG_POSITION_H

struct config_position {
	unsigned line, column; /* from 1; columns in characters, not bytes */
};

/* One step from a value into it: a key of an object or, if key is NULL, an element of a list. */
struct config_step {
	const char *key;
	unsigned index;
};

enum config_target { CONFIG_KEY, CONFIG_VALUE };

/* Finds the value to which the steps lead (none: the outermost one), or the key in front of it.
 * text is valid JSON, ends with a zero byte and has the path: the place of the last step that
 * exists is returned if it has not. */
struct config_position config_position_find(const char *text, const struct config_step *steps,
					    unsigned count, enum config_target target);

#endif
