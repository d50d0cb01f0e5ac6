/* storage_provider.h - how to be a disk, or a filter in front of one.  The face for implementers;
 * start from storage/null.c and storage/delay.c, and enter the table in storage/storage_list.c.
 *
 * A storage is a stack of layers: filters, then one provider.  Each layer has a state of its own
 * per storage, per channel and per io, of the sizes its table states, aligned to 16 bytes, so the
 * data path never allocates.  The funnel allocates the first two, zeroed, and frees them; the io
 * state lies in the caller's slot, and what is in it at submit is left from an earlier request.
 *
 * From submit to completion the io belongs to the layers.  A filter may change its fields on the
 * way down and must restore them on the way up.
 */
#ifndef STORAGE_STORAGE_PROVIDER_H
#define STORAGE_STORAGE_PROVIDER_H

#include "base/uri_scheme.h"
#include "storage/storage.h"

struct storage_layer;		/* one element of one storage's stack */
struct storage_layer_channel;	/* the same, of one channel */
struct storage_options;

struct storage_provider {
	struct uri_scheme about;	/* see also storage_options_scheme() */
	size_t state_size, channel_size, io_size;	/* bytes */

	/* Control thread.  Provider: fill in *limits, which is all zero.  Filter: the layer below
	 * is open, *limits is its; change what differs.  On error close() is not called. */
	int (*open)(struct storage_layer *l, const struct storage_options *o,
		    struct storage_limits *limits, struct error *e);
	void (*close)(struct storage_layer *l);

	/* May be NULL: the size never changes.  Control thread; ends, now or later, in
	 * storage_layer_resized() if it did. */
	void (*refresh)(struct storage_layer *l);

	/* The channel's reactor.  May be NULL: nothing to do. */
	int (*channel_open)(struct storage_layer_channel *ch, struct error *e);
	void (*channel_close)(struct storage_layer_channel *ch);

	/* The contract is checked once, in storage_channel.c, for all layers: range, alignment,
	 * read_only, operation supported, sizes within limits, length not 0 unless FLUSH.  A layer
	 * assumes it.  FLUSH arrives only when limits.volatile_cache. */
	void (*submit)(struct storage_layer_channel *ch, struct storage_io *io);

	/* May be NULL: status passes upward unseen.  Filters only: the layer below has completed
	 * io; end it with storage_complete() or send it down again with storage_forward(). */
	void (*completed)(struct storage_layer_channel *ch, struct storage_io *io, int status);

	/* May be NULL: nothing waits here.  storage_withdraw(): completes with -ECANCELED what
	 * waits here, has never been sent on from here and is not STORAGE_STARTED; in the order of
	 * submission.  No layer completes anything with that status otherwise. */
	void (*withdraw)(struct storage_layer_channel *ch);
};

void *storage_layer_state(struct storage_layer *l);
const char *storage_layer_name(const struct storage_layer *l);	/* "vda" */
struct reactor *storage_layer_control(const struct storage_layer *l);

/* Control thread.  The disk has size bytes from now on, rounded down to whole blocks; the user's
 * listener runs at the end of the turn.  Requests already below are the provider's to fail. */
void storage_layer_resized(struct storage_layer *l, uint64_t size);

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

/* Valid during open(): which of the provider's names was used ("nbd+unix"), and the whole URI as
 * it was given, filters and their options included. */
const char *storage_options_scheme(const struct storage_options *o);
const char *storage_options_uri(const struct storage_options *o);
bool storage_options_read_only(const struct storage_options *o);

/* Valid as long as the layer: the part between the scheme and "?" ("//host/export", "/path"), as
 * written and percent-decoded; a decoded query value, or NULL. */
const char *storage_options_rest(const struct storage_options *o);
const char *storage_options_path(const struct storage_options *o);
const char *storage_options_text(const struct storage_options *o, const char *name);

/* Store a parsed value, or leave *to alone when the option is absent.  Size takes K, M, G, T
 * (powers of 1024), duration takes ns, us, ms, s.  0, or -EINVAL with the option's name in *e. */
int storage_options_size(const struct storage_options *o, const char *name, uint64_t *to,
			 struct error *e);
int storage_options_number(const struct storage_options *o, const char *name, uint64_t *to,
			   struct error *e);
int storage_options_duration(const struct storage_options *o, const char *name, uint64_t *to_ns,
			     struct error *e);
int storage_options_percent(const struct storage_options *o, const char *name, uint32_t *to,
			    struct error *e);
int storage_options_switch(const struct storage_options *o, const char *name, bool *to,
			   struct error *e);	/* "on" or "off" */

/* The option "block-size": a power of two from 512 to 65536; 512 when it is absent. */
int storage_options_block_size(const struct storage_options *o, uint32_t *to, struct error *e);

#endif
