/* One row of a catalogue file -> a checked struct. Used by catalog.c only. */
#ifndef CFG_ROWS_H
#define CFG_ROWS_H

#include "config/config.h"

/* Fills *ret from row (borrowed by *ret afterwards). False, and what is wrong in fault (size bytes), when the row
 * breaks a rule: a column missing or of the wrong kind, an id not of [a-z0-9.-], a count that differs, memory out of
 * the band. */
bool cfg_preset_from_row(const json_t *row, struct cfg_preset *ret, char *fault, size_t size);
bool cfg_card_from_row(const json_t *row, struct cfg_card *ret, char *fault, size_t size);

#endif
