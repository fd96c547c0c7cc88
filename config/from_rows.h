/* How the rows of the formats' tables (from_*.c) are written. */
#ifndef CFG_FROM_ROWS_H
#define CFG_FROM_ROWS_H

#include "config/from.h"

/* clang-format off */
/* A field as it is, or what the trainer takes for an absent key; by words; one of the keys that a fact follows from. */
#define FIELD(path, to) { path, CFG_FROM_FIELD, to, CFG_FROM_FACTS, NULL, NULL, NULL }
#define OR(path, to, absent) { path, CFG_FROM_FIELD, to, CFG_FROM_FACTS, NULL, absent, NULL }
#define WORDS(path, to, table) { path, CFG_FROM_FIELD, to, CFG_FROM_FACTS, table, NULL, NULL }
#define FACT(path, what, table) { path, CFG_FROM_FACT, NULL, what, table, NULL, NULL }
/* Refused unless it is off; warned of; the path of another format's file; TrainingArguments.fsdp; the end of a
 * table. */
#define OFF(path, reason) { path, CFG_FROM_OFF, NULL, CFG_FROM_FACTS, NULL, NULL, reason }
#define WARN(path, reason) { path, CFG_FROM_WARN, NULL, CFG_FROM_FACTS, NULL, NULL, reason }
#define FILE_OF(path, format) { path, CFG_FROM_FILE, NULL, CFG_FROM_FACTS, NULL, NULL, format }
#define FSDP(path) { path, CFG_FROM_FSDP, NULL, CFG_FSDP_ON, NULL, NULL, NULL }
#define END { NULL, CFG_FROM_FIELD, NULL, CFG_FROM_FACTS, NULL, NULL, NULL }

/* The words of a switch that means one value when it is on, and says nothing when it is off. */
#define WHEN_TRUE(value) (const struct cfg_from_word[]){ { "true", value }, { "false", NULL }, { NULL, NULL } }
/* Transformers' OptimizerNames that the contract calls otherwise. */
#define OPTIMIZER_NAMES \
	{ "adamw_torch_4bit", "adamw_4bit" }, { "adamw_torch_8bit", "adamw_8bit_torchao" }, { "lion_32bit", "lion" }, \
	{ "ao_adamw_4bit", "adamw_4bit" }, { "ao_adamw_8bit", "adamw_8bit_torchao" }, { "ao_adamw_fp8", "adamw_fp8" }
/* clang-format on */

#endif
