#include "server/service.h"
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include "server/handlers.h"
#include "server/report.h"

enum { BUFFER_START = 16 * 1024 };

bool srv_service_init(struct srv_service *service, const struct cfg_catalog *catalog, const char *const *origins,
		      int origin_count)
{
	*service = (struct srv_service){ .catalog = catalog, .origins = origins, .origin_count = origin_count };
	return srv_presets_init(&service->presets, catalog) && srv_gpus_init(&service->gpus, catalog);
}

void srv_service_finish(struct srv_service *service)
{
	srv_listing_finish(&service->presets);
	srv_listing_finish(&service->gpus);
}

static uint64_t random_seed(const void *salt)
{
	uint64_t seed;
	struct timespec now = { 0 };

	if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
		return seed;
	clock_gettime(CLOCK_REALTIME, &now);
	return srv_hash(srv_hash(SRV_HASH_SEED, &now, sizeof now), &salt, sizeof salt);
}

struct srv_context *srv_context_create(struct srv_service *service)
{
	struct srv_context *context = calloc(1, sizeof *context);
	size_t rows = CFG_CARDS_MAX, size = est_arena_size(CFG_CARDS_MAX) + srv_report_arena_size(CFG_CARDS_MAX) + cfg_limits_arena_size(CFG_CARDS_MAX);

	if (!context)
		return NULL;
	rows = service->presets.count > rows ? service->presets.count : rows;
	rows = service->gpus.count > rows ? service->gpus.count : rows;
	context->service = service;
	context->id_state = random_seed(context);
	context->rows = calloc(rows, sizeof *context->rows);
	context->arena_base = malloc(size ? size : 1);
	if (!context->rows || !context->arena_base || !srv_buffer_reserve(&context->buffer, BUFFER_START)) {
		srv_context_destroy(context);
		return NULL;
	}
	est_arena_init(&context->arena, context->arena_base, size);
	return context;
}

void srv_context_destroy(struct srv_context *context)
{
	if (!context)
		return;
	srv_buffer_finish(&context->buffer);
	srv_memo_finish(&context->memo);
	free(context->rows);
	free(context->arena_base);
	free(context);
}
