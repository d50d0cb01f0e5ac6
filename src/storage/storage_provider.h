/* storage_provider.h - how to be a disk, or a filter in front of one.  The face for implementers;
 * start from storage/null.c and storage/delay.c.
 *
 * A storage is a stack of layers: filters, then one provider.  Each layer has a state of its own
 * per storage, per channel and per io, of the sizes its table states; the funnel allocates all
 * three, zeroed, so the data path never does.
 */
#ifndef STORAGE_STORAGE_PROVIDER_H
#define STORAGE_STORAGE_PROVIDER_H

#include "storage/storage.h"

struct storage_layer;		/* one element of one storage's stack */
struct storage_layer_channel;	/* the same, of one channel */
struct storage_options;

struct storage_provider {
	const char *scheme;	/* "nbd": what stands before ":" (or "+" for a filter) */
	const char *summary;	/* one line */
	const char *help;	/* "option=VALUE   what it does\n...", may be "" */
	bool is_filter;
	size_t state_size, channel_size, io_size;	/* bytes */

	/* Control thread.  Provider: fill in *limits.  Filter: the layer below is open, *limits is
	 * its; change what differs.  On error close() is not called. */
	int (*open)(struct storage_layer *l, const struct storage_options *o,
		    struct storage_limits *limits, struct error *e);
	void (*close)(struct storage_layer *l);

	/* May be NULL: the size never changes.  Control thread; ends, now or later, in
	 * storage_layer_resized() if it did. */
	void (*refresh)(struct storage_layer *l);

	/* The channel's reactor.  May be NULL: nothing to do. */
	int (*channel_open)(struct storage_layer_channel *ch, struct error *e);
	void (*channel_close)(struct storage_layer_channel *ch);

	/* The contract is checked once, in storage.c, for all layers: range, alignment, read_only,
	 * operation supported, sizes within limits.  A layer assumes it. */
	void (*submit)(struct storage_layer_channel *ch, struct storage_io *io);

	/* May be NULL: status passes upward unseen.  Filters only: the layer below has completed io;
	 * end it with storage_complete() or send it down again with storage_forward(). */
	void (*completed)(struct storage_layer_channel *ch, struct storage_io *io, int status);
};

void *storage_layer_state(struct storage_layer *l);
const char *storage_layer_name(const struct storage_layer *l);	/* "vda" */
struct reactor *storage_layer_control(const struct storage_layer *l);
void storage_layer_resized(struct storage_layer *l, uint64_t size);	/* control thread */

void *storage_channel_state(struct storage_layer_channel *ch);
void *storage_channel_layer_state(struct storage_layer_channel *ch);	/* of its layer */
struct reactor *storage_channel_reactor(const struct storage_layer_channel *ch);
const char *storage_channel_name(const struct storage_layer_channel *ch);
void *storage_io_state(struct storage_layer_channel *ch, struct storage_io *io);

/* Hands the io back, any time from submit on; the caller's done is deferred to the end of the
 * reactor's turn.  Channel's reactor only. */
void storage_complete(struct storage_layer_channel *ch, struct storage_io *io, int status);

/* For filters: the same io, one layer further down. */
void storage_forward(struct storage_layer_channel *ch, struct storage_io *io);

/* ---- options: what stands in the URI ---- */

/* The part between the scheme and "?", undecoded ("//host/export", "/path"), and the original. */
const char *storage_options_rest(const struct storage_options *o);
const char *storage_options_uri(const struct storage_options *o);
bool storage_options_read_only(const struct storage_options *o);

/* A decoded query value, or NULL.  Reading marks it as known. */
const char *storage_options_text(const struct storage_options *o, const char *name);

/* Store a parsed value, or leave *to alone when the option is absent.  Size takes K, M, G, T
 * (powers of 1024), duration takes ns, us, ms, s.  0, or -EINVAL with the option's name in *e. */
int storage_options_size(const struct storage_options *o, const char *name, uint64_t *to,
			 struct error *e);
int storage_options_number(const struct storage_options *o, const char *name, uint64_t *to,
			   struct error *e);
int storage_options_duration(const struct storage_options *o, const char *name, uint64_t *to_ns,
			     struct error *e);

#endif
