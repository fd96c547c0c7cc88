/* The answer of the estimator: numbers only, in bytes, ready to be written in any format. */
#ifndef EST_REPORT_H
#define EST_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/gpu.h"

/* What a block of memory holds. est_category_name() gives the wire's word ("weights", ...). */
enum est_category {
	EST_WEIGHTS, EST_GRADIENTS, EST_OPTIMIZER, EST_ACTIVATIONS, EST_BUFFERS, EST_WORKSPACE, EST_CATEGORIES
};

/* Phases of one training step, in the order in which they run. est_phase_name() gives the wire's word. */
enum est_phase {
	EST_PHASE_LOAD, EST_PHASE_FORWARD, EST_PHASE_LOSS_FORWARD, EST_PHASE_LOSS_BACKWARD, EST_PHASE_BACKWARD,
	EST_PHASE_OPTIMIZER_STEP, EST_PHASES
};

/* Ranks that hold different parts of the model. est_rank_kind_name() gives the wire's word. */
enum est_rank_kind { EST_ANY_RANK, EST_FIRST_STAGE, EST_MIDDLE_STAGE, EST_LAST_STAGE };

enum est_verdict { EST_FITS, EST_TIGHT, EST_DOES_NOT_FIT, EST_UNSUPPORTED };

struct est_range {
	uint64_t low, expected, high;
};

/* The rows people know: each component's own maximum over the step; total is their sum. */
struct est_rows {
	uint64_t weights, gradients, optimizer, activations, buffers, overhead, total;
};

/* A kind of rank, and the peak of torch.cuda.max_memory_allocated() of the most loaded one of them. */
struct est_rank {
	enum est_rank_kind kind;
	int64_t layers;                      /* decoder layers that it holds */
	int64_t micro_batches;               /* whose activations it holds together, at most */
	uint64_t allocated;
};
enum { EST_RANK_KINDS = 3 };

struct est_peak {
	enum est_phase phase;
	const struct est_gpu *gpu;           /* the card the peak is told for, borrowed */
	uint64_t at_peak[EST_CATEGORIES];    /* adds up to allocated.expected */
	struct est_range allocated, reserved, device;
};

struct est_moment {
	enum est_phase phase;
	uint64_t allocated, reserved;        /* maxima within the phase */
};

/* A stretch of a step: a phase, or a layer within it. The most within. */
struct est_point {
	enum est_phase phase;
	int32_t layer;                       /* from 0; -1: of no layer */
	uint64_t allocated, reserved;
};
enum { EST_POINTS_MAX = 1024 };

struct est_fit {
	const struct est_gpu *gpu;           /* borrowed */
	uint64_t required, required_high;
	enum est_verdict verdict;
	const char *reason;                  /* why unsupported, or NULL; static */
	int64_t min_gpus, max_micro_batch_size, max_sequence_length; /* when report.limited; 0: none fits */
};

/* A default that was taken or a limit of the model, for the client to read. */
enum { EST_NOTES_MAX = 64, EST_NOTE_VALUE_MAX = 48, EST_NOTE_DETAIL_MAX = 288 };
struct est_note {
	const char *pointer;                 /* static, JSON pointer of the field; "" for none */
	char value[EST_NOTE_VALUE_MAX];
	char detail[EST_NOTE_DETAIL_MAX];
};
struct est_notes {
	size_t count;
	struct est_note item[EST_NOTES_MAX];
};

struct est_report {
	int64_t parameters, trainable_parameters;
	struct est_rows single_gpu, per_gpu;
	enum est_rank_kind rank_kind;        /* of the rank that per_gpu and peak are of: the most loaded one */
	size_t rank_count;                   /* 0: all ranks are alike */
	struct est_rank ranks[EST_RANK_KINDS];
	bool replayed;                       /* false with accounting: rule_of_thumb: no peak, no timeline */
	struct est_peak peak;
	size_t moments;
	struct est_moment timeline[EST_PHASES];
	size_t point_count;                  /* with timeline full; 0 otherwise */
	struct est_point *points;            /* in the arena: a step that has its states, in order */
	uint64_t host_pinned, host_pageable;
	struct est_rows thumb;               /* rule of thumb on one GPU, unsharded */
	struct est_rows thumb_per_gpu;
	size_t fit_count;
	struct est_fit *fits;                /* in the arena, in the order of the cards asked for */
	bool limited;                        /* their min_gpus and max_* are filled in */
	struct est_notes assumptions, warnings; /* the last, and large: est_report_init() */
};

const char *est_category_name(enum est_category category);
const char *est_phase_name(enum est_phase phase);
const char *est_verdict_name(enum est_verdict verdict);
const char *est_rank_kind_name(enum est_rank_kind kind);

/* An empty report: what its lists have room for is left as it is. */
void est_report_init(struct est_report *ret_report);

/* Appends a note; detail is a printf format. Drops it when the list is full. */
void est_note_add(struct est_notes *notes, const char *pointer, const char *value, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* Appends a note whose value and detail the caller writes; NULL when the list is full. */
struct est_note *est_note_begin(struct est_notes *notes, const char *pointer);

#endif
