#include "server/metrics.h"
#include <time.h>
#include "server/service.h"
#include "server/write.h"

static const char *const methods[SRV_METHODS] = { "GET", "POST", "HEAD", "OPTIONS", "QUERY", "other" };
static const int statuses[SRV_STATUSES] = { 200, 204, 304, 400, 401, 404, 405, 406, 411, 413, 414, 415, 417, 422, 503 };

/* Upper bounds in nanoseconds, and as Prometheus shows them. */
static const struct {
	uint64_t nanoseconds;
	const char *seconds;
} bounds[SRV_BUCKETS] = {
	{ 100000, "0.0001" }, { 250000, "0.00025" }, { 500000, "0.0005" }, { 1000000, "0.001" }, { 2500000, "0.0025" },
	{ 5000000, "0.005" }, { 10000000, "0.01" }, { 25000000, "0.025" }, { 50000000, "0.05" }, { 100000000, "0.1" },
	{ 250000000, "0.25" }, { 1000000000, "1" }, { UINT64_MAX, "+Inf" },
};

static int method_slot(const char *method)
{
	int slot = 0;

	while (slot < SRV_METHODS - 1 && strcmp(methods[slot], method))
		slot++;
	return slot;
}

static int status_slot(int status)
{
	int slot = 0;

	while (slot < SRV_STATUSES - 1 && statuses[slot] != status)
		slot++;
	return slot;
}

void srv_metrics_count(struct srv_metrics *metrics, int route, const char *method, int status, uint64_t nanoseconds)
{
	int row = route < 0 || route >= SRV_ROUTES_MAX - 1 ? SRV_ROUTES_MAX - 1 : route;
	int bucket = 0;

	while (nanoseconds > bounds[bucket].nanoseconds)
		bucket++;
	srv_metric_add(&metrics->requests[row][method_slot(method)][status_slot(status)], 1);
	srv_metric_add(&metrics->bucket[row][bucket], 1);
	srv_metric_add(&metrics->nanoseconds[row], nanoseconds);
}

/* ---- writing */

/* The metrics of all threads, and the names of the routes. */
struct scrape {
	const struct srv_metrics *const *metrics;
	size_t count;
	const char *const *routes;
	size_t route_count;
};

/* The sum over threads of the counter that lies at offset. */
static uint64_t sum(const struct scrape *scrape, size_t offset)
{
	uint64_t total = 0;

	for (size_t i = 0; i < scrape->count; i++) {
		const char *at = (const char *)scrape->metrics[i] + offset;

		total += atomic_load_explicit((const atomic_uint_least64_t *)(const void *)at, memory_order_relaxed);
	}
	return total;
}

static const char *route_name(const struct scrape *scrape, size_t row)
{
	return row < scrape->route_count ? scrape->routes[row] : "none";
}

static void write_head(struct srv_buffer *buffer, const char *name, const char *type, const char *help)
{
	SRV_PUT(buffer, "# HELP ");
	srv_write_text(buffer, name);
	srv_buffer_add_byte(buffer, ' ');
	srv_write_text(buffer, help);
	SRV_PUT(buffer, "\n# TYPE ");
	srv_write_text(buffer, name);
	srv_buffer_add_byte(buffer, ' ');
	srv_write_text(buffer, type);
	srv_buffer_add_byte(buffer, '\n');
}

static void write_requests(struct srv_buffer *buffer, const struct scrape *scrape)
{
	write_head(buffer, "vramcast_http_requests_total", "counter", "Requests answered.");
	for (size_t i = 0; i < SRV_ROUTES_MAX; i++) {
		for (size_t j = 0; j < SRV_METHODS; j++) {
			for (size_t k = 0; k < SRV_STATUSES; k++) {
				uint64_t value = sum(scrape, offsetof(struct srv_metrics, requests[i][j][k]));

				if (!value)
					continue;
				SRV_PUT(buffer, "vramcast_http_requests_total{route=");
				srv_write_string(buffer, route_name(scrape, i));
				SRV_PUT(buffer, ",method=");
				srv_write_string(buffer, methods[j]);
				SRV_PUT(buffer, ",code=\"");
				srv_write_i64(buffer, statuses[k]);
				SRV_PUT(buffer, "\"} ");
				srv_write_u64(buffer, value);
				srv_buffer_add_byte(buffer, '\n');
			}
		}
	}
}

