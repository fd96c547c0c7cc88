/* What varies in a space: its axes, fields with a few values each, and its scales, numbers in order. Used by space.c
 * only. */
#ifndef CFG_AXES_H
#define CFG_AXES_H

#include "config/space.h"

/* "vary" as it is sent, a list of fields or an object of lists of values; NULL or null: what varies by default.
 * Faults at its members. */
void cfg_axes_read(struct cfg_space *space, const json_t *vary, struct est_faults *faults);

/* Adds what varies always: what the objective is about, the GPUs, and the strategy, between none and the default of
 * several GPUs, where none is named. A batch or length that does not vary is a scale of one value. */
void cfg_axes_complete(struct cfg_space *space);

#endif
