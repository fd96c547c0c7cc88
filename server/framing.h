/* Whether the header lines of a request frame it in one way only. libmicrohttpd 0.9 lets several shapes through that a
 * proxy in front may read otherwise (request smuggling); they are refused here, by rules on names and values alone. */
#ifndef SRV_FRAMING_H
#define SRV_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct srv_framing {
	bool http11;               /* to be set before the first header: HTTP/1.1, not 1.0 */
	const char *fault;         /* why the request is refused, or NULL; static */
	int lengths, codings, hosts;
	bool chunked;
	uint64_t content_length;   /* saturated; 0 without one */
};

/* Takes one header line as it stands. */
void srv_framing_header(struct srv_framing *framing, const char *name, size_t name_length, const char *value,
			size_t value_length);

/* The rules over all lines. Returns framing->fault. */
const char *srv_framing_finish(struct srv_framing *framing);

#endif
