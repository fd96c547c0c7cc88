/* What an optimizer is made of, for the files that describe them: optimizer.c (torch.optim), optimizer_quantized.c
 * (bitsandbytes, torchao), optimizer_matrix.c (Adafactor, Muon), optimizer_lowrank.c (GaLore, APOLLO). */
#ifndef EST_OPTIMIZER_ROW_H
#define EST_OPTIMIZER_ROW_H

#include "estimator/ops.h"
#include "estimator/request.h"

/* A trained parameter as its optimizer sees it: the fp32 master where there is one. */
struct est_trained {
	uint64_t numel;
	uint64_t rows, columns;  /* 0 for a vector; of a stack of matrices the rows of all, the columns of each side by side */
	uint64_t height;         /* rows of the whole matrix, of which rows are this rank's */
	uint8_t element;         /* bytes of what is stepped, and of its gradient */
	bool inner;              /* a matrix within a decoder layer: no embedding, no head */
	bool linear;             /* and of an nn.Linear of attention or an MLP: no router */
};

struct est_stepping;

/* One optimizer. The parameters are stepped one after the other in up to two groups. */
struct est_optimizer_row {
	unsigned moments;        /* state tensors of a parameter */
	uint64_t block;          /* quantised states: elements that share a scale */
	bool paged;              /* states of large parameters in managed memory, outside the allocator */
	/* Whether a parameter is of the second group; NULL: there is but one. */
	bool (*is_last)(const struct est_trained *p);
	/* What the first step keeps for a parameter. */
	void (*states)(struct est_stepping *stepping, const struct est_trained *p);
	/* What the step of a parameter allocates on the way; NULL: nothing. */
	void (*update)(struct est_stepping *stepping, const struct est_trained *p);
	/* A list with a tensor for each parameter at once (torch's foreach implementations). */
	bool foreach_sqrt;
};

/* A step under way. Python's variables of the loop over parameters live until the next turn binds them anew. */
enum { EST_VARIABLES = 5 };
struct est_stepping {
	struct est_tape *tape;
	const struct est_request *request;
	const struct est_optimizer_row *row;
	struct est_tensor variable[EST_VARIABLES];
	bool on_host;            /* the parameter that is stepped is */
	bool has_tables;         /* bitsandbytes' code tables, which an optimizer makes once */
};

/* variable = value: the old one goes after the new one is made. */
void est_bind(struct est_stepping *stepping, unsigned variable, struct est_tensor value);
/* A temporary of the step, as est_hold() gives it. */
struct est_tensor est_scratch(struct est_stepping *stepping, uint64_t numel, uint8_t element);
/* A state that lives as long as the run. */
void est_state(struct est_stepping *stepping, uint64_t numel, uint8_t element);

/* torch.optim: row->moments tensors like the parameter; the same with a step count beside them on the card. */
void est_states_like(struct est_stepping *stepping, const struct est_trained *p);
void est_states_fused(struct est_stepping *stepping, const struct est_trained *p);

/* optimizer_quantized.c. bitsandbytes: uint8 with an absmax per block, fp32 below 4096 elements; fp32 whatever the
 * parameter is. */
void est_states_bnb_8bit(struct est_stepping *stepping, const struct est_trained *p);
void est_states_bnb_32bit(struct est_stepping *stepping, const struct est_trained *p);
/* torchao.optim: codes, a scale per block and, but for fp8, a code table for each state. */
void est_states_torchao_8bit(struct est_stepping *stepping, const struct est_trained *p);
void est_states_torchao_4bit(struct est_stepping *stepping, const struct est_trained *p);
void est_states_torchao_fp8(struct est_stepping *stepping, const struct est_trained *p);

/* optimizer_matrix.c */
void est_states_adafactor(struct est_stepping *stepping, const struct est_trained *p);
void est_update_adafactor(struct est_stepping *stepping, const struct est_trained *p);
bool est_muon_is_last(const struct est_trained *p);
void est_states_muon(struct est_stepping *stepping, const struct est_trained *p);
void est_update_muon(struct est_stepping *stepping, const struct est_trained *p);

/* optimizer_lowrank.c */
bool est_lowrank_is_last(const struct est_trained *p);
void est_states_galore(struct est_stepping *stepping, const struct est_trained *p);
void est_update_galore(struct est_stepping *stepping, const struct est_trained *p);
void est_states_apollo(struct est_stepping *stepping, const struct est_trained *p);
void est_update_apollo(struct est_stepping *stepping, const struct est_trained *p);

#endif
