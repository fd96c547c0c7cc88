/* vramcast: what the command line asks for. */
#include <stdio.h>
#include <stdlib.h>
#include "server/command.h"
#include "server/listen.h"
#include "server/serve.h"

enum { EXIT_USAGE = 2, HEALTHCHECK_MS = 2000, ERROR_MAX = 1024 };

static int fail(const char *message)
{
	fprintf(stderr, "vramcast: %s\n", message);
	return EXIT_FAILURE;
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
	return srv_serve(&settings);
}
