#include "server/serve.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "server/listen.h"
#include "server/loop.h"
#include "server/notify.h"

enum { EXIT_USAGE = 2, ERROR_MAX = 1024, URL_SIZE = 128, BODY_BUDGET = 64 * 1024 * 1024 };

/* What only tests and rare deployments change: by environment, not by option. */
static const struct {
	const char *name;
	size_t offset;
} environment[] = {
	{ "VRAMCAST_DEADLINE_MS", offsetof(struct srv_limits, deadline_ms) },
	{ "VRAMCAST_IDLE_MS", offsetof(struct srv_limits, idle_ms) },
	{ "VRAMCAST_DRAIN_MS", offsetof(struct srv_limits, drain_ms) },
	{ "VRAMCAST_DRAIN_DELAY_MS", offsetof(struct srv_limits, drain_delay_ms) },
};

static int fail(const char *message)
{
	fprintf(stderr, "vramcast: %s\n", message);
	return EXIT_FAILURE;
}

/* False, and a line on standard error, when a variable is not a number of milliseconds up to a day. */
static bool read_limits(const struct cfg_settings *settings, struct srv_limits *ret)
{
	*ret = (struct srv_limits){
		.max_body = settings->max_body,
		.body_budget = settings->max_body > BODY_BUDGET ? settings->max_body : BODY_BUDGET,
		.deadline_ms = 10000, .idle_ms = 20000, .drain_ms = 10000,
	};
	for (size_t i = 0; i < sizeof environment / sizeof environment[0]; i++) {
		const char *text = getenv(environment[i].name);
		unsigned long value;
		char *end;

		if (!text)
			continue;
		value = strtoul(text, &end, 10);
		if (!*text || *end || value > 86400000) {
			fprintf(stderr, "vramcast: %s must be a number of milliseconds\n", environment[i].name);
			return false;
		}
		memcpy((char *)ret + environment[i].offset, &(unsigned){ (unsigned)value }, sizeof(unsigned));
	}
	return true;
}

/* ---- serving */

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

/* The sockets that the service manager passed, else one for each address of the settings. Their number; 0, and a
 * line in error, when one is missing. */
static int open_listeners(const struct cfg_settings *settings, int *ret_fds, char *error, size_t size)
{
	int count = srv_listen_inherited(ret_fds, CFG_LISTEN_MAX, error, size);

	if (count)
		return count < 0 ? 0 : count;
	for (; count < settings->listen_count; count++) {
		ret_fds[count] = srv_listen(settings->listen[count], error, size);
		if (ret_fds[count] < 0) {
			close_all(ret_fds, count);
			return 0;
		}
	}
	return count;
}

static bool choose_connections(const struct cfg_settings *settings, unsigned *ret)
{
	*ret = srv_listen_room((unsigned)settings->max_connections);
	if (*ret && *ret < (unsigned)settings->max_connections)
		fprintf(stderr, "vramcast: the limit of open files leaves room for %u connections instead of %d\n",
			*ret, settings->max_connections);
	return *ret != 0;
}

static int choose_threads(const struct cfg_settings *settings)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (settings->threads)
		return settings->threads;
	return cores < 1 ? 1 : cores > 1024 ? 1024 : (int)cores;
}

static void announce(const int *fds, int count)
{
	char url[URL_SIZE];

	for (int i = 0; i < count; i++) {
		srv_listen_url(fds[i], url, sizeof url);
		printf("listening on %s\n", url);
	}
	fflush(stdout);
}

/* ---- while it serves */

struct server {
	const struct cfg_settings *settings;
	struct srv_service *service;
	struct srv_loops *loops;
	struct srv_log *log;
	int ring;                      /* of the log: the main thread's */
	struct srv_log_clock clock;
	const sigset_t *signals;
};

static void tell(struct server *server, const char *level, const char *message)
{
	struct srv_buffer line = { 0 };

	srv_log_write_event(&line, server->settings->log_json, &server->clock, level, message);
	if (!line.failed)
		srv_log_add(server->log, server->ring, line.data, line.length);
	srv_buffer_finish(&line);
}

