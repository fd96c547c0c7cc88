#include "server/token.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The characters of a token, as RFC 6750 has them. */
static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=";

static bool add(struct srv_tokens *tokens, const char *line, size_t length)
{
	if (length < SRV_TOKEN_SHORTEST || length > SRV_TOKEN_LONGEST || strspn(line, letters) < length
	    || tokens->count == SRV_TOKENS_MAX)
		return false;
	memcpy(tokens->text[tokens->count++], line, length);
	return true;
}

static bool read_lines(FILE *file, const char *path, struct srv_tokens *ret, char *error, size_t size)
{
	char line[SRV_TOKEN_LONGEST + 64];

	for (int number = 1; fgets(line, sizeof line, file); number++) {
		size_t length = strcspn(line, " \t\r\n");

		if (!length || line[0] == '#')
			continue;
		if (!add(ret, line, length)) {
			snprintf(error, size, "%s, line %d: a token has %d to %d letters, digits or -._~+/=, and there may be %d",
				 path, number, SRV_TOKEN_SHORTEST, SRV_TOKEN_LONGEST, SRV_TOKENS_MAX);
			return false;
		}
	}
	if (ferror(file) || !ret->count)
		snprintf(error, size, "%s %s", path, ferror(file) ? "cannot be read" : "holds no token");
	return !ferror(file) && ret->count;
}

bool srv_tokens_read(const char *path, struct srv_tokens *ret, char *error, size_t size)
{
	FILE *file = fopen(path, "re");
	bool read;

	*ret = (struct srv_tokens){ 0 };
	if (!file) {
		snprintf(error, size, "%s: %s", path, strerror(errno));
		return false;
	}
	read = read_lines(file, path, ret, error, size);
	fclose(file);
	return read;
}

/* Every byte of both is looked at, wherever they differ. */
static bool is_same(const char one[SRV_TOKEN_LONGEST], const char other[SRV_TOKEN_LONGEST])
{
	volatile unsigned char differences = 0;

	for (size_t i = 0; i < SRV_TOKEN_LONGEST; i++)
		differences = (unsigned char)(differences | (one[i] ^ other[i]));
	return differences == 0;
}

bool srv_tokens_admit(const struct srv_tokens *tokens, const char *authorization)
{
	static const char scheme[] = "Bearer ";
	char given[SRV_TOKEN_LONGEST] = "";
	bool admitted = false;
	size_t length;

	if (!tokens->count)
		return true;
	if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1))
		return false;
	authorization += sizeof scheme - 1;
	authorization += strspn(authorization, " ");
	length = strlen(authorization);
	if (!length || length > SRV_TOKEN_LONGEST)
		return false;
	memcpy(given, authorization, length);
	for (size_t i = 0; i < tokens->count; i++)
		admitted = is_same(given, tokens->text[i]) || admitted;
	return admitted;
}
