/* Changes and advice on the wire. */
#ifndef SRV_ADVICE_H
#define SRV_ADVICE_H

#include "config/advice.h"
#include "server/buffer.h"

/* Appends the changes as the object that a request would carry: nested, words as words. Those of one group stand
 * together. */
void srv_write_changes(struct srv_buffer *buffer, const struct cfg_change *changes, size_t count);

/* The changes as words, "lora.rank=8 parallelism.gpus=2", into ret (size bytes, cut when short). */
void srv_change_words(const struct cfg_change *changes, size_t count, char *ret, size_t size);

/* Appends the list of advice; cards names those that it makes fit. */
void srv_write_advice(struct srv_buffer *buffer, const struct cfg_request *request, const struct cfg_advice *advice,
		      size_t count);

#endif