/* SIGHUP: new catalogues and tokens for all requests from now on, or the old ones when the files are not sound. */
static void reload(struct server *server)
{
	char error[ERROR_MAX], message[ERROR_MAX + 64];
	struct srv_edition *edition;

	srv_notify("RELOADING=1");
	edition = srv_edition_create(cfg_settings_catalog(server->settings), server->settings->token_file, error,
				     sizeof error);
	if (edition) {
		snprintf(message, sizeof message, "reloaded: %zu presets, %zu gpus", edition->presets.count,
			 edition->gpus.count);
		srv_service_publish(server->service, edition);
	} else {
		snprintf(message, sizeof message, "not reloaded, what was loaded before stays: %s", error);
	}
	tell(server, edition ? "info" : "error", message);
	srv_notify("READY=1");
}

/* The next signal; 0 when it is time for the watchdog. */
static int wait_for_signal(const struct server *server, uint64_t watchdog)
{
	const struct timespec half = { .tv_sec = (time_t)(watchdog / 2 / 1000000000),
				       .tv_nsec = (long)(watchdog / 2 % 1000000000) };
	int number = sigtimedwait(server->signals, NULL, watchdog ? &half : NULL);

	return number > 0 ? number : 0;
}

/* Until a signal to stop; then, while /readyz is red, for the delay that takes a balancer to notice or a second
 * signal. */
static void serve_until_stopped(struct server *server, unsigned delay_ms)
{
	const struct timespec delay = { .tv_sec = delay_ms / 1000, .tv_nsec = delay_ms % 1000 * 1000000L };
	uint64_t watchdog = srv_notify_watchdog();
	int number;

	do {
		number = wait_for_signal(server, watchdog);
		if (number == SIGHUP)
			reload(server);
		if (watchdog && srv_loops_are_alive(server->loops, watchdog))
			srv_notify("WATCHDOG=1");
	} while (number != SIGTERM && number != SIGINT);
	srv_notify("STOPPING=1");
	atomic_store(&server->service->draining, true);
	if (delay_ms)
		sigtimedwait(server->signals, NULL, &delay);
}

static int serve_on(const struct cfg_settings *settings, struct srv_service *service, const int *fds, int count,
		    const sigset_t *signals)
{
	struct srv_loops_options options = {
		.threads = choose_threads(settings), .listen_fds = fds, .listen_count = count,
		.log_json = settings->log_json,
	};
	struct server server = { .settings = settings, .service = service, .ring = options.threads, .signals = signals };
	char error[ERROR_MAX];

	if (!read_limits(settings, &options.limits))
		return EXIT_USAGE;
	if (!choose_connections(settings, &options.connection_limit))
		return fail("the limit of open files leaves no room for connections");
	options.log = server.log = srv_log_create(STDERR_FILENO, options.threads + 1);
	if (!options.log)
		return fail("memory or threads are short");
	server.loops = srv_loops_start(service, &options, error, sizeof error);
	if (server.loops) {
		announce(fds, count);
		srv_notify("READY=1");
		serve_until_stopped(&server, options.limits.drain_delay_ms);
		close_all(fds, count);
		srv_loops_stop(server.loops);
	}
	srv_log_destroy(options.log);
	return server.loops ? EXIT_SUCCESS : fail(error);
}

int srv_serve(const struct cfg_settings *settings)
{
	char error[ERROR_MAX];
	int fds[CFG_LISTEN_MAX], count, code;
	struct srv_service service;
	struct srv_edition *edition;
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: all of them inherit it */
	signal(SIGPIPE, SIG_IGN);
	edition = srv_edition_create(cfg_settings_catalog(settings), settings->token_file, error, sizeof error);
	if (!edition)
		return fail(error);
	srv_service_init(&service, edition, settings->cors_origin, settings->origin_count);
	count = srv_http_init_process() ? open_listeners(settings, fds, error, sizeof error) : -1;
	if (count > 0)
		code = serve_on(settings, &service, fds, count, &signals);
	else
		code = fail(count < 0 ? "memory is short" : error);
	srv_service_finish(&service);
	return code;
}
