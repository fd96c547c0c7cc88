/* What the program serves as it is, embedded at build time by embed.py. */
#ifndef SRV_ASSETS_H
#define SRV_ASSETS_H

#include <stddef.h>
#include <stdint.h>

struct srv_asset {
	const char *name, *content_type;
	const unsigned char *bytes;
	size_t length;
	uint64_t hash;
};

extern const struct srv_asset srv_openapi_yaml, srv_openapi_json;

/* The files of the page; the first is the page itself. */
extern const struct srv_asset srv_page[];
extern const size_t srv_page_count;

#endif
