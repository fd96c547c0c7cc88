/* The table of routes, for those who need to know what there is: the transport, the metrics, the tests. The way in is
 * srv_route() of service.h. */
#ifndef SRV_ROUTES_H
#define SRV_ROUTES_H

#include <stdbool.h>
#include <stddef.h>
#include "server/metrics.h"

/* Row i: "POST", "/estimate". False behind the last. */
bool srv_route_row(size_t i, const char **ret_method, const char **ret_pattern);

/* The patterns by route number (srv_reply.route); how many. */
size_t srv_route_patterns(const char *ret_patterns[SRV_ROUTES_MAX]);

/* Whether a body sent there is wanted; else it is read and dropped. */
bool srv_route_takes_body(const char *method, const char *path);

#endif
