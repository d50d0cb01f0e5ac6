/* nbd_withdrawal.h - storage_withdraw() on its way to the reactor where a channel's connection
 * lives.
 *
 * A channel counts its withdrawals in an epoch, which each of its requests carries: the message
 * says up to which epoch, so a request that overtakes it is not withdrawn with those before it.
 */
#ifndef STORAGE_NBD_WITHDRAWAL_H
#define STORAGE_NBD_WITHDRAWAL_H

#include <stdbool.h>
#include <stdint.h>

struct nbd_channel;
struct nbd_withdrawal;

/* The channel's reactor.  One for each channel, free until it is posted.  NULL: out of memory. */
struct nbd_withdrawal *nbd_withdrawal_create(struct nbd_channel *ch);

/* The channel closes.  Under the disk's lock; one that is on its way frees itself. */
void nbd_withdrawal_free(struct nbd_withdrawal *w);

/* The channel's reactor: what it has submitted so far is withdrawn where it waits. */
void nbd_withdrawal_post(struct nbd_withdrawal *w);

/* Whether something of this epoch was submitted before the withdrawal of the other. */
static inline bool nbd_epoch_is_within(uint32_t epoch, uint32_t withdrawn)
{
	return (int32_t)(epoch - withdrawn) <= 0;
}

#endif
