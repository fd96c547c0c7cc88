/* Counters of one thread. Only that thread writes them; /metrics reads those of all threads and adds them up, without a
 * lock. */
#ifndef SRV_METRICS_H
#define SRV_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include "server/buffer.h"

enum { SRV_ROUTES_MAX = 24, SRV_METHODS = 6, SRV_STATUSES = 20, SRV_BUCKETS = 13 };

struct srv_metrics {
	atomic_uint_least64_t requests[SRV_ROUTES_MAX][SRV_METHODS][SRV_STATUSES];
	atomic_uint_least64_t bucket[SRV_ROUTES_MAX][SRV_BUCKETS]; /* not cumulative; the last is +Inf */
	atomic_uint_least64_t nanoseconds[SRV_ROUTES_MAX];
	atomic_uint_least64_t body_bytes;   /* of requests */
	atomic_uint_least64_t in_flight, connections;
	atomic_uint_least64_t deadlines;    /* connections cut by the deadline */
	atomic_uint_least64_t log_dropped;
};

/* Adds by the one thread that owns the counter: no locked instruction. */
static inline void srv_metric_add(atomic_uint_least64_t *counter, uint64_t amount)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + amount,
			      memory_order_relaxed);
}

/* Counts an answered request. route is an index into the names below, negative where none was found. */
void srv_metrics_count(struct srv_metrics *metrics, int route, const char *method, int status, uint64_t nanoseconds);

/* Appends the sum over count threads in Prometheus' text format. routes: the patterns by index.
 * long_requests: that the workers have now. */
void srv_metrics_write(struct srv_buffer *buffer, const struct srv_metrics *const *metrics, size_t count,
		       const char *const *routes, size_t route_count, uint64_t long_requests);

#endif