static void write_route_line(struct srv_buffer *buffer, const char *name, const char *route, const char *bound)
{
	srv_write_text(buffer, name);
	SRV_PUT(buffer, "{route=");
	srv_write_string(buffer, route);
	if (bound) {
		SRV_PUT(buffer, ",le=");
		srv_write_string(buffer, bound);
	}
	SRV_PUT(buffer, "} ");
}

static void write_durations(struct srv_buffer *buffer, const struct scrape *scrape)
{
	write_head(buffer, "vramcast_http_request_duration_seconds", "histogram",
		   "From the request line to the answer being ready.");
	for (size_t i = 0; i < SRV_ROUTES_MAX; i++) {
		uint64_t seen[SRV_BUCKETS], total = 0;

		for (size_t j = 0; j < SRV_BUCKETS; j++)
			total += seen[j] = sum(scrape, offsetof(struct srv_metrics, bucket[i][j]));
		if (!total)
			continue;
		total = 0;
		for (size_t j = 0; j < SRV_BUCKETS; j++) {
			write_route_line(buffer, "vramcast_http_request_duration_seconds_bucket", route_name(scrape, i),
					 bounds[j].seconds);
			srv_write_u64(buffer, total += seen[j]);
			srv_buffer_add_byte(buffer, '\n');
		}
		write_route_line(buffer, "vramcast_http_request_duration_seconds_sum", route_name(scrape, i), NULL);
		srv_write_fixed(buffer, (double)sum(scrape, offsetof(struct srv_metrics, nanoseconds[i])) / 1e9, 6);
		srv_buffer_add_byte(buffer, '\n');
		write_route_line(buffer, "vramcast_http_request_duration_seconds_count", route_name(scrape, i), NULL);
		srv_write_u64(buffer, total);
		srv_buffer_add_byte(buffer, '\n');
	}
}

static void write_plain(struct srv_buffer *buffer, const struct scrape *scrape)
{
	static const struct {
		const char *name, *type, *help;
		size_t offset;
	} rows[] = {
		{ "vramcast_http_requests_in_flight", "gauge", "Requests begun and not yet sent.",
		  offsetof(struct srv_metrics, in_flight) },
		{ "vramcast_connections", "gauge", "Open connections.", offsetof(struct srv_metrics, connections) },
		{ "vramcast_http_request_body_bytes_total", "counter", "Bytes of request bodies.",
		  offsetof(struct srv_metrics, body_bytes) },
		{ "vramcast_deadline_cuts_total", "counter", "Connections cut because a request took too long.",
		  offsetof(struct srv_metrics, deadlines) },
		{ "vramcast_log_lines_dropped_total", "counter", "Log lines dropped because the log was slow.",
		  offsetof(struct srv_metrics, log_dropped) },
	};

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		write_head(buffer, rows[i].name, rows[i].type, rows[i].help);
		srv_write_text(buffer, rows[i].name);
		srv_buffer_add_byte(buffer, ' ');
		srv_write_u64(buffer, sum(scrape, rows[i].offset));
		srv_buffer_add_byte(buffer, '\n');
	}
}

static void write_process(struct srv_buffer *buffer)
{
	struct timespec cpu = { 0 };

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	write_head(buffer, "vramcast_build_info", "gauge", "The version that runs; always 1.");
	SRV_PUT(buffer, "vramcast_build_info{version=\"" SRV_VERSION "\"} 1\n");
	write_head(buffer, "process_cpu_seconds_total", "counter", "Processor time of all threads.");
	SRV_PUT(buffer, "process_cpu_seconds_total ");
	srv_write_fixed(buffer, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9, 6);
	srv_buffer_add_byte(buffer, '\n');
}

void srv_metrics_write(struct srv_buffer *buffer, const struct srv_metrics *const *metrics, size_t count,
		       const char *const *routes, size_t route_count, uint64_t long_requests)
{
	const struct scrape scrape = { metrics, count, routes, route_count };

	write_requests(buffer, &scrape);
	write_durations(buffer, &scrape);
	write_plain(buffer, &scrape);
	write_head(buffer, "vramcast_long_requests", "gauge", "Requests that the workers have to answer now.");
	SRV_PUT(buffer, "vramcast_long_requests ");
	srv_write_u64(buffer, long_requests);
	srv_buffer_add_byte(buffer, '\n');
	write_process(buffer);
}
