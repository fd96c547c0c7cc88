/* Bearer tokens (RFC 6750): who may ask, where a file of them is given. */
#ifndef SRV_TOKEN_H
#define SRV_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

enum { SRV_TOKENS_MAX = 16, SRV_TOKEN_SHORTEST = 16, SRV_TOKEN_LONGEST = 128 };

struct srv_tokens {
	size_t count;                                   /* 0: everybody may */
	char text[SRV_TOKENS_MAX][SRV_TOKEN_LONGEST];   /* filled up with NUL */
};

/* The tokens of the file at path, one a line; empty lines and those that begin with '#' are skipped. False, and one line in
 * error without any token in it, when there is none or one cannot be taken. */
bool srv_tokens_read(const char *path, struct srv_tokens *ret, char *error, size_t size);

/* Whether the value of an Authorization header (or NULL) names one of them, or there are none. Takes as long for a wrong
 * token as for a right one, whatever they share. */
bool srv_tokens_admit(const struct srv_tokens *tokens, const char *authorization);

#endif
