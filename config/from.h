/* "from": what people already have, the JSON form of their trainers' files, read as fields of the request. Each
 * format is one const table (from_*.c), a row a key; from.c walks them, from_facts.c concludes what follows from
 * several keys. */
#ifndef CFG_FROM_H
#define CFG_FROM_H

#include "config/read.h"

enum cfg_from_how {
	CFG_FROM_FIELD,   /* the value of a field: as it is, or translated by words */
	CFG_FROM_FACT,    /* one of several keys that a field follows from (enum cfg_from_fact) */
	CFG_FROM_FSDP,    /* TrainingArguments.fsdp: a switch, or words with blanks between */
	CFG_FROM_FILE,    /* another format's object; a path to it cannot be followed */
	CFG_FROM_OFF,     /* refused unless it is off: memory depends on it, and it is not modelled */
	CFG_FROM_WARN     /* the same, but the run is told without it, and a warning says so */
};

/* What is said by several keys, or by one and means several fields. Whole numbers. */
enum cfg_from_fact {
	CFG_BF16, CFG_FP16, CFG_PURE,          /* 1: on. PURE: no autocast over 16-bit parameters */
	CFG_LOADED,                            /* enum est_dtype in which the model is loaded */
	CFG_ADAPTER, CFG_BITS,                 /* enum est_method; bits of the base's weights */
	CFG_STAGE,                             /* of ZeRO: DeepSpeed runs */
	CFG_FSDP_ON, CFG_FSDP_VERSION, CFG_FSDP_OFFLOAD, CFG_FSDP_CHECKPOINTS, CFG_SHARDING,
	CFG_REPLICAS, CFG_SHARDS, CFG_RING, CFG_ULYSSES, CFG_NODES, CFG_TRAIN_BATCH,
	CFG_FROM_FACTS
};
enum { CFG_SHARD_GRAD_OP, CFG_FULL_SHARD, CFG_NO_SHARD, CFG_HYBRID_SHARD }; /* CFG_SHARDING */

/* A value of the file, as text ("true", "3", "FULL_SHARD", without regard to case) -> the field's or fact's, as it
 * would stand in a query string. NULL: it says nothing. */
struct cfg_from_word {
	const char *from, *to;
};

struct cfg_from_row {
	const char *key;                    /* dotted, below the format's object */
	enum cfg_from_how how;
	const char *field;                  /* CFG_FROM_FIELD */
	enum cfg_from_fact fact;            /* CFG_FROM_FACT */
	const struct cfg_from_word *words;  /* up to the one without from; NULL: as it is */
	const char *otherwise;              /* what the trainer takes when the key is absent and that is not the
					     * contract's default */
	const char *why;                    /* CFG_FROM_OFF, _WARN: what it does to memory. CFG_FROM_FILE: the format's name */
};

struct cfg_from_format {
	const char *name;                   /* the member of "from" */
	const char *title;                  /* of the file, for people */
	const struct cfg_from_row *rows;    /* up to the one without key */
	const struct cfg_from_row *more[2]; /* rows that it shares with others */
	const char *framework;              /* that it belongs to, or NULL */
	const char *fsdp_version;           /* when the file names none */
	bool fsdp_by_config;                /* an fsdp_config alone asks for FSDP */
};

/* In the order of reading: DeepSpeed's optimizer stands above what the trainers say. */
enum { CFG_FORMATS = 5 };
extern const struct cfg_from_format cfg_from_deepspeed, cfg_from_accelerate, cfg_from_training_arguments,
	cfg_from_axolotl, cfg_from_llama_factory;
extern const struct cfg_from_row cfg_from_fsdp_rows[], cfg_from_training_rows[];
extern const struct cfg_from_word cfg_from_switch[], cfg_from_devices[], cfg_from_fsdp_words[],
	cfg_from_fsdp_versions[];

/* A fact with where it stands. */
struct cfg_fact {
	bool said;
	int64_t value;
	const struct cfg_from_format *format;
	char pointer[EST_POINTER_MAX];
};

/* The reading of one "from". */
struct cfg_from {
	bool no_memory;                                 /* a value could not be made: the request is not read whole */
	struct cfg_reader *reader;
	const char *base;                               /* pointer of the request */
	const struct cfg_from_format *format;           /* being read */
	const json_t *root;                             /* its object */
	bool read[CFG_FORMATS];                         /* by cfg_from_formats[] */
	unsigned compared;                              /* keys that are not known, looked at for typing errors */
	struct cfg_fact facts[CFG_FROM_FACTS];
	char source[128][EST_POINTER_MAX];              /* where each row of est_request_fields comes from; "": the client */
};
extern const struct cfg_from_format *const cfg_from_formats[CFG_FORMATS];

/* Reads all files of reader->files, after the request's own fields, into the fields that those did not name.
 * Contradictions among files, or with a field, are faults at the file's value; what was not used is listed in
 * reader->ret->ignored. False when memory is short. */
bool cfg_from_read(struct cfg_from *from, struct cfg_reader *reader, const char *base);

/* Takes row's part of a value that the file has at pointer (from_values.c): a field, a fact, a warning or a fault. */
void cfg_from_take(struct cfg_from *from, const struct cfg_from_row *row, const json_t *value, const char *pointer);
/* A fact; a fault where another key says otherwise. */
void cfg_from_say(struct cfg_from *from, enum cfg_from_fact which, int64_t value, const char *pointer);

/* Draw the conclusions of the facts (from_facts.c): the method, then, with what the trainers take for keys that are
 * absent, the rest. */
void cfg_from_conclude_method(struct cfg_from *from);
void cfg_from_conclude(struct cfg_from *from);

/* Gives field the value (in the words of a query string, or as JSON) that the file has at pointer. False with a
 * fault. */
bool cfg_from_put(struct cfg_from *from, const char *field, const char *text, const char *pointer);
bool cfg_from_put_value(struct cfg_from *from, const struct est_field *field, const json_t *value, const char *pointer);
/* Notes a field that was not named with a value that follows from what was. */
void cfg_from_assume(struct cfg_from *from, const char *field, const char *text, const char *why);
/* Adds a pointer to those of values that were not used. */
void cfg_from_ignore(struct cfg_from *from, const char *pointer);

/* Faults of est_check() in [first, ...) that are of a field which came from a file: pointed to the file's value. */
void cfg_from_point(const struct cfg_from *from, struct est_faults *faults, size_t first);

#endif
