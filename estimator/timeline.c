#include "estimator/timeline.h"

#include "estimator/allocator.h"

enum { STEPS = 4, ACCUMULATIONS = 3 }; /* as replay.c plays them: later ones leave the allocator as they find it */

/* Where the drawing stands: stretches are shared out among points, so many to each. */
struct pen {
	struct est_point *points;
	size_t count, next;       /* points that there are, and the one to begin after the present */
	size_t share, within;     /* stretches to a point at most, and how many are in this one */
	enum est_phase phase;     /* of this one */
};

struct drawing {
	const struct est_program *program;
	struct est_allocator books;
	uint64_t allocated;
	bool draws;               /* the last step */
	struct pen pen;
};

static void raise(struct drawing *drawing)
{
	struct pen *pen = &drawing->pen;
	struct est_point *point = pen->next ? &pen->points[pen->next - 1] : NULL;

	if (!drawing->draws || !point)
		return;
	point->allocated = drawing->allocated > point->allocated ? drawing->allocated : point->allocated;
	point->reserved = drawing->books.reserved > point->reserved ? drawing->books.reserved : point->reserved;
}

/* A stretch begins. A part that is played again goes over its own points. */
static void begin_stretch(struct pen *pen, const struct est_event *event)
{
	enum est_phase phase = (enum est_phase)event->id;

	if (pen->next && pen->phase == phase && ++pen->within <= pen->share)
		return;
	pen->within = 1;
	pen->phase = phase;
	if (pen->next == pen->count) {
		if (pen->points)
			pen->points[pen->count] = (struct est_point){ .phase = phase, .layer = (int32_t)event->bytes - 1 };
		pen->count++;
	}
	pen->next++;
}

static void play(struct drawing *drawing, enum est_part part)
{
	const struct est_program *program = drawing->program;

	for (size_t i = program->begin[part]; i < program->end[part]; i++) {
		const struct est_event *event = &program->events[i];

		if (event->kind == EST_EVENT_FREE) {
			est_allocator_free(&drawing->books, event->id);
			drawing->allocated -= event->bytes;
			continue;
		}
		if (event->kind == EST_EVENT_ALLOC) {
			est_allocator_alloc_on(&drawing->books, event->stream, event->id, est_units(event->bytes));
			drawing->allocated += event->bytes;
		} else if (drawing->draws) {
			begin_stretch(&drawing->pen, event);
		}
		raise(drawing);
	}
}

static void play_next_batches(struct drawing *drawing)
{
	uint64_t more = drawing->program->accumulation_steps - 1;
	struct pen before = drawing->pen;

	for (uint64_t i = 0; i < more && i < ACCUMULATIONS; i++) {
		size_t count = drawing->pen.count;

		if (i > 0)
			drawing->pen = before;
		drawing->pen.count = count;
		play(drawing, EST_PART_MICRO_NEXT);
	}
}

/* How many points the last step takes with so many stretches to each. */
static size_t count_points(const struct est_program *program, size_t share)
{
	static const enum est_part parts[] = { EST_PART_MICRO_FIRST, EST_PART_MICRO_NEXT, EST_PART_CLIP, EST_PART_UPDATE };
	struct pen pen = { .share = share };

	for (unsigned k = 0; k < sizeof(parts) / sizeof(parts[0]); k++)
		for (size_t i = program->begin[parts[k]]; i < program->end[parts[k]]; i++)
			if (program->events[i].kind == EST_EVENT_PHASE)
				begin_stretch(&pen, &program->events[i]);
	return pen.count;
}

static void play_step(struct drawing *drawing, unsigned step)
{
	const struct est_program *program = drawing->program;

	drawing->draws = step + 1 == STEPS;
	if (step == 1)
		play(drawing, EST_PART_SECOND_STEP);
	if (step == 0)
		play(drawing, EST_PART_REHEARSAL);
	if (step > 0 || !program->rehearses_first)
		play(drawing, EST_PART_MICRO_FIRST);
	if (step > 0 || !program->rehearses_all)
		play_next_batches(drawing);
	play(drawing, EST_PART_CLIP);
	if (step == 0)
		play(drawing, EST_PART_STATES);
	play(drawing, EST_PART_UPDATE);
}

size_t est_timeline_draw(const struct est_program *program, struct est_arena *arena, struct est_point *ret_points, size_t max)
{
	struct drawing drawing = { .program = program, .pen = { .points = ret_points, .share = 1 } };
	size_t mark = arena->used;
	bool enough = est_allocator_init(&drawing.books, arena, program->ids, program->expandable, 0);

	while (count_points(program, drawing.pen.share) > max)
		drawing.pen.share++;
	if (enough)
		play(&drawing, EST_PART_LOAD);
	for (unsigned step = 0; enough && step < STEPS; step++)
		play_step(&drawing, step);
	est_arena_rewind(arena, mark);
	return enough && !drawing.books.exhausted ? drawing.pen.count : 0;
}
