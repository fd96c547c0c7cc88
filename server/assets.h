/* What the program serves as it is, embedded at build time by embed.py. */
#ifndef SRV_ASSETS_H
#define SRV_ASSETS_H

#include <stddef.h>
#include <stdint.h>

struct srv_asset {
	const unsigned char *bytes;
	size_t length;
	uint64_t hash;
	const char *policy; /* Content-Security-Policy, or NULL */
};

extern const struct srv_asset srv_openapi_yaml, srv_openapi_json, srv_page;

#endif
