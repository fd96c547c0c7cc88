#include "server/service.h"
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include "server/handlers.h"
#include "server/report.h"

enum { BUFFER_START = 16 * 1024, OUTCOMES_SIZE = 2 * 1024 * 1024 };

void srv_service_init(struct srv_service *service, struct srv_edition *edition, const char *const *origins,
		      int origin_count)
{
	*service = (struct srv_service){ .edition = edition, .origins = origins, .origin_count = origin_count };
	pthread_mutex_init(&service->lock, NULL); /* Linux has no way to fail here */
}

void srv_service_finish(struct srv_service *service)
{
	srv_edition_release(service->edition);
	pthread_mutex_destroy(&service->lock);
}

void srv_service_publish(struct srv_service *service, struct srv_edition *edition)
{
	struct srv_edition *old;

	pthread_mutex_lock(&service->lock);
	old = service->edition;
	service->edition = edition;
	atomic_fetch_add(&service->edition_number, 1);
	pthread_mutex_unlock(&service->lock);
	srv_edition_release(old);
}

/* The newest edition, held, and its number. */
static struct srv_edition *take_newest(struct srv_service *service, unsigned *ret_number)
{
	struct srv_edition *edition;

	pthread_mutex_lock(&service->lock);
	edition = srv_edition_hold(service->edition);
	*ret_number = atomic_load(&service->edition_number);
	pthread_mutex_unlock(&service->lock);
	return edition;
}

/* Room for the rows of the lists of edition. */
static bool make_room(struct srv_context *context, const struct srv_edition *edition)
{
	size_t count = CFG_CARDS_MAX;
	const void **rows;

	count = edition->presets.count > count ? edition->presets.count : count;
	count = edition->gpus.count > count ? edition->gpus.count : count;
	if (count <= context->row_count)
		return true;
	rows = calloc(count, sizeof *rows);
	if (!rows)
		return false;
	free(context->rows);
	context->rows = rows;
	context->row_count = count;
	return true;
}

void srv_context_refresh(struct srv_context *context)
{
	struct srv_edition *edition;
	unsigned number;

	if (context->edition
	    && context->edition_number == atomic_load_explicit(&context->service->edition_number, memory_order_relaxed))
		return;
	edition = take_newest(context->service, &number);
	if (!make_room(context, edition)) {
		srv_edition_release(edition);
		return;
	}
	srv_edition_release(context->edition);
	context->edition = edition;
	context->edition_number = number;
}

static uint64_t random_seed(const void *salt)
{
	uint64_t seed;
	struct timespec now = { 0 };

	if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed)
		return seed;
	clock_gettime(CLOCK_REALTIME, &now);
	return est_hash(est_hash(0, &now, sizeof now), &salt, sizeof salt);
}

struct srv_context *srv_context_create(struct srv_service *service)
{
	struct srv_context *context = calloc(1, sizeof *context);
	size_t size = est_arena_size(CFG_CARDS_MAX) + srv_report_arena_size(CFG_CARDS_MAX)
		      + cfg_limits_arena_size(CFG_CARDS_MAX);

	if (!context)
		return NULL;
	context->service = service;
	srv_context_refresh(context);
	context->id_state = random_seed(context);
	context->arena_base = malloc(size ? size : 1);
	context->outcomes_base = malloc(OUTCOMES_SIZE);
	if (!context->edition || !context->arena_base || !context->outcomes_base
	    || !srv_buffer_reserve(&context->buffer, BUFFER_START)) {
		srv_context_destroy(context);
		return NULL;
	}
	est_arena_init(&context->arena, context->arena_base, size);
	est_memo_init(&context->outcomes, context->outcomes_base, OUTCOMES_SIZE);
	context->arena.memo = &context->outcomes;
	return context;
}

void srv_context_destroy(struct srv_context *context)
{
	if (!context)
		return;
	srv_buffer_finish(&context->buffer);
	srv_memo_finish(&context->memo);
	srv_edition_release(context->edition);
	free(context->rows);
	free(context->outcomes_base);
	free(context->arena_base);
	free(context);
}
