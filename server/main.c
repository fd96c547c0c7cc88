/* vramcast: settings, catalogues, listen, wait for a signal, tear down in reverse. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "server/command.h"
#include "server/listen.h"
#include "server/loop.h"

enum { EXIT_USAGE = 2, HEALTHCHECK_MS = 2000, ERROR_MAX = 1024, URL_SIZE = 128, BODY_BUDGET = 64 * 1024 * 1024 };

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

static int check(const struct cfg_settings *settings)
{
	char error[ERROR_MAX];
	struct cfg_catalog *catalog = cfg_catalog_create(cfg_settings_catalog(settings), error, sizeof error);
	size_t presets, cards;

	if (!catalog)
		return fail(error);
	cfg_catalog_presets(catalog, &presets);
	cfg_catalog_cards(catalog, &cards);
	printf("the catalogues are sound: %zu presets, %zu gpus\n", presets, cards);
	cfg_catalog_destroy(catalog);
	return EXIT_SUCCESS;
}

static int check_health(const char *url)
{
	char error[ERROR_MAX];
	int status = srv_fetch_status(url, HEALTHCHECK_MS, error, sizeof error);

	if (status == 200)
		return EXIT_SUCCESS;
	if (status > 0)
		snprintf(error, sizeof error, "%s answered %d", url, status);
	return fail(error);
}

/* ---- serving */

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

/* Opens every socket of the settings, or none. */
static bool open_listeners(const struct cfg_settings *settings, int *ret_fds, char *error, size_t size)
{
	for (int i = 0; i < settings->listen_count; i++) {
		ret_fds[i] = srv_listen(settings->listen[i], error, size);
		if (ret_fds[i] < 0) {
			close_all(ret_fds, i);
			return false;
		}
	}
	return true;
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

/* Waits for a signal to stop; then, while /readyz is red, for the delay that takes a balancer to notice or a second
 * signal. */
static void wait_for_stop(struct srv_service *service, const sigset_t *signals, unsigned delay_ms)
{
	const struct timespec delay = { .tv_sec = delay_ms / 1000, .tv_nsec = delay_ms % 1000 * 1000000L };
	int number;

	sigwait(signals, &number);
	atomic_store(&service->draining, true);
	if (delay_ms)
		sigtimedwait(signals, NULL, &delay);
}

static int serve_on(const struct cfg_settings *settings, struct srv_service *service, const int *fds,
		    const sigset_t *signals)
{
	struct srv_loops_options options = {
		.threads = choose_threads(settings), .listen_fds = fds, .listen_count = settings->listen_count,
		.log_json = settings->log_json,
	};
	char error[ERROR_MAX];
	struct srv_loops *loops;

	if (!read_limits(settings, &options.limits))
		return EXIT_USAGE;
	if (!choose_connections(settings, &options.connection_limit))
		return fail("the limit of open files leaves no room for connections");
	options.log = srv_log_create(STDERR_FILENO, options.threads);
	if (!options.log)
		return fail("memory or threads are short");
	loops = srv_loops_start(service, &options, error, sizeof error);
	if (loops) {
		announce(fds, settings->listen_count);
		wait_for_stop(service, signals, options.limits.drain_delay_ms);
		close_all(fds, settings->listen_count);
		srv_loops_stop(loops);
	}
	srv_log_destroy(options.log);
	return loops ? EXIT_SUCCESS : fail(error);
}

static int serve(const struct cfg_settings *settings)
{
	char error[ERROR_MAX];
	int fds[CFG_LISTEN_MAX], code;
	struct srv_service service;
	struct cfg_catalog *catalog;
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: all of them inherit it */
	signal(SIGPIPE, SIG_IGN);
	catalog = cfg_catalog_create(cfg_settings_catalog(settings), error, sizeof error);
	if (!catalog)
		return fail(error);
	if (!srv_http_init_process()
	    || !srv_service_init(&service, catalog, settings->cors_origin, settings->origin_count))
		code = fail("memory is short");
	else if (!open_listeners(settings, fds, error, sizeof error))
		code = fail(error);
	else
		code = serve_on(settings, &service, fds, &signals);
	srv_service_finish(&service);
	cfg_catalog_destroy(catalog);
	return code;
}

int main(int argc, char **argv)
{
	struct cfg_settings settings;
	char error[ERROR_MAX];

	if (!cfg_settings_read(argc, argv, &settings, error, sizeof error)) {
		fail(error);
		return EXIT_USAGE;
	}
	cfg_json_init();
	json_object_seed(0);
	switch (settings.action) {
	case CFG_ESTIMATE:
		return srv_command_estimate(&settings);
	case CFG_CHECK:
		return check(&settings);
	case CFG_HEALTHCHECK:
		return check_health(settings.healthcheck_url);
	case CFG_VERSION:
		puts("vramcast " SRV_VERSION);
		return EXIT_SUCCESS;
	case CFG_HELP:
		fputs(cfg_settings_help(), stdout);
		return EXIT_SUCCESS;
	case CFG_SERVE:
		break;
	}
	return serve(&settings);
}
