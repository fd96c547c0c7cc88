/* A step of MLX's as a program of events, and what its allocator keeps beside. */
#include "estimator/mlx.h"

#include <string.h>
#include "estimator/replay.h"

/* Buffers of so many lengths are told apart; the rest are not counted. */
enum { LENGTHS = 1024, EVENTS_PER_BUFFER = 4 };

/* What is freed waits for a request of nearly its length (BufferCache, mlx/backend/common/buffer_cache.h). */
struct cache {
	uint64_t length[LENGTHS];
	uint32_t waiting[LENGTHS];
	unsigned count;
	uint64_t bytes;
};

struct recorder {
	struct est_event *events;
	size_t count, limit;
	uint64_t *bytes;              /* by buffer */
	uint8_t *category;
	bool *there;                  /* at the end of the step */
	bool loaded;                  /* leaves are over */
	size_t loaded_events;
	enum est_phase phase;
	uint64_t alive, most;         /* with what waits */
	uint32_t buffers;             /* numbers given so far */
	struct cache cache;
	bool full;
};

static void record(struct recorder *recorder, uint8_t kind, uint32_t id, uint64_t bytes, uint8_t category)
{
	if (recorder->count == recorder->limit) {
		recorder->full = true;
		return;
	}
	recorder->events[recorder->count++] = (struct est_event){ .bytes = bytes, .id = id, .kind = kind, .category = category };
}

/* ---- the cache */

static void keep(struct cache *cache, uint64_t length)
{
	unsigned i = 0;

	while (i < cache->count && cache->length[i] != length)
		i++;
	if (i == LENGTHS)
		return;
	if (i == cache->count) {
		cache->length[cache->count] = length;
		cache->waiting[cache->count++] = 0;
	}
	cache->waiting[i]++;
	cache->bytes += length;
}

/* The shortest that is long enough, and less than two pages too long. */
static void reuse(struct cache *cache, uint64_t length)
{
	uint64_t limit = 2 * length < length + 2 * est_mlx_metal.page ? 2 * length : length + 2 * est_mlx_metal.page;
	unsigned best = LENGTHS;

	for (unsigned i = 0; i < cache->count; i++)
		if (cache->waiting[i] && cache->length[i] >= length && cache->length[i] < limit
		    && (best == LENGTHS || cache->length[i] < cache->length[best]))
			best = i;
	if (best == LENGTHS)
		return;
	cache->waiting[best]--;
	cache->bytes -= cache->length[best];
}

/* ---- events */

static void begin_step(void *context)
{
	struct recorder *recorder = context;

	recorder->loaded = true;
	recorder->loaded_events = recorder->count;
	recorder->phase = EST_PHASE_LOAD;
}

static void recorded_alloc(void *context, uint32_t buffer, uint64_t bytes, enum est_category category, enum est_phase phase)
{
	struct recorder *recorder = context;

	recorder->bytes[buffer] = bytes;
	recorder->category[buffer] = (uint8_t)category;
	if (recorder->loaded && phase != recorder->phase) {
		record(recorder, EST_EVENT_PHASE, phase, 0, 0);
		recorder->phase = phase;
	}
	if (buffer >= recorder->buffers)
		recorder->buffers = buffer + 1;
	record(recorder, EST_EVENT_ALLOC, buffer, bytes, (uint8_t)category);
	reuse(&recorder->cache, bytes);
	recorder->alive += bytes;
	if (recorder->alive + recorder->cache.bytes > recorder->most)
		recorder->most = recorder->alive + recorder->cache.bytes;
}

static void recorded_free(void *context, uint32_t buffer)
{
	struct recorder *recorder = context;

	record(recorder, EST_EVENT_FREE, buffer, recorder->bytes[buffer], recorder->category[buffer]);
	recorder->alive -= recorder->bytes[buffer];
	keep(&recorder->cache, recorder->bytes[buffer]);
}

/* The next step finds what this one made where this one found what it was given: the same bytes, by the numbers that were before. */
static void close_step(struct recorder *recorder)
{
	size_t end = recorder->count;

	for (size_t i = 0; i < end; i++)
		if (recorder->events[i].kind != EST_EVENT_PHASE)
			recorder->there[recorder->events[i].id] = recorder->events[i].kind == EST_EVENT_ALLOC;
	for (uint32_t i = 0; i < recorder->buffers; i++)
		if (recorder->there[i])
			record(recorder, EST_EVENT_FREE, i, recorder->bytes[i], recorder->category[i]);
	for (size_t i = 0; i < recorder->loaded_events; i++)
		record(recorder, EST_EVENT_ALLOC, recorder->events[i].id, recorder->events[i].bytes, recorder->events[i].category);
}

static bool make_recorder(struct recorder *recorder, uint32_t buffers, struct est_arena *arena)
{
	memset(recorder, 0, sizeof(*recorder));
	recorder->limit = EVENTS_PER_BUFFER * (size_t)buffers;
	recorder->events = est_arena_reserve(arena, recorder->limit, sizeof(*recorder->events));
	recorder->bytes = est_arena_reserve(arena, buffers, sizeof(*recorder->bytes));
	recorder->category = est_arena_reserve(arena, buffers, sizeof(*recorder->category));
	recorder->there = est_arena_take(arena, buffers, sizeof(*recorder->there));
	return recorder->events && recorder->bytes && recorder->category && recorder->there;
}

/* Loading, and one part that is the whole step: graph and optimizer are one. */
static void lay_parts(struct est_program *program, const struct recorder *recorder)
{
	memset(program, 0, sizeof(*program));
	for (unsigned part = 0; part < EST_PARTS; part++)
		program->begin[part] = program->end[part] = recorder->count;
	program->begin[EST_PART_LOAD] = 0;
	program->end[EST_PART_LOAD] = program->begin[EST_PART_MICRO_FIRST] = recorder->loaded_events;
	program->end[EST_PART_MICRO_FIRST] = recorder->count;
	program->events = recorder->events;
	program->ids = recorder->buffers;
	program->accumulation_steps = 1;
	program->reserved = recorder->most;
}

/* What the same step has alive at most on the larger chip with the loss of an older release, and where the GPU keeps up. */
static bool find_bounds(struct est_program *program, const struct est_request *request, const struct est_model *model, uint64_t expected,
			struct est_arena *arena)
{
	static const struct est_mlx_setting most = { &est_mlx_metal_large, false }, least = { &est_mlx_metal_idle, true };
	uint64_t high, low;

	if (!est_mlx_peak(request, model, &most, arena, &high) || !est_mlx_peak(request, model, &least, arena, &low))
		return false;
	program->surplus = high > expected ? high - expected : 0;
	program->leftover = expected > low ? expected - low : 0;
	return true;
}

bool est_mlx_trace(struct est_program *program, const struct est_model *model, const struct est_request *request, struct est_arena *arena)
{
	static const struct est_mlx_setting setting = { &est_mlx_metal, true };
	uint32_t buffers = est_mlx_most_buffers(request, model);
	struct recorder *recorder = est_arena_reserve(arena, 1, sizeof(*recorder));
	const struct est_mlx_sink sink = { recorder, recorded_alloc, recorded_free, begin_step };
	struct est_levels levels;

	if (!recorder || !make_recorder(recorder, buffers, arena) || !est_mlx_run(request, model, &setting, arena, &sink))
		return false;
	close_step(recorder);
	lay_parts(program, recorder);
	program->trainable_parameters = est_mlx_trainable_parameters(request, model);
	est_replay_levels(program, &levels);
	return !recorder->full && find_bounds(program, request, model, levels.allocated, arena);
}
