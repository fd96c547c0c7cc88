/* The course of one training step, for a drawing: its phases, and the layers within them. */
#ifndef EST_TIMELINE_H
#define EST_TIMELINE_H

#include "estimator/report.h"
#include "estimator/step.h"

/* Plays a program whose layers are marked, four steps of it, and tells the last: a point for each stretch, in order,
 * with the most that is allocated and reserved within (bytes). Where there are more stretches than max, neighbours
 * within a phase share one. The micro-batches from the second on are told as one. Work space comes from arena and is
 * given back; 0 when it does not suffice. */
size_t est_timeline_draw(const struct est_program *program, struct est_arena *arena, struct est_point *ret_points,
			 size_t max);

#endif
